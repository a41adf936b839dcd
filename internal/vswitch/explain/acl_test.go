// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

// aclLab is a switch with rules that change: NAT network 1 with a and b, network 2
// with c, the host in network 1, and one uplink. a publishes 8080 as its port 80.
type aclLab struct {
	*lab
	t    *testing.T
	s    *scene
	last Trace
	// fam is 4 or 6; words of a packet's text are replaced by addresses of it.
	fam int
}

func aclWords(fam int) *strings.Replacer {
	if fam == 4 {
		return strings.NewReplacer("@a", "192.168.100.10", "@b", "192.168.100.11", "@c", "192.168.101.12", "@gw", "192.168.100.1", "@host", "10.0.0.4",
			"@x", "8.8.8.8", "@icmp", "icmp", "@net", "192.168.100.0/24", "#admin", "3.13", "#all", "255.255.255.255", "#dhcp", "68 > 255.255.255.255.67", "@hairpin", "169.254.72.1")
	}
	return strings.NewReplacer("@a", "fd00:100::10", "@b", "fd00:100::11", "@c", "fd00:101::12", "@gw", "fd00:100::1", "@host", "fd00:a0::4",
		"@x", "2001:db8::8", "@icmp", "icmp6", "@net", "fd00:100::/64", "#admin", "1.1", "#all", "ff02::1", "#dhcp", "546 > ff02::1:2.547", "@hairpin", "fd67:6861:6972::1")
}

func (l *aclLab) prefix(s string) netip.Prefix {
	s = aclWords(l.fam).Replace(s)
	if p, err := netip.ParsePrefix(s); err == nil {
		return p
	}
	a := netip.MustParseAddr(s)
	return netip.PrefixFrom(a, a.BitLen())
}

func (l *aclLab) state() {
	l.s = &scene{facts: vswitch.Facts{Ifindex: map[string]int{}, Anchor: l.index["anchor"]}}
	for name, i := range l.index {
		if name[0] == 'e' || name[0] == 'h' {
			l.s.facts.Ifindex[name] = i
		}
	}
	host := l.prefix("@host").Addr()
	l.s.facts.Uplinks = []vswitch.Uplink{{Name: uplinkDev(0), Ifindex: l.index[uplinkDev(0)], MAC: l.mac[uplinkDev(0)], MTU: 1500, Addrs: []netip.Prefix{netip.PrefixFrom(host, 24)}}}
	l.s.facts.HostAddrs = []netip.Addr{host}
	for i := range 2 {
		p := netip.MustParsePrefix(map[int]string{4: fmt.Sprintf("192.168.%d.0/24", 100+i), 6: fmt.Sprintf("fd00:%d::/64", 100+i)}[l.fam])
		gw := p.Addr().Next()
		l.s.facts.HostAddrs = append(l.s.facts.HostAddrs, gw)
		l.s.state.Networks = append(l.s.state.Networks, vswitch.Network{ID: vswitch.NetworkID(i + 1), Zone: vswitch.Zone(i + 1), Name: fmt.Sprint("n", i+1),
			Flags: vswitch.NetSNAT | vswitch.NetHostNIC | vswitch.NetUplink, HostPort: vswitch.PortID(100 + i), Subnets: []vswitch.Subnet{{Prefix: p, Gateway: gw}}})
		l.s.state.Ports = append(l.s.state.Ports, vswitch.Port{ID: vswitch.PortID(100 + i), Kind: vswitch.PortHost, Network: vswitch.NetworkID(i + 1), Object: "host",
			Interface: switchDev(i), HostNIC: nicDev(i), MAC: l.mac[switchDev(i)], Up: true})
	}
	for i, name := range []string{"@a", "@b", "@c"} {
		l.s.state.Ports = append(l.s.state.Ports, vswitch.Port{ID: vswitch.PortID(i + 1), Kind: vswitch.PortContainer, Network: vswitch.NetworkID(1 + i/2), Object: name,
			Interface: endpointDev(i), MAC: vswitch.MAC{6, 1, 0, 0, 0, byte(i)}, Up: true, Addrs: []netip.Addr{l.prefix(name).Addr()}})
	}
	l.s.state.Mappings = []vswitch.PortMapping{{Object: "@a", Proto: 6, HostPort: 8080, Port: 1, Addr: l.prefix("@a").Addr(), AddrPort: 80}}
}

