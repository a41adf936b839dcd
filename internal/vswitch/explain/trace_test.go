// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package explain

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// plain is a small switch: NAT network 1 with web and db, network 2 without a way
// out with safe, one uplink; web publishes 8080.
func plain(t *testing.T, change ...func(*vswitch.State)) Switch {
	t.Helper()
	a, p := netip.MustParseAddr, netip.MustParsePrefix
	f := vswitch.Facts{
		Ifindex: map[string]int{"h1": 11, "h1.p": 12, "h2": 13, "h2.p": 14, "web": 21, "db": 22, "safe": 23}, Anchor: 7,
		Uplinks:   []vswitch.Uplink{{Name: "eth0", Ifindex: 2, MAC: vswitch.MAC{2, 0, 0, 0, 0, 0xf1}, MTU: 1500, Addrs: []netip.Prefix{p("198.51.100.1/24")}}},
		HostAddrs: []netip.Addr{a("198.51.100.1"), a("10.1.0.1"), a("10.2.0.1")},
	}
	port := func(id vswitch.PortID, net vswitch.NetworkID, name, addr string) vswitch.Port {
		return vswitch.Port{ID: id, Kind: vswitch.PortContainer, Network: net, Object: name, Interface: name, MAC: vswitch.MAC{2, 0, 0, 0, 0, byte(id)},
			Addrs: []netip.Addr{a(addr)}, Up: true}
	}
	host := func(id vswitch.PortID, net vswitch.NetworkID, name string) vswitch.Port {
		return vswitch.Port{ID: id, Kind: vswitch.PortHost, Network: net, Object: name, Interface: name, HostNIC: name + ".p", MAC: vswitch.MAC{2, 1, 0, 0, 0, byte(id)}, Up: true}
	}
	s := vswitch.State{
		Networks: []vswitch.Network{
			{ID: 1, Zone: 1, Name: "nat", Flags: vswitch.NetSNAT | vswitch.NetHostNIC | vswitch.NetUplink, HostPort: 1,
				Subnets: []vswitch.Subnet{{Prefix: p("10.1.0.0/24"), Gateway: a("10.1.0.1")}}},
			{ID: 2, Zone: 2, Name: "vault", Flags: vswitch.NetHostNIC, HostPort: 2, Subnets: []vswitch.Subnet{{Prefix: p("10.2.0.0/24"), Gateway: a("10.2.0.1")}}},
		},
		Ports:    []vswitch.Port{host(1, 1, "h1"), host(2, 2, "h2"), port(3, 1, "web", "10.1.0.3"), port(4, 1, "db", "10.1.0.4"), port(5, 2, "safe", "10.2.0.5")},
		Mappings: []vswitch.PortMapping{{Object: "web", Proto: 6, HostPort: 8080, Port: 3, Addr: a("10.1.0.3"), AddrPort: 80}},
		Services: []vswitch.Service{
			{ID: 1, Name: "shop", Frontends: []vswitch.Frontend{{Addr: a("10.96.0.1"), Port: 80, Proto: 6, Scope: vswitch.ScopeCluster}},
				Backends: []vswitch.Backend{{Addr: a("10.1.0.3"), Port: 80, At: 3}, {Addr: a("203.0.113.7"), Port: 8080}}},
			{ID: 2, Name: "gone", Frontends: []vswitch.Frontend{{Addr: a("10.96.0.2"), Port: 80, Proto: 6, Scope: vswitch.ScopeCluster}},
				Backends: []vswitch.Backend{{Addr: a("10.1.0.3"), Port: 80, At: 3, State: vswitch.BackendDraining}}},
			{ID: 3, Name: "edge", Flags: vswitch.ServiceDSR | vswitch.ServiceConsistent,
				Frontends: []vswitch.Frontend{{Addr: a("192.0.2.1"), Port: 80, Proto: 6, Scope: vswitch.ScopeOutside}},
				Backends:  []vswitch.Backend{{Addr: a("203.0.113.7"), Port: 8080}}},
		},
		Announced: []vswitch.Announcement{{Addr: a("192.0.2.1")}},
	}
	for _, c := range change {
		c(&s)
	}
	tables, err := vswitch.Compile(s, f)
	if err != nil {
		t.Fatal(err)
	}
	names := map[vswitch.PortID]string{1: "the host", 2: "the host", 3: "endpoint web", 4: "endpoint db", 5: "endpoint safe"}
	return Switch{
		Rows: tables.Rows(), FIB: oneWay{}, Name: func(id vswitch.PortID) string { return names[id] },
		NetworkName: func(id vswitch.NetworkID) string { return map[vswitch.NetworkID]string{1: "nat", 2: "vault"}[id] },
	}
}

