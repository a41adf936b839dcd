// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package e2e

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"gatehouse.dev/gatehouse/hcn"
)

// node is a machine of a cluster: a daemon with flannel's network.
type node struct {
	*docBench
	v4, v6   string // of the machine
	vni      uint32
	network  *hcn.HostComputeNetwork
	router   net.HardwareAddr
	prefixes [2]string
}

// use has the functions of package hcn speak to this node.
func (n *node) use() { hcn.DefaultClient = n.c }

// newNode does what flannel does at its start, with the i-th subnets, on a VNI and a UDP port.
func newNode(t *testing.T, h *host, v4, v6 string, i int, vni uint32, port uint16) *node {
	t.Helper()
	before := hcn.DefaultClient
	t.Cleanup(func() { hcn.DefaultClient = before })
	h.start()
	n := &node{docBench: docBenchOn(t, h), v4: v4, v6: v6, vni: vni, prefixes: [2]string{fmt.Sprintf("10.244.%d.0/24", i), fmt.Sprintf("fd44:%d::/64", i)}}
	n.c.Patience = time.Minute
	n.use()
	if err := errors.Join(hcn.V2ApiSupported(), hcn.RemoteSubnetSupported(), hcn.HostRouteSupported(), hcn.DSRSupported(), hcn.VxlanPortSupported(), hcn.L4proxyPolicySupported(),
		hcn.AclSupportForProtocol252Supported(), hcn.SessionAffinitySupported(), hcn.IPv6DualStackSupported(), hcn.SetPolicySupported()); err != nil {
		t.Fatal(err)
	}
	name := fmt.Sprintf("flannel.%d", vni)
	if _, err := hcn.GetNetworkByName(name); err != (hcn.NetworkNotFoundError{NetworkName: name}) {
		t.Fatal(err)
	}
	subnet := func(prefix, gateway, all string) hcn.Subnet {
		return hcn.Subnet{IpAddressPrefix: prefix, Policies: []json.RawMessage{json.RawMessage(fmt.Sprintf(`{"Type":"VSID","Settings":{"IsolationId":%d}}`, vni))},
			Routes: []hcn.Route{{NextHop: gateway, DestinationPrefix: all}}}
	}
	made, err := (&hcn.HostComputeNetwork{Name: name, Type: hcn.Overlay, Flags: hcn.EnableNonPersistent, SchemaVersion: hcn.V2SchemaVersion(),
		Policies: []hcn.NetworkPolicy{{Type: hcn.NetAdapterName, Settings: json.RawMessage(`{"NetworkAdapterName":"wire"}`)},
			{Type: hcn.VxlanPort, Settings: json.RawMessage(fmt.Sprintf(`{"Port":%d}`, port))}},
		Ipams: []hcn.Ipam{{Type: "Static", Subnets: []hcn.Subnet{
			subnet(n.prefixes[0], fmt.Sprintf("10.244.%d.1", i), "0.0.0.0/0"), subnet(n.prefixes[1], fmt.Sprintf("fd44:%d::1", i), "::/0")}}}}).Create()
	if err != nil {
		t.Fatal(err)
	}
	// It polls for the address, and wants the host to own it.
	eventually(t, 5*time.Second, "a provider address", func() bool {
		n.network, err = hcn.GetNetworkByID(made.Id)
		var s hcn.ProviderAddressEndpointPolicySetting
		return err == nil && json.Unmarshal(n.policy(hcn.ProviderAddress), &s) == nil && s.ProviderAddress == v4
	})
	var dr hcn.DrMacAddressNetworkPolicySetting
	if err := json.Unmarshal(n.policy(hcn.DrMacAddress), &dr); err != nil {
		t.Fatal(err)
	}
	if n.router, err = net.ParseMAC(dr.Address); err != nil || n.network.Ipams[0].Subnets[0].IpAddressPrefix != n.prefixes[0] {
		t.Fatal(err, n.network.Ipams)
	}
	n.docBench.network = n.network.Id
	return n
}

// policy of the network, its settings.
func (n *node) policy(typ hcn.NetworkPolicyType) json.RawMessage {
	for _, p := range n.network.Policies {
		if p.Type == typ {
			return p.Settings
		}
	}
	return nil
}

