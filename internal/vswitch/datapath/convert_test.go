// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package datapath

import (
	"bytes"
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"

	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
)

func structOf(size uint32, members ...btf.Member) *btf.Struct {
	return &btf.Struct{Name: "s", Size: size, Members: members}
}

func field(name string, at uint32, t btf.Type) btf.Member {
	return btf.Member{Name: name, Type: t, Offset: btf.Bits(8 * at)}
}

func TestConversion(t *testing.T) {
	u8, u16, u32, u64 := &btf.Int{Size: 1}, &btf.Int{Size: 2}, &btf.Int{Size: 4}, &btf.Int{Size: 8}
	i32 := &btf.Int{Size: 4, Encoding: btf.Signed}
	named := &btf.Typedef{Name: "__u16", Type: u16}
	mac := &btf.Array{Type: u8, Nelems: 6}
	for _, c := range []struct {
		name     string
		from, to btf.Type
		in, out  []byte
		err      string // of the comparison
		small    bool   // a number does not fit
	}{
		{name: "the same", from: u32, to: u32, in: []byte{1, 2, 3, 4}, out: []byte{1, 2, 3, 4}},
		{name: "order, a new field, one that went",
			from: structOf(4, field("a", 0, u8), field("gone", 1, u8), field("b", 2, named)),
			to:   structOf(8, field("b", 0, u16), field("new", 2, u16), field("a", 4, u8)),
			in:   []byte{1, 9, 3, 4}, out: []byte{3, 4, 0, 0, 1, 0, 0, 0}},
		{name: "padding means nothing",
			from: structOf(4, field("pad", 0, u16), field("zero0", 2, u16)), to: structOf(4, field("pad", 0, u16), field("zero0", 2, u16)),
			in: []byte{1, 2, 3, 4}, out: []byte{0, 0, 0, 0}},
		{name: "a structure within", from: structOf(2, field("k", 0, structOf(2, field("a", 0, u8), field("b", 1, u8)))),
			to: structOf(2, field("k", 0, structOf(2, field("b", 0, u8), field("a", 1, u8)))), in: []byte{1, 2}, out: []byte{2, 1}},
		{name: "arrays", from: structOf(7, field("m", 1, mac)), to: structOf(6, field("m", 0, mac)), in: []byte{9, 1, 2, 3, 4, 5, 6}, out: []byte{1, 2, 3, 4, 5, 6}},
		{name: "grows", from: structOf(2, field("n", 0, u16)), to: structOf(8, field("n", 0, u64)), in: []byte{1, 2}, out: []byte{1, 2, 0, 0, 0, 0, 0, 0}},
		{name: "grows with its sign", from: i32, to: &btf.Int{Size: 8, Encoding: btf.Signed}, in: []byte{0xfe, 0xff, 0xff, 0xff},
			out: []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}},
		{name: "shrinks", from: u32, to: u16, in: []byte{1, 2, 0, 0}, out: []byte{1, 2}},
		{name: "does not fit", from: u32, to: u16, in: []byte{1, 2, 3, 0}, small: true},
		{name: "enum", from: &btf.Enum{Size: 4}, to: u8, in: []byte{7, 0, 0, 0}, out: []byte{7}},
		{name: "wire order", from: structOf(2, field("port_be", 0, u16)), to: structOf(4, field("port_be", 0, u32)), err: "port_be: 2 bytes in wire order became 4"},
		{name: "kind", from: structOf(2, field("a", 0, u16)), to: structOf(2, field("a", 0, structOf(2))), err: "field a: "},
		{name: "length", from: structOf(6, field("m", 0, mac)), to: structOf(8, field("m", 0, &btf.Array{Type: u8, Nelems: 8})), err: "6 elements became 8"},
		{name: "union", from: u32, to: &btf.Union{Size: 4}, err: "cannot convert"},
		{name: "nothing known", from: nil, to: u32, err: "no BTF"},
	} {
		t.Run(c.name, func(t *testing.T) {
			x, err := newConversion(c.from, c.to)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Errorf("got %v, want %q", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			out := bytes.Repeat([]byte{0xaa}, x.size)
			if fits := x.convert(out, c.in); fits == c.small || fits && !bytes.Equal(out, c.out) {
				t.Errorf("%v gives %v, fits: %v; want %v", c.in, out, fits, c.out)
			}
		})
	}
}

// Every state map of the object has a layout that can be carried over, to itself
// at least, and that takes one copy where there is no padding.
func TestStateConverts(t *testing.T) {
	spec, err := bpf.LoadSwitch()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range bpf.StateMaps() {
		ms := spec.Maps[name]
		if carryOf(name, ms) == carryNothing {
			t.Logf("%s (%s) begins empty in another version", name, ms.Type)
			continue
		}
		for _, x := range []btf.Type{ms.Key, ms.Value} {
			if _, err := newConversion(x, x); err != nil {
				t.Errorf("map %s: %v", name, err)
			}
			if !sameLayout(x, x) {
				t.Errorf("map %s: %v differs from itself", name, x)
			}
		}
	}
	if sameLayout(spec.Maps["flow4"].Key, spec.Maps["flow6"].Key) || sameLayout(spec.Maps["flow4"].Value, spec.Maps["flow6"].Value) {
		t.Error("layouts of two families are the same")
	}
}
