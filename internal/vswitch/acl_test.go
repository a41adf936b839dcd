// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// changeACL does one small thing to ACL sets and address sets.
func (w *world) changeACL(op, n byte) {
	s := &w.s
	r := rand.New(rand.NewPCG(uint64(n), uint64(op)))
	switch op {
	case 0: // address sets: add, remove, change members
		id := AddrSetID(n%5 + 1)
		i := slices.IndexFunc(s.AddrSets, func(a AddrSet) bool { return a.ID == id })
		switch {
		case i >= 0 && n%7 == 0:
			s.AddrSets = slices.Delete(s.AddrSets, i, i+1)
		case i >= 0:
			s.AddrSets[i] = randomAddrSet(r, id)
		default:
			s.AddrSets = append(s.AddrSets, randomAddrSet(r, id))
		}
	case 1, 2: // ACL sets, likewise
		id := ACLID(n%4 + 1)
		i := slices.IndexFunc(s.ACLs, func(a ACLSet) bool { return a.ID == id })
		switch {
		case i >= 0 && n%9 == 0:
			s.ACLs = slices.Delete(s.ACLs, i, i+1)
		case i >= 0:
			s.ACLs[i] = randomACLSet(r, id, 6)
		default:
			s.ACLs = append(s.ACLs, randomACLSet(r, id, 6))
		}
	case 3: // attach, detach
		if n%5 == 0 {
			s.OutsideACLs = pickOf(r, nil, []ACLID{1}, []ACLID{2, 1})
		} else if len(s.Ports) > 0 {
			p := &s.Ports[int(n)%len(s.Ports)]
			if len(p.ACLs) > 0 && n%3 == 0 {
				p.ACLs = nil
			} else {
				p.ACLs = append(slices.Clone(p.ACLs), ACLID(n%4+1))
			}
		}
	}
}

func pickOf[T any](r *rand.Rand, list ...T) T { return list[r.IntN(len(list))] }

func aclPrefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, p := range []string{"0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.0.0/24", "10.1.0.2/32", "10.1.0.3/32", "192.0.2.0/25", "::/0", "::/64",
		"fd00::/8", "fd00:1::/64", "fd00:1::2/128", "fd00:1::3/128", "2001:db8::/33"} {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func randomAddrSet(r *rand.Rand, id AddrSetID) AddrSet {
	a := AddrSet{ID: id, Name: fmt.Sprint("set", id)}
	for range r.IntN(5) {
		a.Prefixes = append(a.Prefixes, pickOf(r, aclPrefixes()...))
	}
	for range r.IntN(2) {
		a.Except = append(a.Except, pickOf(r, aclPrefixes()...))
	}
	return a
}

func randomACLSet(r *rand.Rand, id ACLID, rules int) ACLSet {
	a := ACLSet{ID: id, Name: fmt.Sprint("acl", id), Stage: pickOf[uint8](r, 0, 0, 1), DefaultIn: ACLAction(r.IntN(3)), DefaultOut: pickOf(r, ACLAllow, ACLBlock)}
	for i := range r.IntN(rules) {
		x := ACLRule{ID: RuleID(int(id)*1000 + i), Name: fmt.Sprint("r", i), Priority: uint32(r.IntN(5)), Direction: pickOf(r, ACLIn, ACLOut),
			Action: ACLAction(r.IntN(4)), View: pickOf(r, ViewTranslated, ViewTranslated, ViewOriginal)}
		if r.IntN(2) == 0 {
			x.Protocols = pickOf(r, []uint8{6}, []uint8{17, 6}, []uint8{1}, []uint8{58, 1}, []uint8{47}, []uint8{132})
		}
		some := func() (l []netip.Prefix) {
			for range r.IntN(3) {
				l = append(l, pickOf(r, aclPrefixes()...))
			}
			return l
		}
		switch r.IntN(3) {
		case 0:
			x.Remote = some()
		case 1:
			for range 1 + r.IntN(2) {
				x.RemoteSets = append(x.RemoteSets, AddrSetID(1+r.IntN(5)))
			}
		}
		if r.IntN(4) == 0 {
			x.Local = some()
		}
		if !slices.ContainsFunc(x.Protocols, func(p uint8) bool { return !hasPorts(p) }) {
			ports := func() (l []PortRange) {
				for range r.IntN(3) {
					first := pickOf[uint16](r, 0, 22, 80, 443, 8000, 65535)
					l = append(l, PortRange{first, first + pickOf(r, 0, 0, 1, 7, 65535-first)})
				}
				return slices.DeleteFunc(l, func(p PortRange) bool { return p.Last < p.First })
			}
			if r.IntN(2) == 0 {
				x.LocalPorts = ports()
			}
			if r.IntN(4) == 0 {
				x.RemotePorts = ports()
			}
		}
		a.Rules = append(a.Rules, x)
	}
	return a
}

// wholeACL checks that no row of ACLs points to a missing one.
func (k kernel) wholeACL(t testing.TB, when string) {
	for key, v := range k["port"] {
		for _, n := range v.(PortRow).Acl {
			for list := range uint32(listBits) {
				if _, ok := k["aclset"][ACLSetKey{Set: n, List: list}]; !ok && n&(1<<list) != 0 {
					t.Errorf("%s: port %v: list %d of its ACL set %x is not there", when, key, list, n)
				}
			}
		}
	}
	if !strings.Contains(when, "step") {
		for key := range k["aclrule"] {
			a := key.(ACLKey)
			if _, ok := k["aclset"][ACLSetKey{Set: a.Set, List: uint32(a.List)}]; !ok {
				t.Errorf("%s: aclrule %v: its set is not there", when, key)
			}
		}
	}
}

// linear is the meaning of a list of rules, one rule after the other.
func linear(s *State, a *ACLSet, q ACLQuestion) (ACLAction, RuleID) {
	remote, local := ip(q.Remote), ip(q.Local)
	in := func(l []netip.Prefix, x netip.Addr) bool {
		return len(l) == 0 || slices.ContainsFunc(l, func(p netip.Prefix) bool { return p.Contains(x) })
	}
	port := func(l []PortRange, x uint16) bool {
		return len(l) == 0 || hasPorts(q.Proto) && slices.ContainsFunc(l, func(p PortRange) bool { return p.First <= x && x <= p.Last })
	}
	var best *ACLRule
	better := func(x, y *ACLRule) bool {
		lets := func(r *ACLRule) int {
			if r.Action == ACLBlock || r.Action == ACLReject {
				return 0
			}
			return 1
		}
		return y == nil || cmp.Or(cmp.Compare(x.Priority, y.Priority), cmp.Compare(lets(x), lets(y))) < 0
	}
	for i := range a.Rules {
		r := &a.Rules[i]
		ok := r.Direction == directionOf(q.List) && r.View == viewOf(q.List) && in(r.Remote, remote) && in(r.Local, local) &&
			port(r.RemotePorts, q.RemotePort) && port(r.LocalPorts, q.LocalPort) && (len(r.Protocols) == 0 || slices.Contains(r.Protocols, q.Proto))
		for _, id := range r.RemoteSets {
			set := s.AddrSets[slices.IndexFunc(s.AddrSets, func(x AddrSet) bool { return x.ID == id })]
			ok = ok && len(set.Prefixes) > 0 && in(set.Prefixes, remote) && (len(set.Except) == 0 || !in(set.Except, remote))
		}
		if ok && better(r, best) {
			best = r
		}
	}
	if best != nil {
		return best.Action, best.ID
	}
	switch q.List {
	case listIn:
		return a.DefaultIn, 0
	case listOut:
		return a.DefaultOut, 0
	}
	return ACLAllow, 0
}

// Searching tuples finds what asking one rule after the other finds.
func TestACLMeaning(t *testing.T) {
	var addrs []netip.Addr
	for _, p := range aclPrefixes() {
		addrs = append(addrs, p.Addr(), p.Addr().Next())
	}
	asked, decided := 0, 0
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 2))
		s := State{}
		for id := range AddrSetID(5) {
			s.AddrSets = append(s.AddrSets, randomAddrSet(r, id+1))
		}
		a := randomACLSet(r, 1, 12)
		s.ACLs = []ACLSet{a}
		tables, err := Compile(s, testFacts())
		if err != nil {
			if strings.Contains(err.Error(), "shapes") {
				continue // as random as that, few rules have many
			}
			t.Fatalf("seed %d: %v", seed, err)
		}
		rows := tables.Rows()
		number := [4]uint32{}
		for k := range rows.ACLSet {
			number[k.List] = k.Set
		}
		for range 400 {
			q := ACLQuestion{List: uint8(r.IntN(4)), Proto: pickOf[uint8](r, 1, 6, 6, 17, 47, 58, 132),
				RemotePort: pickOf[uint16](r, 0, 22, 80, 81, 443, 8001, 9000, 65535), LocalPort: pickOf[uint16](r, 0, 22, 80, 443, 444, 8007, 65535)}
			remote, local := pickOf(r, addrs...), pickOf(r, addrs...)
			if remote.Is4() != local.Is4() {
				continue
			}
			if !hasPorts(q.Proto) {
				q.RemotePort, q.LocalPort = 0, 0
			}
			q.Remote, q.Local, q.IPv4, q.Set = remote.As16(), local.As16(), remote.Is4(), number[q.List]
			wantAction, wantRule := linear(&s, &a, q)
			got := rows.ACLAsk(q)
			if got.Gone { // the list decides nothing
				got.Action, got.Rule = ACLAllow, 0
			}
			asked++
			if got.Rule != 0 {
				decided++
			}
			if got.Action != wantAction || got.Rule != wantRule {
				t.Fatalf("seed %d: %+v\nremote %v local %v: tuples say %v by rule %d, rules say %v by rule %d\n%v", seed, q, remote, local, got.Action, got.Rule,
					wantAction, wantRule, tables)
			}
		}
	}
	if decided < asked/10 {
		t.Errorf("only %d of %d decided by a rule", decided, asked)
	}
}