// lease adds or removes the ways to another node's subnets.
func (n *node) lease(do func(hcn.PolicyNetworkRequest) error, provider string, router net.HardwareAddr, prefixes ...string) {
	n.t.Helper()
	n.use()
	for _, p := range prefixes {
		raw, err := json.Marshal(hcn.RemoteSubnetRoutePolicySetting{DestinationPrefix: p, IsolationId: uint16(n.vni), ProviderAddress: provider, DistributedRouterMacAddress: router.String()})
		if err == nil {
			err = do(hcn.PolicyNetworkRequest{Policies: []hcn.NetworkPolicy{{Type: hcn.RemoteSubnetRoute, Settings: raw}}})
		}
		if err != nil {
			n.t.Fatal(err)
		}
	}
}

func (n *node) hostRoute(do func(hcn.PolicyNetworkRequest) error) {
	n.t.Helper()
	n.use()
	if err := do(hcn.PolicyNetworkRequest{Policies: []hcn.NetworkPolicy{{Type: hcn.HostRoute, Settings: json.RawMessage("{}")}}}); err != nil {
		n.t.Fatal(err)
	}
}

// vxlan is what a datagram of a tunnel says.
type vxlan struct {
	vni      uint32
	dst, src net.HardwareAddr // of the frame inside
}

// sniff collects the VXLAN datagrams over IPv4 to dst that come by a device, until they
// are asked for.
func sniff(t *testing.T, netns, device, dst string, port uint16) func() []vxlan {
	t.Helper()
	fd, err := within(netns, func() (int, error) {
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		dev, err := net.InterfaceByName(device)
		if err == nil {
			err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 100_000}),
				unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: 0x0008, Ifindex: dev.Index})) // ETH_P_IP in wire order
		}
		return fd, err
	})
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "sniffer")
	return func() (out []vxlan) {
		defer f.Close()
		to, buf := net.ParseIP(dst).To4(), make([]byte, 2048)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil {
				return out
			}
			b := buf[:n]
			// IPv4 without options, UDP, VXLAN (RFC 7348 section 5), Ethernet.
			if n < 20+8+8+14 || b[9] != unix.IPPROTO_UDP || !bytes.Equal(b[16:20], to) || binary.BigEndian.Uint16(b[22:]) != port {
				continue
			}
			out = append(out, vxlan{binary.BigEndian.Uint32(b[32:]) >> 8, bytes.Clone(b[36:42]), bytes.Clone(b[42:48])})
		}
	}
}

