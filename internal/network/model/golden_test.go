// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/rogpeppe/go-internal/txtar"

	"gatehouse.dev/gatehouse/internal/vswitch"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// TestGolden runs the verbs of each testdata/*.txtar, one a line ("network BODY",
// "endpoint NETWORK BODY", "namespace BODY", "attach NAMESPACE ENDPOINT" …), and
// compares Desired, printed.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b := newBench(t)
			for line := range strings.Lines(string(a.Files[0].Data)) {
				b.run(strings.TrimSpace(line))
			}
			got := printDesired(flat(b.w))
			if *update {
				a.Files = append(a.Files[:1], txtar.File{Name: "desired", Data: []byte(got)})
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if d := cmp.Diff(string(a.Files[1].Data), got); d != "" {
				t.Errorf("desired (-want +got):\n%s", d)
			}
		})
	}
}

func (b *bench) run(line string) {
	b.t.Helper()
	verb, rest, _ := strings.Cut(line, " ")
	first, second, _ := strings.Cut(rest, " ")
	var err error
	switch verb {
	case "", "#":
	case "wired":
		wired(b)
	case "policy":
		err = b.modifyNetwork(first, "Add", second)
	case "network":
		b.network(rest)
	case "endpoint":
		b.endpoint(first, second)
	case "namespace":
		b.namespace(rest)
	case "attach":
		b.attach(first, second)
	case "detach":
		err = b.modifyNamespace(first, "Endpoint", "Remove", "EndpointId", second)
	case "loadbalancer":
		b.balancer(rest)
	case "sdnroute":
		b.route(rest)
	case "service":
		b.serviceOf(rest)
	case "modify-service":
		b.w, _, err = b.w.ModifyService(first, []byte(second), 0, b.in)
	case "reserve":
		b.w, _, _, err = b.w.ReservePorts([]byte(rest), b.in)
	case "delete-endpoint":
		b.w, err = b.w.DeleteEndpoint(first, 0, b.in)
	default:
		b.t.Fatalf("unknown verb %q", verb)
	}
	if err != nil {
		b.t.Fatalf("%s: %v", line, err)
	}
}