// Members that change leave the rows of rules alone, and make flows of the ports
// look again.
func TestAddrSetChange(t *testing.T) {
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(20, 1, f), testPort(21, 1, f)}}
	s.AddrSets = []AddrSet{{ID: 1, Name: "friends", Prefixes: []netip.Prefix{netip.MustParsePrefix("10.1.0.21/32"), netip.MustParsePrefix("10.1.0.22/32")}}}
	s.ACLs = []ACLSet{{ID: 1, DefaultIn: ACLBlock, Rules: []ACLRule{{ID: 1, Direction: ACLIn, RemoteSets: []AddrSetID{1}}}}}
	s.Ports[1].ACLs = []ACLID{1}
	var c Compiler
	before, err := c.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	s.AddrSets = cloneAddrSets(s.AddrSets)
	s.AddrSets[0].Prefixes[1] = netip.MustParsePrefix("10.1.0.99/32")
	after, err := c.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	d := Diff(before, after)
	for _, st := range d.Steps {
		if st.Map != "aclclass" {
			t.Errorf("%d rows of %s written", st.Rows, st.Map)
		}
	}
	if len(d.Steps) != 2 || !slices.Equal(d.Epochs, []uint32{20}) {
		t.Errorf("%d steps, epochs %v", len(d.Steps), d.Epochs)
	}
}

// Another rule is another number, so that ports go from whole to whole.
func TestACLChange(t *testing.T) {
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(20, 1, f)}}
	other := randomACLSet(rand.New(rand.NewPCG(1, 1)), 2, 20)
	for i := range other.Rules {
		other.Rules[i].RemoteSets = nil
	}
	s.ACLs = []ACLSet{{ID: 1, Rules: []ACLRule{{ID: 1, Name: "old", Direction: ACLOut, Action: ACLBlock}}}, other}
	s.Ports[1].ACLs = []ACLID{1, 2}
	var c Compiler
	before, err := c.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	s.ACLs = slices.Clone(s.ACLs)
	s.ACLs[0].Rules = []ACLRule{{ID: 1, Name: "new", Direction: ACLOut, Action: ACLReject}}
	after, err := c.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	was, _ := before.Port(20)
	is, _ := after.Port(20)
	if was.Acl[0] == is.Acl[0] || was.Acl[1] != is.Acl[1] || before.acls[2] != after.acls[2] {
		t.Errorf("numbers %x, then %x", was.Acl, is.Acl)
	}
	var order []string
	for _, st := range Diff(before, after).Steps {
		order = append(order, st.Map)
		if st.Rows != 1 {
			t.Errorf("%d rows of %s", st.Rows, st.Map)
		}
	}
	if want := []string{"aclrule", "aclset", "port", "aclset", "aclrule"}; !slices.Equal(order, want) {
		t.Errorf("steps %v, want %v", order, want)
	}
}