// guard gives web rules of its own.
func guard(s *vswitch.State) {
	p := netip.MustParsePrefix
	s.AddrSets = []vswitch.AddrSet{{ID: 1, Name: "databases", Prefixes: []netip.Prefix{p("10.1.0.4/32")}}}
	s.ACLs = []vswitch.ACLSet{{ID: 1, Name: "web policy", DefaultIn: vswitch.ACLBlock, Rules: []vswitch.ACLRule{
		{ID: 1, Name: "databases ask", Priority: 100, Direction: vswitch.ACLIn, Protocols: []uint8{6}, RemoteSets: []vswitch.AddrSetID{1}, LocalPorts: []vswitch.PortRange{{First: 80, Last: 81}}},
		{ID: 2, Name: "no names outside", Priority: 100, Direction: vswitch.ACLOut, Action: vswitch.ACLReject, Protocols: []uint8{17}, RemotePorts: []vswitch.PortRange{{First: 53, Last: 53}}},
	}}}
	s.Ports[2].ACLs = []vswitch.ACLID{1}
}

// oneWay is a host with a default route.
type oneWay struct{}

func (oneWay) Socket(uint8, netip.AddrPort, netip.AddrPort) bool { return false }

func (oneWay) Lookup(q FIBQuery) (FIBRoute, bool) {
	return FIBRoute{Ifindex: 2, NextHop: netip.MustParseAddr("198.51.100.254"), MTU: 1500}, q.Dst.Is4()
}