func printDesired(d Desired) string {
	var o bytes.Buffer
	for _, n := range d.Switch.Networks {
		fmt.Fprintf(&o, "network %d zone %d %q %s host %d", n.ID, n.Zone, n.Name, n.Flags, n.HostPort)
		for _, s := range n.Subnets {
			fmt.Fprintf(&o, " %s gw %s", s.Prefix, s.Gateway)
			if s.VNI != 0 {
				fmt.Fprintf(&o, " vni %d", s.VNI)
			}
		}
		if n.Tunnel != 0 {
			fmt.Fprintf(&o, " tunnel %d router %s", n.Tunnel, n.RouterMAC)
		}
		if n.Uplink != "" {
			fmt.Fprintf(&o, " uplink %s vlan %d", n.Uplink, n.VLAN)
		}
		fmt.Fprintln(&o)
		for _, r := range n.Routes {
			fmt.Fprintf(&o, "  route %s to %d vtep %s vni %d %s\n", r.Prefix, r.To, r.VTEP, r.VNI, r.MAC)
		}
	}
	for _, p := range d.Switch.Ports {
		fmt.Fprintf(&o, "port %d %s net %d %s %s nic %q %s %v up %v", p.ID, p.Kind, p.Network, p.Object, p.Interface, p.HostNIC, p.MAC, p.Addrs, p.Up)
		for _, r := range p.Routes {
			fmt.Fprintf(&o, " route %s to %d via %s", r.Prefix, r.To, r.Via)
		}
		for _, r := range p.NAT {
			fmt.Fprintf(&o, " nat %s own %v pool %d", r.Prefix, r.Own, r.Pool)
		}
		if p.MTU != 0 || p.Overhead != 0 {
			fmt.Fprintf(&o, " mtu %d overhead %d", p.MTU, p.Overhead)
		}
		if p.Forward {
			fmt.Fprint(&o, " forward")
		}
		fmt.Fprintln(&o)
	}
	for _, p := range d.Switch.NATPools {
		fmt.Fprintf(&o, "natpool %d %v\n", p.ID, p.Addrs)
	}
	for _, m := range d.Switch.Mappings {
		fmt.Fprintf(&o, "mapping %d %s %d -> port %d %s %d\n", m.Proto, m.HostAddr, m.HostPort, m.Port, m.Addr, m.AddrPort)
	}
	for s := range d.Switch.AllServices() {
		fmt.Fprintf(&o, "service %d %q affinity %d flags %d source %s\n", s.ID, s.Name, s.Affinity, s.Flags, s.SourceVIP)
		for _, f := range s.Frontends {
			fmt.Fprintf(&o, "  frontend %d %s %d network %d scope %s\n", f.Proto, f.Addr, f.Port, f.Network, f.Scope)
		}
		for _, b := range s.Backends {
			fmt.Fprintf(&o, "  backend %s %d at %d net %d state %d\n", b.Addr, b.Port, b.At, b.Network, b.State)
		}
	}
	for _, r := range d.Switch.Remotes {
		fmt.Fprintf(&o, "remote %d %s %s %s\n", r.Network, r.Addr, r.MAC, r.VTEP)
	}
	for i, n := range d.Switch.Tunnels {
		fmt.Fprintf(&o, "tunnel %d %s udp %d from %v device %s\n", n.ID, n.Interface, n.UDPPort, n.Sources, d.Tunnels[i].Name)
	}
	for _, n := range d.HostNICs {
		fmt.Fprintf(&o, "hostnic %s %s %s %v\n", n.Name, n.SwitchName, n.MAC, n.Addrs)
	}
	for _, c := range d.Compartments {
		fmt.Fprintf(&o, "compartment %s %s foreign %v\n", c.ID, c.Path, c.Foreign)
		for _, v := range c.VNICs {
			fmt.Fprintf(&o, "  %s port %d %s %s %v\n", v.Name, v.Port, v.PortName, v.MAC, v.Addrs)
			if v.MTU != 0 || v.Overhead != 0 || v.Alias != "" {
				fmt.Fprintf(&o, "    mtu %d overhead %d alias %q\n", v.MTU, v.Overhead, v.Alias)
			}
			for _, r := range v.Routes {
				fmt.Fprintf(&o, "    route %s via %s metric %d\n", r.Dst, r.NextHop, r.Metric)
			}
			for _, n := range v.Neighbours {
				fmt.Fprintf(&o, "    neighbour %s %s\n", n.Addr, n.MAC)
			}
		}
	}
	for _, n := range slices.Concat(d.Names...) {
		fmt.Fprintf(&o, "name %s %v", n.Name, n.Addrs)
		if n.Alias != "" {
			fmt.Fprintf(&o, " alias %s", n.Alias)
		}
		for _, s := range n.Servers {
			fmt.Fprintf(&o, " server %s:%d", s.Target, s.Port)
		}
		fmt.Fprintln(&o)
	}
	for _, a := range d.Switch.Announced {
		fmt.Fprintf(&o, "announce %s %q\n", a.Addr, a.Uplink)
	}
	for _, r := range d.Resolvers {
		fmt.Fprintf(&o, "resolver %v through %v domain %q clients %v upstream %v\n", r.Listen, r.Through, r.Domain, r.Clients, r.Upstream)
	}
	for _, l := range d.Leases {
		fmt.Fprintf(&o, "lease %s %s %s router %s dns %v by %s\n", l.Device, l.MAC, l.Addr, l.Router, l.DNS, l.Server)
	}
	for _, p := range d.HostPorts {
		fmt.Fprintf(&o, "hostport %d %s %d %s\n", p.Proto, p.Addr, p.Port, p.Object)
	}
	return o.String()
}

// flat is what a World desires, its parts put together.
func flat(w World) Desired {
	d := w.Desired()
	s := &d.Switch
	var ports []vswitch.Port
	for p := range s.AllPorts() {
		ports = append(ports, *p)
	}
	if i := slices.IndexFunc(ports, func(p vswitch.Port) bool { return p.ID == ResolverPort }); i >= 0 {
		ports = append(slices.Delete(ports, i, i+1), s.Ports[i])
	}
	s.Ports, s.Mappings, s.PortParts = ports, s.AllMappings(), nil
	var spaces []Compartment
	for c := range d.AllCompartments() {
		spaces = append(spaces, *c)
	}
	d.Compartments, d.CompartmentParts = spaces, nil
	d.Names = nil
	if names := slices.Concat(w.Desired().Names...); len(names) > 0 {
		d.Names = [][]NameRecord{names}
	}
	return d
}