// aclState is a port with a set of one rule.
func aclState() (State, Facts) {
	f, ten := testFacts(), []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(20, 1, f)}}
	s.AddrSets = []AddrSet{{ID: 1, Name: "s", Prefixes: ten}}
	s.ACLs = []ACLSet{{ID: 1, Name: "a", Rules: []ACLRule{{ID: 7, Name: "r", Direction: ACLIn, Protocols: []uint8{6}, Remote: ten,
		LocalPorts: []PortRange{{80, 80}}}}}}
	s.Ports[1].ACLs = []ACLID{1}
	return s, f
}

func TestACLErrors(t *testing.T) {
	for _, c := range []struct {
		name, want string
		change     func(*State)
	}{
		{"no id", `ACLs[0] ("a"): ID 0`, func(s *State) { s.ACLs[0].ID = 0; s.Ports[1].ACLs = nil }},
		{"id twice", `ID 1 is also that of "a"`, func(s *State) { s.ACLs = append(s.ACLs, ACLSet{ID: 1}) }},
		{"default", "DefaultIn 3: must be allow, block or reject", func(s *State) { s.ACLs[0].DefaultIn = ACLPass }},
		{"rule id", `Rules[0] ("r"): ID 0`, func(s *State) { s.ACLs[0].Rules[0].ID = 0 }},
		{"rule id twice", "ID 7 is also that of a rule of set 1", func(s *State) { s.ACLs = append(s.ACLs, ACLSet{ID: 2, Rules: s.ACLs[0].Rules}) }},
		{"direction", "Direction 0: must be 1 (in) or 2 (out)", func(s *State) { s.ACLs[0].Rules[0].Direction = 0 }},
		{"action", "Action 9", func(s *State) { s.ACLs[0].Rules[0].Action = 9 }},
		{"view", "View 2", func(s *State) { s.ACLs[0].Rules[0].View = 2 }},
		{"both remotes", "RemoteSets: not together with Remote", func(s *State) { s.ACLs[0].Rules[0].RemoteSets = []AddrSetID{1} }},
		{"no such set", "RemoteSets: 4 is no address set", func(s *State) {
			s.ACLs[0].Rules[0].Remote, s.ACLs[0].Rules[0].RemoteSets = nil, []AddrSetID{4}
		}},
		{"ports", "LocalPorts[0] 9-1: ends before it begins", func(s *State) { s.ACLs[0].Rules[0].LocalPorts = []PortRange{{9, 1}} }},
		{"protocol", "protocol 1 has no ports", func(s *State) { s.ACLs[0].Rules[0].Protocols = []uint8{6, 1} }},
		{"prefix", `Remote[0] "10.0.0.1/8": has bits below its length; "10.0.0.0/8" is meant`, func(s *State) {
			s.ACLs[0].Rules[0].Remote = []netip.Prefix{netip.PrefixFrom(netip.MustParseAddr("10.0.0.1"), 8)}
		}},
		{"rows", "it alone becomes", func(s *State) {
			r := &s.ACLs[0].Rules[0]
			r.LocalPorts, r.RemotePorts, r.Remote = []PortRange{{1, 65534}}, []PortRange{{1, 65534}}, nil
			for i := range 100 {
				r.Remote = append(r.Remote, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 9, byte(i), 0}), 24))
			}
		}},
		{"tuples", "have 129 shapes", func(s *State) {
			s.ACLs[0].Rules = nil
			for i := range 129 {
				x := ACLRule{ID: RuleID(i + 1), Direction: ACLIn, Remote: []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), i)}}
				s.ACLs[0].Rules = append(s.ACLs[0].Rules, x)
			}
		}},
		{"port", "ACLs[0] 3: no such ACL set", func(s *State) { s.Ports[1].ACLs = []ACLID{3} }},
		{"outside", "OutsideACLs[0] 3: no such ACL set", func(s *State) { s.OutsideACLs = []ACLID{3} }},
		{"outside many", "OutsideACLs: 9 sets, over 8", func(s *State) { s.OutsideACLs = make([]ACLID, 9) }},
		{"port twice", "ACLs[1] 1: listed twice", func(s *State) { s.Ports[1].ACLs = []ACLID{1, 1} }},
		{"port many", "ACLs: 9 sets, over 8", func(s *State) { s.Ports[1].ACLs = make([]ACLID, 9) }},
		{"set id", `AddrSets[1] ("again"): ID 1`, func(s *State) { s.AddrSets = append(s.AddrSets, AddrSet{ID: 1, Name: "again"}) }},
		{"set prefix", `AddrSets[0] ("s"): Except[0] "invalid Prefix": not a prefix`, func(s *State) { s.AddrSets[0].Except = make([]netip.Prefix, 1) }},
	} {
		s, f := aclState()
		if _, err := Compile(s, f); err != nil {
			t.Fatalf("%s: before the change: %v", c.name, err)
		}
		c.change(&s)
		if _, err := Compile(s, f); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got error %v, want one with %q", c.name, err, c.want)
		}
	}
}