// rules gives port a the rules, as one set, and applies.
func (l *aclLab) rules(rules ...vswitch.ACLRule) { l.sets(vswitch.ACLSet{Rules: rules}) }

// sets gives port a the ACL sets, and applies.
func (l *aclLab) sets(sets ...vswitch.ACLSet) {
	l.t.Helper()
	st := &l.s.state
	st.ACLs, st.Ports = sets, slices.Clone(st.Ports)
	a := &st.Ports[2]
	a.ACLs = nil
	n := vswitch.RuleID(0)
	for i := range sets {
		sets[i].ID, sets[i].Name = vswitch.ACLID(i+1), fmt.Sprint("set", i+1)
		a.ACLs = append(a.ACLs, sets[i].ID)
		for j := range sets[i].Rules {
			n++
			sets[i].Rules[j].ID, sets[i].Rules[j].Name = n, fmt.Sprint("rule", n)
		}
	}
	var err error
	if l.s.tables, err = vswitch.Compile(*st, l.s.facts); err != nil {
		l.t.Fatal(err)
	}
	l.s.rows = l.s.tables.Rows()
	l.in(func() { err = l.apply(l.s.tables) })
	if err != nil {
		l.t.Fatal(err)
	}
}

// put puts a packet in and says what came of it: "forward new", "drop ACL_IN",
// and what the sender was told.
func (l *aclLab) put(at, text string) (string, *pkt.Packet) {
	l.t.Helper()
	k := pkt.MustParse(aclWords(l.fam).Replace(text))
	dev := map[string]string{"a": endpointDev(0), "b": endpointDev(1), "c": endpointDev(2), "host": switchDev(0), "x": uplinkDev(0)}[at]
	p := scenePort{ifindex: l.index[dev], uplink: at == "x", mac: vswitch.MAC{2, 0, 0, 0, 0, 0x99}, gw: l.mac[switchDev(0)]}
	for _, q := range l.s.state.Ports {
		if q.Interface == dev {
			p.mac = q.MAC
		}
	}
	if p.uplink {
		p.gw = l.mac[dev]
	}
	if k.Dst.IsMulticast() || k.Dst == netip.MustParseAddr("255.255.255.255") {
		p.gw = vswitch.MAC{0x33, 0x33, 0, 0, 0, 1}
	}
	k.From, k.To = pkt.MAC(p.mac), pkt.MAC(p.gw)
	frame := k.Bytes()
	in := bytes.Clone(frame)
	var tr Trace
	var out []byte
	var err error
	l.in(func() {
		tr = Explain(Switch{Rows: l.s.rows, Live: l, FIB: l}, Packet{Ifindex: p.ifindex, Uplink: p.uplink, Frame: frame})
		ret, res, o, e := l.run(Packet{Ifindex: p.ifindex, Uplink: p.uplink, Frame: frame}, l.s.rows.IfPort[uint32(p.ifindex)])
		out, err = o, e
		if d := differs(tr, ret, res, in, o); d != "" && err == nil {
			err = fmt.Errorf("%s: %+v\n%v", d, res, tr)
		}
	})
	if err != nil {
		l.t.Fatalf("%s %s: %v", at, text, err)
	}
	l.last = tr
	got := string(tr.Verdict)
	switch tr.Verdict {
	case Drop:
		got += " " + tr.Reason
		if tr.Answer != "" {
			got += " + " + tr.Answer
		}
	case Forward:
		got += " " + tr.Flow
	}
	o, _ := pkt.Decode(out)
	return got, o
}

func (l *aclLab) want(at, text, want string) {
	l.t.Helper()
	if got, _ := l.put(at, text); got != want {
		l.t.Errorf("%s: %s: %s, want %s", at, text, got, want)
	}
}

