// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package bpf

import (
	"fmt"
	"hash/fnv"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
)

// layoutHash of the state maps for each StateLayout that ever was. When this
// test fails, programs of a release left state of another layout pinned: raise
// StateLayout and add a line, and heed README.md on upgrades.
func layoutHashes() map[string]string {
	return map[string]string{
		"1": "7595fc64",
		"2": "354058d9",
		"3": "9cbc7b99",
	}
}

// describe writes a type so that any change of layout changes the text.
func describe(b *strings.Builder, t btf.Type) {
	switch t := btf.UnderlyingType(t).(type) {
	case *btf.Struct:
		fmt.Fprintf(b, "struct %d{", t.Size)
		for _, m := range t.Members {
			fmt.Fprintf(b, "%s@%d ", m.Name, m.Offset)
			describe(b, m.Type)
		}
		b.WriteString("}")
	case *btf.Array:
		fmt.Fprintf(b, "[%d]", t.Nelems)
		describe(b, t.Type)
	case *btf.Int:
		fmt.Fprintf(b, "int%d;", t.Size)
	default:
		fmt.Fprintf(b, "%T;", t)
	}
}

func TestStateLayout(t *testing.T) {
	spec, err := LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, name := range StateMaps() {
		m := spec.Maps[name]
		if m == nil {
			t.Fatalf("no map %s", name)
		}
		fmt.Fprintf(&b, "%s %v %d %d ", name, m.Type, m.KeySize, m.ValueSize)
		if m.Key != nil {
			describe(&b, m.Key)
			describe(&b, m.Value)
		}
		b.WriteString("\n")
	}
	h := fnv.New32a()
	h.Write([]byte(b.String()))
	if got, want := fmt.Sprintf("%08x", h.Sum32()), layoutHashes()[StateLayout]; got != want {
		t.Errorf("layout of state maps is %s, StateLayout %s stands for %s:\n%s", got, StateLayout, want, b.String())
	}
}

// Every map is of exactly one kind, and its name fits the kernel.
func TestMapKinds(t *testing.T) {
	spec, err := LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	known := append(append(StateMaps(), ConfigMaps()...), PrivateMaps()...)
	for name := range spec.Maps {
		if strings.HasPrefix(name, ".") {
			continue
		}
		if n := len(slices.DeleteFunc(slices.Clone(known), func(s string) bool { return s != name })); n != 1 {
			t.Errorf("map %s is listed %d times in layout.go", name, n)
		}
		if len(name) > 15 {
			t.Errorf("map %s: name over 15 bytes", name)
		}
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range known {
		if spec.Maps[name] == nil {
			t.Errorf("map %s of layout.go is not in the object", name)
		}
		if !strings.Contains(string(readme), "`"+name+"`") {
			t.Errorf("README.md does not mention map %s", name)
		}
	}
}

// The names in reason.go are those of the object.
func TestReasons(t *testing.T) {
	spec, err := LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	var e *btf.Enum
	if err := spec.Types.TypeByName("gh_drop_reason", &e); err != nil {
		t.Fatal(err)
	}
	for _, v := range e.Values {
		if v.Name == "GH_DROP_MAX" {
			if int(v.Value) != len(reasons()) {
				t.Errorf("%d reasons in reason.go, %d in drop.h", len(reasons()), v.Value)
			}
			continue
		}
		if got := "GH_DROP_" + DropReason(v.Value).String(); got != v.Name {
			t.Errorf("%d is %s, reason.go says %s", v.Value, v.Name, got)
		}
	}
}

// Values that Go and C both write out.
func TestSharedNumbers(t *testing.T) {
	spec, err := LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]uint32{"flow4": 128, "flow6": 192, "port": 128} {
		if got := spec.Maps[name].ValueSize; got != size {
			t.Errorf("%s: value of %d bytes, want %d", name, got, size)
		}
	}
	if spec.Maps["stages"].Type != ebpf.ProgramArray || len(spec.Maps["stages"].Contents) != 24 {
		t.Errorf("stages holds %d programs", len(spec.Maps["stages"].Contents))
	}
}