// TestOverlayNodes is a cluster of two machines, each with a daemon: flannel gives them
// their networks, kube-proxy balances over both.
//
//covers:type Overlay
//covers:network RemoteSubnetRoute HostRoute DrMacAddress ProviderAddress
//covers:endpoint ProviderAddress
func TestOverlayNodes(t *testing.T) {
	h := newHost(t)
	other := &host{t: t, ns: h.out, out: h.ns, root: tempRoot(t), bin: h.bin, hello: h.hello}
	h.must("ip", "-n", other.ns, "link", "add", "theirs", "type", "vxlan", "external", "dstport", "8472")
	n1, n2 := newNode(t, h, hostV4, hostV6, 3, 4096, 4789), newNode(t, other, outV4, outV6, 4, 4096, 4789)
	a, c := n1.machine("a"), n2.machine("c")
	if link := h.must("nsenter", "--net="+a.netns, "ip", "-o", "link", "show", "eth0"); !strings.Contains(link, " mtu 1450 ") {
		t.Errorf("an endpoint's device: %s", link)
	}
	both := func(m machine) []string { return []string{m.v4 + ":80", "[" + m.v6 + "]:80"} }
	n1.unreached(a.netns, c.v4+":80")
	n1.lease(n1.network.AddPolicy, n2.v4, n2.router, n2.prefixes[:]...)
	n2.lease(n2.network.AddPolicy, n1.v4, n1.router, n1.prefixes[:]...)
	seen := sniff(t, "/run/netns/"+n2.ns, "wire", n2.v4, 4789)
	for i, addr := range both(c) {
		if got := n1.reaches(a.netns, addr); got != (answer{[]string{c.v4, c.v6}[i], []string{a.v4, a.v6}[i]}) {
			t.Errorf("%s: %+v", addr, got)
		}
	}
	frames := seen()
	for _, v := range frames {
		if v.vni != 4096 || !bytes.Equal(v.dst, n2.router) || !bytes.Equal(v.src, n1.router) {
			t.Errorf("on the wire: VNI %d, %s to %s; the routers are %s and %s", v.vni, v.src, v.dst, n1.router, n2.router)
		}
	}
	if len(frames) == 0 {
		t.Error("nothing on the wire")
	}

	// The same prefixes once more, apart by VSID, the other host by its IPv6 address.
	var twins []machine
	for _, x := range []struct{ at, to *node }{{n1, n2}, {n2, n1}} {
		lease := func(i int) string {
			return fmt.Sprintf(`{"Type":"RemoteSubnetRoute","Settings":{"DestinationPrefix":%q,"IsolationId":5000,"ProviderAddress":%q,"DistributedRouterMacAddress":%q}}`, x.to.prefixes[i], x.to.v6, x.to.router)
		}
		subnet := func(i int) string {
			return fmt.Sprintf(`{"IpAddressPrefix":%q,"Policies":[{"Type":"VSID","Settings":{"IsolationId":5000}}]}`, x.at.prefixes[i])
		}
		var twin struct{ ID string }
		x.at.must("POST", "/networks", fmt.Sprintf(`{"Name":"twin","Type":"Overlay","Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":"wire"}},{"Type":"DrMacAddress","Settings":{"Address":%q}},%s,%s],"Ipams":[{"Subnets":[%s,%s]}]}`,
			x.at.router, lease(0), lease(1), subnet(0), subnet(1)), &twin)
		x.at.docBench.network = twin.ID
		twins = append(twins, x.at.idle("twin"))
		x.at.docBench.network = x.at.network.Id
	}
	if twins[0].v4 != a.v4 || twins[1].v4 != c.v4 {
		t.Fatalf("%+v beside %+v and %+v", twins, a, c)
	}
	for _, addr := range both(c) {
		if _, err := dialIn(twins[0].netns, addr); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s, where nobody listens in this network: %v", addr, err)
		}
	}
	n2.serve(twins[1].netns)
	for _, addr := range both(c) {
		n1.reaches(twins[0].netns, addr)
	}

	// The host and its own endpoints.
	host := n1.path(n1.ns)
	n1.serve(host)
	n1.unreached(host, a.v4+":80")
	n1.unreached(a.netns, n1.v4+":80")
	n1.hostRoute(n1.network.AddPolicy)
	for _, addr := range both(a) {
		n1.reaches(host, addr)
	}
	n1.reaches(a.netns, n1.v4+":80")
	n1.reaches(a.netns, "["+n1.v6+"]:80")
	n1.hostRoute(n1.network.RemovePolicy)
	n1.unreached(host, "["+a.v6+"]:80")
	n1.hostRoute(n1.network.AddPolicy)

	// kube-proxy: a source VIP, an address of a service, a pod elsewhere.
	n1.use()
	sv := hcn.V2SchemaVersion()
	endpoint := func(flags hcn.EndpointFlags, mac, addr, provider string) *hcn.HostComputeEndpoint {
		t.Helper()
		e := &hcn.HostComputeEndpoint{HostComputeNetwork: n1.network.Id, MacAddress: mac, Flags: flags, SchemaVersion: sv, IpConfigurations: []hcn.IpConfig{{IpAddress: addr}}}
		if provider != "" {
			e.Policies = []hcn.EndpointPolicy{{Type: hcn.NetworkProviderAddress, Settings: json.RawMessage(`{"ProviderAddress":"` + provider + `"}`)}}
		}
		e, err := e.Create()
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	const mac = "52:54:00:0a:00:04"
	endpoint(0, mac, "10.244.3.250", "")
	endpoint(1, mac, "10.96.0.10", n1.v4)
	far := endpoint(1, "02-11-0a-f4-04-07", c.v4, n2.v4)
	balancer := func(flags hcn.LoadBalancerFlags, vips []string, m hcn.LoadBalancerPortMapping, endpoints ...string) {
		t.Helper()
		if _, err := (&hcn.HostComputeLoadBalancer{HostComputeEndpoints: endpoints, SourceVIP: "10.244.3.250", FrontendVIPs: vips,
			PortMappings: []hcn.LoadBalancerPortMapping{m}, Flags: flags, SchemaVersion: sv}).Create(); err != nil {
			t.Fatal(err)
		}
	}
	client := n1.machine("client")
	balancer(hcn.LoadBalancerFlagsDSR, []string{"10.96.0.10"}, hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 80}, a.id, far.Id)
	if got := n1.spread(client.netns, "10.96.0.10:80", 40); got[a.v4] == 0 || got[c.v4] == 0 || len(got) != 2 {
		t.Errorf("40 requests are spread over %v", got)
	}
	balancer(0, nil, hcn.LoadBalancerPortMapping{Protocol: 6, InternalPort: 80, ExternalPort: 30080, Flags: 18}, far.Id)
	if got := n1.reaches(n1.path(n1.out), n1.v4+":30080"); got != (answer{c.v4, "10.244.3.250"}) {
		t.Errorf("a backend elsewhere, asked from outside: %+v", got)
	}

	// A daemon that dies and comes again adopts the device, under a connection.
	s := n1.stream(a.netns, c.v4+":7", "")
	tunnel := func(n *node) (found string) {
		for line := range strings.Lines(n.host.must("ip", "-n", n.ns, "-o", "link", "show", "type", "vxlan")) {
			if strings.Contains(line, ": gh") {
				found, _, _ = strings.Cut(line, " state ")
			}
		}
		return found
	}
	before := tunnel(n1)
	n1.kill9()
	n1.start()
	if now := tunnel(n1); before == "" || now != before {
		t.Errorf("the tunnel is %q, was %q", now, before)
	}
	if err := s.echo(); err != nil {
		t.Errorf("a connection after a crash: %v", err)
	}
	n1.use()
	if again, err := hcn.GetNetworkByName("flannel.4096"); err != nil || len(again.Policies) != 7 || again.Ipams[0].Subnets[0].IpAddressPrefix != n1.prefixes[0] {
		t.Errorf("after a crash: %+v %v", again, err)
	}

	// The lease went to another machine and came back; the late removal of the old one changes nothing.
	n1.lease(n1.network.RemovePolicy, "198.51.100.9", n2.router, n2.prefixes[0])
	n1.reaches(a.netns, c.v4+":80")

	// The last overlay takes its tunnel along, and nobody else's.
	n2.use()
	if err := n2.network.Delete(); err != nil {
		t.Fatal(err)
	}
	twin, err := hcn.GetNetworkByName("twin")
	if err != nil || tunnel(n2) == "" {
		t.Fatalf("%v, the tunnel is %q", err, tunnel(n2))
	}
	if err := twin.Delete(); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "the tunnel is gone", func() bool { return tunnel(n2) == "" })
	h.must("ip", "-n", n2.ns, "link", "show", "theirs")
}