// TestOutsideACLs: a change is one row, and every flow is judged again.
func TestOutsideACLs(t *testing.T) {
	s, f := aclState()
	var c Compiler
	compile := func() Tables {
		tables, err := c.Compile(s, f)
		if err != nil {
			t.Fatal(err)
		}
		return tables
	}
	before := compile()
	s.OutsideACLs = []ACLID{1}
	after := compile()
	d := Diff(before, after)
	if len(d.Steps) != 1 || d.Steps[0].Map != "port" || d.Steps[0].Rows != 1 || !slices.Contains(d.Epochs, uint32(0)) {
		t.Errorf("%+v", d)
	}
	var row PortRow
	for b := range after.blocks {
		for _, e := range b.port {
			if e.Key == uint32(UplinkAny) {
				row = e.Value
			}
		}
	}
	if p, _ := after.Port(20); row.Acl[0] == 0 || row.Acl != p.Acl {
		t.Errorf("row %+v", row)
	}
	s.OutsideACLs = nil
	if again := compile(); again.String() != before.String() {
		t.Errorf("not as before:\n%s", again)
	}
}

func TestPortPrefixes(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 3))
		var ranges []PortRange
		for range 1 + r.IntN(4) {
			a, b := uint16(r.Uint32()), uint16(r.Uint32())
			ranges = append(ranges, PortRange{min(a, b), max(a, b)})
		}
		if r.IntN(4) == 0 {
			ranges = append(ranges, PortRange{0, uint16(r.IntN(2)) * 65535})
		}
		has := make([]int, 65536)
		ps := portPrefixes(ranges)
		for _, p := range ps {
			for i := range 1 << (16 - p.bits) {
				has[int(p.port)+i]++
			}
		}
		for i, n := range has {
			want := 0
			if slices.ContainsFunc(ranges, func(x PortRange) bool { return int(x.First) <= i && i <= int(x.Last) }) {
				want = 1
			}
			if n != want {
				t.Fatalf("%v: port %d is in %d of %v", ranges, i, n, ps)
			}
		}
	}
}

func BenchmarkCompileACLChange(b *testing.B) {
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f), testPort(20, 1, f)}}
	for id := range ACLID(4) {
		a := ACLSet{ID: id + 1, DefaultIn: ACLBlock}
		for i := range 10_000 {
			a.Rules = append(a.Rules, ACLRule{ID: RuleID(int(id)*10_000 + i + 1), Priority: uint32(i), Direction: ACLIn, Protocols: []uint8{6},
				Remote: []netip.Prefix{netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}), 32)}, LocalPorts: []PortRange{{80, 80}}})
		}
		s.ACLs = append(s.ACLs, a)
	}
	s.Ports[1].ACLs = []ACLID{1, 2, 3, 4}
	var c Compiler
	last, err := c.Compile(s, f)
	if err != nil {
		b.Fatal(err)
	}
	rows := 0
	for i := 0; b.Loop(); i++ {
		x := &s.ACLs[1].Rules[i%10_000]
		x.LocalPorts = []PortRange{{uint16(i%1000 + 1), uint16(i%1000 + 1)}}
		next, err := c.Compile(s, f)
		if err != nil {
			b.Fatal(err)
		}
		for _, st := range Diff(last, next).Steps {
			rows += st.Rows
		}
		last = next
	}
	b.ReportMetric(float64(rows)/float64(b.N), "rows/op")
}
