// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package vswitch

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// host is a small host: two uplinks, and devices named dev<port> and nic<network>.
func testFacts() Facts {
	return Facts{
		Ifindex: map[string]int{}, Anchor: 7, NetnsCookie: 4242,
		Uplinks: []Uplink{{
			Name: "eth0", Ifindex: 2, MAC: MAC{2, 0, 0, 0, 0, 2}, MTU: 1500,
			Addrs: []netip.Prefix{netip.MustParsePrefix("192.0.2.10/24"), netip.MustParsePrefix("fe80::2/64"), netip.MustParsePrefix("2001:db8::10/64")},
		}},
		HostAddrs: []netip.Addr{netip.MustParseAddr("192.0.2.10"), netip.MustParseAddr("2001:db8::10")},
	}
}

func testNetwork(id NetworkID) Network {
	return Network{
		ID: id, Zone: Zone(id), Name: fmt.Sprintf("net%d", id), Flags: NetSNAT | NetHostNIC | NetUplink | NetFlood, HostPort: PortID(id),
		Subnets: []Subnet{
			{Prefix: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(id), 0, 0}), 16), Gateway: netip.AddrFrom4([4]byte{10, byte(id), 0, 1})},
			{Prefix: netip.MustParsePrefix(fmt.Sprintf("fd00:%x::/64", id)), Gateway: netip.MustParseAddr(fmt.Sprintf("fd00:%x::1", id))},
		},
	}
}

func testHostPort(id NetworkID, f Facts) Port {
	p := Port{
		ID: PortID(id), Kind: PortHost, Network: id, Object: fmt.Sprintf("net%d", id), Interface: fmt.Sprintf("sw%d", id),
		HostNIC: fmt.Sprintf("nic%d", id), MAC: MAC{2, 1, 0, 0, 0, byte(id)}, Up: true,
	}
	f.Ifindex[p.Interface], f.Ifindex[p.HostNIC] = 100+int(id), 200+int(id)
	return p
}

func testPort(id PortID, net NetworkID, f Facts) Port {
	p := Port{
		ID: id, Kind: PortContainer, Network: net, Object: fmt.Sprintf("ep%d", id), Interface: fmt.Sprintf("dev%d", id),
		MAC: MAC{2, 2, 0, 0, byte(id >> 8), byte(id)}, Up: true,
		Addrs: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(net), byte(id >> 8), byte(id)}), netip.MustParseAddr(fmt.Sprintf("fd00:%x::%x", net, uint16(id)))},
	}
	f.Ifindex[p.Interface] = 1000 + int(id)
	return p
}

func testMapping(p Port, proto uint8, hostPort uint16) PortMapping {
	return PortMapping{Object: p.Object, Proto: proto, HostPort: hostPort, Port: p.ID, Addr: p.Addrs[0], AddrPort: 80}
}