// TestACL runs packets through rules, each case with an empty switch and for
// IPv4 and IPv6. Explain must say the same of each.
func TestACL(t *testing.T) {
	base := newLab(t)
	for _, c := range []struct {
		name string
		f    func(*testing.T, *aclLab)
	}{
		{"priority", aclPriority},
		{"stateful", aclStateful},
		{"change", aclChange},
		{"reject", aclReject},
		{"views", aclViews},
		{"hairpin", aclHairpin},
		{"stages", aclStages},
		{"addrsets", aclAddrSets},
		{"fragments", aclFragments},
		{"groups", aclGroups},
	} {
		for _, fam := range []int{4, 6} {
			t.Run(fmt.Sprint(c.name, fam), func(t *testing.T) {
				var err error
				base.in(func() { err = base.clear() })
				if err != nil {
					t.Fatal(err)
				}
				l := &aclLab{lab: base, t: t, fam: fam}
				l.state()
				c.f(t, l)
			})
		}
	}
}

func ports(p ...uint16) (l []vswitch.PortRange) {
	for _, p := range p {
		l = append(l, vswitch.PortRange{First: p, Last: p})
	}
	return l
}

const (
	new0, hit, again = "forward new", "forward hit", "forward revalidated"
	dropIn, dropOut  = "drop ACL_IN", "drop ACL_OUT"
)

// The lowest priority decides; at the same one what forbids.
func aclPriority(t *testing.T, l *aclLab) {
	block := vswitch.ACLRule{Priority: 200, Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Protocols: []uint8{6}, LocalPorts: ports(80)}
	allow := vswitch.ACLRule{Priority: 100, Direction: vswitch.ACLIn, Protocols: []uint8{6}, Remote: []netip.Prefix{l.prefix("@b")}}
	l.rules(block, allow)
	l.want("b", "@b.40000 > @a.80: tcp S", new0)
	l.want("a", "@a.80 > @b.40000: tcp S.", hit)
	if s := l.last.String(); !strings.Contains(s, `let in by acl "set1" rule "rule2"`) {
		t.Errorf("a hit does not name its rule:\n%s", s)
	}
	l.want("x", "@x.40000 > @host.8080: tcp S", dropIn)
	l.want("x", "@x.40000 > @host.8081: tcp S", "pass")
	l.want("host", "@gw.40000 > @a.80: tcp S", dropIn)
	l.want("host", "@gw.40000 > @a.81: tcp S", new0)
	block.Priority = 100
	l.rules(allow, block)
	l.want("b", "@b.40001 > @a.80: tcp S", dropIn)
	block.Priority = 50
	block.LocalPorts = []vswitch.PortRange{{First: 80, Last: 80}, {First: 8000, Last: 8002}}
	l.rules(block)
	for port, want := range map[int]string{80: dropIn, 8000: dropIn, 8001: dropIn, 8002: dropIn, 8003: new0, 7999: new0} {
		l.want("b", fmt.Sprintf("@b.40002 > @a.%d: tcp S", port), want)
	}
	l.want("b", "@b.40002 > @a.80: udp", new0)
}

// Answers pass whatever the other direction says; errors about the flow too.
func aclStateful(t *testing.T, l *aclLab) {
	l.sets(vswitch.ACLSet{DefaultIn: vswitch.ACLBlock})
	l.want("a", "@a.40000 > @b.80: tcp S", new0)
	l.want("b", "@b.80 > @a.40000: tcp S.", hit)
	l.want("b", "@b.80 > @a.40001: tcp S.", dropIn)
	l.want("b", "@b.40000 > @a.53: udp", dropIn)
	l.want("a", "@a.40000 > @x.53: udp", new0)
	l.want("b", "@b > @a: @icmp echo 7", dropIn)
	l.want("a", "@a > @b: @icmp echo 7", new0)
	l.want("b", "@b > @a: @icmp reply 7", hit)
	errors := map[int]string{4: "error 3.3 0", 6: "error 1.4 0"}[l.fam]
	l.want("a", "@a.40000 > @b.9: udp", new0)
	if got, _ := l.put("b", "@b > @a: @icmp "+errors+" [@a.40000 > @b.9: udp]"); got != hit {
		t.Errorf("error about an allowed flow: %s", got)
	}
	if got, _ := l.put("b", "@b > @a: @icmp "+errors+" [@a.40000 > @b.10: udp]"); got != "drop ICMP_NOFLOW" {
		t.Errorf("error about no flow: %s", got)
	}
}

