// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"github.com/cilium/ebpf/rlimit"
)

// maxVerified is what any program may cost the verifier, in instructions: a
// tenth of the kernel's limit, so that another compiler or kernel has room.
const maxVerified = 100_000

// maxVerifiedOld is for kernels before 6.6, whose verifier finds fewer states
// equal: 6.1 walks ep_in six times as long (398 098 where 6.18 has 68 349). It is
// half of the kernel's limit.
const maxVerifiedOld = 500_000

// loadSpec is the object with small tables, as tests need it.
func loadSpec(t testing.TB) *ebpf.CollectionSpec {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("loading programs needs root")
	}
	if err := rlimit.RemoveMemlock(); err != nil {
		t.Fatal(err)
	}
	spec, err := LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Maps {
		if m.MaxEntries > 4096 && m.Name != SwitchMapAclrule && m.Type != ebpf.Array && m.Type != ebpf.RingBuf {
			m.MaxEntries = 4096
		}
	}
	if err := spec.Variables["gh_pairs"].Set([2]uint32{2048, 2048}); err != nil {
		t.Fatal(err)
	}
	return spec
}

// TestLoad loads every program and holds its cost against the budget.
func TestLoad(t *testing.T) {
	spec := loadSpec(t)
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		var ve *ebpf.VerifierError
		if errors.As(err, &ve) {
			t.Fatalf("%+v", ve)
		}
		t.Fatal(err)
	}
	defer coll.Close()
	budget := uint32(maxVerified)
	if v, err := features.LinuxVersionCode(); err == nil && v < 6<<16|6<<8 {
		budget = maxVerifiedOld
	}
	for name, p := range coll.Programs {
		info, err := p.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Skip("the kernel does not tell verified instructions (requires Linux 5.16)")
		}
		t.Logf("%-18s %6d verified", name, n)
		if n > budget {
			t.Errorf("%s: %d verified instructions, over %d", name, n, budget)
		}
	}
	for _, name := range []string{"ep_in", "uplink_in"} {
		if !strings.HasPrefix(coll.Programs[name].Type().String(), "SchedCLS") {
			t.Errorf("%s is %v", name, coll.Programs[name].Type())
		}
	}
}
