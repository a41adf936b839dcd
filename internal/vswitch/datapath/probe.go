// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// oldestKernel is the oldest that the programs are tried on.
const oldestMajor, oldestMinor = 6, 1

// explain adds to a failed load what the kernel lacks. It probes only now, so
// that a kernel with backports is judged by what it does.
func explain(err error) error {
	if err == nil {
		return nil
	}
	// Not EACCES: that is the verifier's word.
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: needs CAP_BPF and CAP_NET_ADMIN, that is root", err)
	}
	lacks := func(what, version string) error {
		return fmt.Errorf("%w: %s requires Linux %s: %w", err, what, version, errdefs.ErrFailedPrecondition)
	}
	if _, statErr := os.Stat("/sys/kernel/btf/vmlinux"); statErr != nil {
		return lacks("type information of the kernel (CONFIG_DEBUG_INFO_BTF)", "5.4")
	}
	for _, m := range []struct {
		kind    ebpf.MapType
		version string
	}{{ebpf.LPMTrie, "4.11"}, {ebpf.RingBuf, "5.8"}} {
		if errors.Is(features.HaveMapType(m.kind), ebpf.ErrNotSupported) {
			return lacks(fmt.Sprintf("map type %s", m.kind), m.version)
		}
	}
	for _, h := range []struct {
		prog    ebpf.ProgramType
		helper  asm.BuiltinFunc
		version string
	}{
		{ebpf.SchedCLS, asm.FnRedirectPeer, "5.10"},
		{ebpf.SchedCLS, asm.FnRedirectNeigh, "5.10"},
		{ebpf.SchedCLS, asm.FnCheckMtu, "5.12"},
		{ebpf.SchedCLS, asm.FnLoop, "5.17"},
		{ebpf.CGroupSockAddr, asm.FnGetNetnsCookie, "5.7"},
	} {
		if errors.Is(features.HaveProgramHelper(h.prog, h.helper), ebpf.ErrNotSupported) {
			return lacks(fmt.Sprintf("%s in %s programs", h.helper, h.prog), h.version)
		}
	}
	if v, verr := features.LinuxVersionCode(); verr == nil && v < oldestMajor<<16|oldestMinor<<8 {
		return lacks(fmt.Sprintf("the data plane, on %d.%d.%d,", v>>16, v>>8&0xff, v&0xff), fmt.Sprintf("%d.%d", oldestMajor, oldestMinor))
	}
	return err
}