// A rule that comes cuts what it forbids, in both directions, and what it cut
// goes on when it goes.
func aclChange(t *testing.T, l *aclLab) {
	cut := vswitch.ACLRule{Direction: vswitch.ACLOut, Action: vswitch.ACLBlock, Remote: []netip.Prefix{l.prefix("@x"), l.prefix("@b")}}
	l.rules()
	l.want("a", "@a.40000 > @x.80: tcp S", new0)
	l.want("x", "@x.80 > @host.40000: tcp S.", "pass") // its port was changed by NAT
	_, seen := l.put("a", "@a.40001 > @x.80: tcp S")
	answer := func(flags string) string { return fmt.Sprintf("@x.80 > @host.%d: tcp %s", seen.SrcPort, flags) }
	l.want("x", answer("S."), hit)
	l.want("a", "@a.40000 > @b.80: tcp S", new0)
	l.want("b", "@b.80 > @a.40000: tcp S.", hit)
	l.rules(cut)
	for range 2 {
		l.want("x", answer("."), dropOut)
		l.want("a", "@a.40001 > @x.80: tcp .", dropOut)
		l.want("b", "@b.80 > @a.40000: tcp .", dropOut)
		l.want("a", "@a.40000 > @b.80: tcp .", dropOut)
		l.want("b", "@b.80 > @a.40000: tcp .", dropOut)
	}
	l.rules()
	l.want("x", answer("."), again)
	l.want("a", "@a.40001 > @x.80: tcp .", again)
	l.want("x", answer("."), hit)
	l.want("b", "@b.80 > @a.40000: tcp .", again)
	l.want("a", "@a.40000 > @b.80: tcp .", again)
}

// What is rejected is told so.
func aclReject(t *testing.T, l *aclLab) {
	l.rules(vswitch.ACLRule{Direction: vswitch.ACLOut, Action: vswitch.ACLReject})
	l.want("a", "@a.40000 > @b.80: tcp S", "drop ACL_OUT + a TCP reset")
	got, o := l.put("a", "@a.40000 > @b.80: udp")
	if !strings.HasPrefix(got, "drop ACL_OUT + ICMP") || !strings.Contains(o.String(), aclWords(l.fam).Replace("error #admin")) {
		t.Errorf("%s, %v", got, o)
	}
	l.rules(vswitch.ACLRule{Direction: vswitch.ACLOut, Action: vswitch.ACLReject, View: vswitch.ViewOriginal, RemotePorts: ports(8080)})
	l.want("a", "@a.40000 > @host.8080: tcp S", "drop ACL_OUT_PRE + a TCP reset")
	l.rules(vswitch.ACLRule{Direction: vswitch.ACLIn, Action: vswitch.ACLReject})
	l.want("x", "@x.40000 > @host.8080: tcp S", "drop ACL_IN + a TCP reset")
}

