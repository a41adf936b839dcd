// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package ipam

import (
	"errors"
	"net/netip"
	"testing"
)

func TestChoosePrefix(t *testing.T) {
	pre := netip.MustParsePrefix
	for _, tc := range []struct {
		avoid []netip.Prefix
		want  string
	}{
		{nil, "172.16.0.0/20"},
		{[]netip.Prefix{pre("0.0.0.0/0")}, "172.16.0.0/20"},
		{[]netip.Prefix{pre("172.16.0.0/20")}, "172.16.16.0/20"},
		{[]netip.Prefix{pre("172.16.5.7/32"), pre("172.16.16.0/24")}, "172.16.32.0/20"},
		{[]netip.Prefix{pre("172.16.0.0/12")}, "192.168.0.0/24"},
		{[]netip.Prefix{pre("172.16.0.0/12"), pre("192.168.0.0/17")}, "192.168.128.0/24"},
		{[]netip.Prefix{pre("172.0.0.0/8"), pre("192.168.0.0/16")}, ""},
	} {
		got, err := ChoosePrefix(tc.avoid)
		if tc.want == "" {
			if !errors.Is(err, ErrExhausted) {
				t.Errorf("avoid %v: got %v, %v", tc.avoid, got, err)
			}
			continue
		}
		if err != nil || got.String() != tc.want {
			t.Errorf("avoid %v: got %v, %v; want %s", tc.avoid, got, err, tc.want)
		}
	}
	seen := map[netip.Prefix]bool{}
	var avoid []netip.Prefix
	for {
		p, err := ChoosePrefix(avoid)
		if err != nil {
			break
		}
		if seen[p] {
			t.Fatalf("%v twice", p)
		}
		seen[p] = true
		avoid = append(avoid, p)
	}
	if len(seen) != 256+256 {
		t.Errorf("%d prefixes, want 512", len(seen))
	}
}

func TestUniqueLocal(t *testing.T) {
	a, b := UniqueLocal("a"), UniqueLocal("b")
	if a == b || a != UniqueLocal("a") || a.Bits() != 64 || !a.Addr().IsPrivate() || a != a.Masked() {
		t.Errorf("%v %v", a, b)
	}
}

func TestMAC(t *testing.T) {
	want := MAC{0, 0x15, 0x5d, 1, 2, 0xab}
	for _, s := range []string{"00-15-5D-01-02-AB", "00:15:5d:01:02:ab", "00155d0102ab"} {
		if got, err := ParseMAC(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "00-15-5D-01-02", "00-15:5D-01-02-AB", "00155d0102zz", "00-15-5D-01-02-AB-"} {
		if got, err := ParseMAC(s); err == nil {
			t.Errorf("%q parsed as %v", s, got)
		}
	}
	if want.String() != "00-15-5D-01-02-AB" {
		t.Error(want)
	}
}

func TestNextMAC(t *testing.T) {
	m := func(b byte) MAC { return MAC{0, 0x15, 0x5d, 0, 0, b} }
	ranges := []MACRange{{m(1), m(3)}, {m(10), m(11)}}
	used := map[MAC]bool{}
	last := MAC{}
	var order []byte
	for range 5 {
		got, err := NextMAC(ranges, last, func(m MAC) bool { return used[m] })
		if err != nil || used[got] {
			t.Fatalf("%v %v", got, err)
		}
		used[got], last = true, got
		order = append(order, got[5])
	}
	if string(order) != string([]byte{1, 2, 3, 10, 11}) {
		t.Errorf("order %v", order)
	}
	if _, err := NextMAC(ranges, last, func(m MAC) bool { return used[m] }); !errors.Is(err, ErrExhausted) {
		t.Errorf("full: %v", err)
	}
	delete(used, m(2))
	delete(used, m(11))
	if got, _ := NextMAC(ranges, m(11), func(m MAC) bool { return used[m] }); got != m(2) {
		t.Errorf("after 11: %v, want the round from the start", got)
	}
	if got, _ := NextMAC(ranges, m(2), func(m MAC) bool { return used[m] }); got != m(11) {
		t.Errorf("after 2: %v, want 11", got)
	}
}

func TestDefaultMACRange(t *testing.T) {
	var taken []MACRange
	for range 300 {
		r, err := DefaultMACRange("x", taken)
		if err != nil {
			t.Fatal(err)
		}
		if r.Check() != nil || r.End.uint()-r.Start.uint() != 4095 {
			t.Fatalf("%v", r)
		}
		for _, o := range taken {
			if o.Overlaps(r) {
				t.Fatalf("%v overlaps %v", r, o)
			}
		}
		taken = append(taken, r)
	}
	if _, err := DefaultMACRange("x", []MACRange{{MAC{0, 0x15, 0x5d}, MAC{0, 0x15, 0x5d, 0xff, 0xff, 0xff}}}); !errors.Is(err, ErrExhausted) {
		t.Errorf("all taken: %v", err)
	}
}

func FuzzParseMAC(f *testing.F) {
	f.Add("00-15-5D-01-02-AB")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMAC(s)
		if err != nil {
			return
		}
		if again, err := ParseMAC(m.String()); err != nil || again != m {
			t.Fatalf("%q: %v, then %v %v", s, m, again, err)
		}
	})
}
