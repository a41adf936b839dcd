// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package ipam

import (
	"errors"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

func addrs(ss ...string) []netip.Addr {
	var out []netip.Addr
	for _, s := range ss {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// among is the unused of a set.
func among(used []netip.Addr) func(netip.Addr) netip.Addr {
	return func(a netip.Addr) netip.Addr {
		for slices.Contains(used, a) {
			a = a.Next()
		}
		return a
	}
}

func never(netip.Addr) (time.Time, bool) { return time.Time{}, false }

func TestLowest(t *testing.T) {
	now := time.Unix(1000, 0)
	for _, tc := range []struct {
		name, prefix, gateway string
		used                  []netip.Addr
		released              map[string]time.Duration // ago
		want                  string                   // "" = exhausted
	}{
		{"first", "10.0.0.0/24", "10.0.0.1", nil, nil, "10.0.0.2"},
		{"gateway elsewhere", "10.0.0.0/24", "10.0.0.254", nil, nil, "10.0.0.1"},
		{"no gateway", "10.0.0.0/24", "", nil, nil, "10.0.0.1"},
		{"gap", "10.0.0.0/24", "10.0.0.1", addrs("10.0.0.2", "10.0.0.4"), nil, "10.0.0.3"},
		{"used of another subnet", "10.0.1.0/24", "10.0.1.1", addrs("10.0.0.2", "10.0.1.2", "10.0.2.2"), nil, "10.0.1.3"},
		{"quarantined", "10.0.0.0/24", "10.0.0.1", nil, map[string]time.Duration{"10.0.0.2": time.Second}, "10.0.0.3"},
		{"quarantine over", "10.0.0.0/24", "10.0.0.1", nil, map[string]time.Duration{"10.0.0.2": Quarantine}, "10.0.0.2"},
		{"nothing else free", "10.0.0.0/29", "10.0.0.1", addrs("10.0.0.4", "10.0.0.5", "10.0.0.6"),
			map[string]time.Duration{"10.0.0.2": time.Second, "10.0.0.3": 5 * time.Second}, "10.0.0.3"},
		{"full", "10.0.0.0/30", "10.0.0.1", addrs("10.0.0.2"), nil, ""},
		{"/31 has two", "10.0.0.0/31", "10.0.0.0", nil, nil, "10.0.0.1"},
		{"/31 full", "10.0.0.0/31", "10.0.0.0", addrs("10.0.0.1"), nil, ""},
		{"/32", "10.0.0.7/32", "", nil, nil, "10.0.0.7"},
		{"end of the space", "255.255.255.252/30", "", addrs("255.255.255.253"), nil, "255.255.255.254"},
		{"v6", "fd00::/64", "fd00::1", addrs("fd00::2"), nil, "fd00::3"},
		{"v6 last is no broadcast", "fd00::/126", "fd00::1", addrs("fd00::2"), nil, "fd00::3"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := Pool{Prefix: netip.MustParsePrefix(tc.prefix)}
			if tc.gateway != "" {
				p.Gateway = netip.MustParseAddr(tc.gateway)
			}
			got, err := p.Lowest(now, among(tc.used), func(a netip.Addr) (time.Time, bool) {
				ago, ok := tc.released[a.String()]
				return now.Add(-ago), ok
			})
			if tc.want == "" {
				if !errors.Is(err, ErrExhausted) {
					t.Fatalf("got %v, %v; want ErrExhausted", got, err)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Fatalf("got %v, %v; want %s", got, err, tc.want)
			}
		})
	}
}

func TestCheck(t *testing.T) {
	p := Pool{Prefix: netip.MustParsePrefix("10.0.0.0/24"), Gateway: netip.MustParseAddr("10.0.0.1")}
	for a, want := range map[string]error{
		"10.0.0.0": ErrReserved, "10.0.0.1": ErrReserved, "10.0.0.255": ErrReserved, "10.0.1.1": ErrOutside, "10.0.0.2": nil,
	} {
		if err := p.Check(netip.MustParseAddr(a)); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", a, err, want)
		}
	}
}

// TestNeverTwoHolders takes and gives back at random in small pools: no address is
// ever held twice, none reserved is handed out, and exhaustion comes exactly when
// every usable address is held.
func TestNeverTwoHolders(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		bits := 26 + r.IntN(6)
		p := Pool{Prefix: netip.PrefixFrom(netip.MustParseAddr("10.9.8.0"), bits)}
		if r.IntN(3) > 0 {
			p.Gateway = First(p.Prefix)
		}
		usable := 0
		for a := p.Prefix.Addr(); p.Prefix.Contains(a); a = a.Next() {
			if p.Check(a) == nil {
				usable++
			}
		}
		held := map[netip.Addr]bool{}
		released := map[netip.Addr]time.Time{}
		now := time.Unix(0, 0)
		for range 300 {
			now = now.Add(time.Duration(r.IntN(5)) * time.Second)
			if len(held) > 0 && r.IntN(2) == 0 {
				all := slices.SortedFunc(maps.Keys(held), netip.Addr.Compare)
				a := all[r.IntN(len(all))]
				delete(held, a)
				released[a] = now
				continue
			}
			used := slices.SortedFunc(maps.Keys(held), netip.Addr.Compare)
			a, err := p.Lowest(now, among(used), func(a netip.Addr) (time.Time, bool) { at, ok := released[a]; return at, ok })
			if len(held) == usable {
				if !errors.Is(err, ErrExhausted) {
					t.Fatalf("seed %d: full pool %v gave %v, %v", seed, p, a, err)
				}
				continue
			}
			if err != nil {
				t.Fatalf("seed %d: %v with %d of %d held: %v", seed, p, len(held), usable, err)
			}
			if held[a] || p.Check(a) != nil {
				t.Fatalf("seed %d: %v gave %v, held %v, check %v", seed, p, a, held[a], p.Check(a))
			}
			if at, ok := released[a]; ok && now.Sub(at) < Quarantine {
				for b := p.Prefix.Addr(); p.Prefix.Contains(b); b = b.Next() {
					bt, rel := released[b]
					if p.Check(b) == nil && !held[b] && (!rel || now.Sub(bt) >= Quarantine) {
						t.Fatalf("seed %d: gave quarantined %v though %v is free", seed, a, b)
					}
				}
			}
			held[a] = true
		}
	}
}

func FuzzLowest(f *testing.F) {
	f.Add("10.0.0.0/24", "10.0.0.1", []byte{2, 3, 5})
	f.Add("fd00::/127", "", []byte{})
	f.Fuzz(func(t *testing.T, prefix, gateway string, offsets []byte) {
		pre, err := netip.ParsePrefix(prefix)
		if err != nil {
			return
		}
		p := Pool{Prefix: pre.Masked()}
		p.Gateway, _ = netip.ParseAddr(gateway)
		set := map[netip.Addr]bool{}
		for _, o := range offsets {
			a := p.Prefix.Addr()
			for range o {
				if a = a.Next(); !a.IsValid() {
					return
				}
			}
			set[a] = true
		}
		got, err := p.Lowest(time.Unix(1, 0), among(slices.Collect(maps.Keys(set))), never)
		if err == nil && (set[got] || p.Check(got) != nil) {
			t.Fatalf("%v gave %v: used %v, %v", p, got, set[got], p.Check(got))
		}
	})
}