// Each view sees its own tuple.
func aclViews(t *testing.T, l *aclLab) {
	in := func(view vswitch.ACLView, port uint16) vswitch.ACLRule {
		return vswitch.ACLRule{Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, View: view, LocalPorts: ports(port)}
	}
	l.rules(in(vswitch.ViewTranslated, 80))
	l.want("x", "@x.1 > @host.8080: tcp S", dropIn)
	l.rules(in(vswitch.ViewOriginal, 80), in(vswitch.ViewTranslated, 8080))
	l.want("x", "@x.2 > @host.8080: tcp S", new0)
	l.want("b", "@b.2 > @a.80: tcp S", dropIn)
	l.rules(in(vswitch.ViewOriginal, 8080))
	l.want("x", "@x.2 > @host.8080: tcp .", dropIn)
	l.want("x", "@x.3 > @host.8080: tcp S", dropIn)
	l.want("b", "@b.3 > @a.80: tcp S", new0)
	// From another network the source is the host's; the original view knows who it was.
	l.rules(vswitch.ACLRule{Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Remote: []netip.Prefix{l.prefix("@c")}})
	l.want("c", "@c.4 > @host.8080: tcp S", new0)
	l.rules(vswitch.ACLRule{Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, View: vswitch.ViewOriginal, Remote: []netip.Prefix{l.prefix("@c")}})
	l.want("c", "@c.5 > @host.8080: tcp S", dropIn)
	// Out: the service's address, or the backend's.
	out := func(view vswitch.ACLView, port uint16) vswitch.ACLRule {
		return vswitch.ACLRule{Direction: vswitch.ACLOut, Action: vswitch.ACLBlock, View: view, RemotePorts: ports(port)}
	}
	l.rules(out(vswitch.ViewTranslated, 8080), out(vswitch.ViewOriginal, 80))
	l.want("a", "@a.6 > @host.8080: tcp S", new0) // to itself, and not asked about what comes in
	l.rules(out(vswitch.ViewTranslated, 80))
	l.want("a", "@a.7 > @host.8080: tcp S", dropOut)
	l.sets(vswitch.ACLSet{DefaultIn: vswitch.ACLBlock})
	l.want("a", "@a.8 > @host.8080: tcp S", new0)
}

// What reaches itself, by a published port or a service, is asked about as it
// leaves, in either view once and so in both directions; as it arrives, never.
func aclHairpin(t *testing.T, l *aclLab) {
	vip := map[int]string{4: "10.96.0.1", 6: "fd00:96::1"}[l.fam]
	l.s.state.Services = []vswitch.Service{{ID: 1, Name: "web", Frontends: []vswitch.Frontend{{Addr: netip.MustParseAddr(vip), Port: 81, Proto: 6, Scope: vswitch.ScopeCluster}},
		Backends: []vswitch.Backend{{Addr: l.prefix("@a").Addr(), Port: 80, At: 1}}}}
	rule := func(d vswitch.ACLDirection, view vswitch.ACLView, action vswitch.ACLAction, to string, port uint16) vswitch.ACLRule {
		r := vswitch.ACLRule{Direction: d, Action: action, View: view}
		if d == vswitch.ACLOut {
			r.Local, r.Remote, r.RemotePorts = []netip.Prefix{l.prefix("@a")}, []netip.Prefix{l.prefix(to)}, ports(port)
		} else {
			r.Local, r.LocalPorts = []netip.Prefix{l.prefix(to)}, ports(port)
		}
		return r
	}
	for i, at := range []struct {
		addr string
		port uint16
	}{{"@host", 8080}, {vip, 81}} {
		ask := func(flags string) string {
			return fmt.Sprintf("@a.%d > %s.%d: tcp %s", 5000+i, at.addr, at.port, flags)
		}
		answer := func(flags string) string { return fmt.Sprintf("@a.80 > @hairpin.%d: tcp %s", 5000+i, flags) }
		rules := []vswitch.ACLRule{rule(vswitch.ACLOut, vswitch.ViewOriginal, vswitch.ACLAllow, at.addr, at.port), rule(vswitch.ACLOut, vswitch.ViewTranslated, vswitch.ACLAllow, "@a", 80),
			rule(vswitch.ACLIn, vswitch.ViewOriginal, vswitch.ACLBlock, at.addr, at.port), rule(vswitch.ACLIn, vswitch.ViewTranslated, vswitch.ACLBlock, "@a", 80)}
		count := func(what string, want ...uint64) func() {
			var before []uint64
			for id := range want {
				before = append(before, l.credited(vswitch.RuleID(id+1)))
			}
			return func() {
				t.Helper()
				for id, n := range want {
					if got := l.credited(vswitch.RuleID(id+1)) - before[id]; got != n {
						t.Errorf("%s: rule %d was asked %d times, want %d", what, id+1, got, n)
					}
				}
			}
		}
		l.rules(rules...)
		check := count("the question", 1, 1, 0, 0)
		l.want("a", ask("S"), new0)
		if s := l.last.String(); !strings.Contains(s, "it reaches itself, not from outside") {
			t.Errorf("does not say that what comes in is not asked about:\n%s", s)
		}
		check()
		l.rules(append(rules, rule(vswitch.ACLOut, vswitch.ViewOriginal, vswitch.ACLBlock, "@x", 9))...)
		check = count("the answer", 1, 1, 0, 0)
		l.want("a", answer("."), again)
		check()
		for _, blocked := range []struct {
			want string
			rule vswitch.ACLRule
		}{{"drop ACL_OUT_PRE", rule(vswitch.ACLOut, vswitch.ViewOriginal, vswitch.ACLBlock, at.addr, at.port)}, {dropOut, rule(vswitch.ACLOut, vswitch.ViewTranslated, vswitch.ACLBlock, "@a", 80)}} {
			l.rules(blocked.rule)
			l.want("a", answer("."), blocked.want)
			l.want("a", ask("."), blocked.want)
		}
	}
}