// TestGolden compiles the State and Facts of each file (JSON) and compares the
// Tables; a file "then.json" is a second State, of which the Diff is compared.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("golden files: %v, %v", files, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			get := func(name string) *txtar.File {
				for i := range a.Files {
					if a.Files[i].Name == name {
						return &a.Files[i]
					}
				}
				return nil
			}
			parse := func(name string, into any) bool {
				f := get(name)
				if f == nil {
					return false
				}
				if err := json.Unmarshal(f.Data, into); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				return true
			}
			check := func(name, got string) {
				f := get(name)
				if f == nil {
					a.Files = append(a.Files, txtar.File{Name: name})
					f = &a.Files[len(a.Files)-1]
				}
				if *update {
					f.Data = []byte(got)
				} else if diff := cmp.Diff(string(f.Data), got); diff != "" {
					t.Errorf("%s (-want +got):\n%s", name, diff)
				}
			}
			var s, then State
			var f Facts
			parse("state.json", &s)
			parse("facts.json", &f)
			tables, err := Compile(s, f)
			if err != nil {
				check("error", err.Error()+"\n")
			} else {
				check("tables", tables.String())
				if parse("then.json", &then) {
					next, err := Compile(then, f)
					if err != nil {
						t.Fatal(err)
					}
					check("diff", deltaString(Diff(tables, next)))
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

func deltaString(d Delta) string {
	var b strings.Builder
	for _, s := range d.Steps {
		verb := "put"
		if s.Values == nil {
			verb = "delete"
		}
		fmt.Fprintf(&b, "%s %s %d\n", verb, s.Map, s.Rows)
	}
	fmt.Fprintf(&b, "epochs %v\n", d.Epochs)
	for _, u := range d.Attach {
		fmt.Fprintf(&b, "attach %s\n", u.Name)
	}
	for _, u := range d.Detach {
		fmt.Fprintf(&b, "detach %s\n", u.Name)
	}
	if d.AttachHooks || d.DetachHooks {
		fmt.Fprintf(&b, "hooks %v\n", d.AttachHooks)
	}
	return b.String()
}

func TestInvalid(t *testing.T) {
	base := func() (State, Facts) {
		f := testFacts()
		p := testPort(10, 1, f)
		return State{
			Networks: []Network{testNetwork(1), testNetwork(2)},
			Ports:    []Port{testHostPort(1, f), testHostPort(2, f), p},
			Mappings: []PortMapping{testMapping(p, 6, 8080)},
		}, f
	}
	addr := netip.MustParseAddr
	for _, c := range []struct {
		name, want string
		change     func(*State, *Facts)
	}{
		{"network id", "ID 1024: must be 1 to 1023", func(s *State, _ *Facts) { s.Networks[0].ID = 1024 }},
		{"network twice", `ID 1 is also that of "net1"`, func(s *State, _ *Facts) { s.Networks[1].ID = 1 }},
		{"zone 0", "Zone 0: that is the host's own", func(s *State, _ *Facts) { s.Networks[0].Zone = 0 }},
		{"zone twice", `Zone 1 is also that of "net1"`, func(s *State, _ *Facts) { s.Networks[1].Zone = 1 }},
		{"prefix bits", `"10.1.0.0/16" is meant`, func(s *State, _ *Facts) { s.Networks[0].Subnets[0].Prefix = netip.MustParsePrefix("10.1.2.3/16") }},
		{"gateway outside", `Gateway "10.9.0.1": outside`, func(s *State, _ *Facts) { s.Networks[0].Subnets[0].Gateway = addr("10.9.0.1") }},
		{"subnets overlap", "overlaps", func(s *State, _ *Facts) {
			s.Networks[0].Subnets[1] = Subnet{Prefix: netip.MustParsePrefix("10.1.128.0/24")}
		}},
		{"small mtu", "MTU 1000: IPv6 needs 1280", func(s *State, _ *Facts) { s.Networks[0].MTU = 1000 }},
		{"host port", "HostPort 99: no such port", func(s *State, _ *Facts) { s.Networks[0].HostPort = 99 }},
		{"foreign host port", "HostPort 2: belongs to network 2", func(s *State, _ *Facts) { s.Networks[0].HostPort = 2 }},
		{"port id", "ID: must be 1 to 3968", func(s *State, _ *Facts) { s.Ports[2].ID = FirstUplinkPort; s.Mappings = nil }},
		{"port twice", "ID 1 is also that of another port", func(s *State, _ *Facts) { s.Ports[2].ID = 1; s.Mappings = nil }},
		{"port network", "Network 9: no such network", func(s *State, _ *Facts) { s.Ports[2].Network = 9 }},
		{"port kind", "Kind 4: not a port", func(s *State, _ *Facts) { s.Ports[2].Kind = PortUplink }},
		{"port mac", "MAC 01:00:00:00:00:00", func(s *State, _ *Facts) { s.Ports[2].MAC = MAC{1} }},
		{"port without device name", "Interface: empty", func(s *State, _ *Facts) { s.Ports[2].Interface = "" }},
		{"address twice", "10.1.0.1 is also held by port 1", func(s *State, _ *Facts) { s.Ports[2].Addrs = []netip.Addr{addr("10.1.0.1")}; s.Mappings = nil }},
		{"mapped address", "write an IPv4 address as IPv4", func(s *State, _ *Facts) { s.Ports[2].Addrs[0] = addr("::ffff:10.1.0.9") }},
		{"multicast", "not a unicast address", func(s *State, _ *Facts) { s.Ports[2].Addrs[0] = addr("224.0.0.1") }},
		{"device twice", "its ifindex 101 is also that of port 1", func(s *State, f *Facts) { f.Ifindex["dev10"] = 101 }},
		{"device is uplink", `Uplinks "eth0": ifindex 2 is the device of port 10`, func(s *State, f *Facts) { f.Ifindex["dev10"] = 2 }},
		{"mapping proto", "Proto 1: only 6", func(s *State, _ *Facts) { s.Mappings[0].Proto = 1 }},
		{"mapping target", "Port 77: no such port", func(s *State, _ *Facts) { s.Mappings[0].Port = 77 }},
		{"mapping address", `Addr "10.1.9.9": not an address of port 10`, func(s *State, _ *Facts) { s.Mappings[0].Addr = addr("10.1.9.9") }},
		{"mapping family", "not of the family", func(s *State, _ *Facts) { s.Mappings[0].HostAddr = addr("::") }},
		{"sctp ports", "SCTP ports cannot be translated", func(s *State, _ *Facts) { s.Mappings[0].Proto = 132 }},
		{"mapping twice", "tcp 8080 on 0.0.0.0 is also published for ep10", func(s *State, _ *Facts) { s.Mappings = append(s.Mappings, s.Mappings[0]) }},
		{"mapping any and one", "so not on 192.0.2.10 alone", func(s *State, _ *Facts) {
			m := s.Mappings[0]
			m.HostAddr = addr("192.0.2.10")
			s.Mappings = append([]PortMapping{m}, s.Mappings...)
		}},
		{"mirror itself", "Mirror 10: is the port itself", func(s *State, _ *Facts) { s.Ports[2].Mirror = 10 }},
		{"mirror nobody", "Mirror 11: no such port", func(s *State, _ *Facts) { s.Ports[2].Mirror = 11 }},
		{"mirror to the host", "kind host; copies go to containers", func(s *State, _ *Facts) { s.Ports[2].Mirror = 1 }},
		{"mirror back", "mirrored to port 10 in turn", func(s *State, f *Facts) {
			s.Ports = append(s.Ports, testPort(11, 1, *f))
			s.Ports[2].Mirror, s.Ports[3].Mirror = 11, 10
		}},
		{"mirror of a mirror", "is mirrored itself, to port 12", func(s *State, f *Facts) {
			s.Ports = append(s.Ports, testPort(11, 1, *f), testPort(12, 1, *f))
			s.Ports[2].Mirror, s.Ports[3].Mirror = 11, 12
		}},
		{"uplink twice", "ifindex 2 is also", func(_ *State, f *Facts) { f.Uplinks = append(f.Uplinks, f.Uplinks[0]) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, f := base()
			if _, err := Compile(s, f); err != nil {
				t.Fatalf("the State before the change: %v", err)
			}
			c.change(&s, &f)
			_, err := Compile(s, f)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got error %v, want one with %q", err, c.want)
			}
			if !errdefs.IsInvalidArgument(err) {
				t.Errorf("error %v is not of class invalid argument", err)
			}
			if err != nil && strings.Contains(err.Error(), "%!") {
				t.Errorf("badly formatted: %v", err)
			}
		})
	}
}

func TestUplinkPortsStay(t *testing.T) {
	f := testFacts()
	f.Uplinks = nil
	ports := map[int]PortID{}
	for _, ifindex := range []int{90, 3, 2, 17, 41} {
		f.Uplinks = append(f.Uplinks, Uplink{Name: fmt.Sprint("if", ifindex), Ifindex: ifindex})
		tables, err := Compile(State{}, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range tables.Uplinks {
			if was, ok := ports[u.Ifindex]; ok && was != u.Port {
				t.Errorf("ifindex %d moved from port %d to %d", u.Ifindex, was, u.Port)
			}
			if u.Port < FirstUplinkPort || u.Port >= MaxPorts {
				t.Errorf("ifindex %d: port %d", u.Ifindex, u.Port)
			}
			ports[u.Ifindex] = u.Port
		}
	}
}

func TestNumbersDoNotMove(t *testing.T) {
	hash := func(s string) uint64 { return uint64(len(s)) } // many collisions
	got := numbers([]string{"cc", "aa", "bb", "x", "yyy"}, strings.Compare, hash, 100)
	if want := []uint32{5, 3, 4, 2, 6}; !slices.Equal(got, want) {
		t.Errorf("numbers = %v, want %v", got, want)
	}
	var items []int
	for i := range 200 {
		items = append(items, i)
	}
	all := numbers(items, func(a, b int) int { return a - b }, func(i int) uint64 { return uint64(i) * 7 }, 200)
	slices.Sort(all)
	for i, n := range all {
		if n != uint32(i+1) {
			t.Fatalf("number %d at %d: 200 items must use 1 to 200", n, i)
		}
	}
}

func BenchmarkCompileChange(b *testing.B) {
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f)}}
	for i := range 1000 {
		p := testPort(PortID(i+10), 1, f)
		s.Ports = append(s.Ports, p)
		if i%10 == 0 {
			s.Mappings = append(s.Mappings, testMapping(p, 6, uint16(8000+i)))
		}
	}
	var c Compiler
	last, err := c.Compile(s, f)
	if err != nil {
		b.Fatal(err)
	}
	rows := 0
	for i := 0; b.Loop(); i++ {
		p := &s.Ports[1+i%1000]
		p.Up = !p.Up
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

func BenchmarkCompileWhole(b *testing.B) {
	f := testFacts()
	s := State{Networks: []Network{testNetwork(1)}, Ports: []Port{testHostPort(1, f)}}
	for i := range 1000 {
		s.Ports = append(s.Ports, testPort(PortID(i+10), 1, f))
	}
	for b.Loop() {
		if _, err := Compile(s, f); err != nil {
			b.Fatal(err)
		}
	}
}