// TestOverlayKernelPeer: the other machine is what flannel makes of one with Linux: a
// VXLAN device of the kernel with VNI 1 on port 8472, whose neighbours and forwarding
// entries are set by hand. It takes nothing but what is for its MAC.
//
//covers:network VxlanPort
//covers:subnet VSID
func TestOverlayKernelPeer(t *testing.T) {
	h := newHost(t)
	n := newNode(t, h, hostV4, hostV6, 3, 1, 8472)
	a := n.machine("a")
	// And one as the CNI plugin makes it, with a router of an address that nobody has.
	var ns struct{ ID, NetNsPath string }
	n.must("POST", "/namespaces", `{"Type":"Host"}`, &ns)
	n.spaces = append(n.spaces, ns.ID)
	n.must("POST", "/endpoints", `{"Name":"0a1b_sdn","HostComputeNetwork":"`+n.network.Id+`","HostComputeNamespace":"`+ns.ID+`","Dns":{"Search":["default.svc.cluster.local"],"ServerList":["10.96.0.10"]},
		"IpConfigurations":[{"IpAddress":"10.244.3.17"}],"Routes":[{"NextHop":"10.244.3.2","DestinationPrefix":"0.0.0.0/0"}],
		"Policies":[{"Type":"OutBoundNAT","Settings":{"Exceptions":["10.244.0.0/16","10.96.0.0/12"]}},{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.96.0.0/12","NeedEncap":true}},
		{"Type":"ACL","Settings":{"Protocols":"6","Action":"Allow","Direction":"In","LocalPorts":"80","Priority":1000}}]}`, nil)
	h.mustAt(h.out, "sh", "-ec", fmt.Sprintf(`
ip link add flannel.1 type vxlan id 1 dstport 8472 local %[1]s nolearning
ip addr add 10.244.4.0/32 dev flannel.1
ip addr add fd44:4::/128 dev flannel.1 nodad
ip link set flannel.1 up mtu 1450
bridge fdb add %[2]s dev flannel.1 dst %[3]s
ip neigh add 10.244.3.0 lladdr %[2]s dev flannel.1
ip neigh add fd44:3:: lladdr %[2]s dev flannel.1
ip route add 10.244.3.0/24 via 10.244.3.0 dev flannel.1 onlink
ip -6 route add fd44:3::/64 via fd44:3:: dev flannel.1 onlink
ip addr add 10.244.4.9/32 dev lo
ip addr add fd44:4::9/128 dev lo nodad`, outV4, n.router, hostV4))
	var links []struct{ Address string }
	if err := json.Unmarshal([]byte(h.mustAt(h.out, "ip", "-j", "link", "show", "flannel.1")), &links); err != nil {
		t.Fatal(err)
	}
	mac, err := net.ParseMAC(links[0].Address)
	if err != nil {
		t.Fatal(err)
	}
	n.lease(n.network.AddPolicy, outV4, mac, "10.244.4.0/24", "fd44:4::/64")
	out := n.path(h.out)
	n.serve(out)
	if text := n.gh("explain", "a", "10.244.4.9:80"); !strings.Contains(text, "another host by the tunnel") {
		t.Errorf("explain:\n%s", text)
	}
	seen := sniff(t, n.path(h.ns), "wire", hostV4, 8472)
	for _, c := range []struct{ from, to, asked, client string }{
		{a.netns, "10.244.4.9:80", "10.244.4.9", a.v4}, {a.netns, "[fd44:4::9]:80", "fd44:4::9", a.v6},
		{out, a.v4 + ":80", a.v4, "10.244.4.0"}, {out, "[" + a.v6 + "]:80", a.v6, "fd44:4::"},
	} {
		if got := n.reaches(c.from, c.to); got != (answer{c.asked, c.client}) {
			t.Errorf("%s: %+v", c.to, got)
		}
	}
	for _, v := range seen() {
		if v.vni != 1 || !bytes.Equal(v.dst, n.router) || !bytes.Equal(v.src, mac) {
			t.Errorf("from the kernel: %+v", v)
		}
	}
	// The CNI plugin's policies: outside in the host's name, the cluster in one's own.
	n.unreached(a.netns, outV4+":80")
	n.must("POST", "/endpoints/"+a.id+"/modify", `{"ResourceType":"Policy","RequestType":"Add","Settings":{"Policies":[
		{"Type":"OutBoundNAT","Settings":{"Exceptions":["10.244.0.0/16","10.96.0.0/12"]}},{"Type":"ProviderAddress","Settings":{"ProviderAddress":"`+hostV4+`"}}]}}`, nil)
	for addr, want := range map[string]answer{outV4 + ":80": {outV4, hostV4}, "10.244.4.9:80": {"10.244.4.9", a.v4}, "[fd44:4::9]:80": {"fd44:4::9", a.v6}} {
		if got := n.reaches(a.netns, addr); got != want {
			t.Errorf("%s with OutBoundNAT: %+v", addr, got)
		}
	}
	if got := n.reaches(ns.NetNsPath, "10.244.4.9:80"); got != (answer{"10.244.4.9", "10.244.3.17"}) {
		t.Errorf("by another router: %+v", got)
	}
	// ACLs for what is inside VXLAN, of both families and directions, and for nothing else.
	acl := func(verb, direction string) {
		t.Helper()
		n.must("POST", "/endpoints/"+a.id+"/modify", `{"ResourceType":"Policy","RequestType":"`+verb+`","Settings":{"Policies":[
			{"Type":"ACL","Settings":{"Protocols":"252","Action":"Block","Direction":"`+direction+`","Priority":200}}]}}`, nil)
	}
	n.serve(ns.NetNsPath)
	var far struct{ ID string }
	n.must("POST", "/endpoints", `{"HostComputeNetwork":"`+n.network.Id+`","Flags":1,"IpConfigurations":[{"IpAddress":"10.244.4.9"}]}`, &far)
	n.must("POST", "/loadbalancers", `{"HostComputeEndpoints":["`+far.ID+`"],"FrontendVIPs":["10.96.0.9"],"Flags":1,"PortMappings":[{"Protocol":6,"InternalPort":80,"ExternalPort":80}]}`, nil)
	n.reaches(a.netns, "10.96.0.9:80")
	acl("Add", "Out")
	n.unreached(a.netns, "10.96.0.9:80")
	n.unreached(a.netns, "[fd44:4::9]:80")
	n.reaches(a.netns, outV4+":80")
	n.reaches(a.netns, "10.244.3.17:80")
	n.reaches(out, a.v4+":80")
	acl("Remove", "Out")
	acl("Add", "In")
	n.unreached(out, a.v4+":80")
	n.reaches(ns.NetNsPath, a.v4+":80")
	n.reaches(a.netns, "10.244.4.9:80")
	acl("Remove", "In")
	n.reaches(out, a.v4+":80")
	// Whoever is no known peer is not heard, whatever he says.
	n.lease(n.network.RemovePolicy, outV4, mac, "10.244.4.0/24", "fd44:4::/64")
	n.unreached(out, a.v4+":80")
}