// Every set must let a packet pass; in a stage the first rule that allows ends it.
func aclStages(t *testing.T, l *aclLab) {
	rule := func(action vswitch.ACLAction, p ...uint16) []vswitch.ACLRule {
		return []vswitch.ACLRule{{Direction: vswitch.ACLIn, Action: action, LocalPorts: ports(p...)}}
	}
	try := func(port int, want string) {
		t.Helper()
		l.want("b", fmt.Sprintf("@b.%d > @a.%d: tcp S", 30000+port, port), want)
	}
	l.sets(vswitch.ACLSet{Rules: rule(vswitch.ACLAllow, 1, 2)}, vswitch.ACLSet{DefaultIn: vswitch.ACLBlock, Rules: rule(vswitch.ACLAllow, 2, 3)})
	try(1, dropIn)
	try(2, new0)
	try(3, new0)
	tiers := []vswitch.ACLSet{{Stage: 1, Rules: append(rule(vswitch.ACLPass, 1), rule(vswitch.ACLAllow, 2, 5)...)},
		{Stage: 1, DefaultIn: vswitch.ACLBlock, Rules: rule(vswitch.ACLAllow, 3)}, {Rules: rule(vswitch.ACLBlock, 5)}}
	l.sets(tiers...)
	try(1, dropIn)
	try(12, dropIn)
	l.want("b", "@b.7 > @a.2: tcp S", new0)
	l.want("b", "@b.7 > @a.3: tcp S", new0)
	l.want("b", "@b.7 > @a.5: tcp S", dropIn)
}

// An address is judged by the sets it is in, at once when they change.
func aclAddrSets(t *testing.T, l *aclLab) {
	l.s.state.AddrSets = []vswitch.AddrSet{{ID: 1, Prefixes: []netip.Prefix{l.prefix("@net")}, Except: []netip.Prefix{l.prefix("@b")}},
		{ID: 2, Prefixes: []netip.Prefix{l.prefix("@gw"), l.prefix("@b")}}}
	r := vswitch.ACLRule{Direction: vswitch.ACLIn, RemoteSets: []vswitch.AddrSetID{2, 1}}
	l.sets(vswitch.ACLSet{DefaultIn: vswitch.ACLBlock, Rules: []vswitch.ACLRule{r}})
	l.want("b", "@b.1 > @a.80: tcp S", dropIn)
	l.want("host", "@gw.1 > @a.80: tcp S", new0)
	l.s.state.AddrSets = []vswitch.AddrSet{{ID: 1, Prefixes: []netip.Prefix{l.prefix("@net")}}, {ID: 2, Prefixes: []netip.Prefix{l.prefix("@b")}}}
	l.sets(l.s.state.ACLs...)
	l.want("b", "@b.1 > @a.80: tcp S", new0)
	l.want("host", "@gw.1 > @a.80: tcp .", dropIn)
}