// TestGolden shows traces as people read them.
func TestGolden(t *testing.T) {
	bare, guarded := plain(t), plain(t, guard)
	var b strings.Builder
	for _, c := range []struct {
		at     int
		uplink bool
		guard  bool
		mac    byte
		line   string
	}{
		{at: 22, mac: 4, line: "10.1.0.4.40000 > 10.1.0.3.80: tcp S"},
		{at: 22, mac: 4, line: "10.1.0.4.40000 > 198.51.100.1.8080: tcp S"},
		{at: 21, mac: 3, line: "10.1.0.3.40000 > 198.51.100.1.8080: tcp S"},
		{at: 23, mac: 5, line: "10.2.0.5.40000 > 198.51.100.1.8080: tcp S"},
		{at: 23, mac: 5, line: "10.2.0.5.40000 > 8.8.8.8.53: udp \"x\""},
		{at: 22, mac: 4, line: "10.1.0.4.40000 > 8.8.8.8.53: udp \"x\""},
		{at: 22, mac: 4, line: "10.1.0.4.40000 > 8.8.8.8.53: udp ttl 1"},
		{at: 22, mac: 4, line: "10.1.0.9.40000 > 10.1.0.3.80: tcp S"},
		{at: 22, mac: 9, line: "10.1.0.4.40000 > 10.1.0.3.80: tcp S"},
		{at: 22, mac: 4, line: "10.1.0.4 > 10.1.0.99: icmp echo 7"},
		{at: 22, mac: 4, line: "arp who-has 10.1.0.1 tell 10.1.0.4"},
		{at: 2, uplink: true, mac: 9, line: "203.0.113.9.40000 > 198.51.100.1.8080: tcp S"},
		{at: 2, uplink: true, mac: 9, line: "203.0.113.9.40000 > 198.51.100.1.8081: tcp S"},
		{at: 22, mac: 4, line: "10.1.0.4.40000 > 10.96.0.1.80: tcp S"},
		{at: 22, mac: 4, line: "10.1.0.4.40003 > 10.96.0.1.80: tcp S"},
		{at: 22, mac: 4, line: "10.1.0.4.40000 > 10.96.0.2.80: tcp S"},
		{at: 2, uplink: true, mac: 9, line: "203.0.113.9.40000 > 192.0.2.1.80: tcp S"},
		{at: 2, uplink: true, mac: 9, line: "arp who-has 192.0.2.1 tell 198.51.100.254"},
		{at: 99, mac: 4, line: "10.1.0.4.40000 > 10.1.0.3.80: tcp S"},
		{guard: true, at: 22, mac: 4, line: "10.1.0.4.40000 > 10.1.0.3.80: tcp S"},
		{guard: true, at: 2, uplink: true, mac: 9, line: "203.0.113.9.40000 > 198.51.100.1.8080: tcp S"},
		{guard: true, at: 21, mac: 3, line: "10.1.0.3.40000 > 8.8.8.8.53: udp \"x\""},
	} {
		s := bare
		if c.guard {
			s = guarded
		}
		k := pkt.MustParse(c.line)
		k.From, k.To = pkt.MAC{2, 0, 0, 0, 0, c.mac}, pkt.MAC{2, 1, 0, 0, 0, 1}
		if c.uplink {
			k.To = pkt.MAC{2, 0, 0, 0, 0, 0xf1}
		}
		if k.Ether == pkt.EtherARP {
			k.To, k.ArpSrc = pkt.MAC{255, 255, 255, 255, 255, 255}, k.From
		}
		tr := Explain(s, Packet{Ifindex: c.at, Uplink: c.uplink, Frame: k.Bytes()})
		b.WriteString(tr.String() + "\n")
		raw, err := json.Marshal(tr)
		if err != nil {
			t.Fatal(err)
		}
		var back Trace
		if err := json.Unmarshal(raw, &back); err != nil || back.Verdict != tr.Verdict || len(back.Steps) != len(tr.Steps) || back.Tuple != tr.Tuple {
			t.Errorf("%s: through JSON: %v\n%s", c.line, err, raw)
		}
	}
	file := filepath.Join("testdata", "traces.golden")
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("traces differ (-want +got); -update rewrites them:\n%s", d)
	}
}

func TestSocket(t *testing.T) {
	s := plain(t)
	for _, c := range []struct {
		proto    uint8
		dst, got string
	}{
		{6, "127.0.0.1:8080", "10.1.0.3:80"},
		{6, "0.0.0.0:8080", "10.1.0.3:80"},
		{6, "198.51.100.1:8080", "10.1.0.3:80"},
		{6, "198.51.100.2:8080", ""},
		{17, "127.0.0.1:8080", ""},
		{6, "127.0.0.1:8081", ""},
		{6, "[::1]:8080", ""},
		{6, "10.96.0.1:80", "10.1.0.3:80"},
		{17, "10.96.0.1:80", ""},
	} {
		to, _, ok := Socket(s, c.proto, netip.MustParseAddrPort(c.dst))
		if ok != (c.got != "") || ok && to.String() != c.got {
			t.Errorf("%d %s: %v %v; want %q", c.proto, c.dst, to, ok, c.got)
		}
	}
	if _, step, ok := Socket(s, 6, netip.MustParseAddrPort("10.96.0.2:80")); !ok || step.Verdict != "drop" || !strings.Contains(step.Reason, "ECONNREFUSED") {
		t.Errorf("nobody behind it: %+v, %v", step, ok)
	}
}