// A later fragment without its ports is dropped only where ports could matter.
func aclFragments(t *testing.T, l *aclLab) {
	parts := pkt.MustParse(aclWords(l.fam).Replace("@b.5000 > @a.53: udp len 1200")).Fragments(9, 400)
	later := func() string {
		parts[1].From, parts[1].To = pkt.MAC{6, 1, 0, 0, 0, 1}, pkt.MAC(l.mac[switchDev(0)])
		tr := Explain(Switch{Rows: l.s.rows, Live: l, FIB: l}, Packet{Ifindex: l.index[endpointDev(1)], Frame: parts[1].Bytes()})
		var err error
		l.in(func() {
			_, err = l.compare(l.s, &traffic{scene: l.s}, scenePort{ifindex: l.index[endpointDev(1)]}, parts[1].Bytes(), map[string]int{})
		})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(tr.Verdict) + " " + tr.Reason)
	}
	udp := vswitch.ACLRule{Priority: 2, Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Protocols: []uint8{17}, LocalPorts: ports(9)}
	for _, c := range []struct {
		want  string
		rules []vswitch.ACLRule
	}{
		{"drop FRAG_ORDER", []vswitch.ACLRule{udp}},
		{"forward", []vswitch.ACLRule{udp, {Priority: 1, Direction: vswitch.ACLIn, Remote: []netip.Prefix{l.prefix("@b")}}}},
		{"drop ACL_IN", []vswitch.ACLRule{udp, {Priority: 1, Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Protocols: []uint8{17}}}},
		{"forward", []vswitch.ACLRule{{Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Protocols: []uint8{6}, LocalPorts: ports(9)}}},
	} {
		l.rules(c.rules...)
		if got := later(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.rules, got, c.want)
		}
	}
	// A rule that is about it but has not decided is not credited.
	l.rules(vswitch.ACLRule{Priority: 1, Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Remote: []netip.Prefix{l.prefix("@c")}},
		vswitch.ACLRule{Priority: 5, Direction: vswitch.ACLIn, Remote: []netip.Prefix{l.prefix("@b")}}, udp, vswitch.ACLRule{Priority: 3, Direction: vswitch.ACLIn, LocalPorts: ports(9)})
	before := l.credited(2)
	if got := later(); got != "drop FRAG_ORDER" || l.credited(2) != before {
		t.Errorf("%s, %d packets credited to a rule that did not decide", got, l.credited(2)-before)
	}
}

// credited is how many packets a rule has decided about.
func (l *aclLab) credited(rule vswitch.RuleID) (n uint64) {
	var perCPU []bpf.ACLStats
	if err := l.coll.Maps["aclstats"].Lookup(uint32(rule), &perCPU); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		l.t.Fatal(err)
	}
	for _, c := range perCPU {
		n += c.Packets
	}
	return n
}

// Frames to groups are asked about one by one, but for DHCP.
func aclGroups(t *testing.T, l *aclLab) {
	l.s.state.Networks[0].Flags |= vswitch.NetFlood
	copies := func(at, text string, want int) {
		t.Helper()
		if got, _ := l.put(at, text); got != "flood" || l.last.Raw.Copies != want {
			t.Errorf("%s: %s: %s, %d copies, want %d", at, text, got, l.last.Raw.Copies, want)
		}
	}
	l.rules()
	copies("b", "@b.9 > #all.9: udp", 2)
	block := vswitch.ACLRule{Direction: vswitch.ACLIn, Action: vswitch.ACLBlock, Protocols: []uint8{17}, LocalPorts: ports(9)}
	l.rules(block)
	copies("b", "@b.9 > #all.9: udp", 1)
	copies("b", "@b.9 > #all.8: udp", 2)
	l.sets(vswitch.ACLSet{DefaultIn: vswitch.ACLBlock, DefaultOut: vswitch.ACLReject})
	copies("b", "@b.#dhcp: udp", 2)
	copies("a", "@a.#dhcp: udp", 2)
	l.want("a", "@a.9 > #all.9: udp", dropOut)
}
