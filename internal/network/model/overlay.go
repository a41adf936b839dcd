// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

const (
	// firstVSID is the lowest that is chosen where a subnet names none: Windows takes
	// none below.
	firstVSID = 4096
	// maxVSID leaves out the last of 24 bits, which the switch keeps for services.
	maxVSID = vswitch.ServiceVNI - 1
)

// overlayNet is what the policies of a network of type Overlay say.
type overlayNet struct {
	router  ipam.MAC // DrMacAddress
	udp     uint16   // of VXLAN
	remotes []remoteSubnet
}

// remoteSubnet is a RemoteSubnetRoute policy: a prefix that another host has.
type remoteSubnet struct {
	field    string // of the policy
	prefix   netip.Prefix
	vni      uint32
	provider netip.Addr
	router   ipam.MAC
}

func (n *Network) isOverlay() bool { return n.Doc.Type == hcn.Overlay }

func hasPolicy(d *NetworkDoc, t hcn.NetworkPolicyType) bool {
	return slices.ContainsFunc(d.Policies, func(p hcn.NetworkPolicy) bool { return p.Type == t })
}

// checkOverlayPolicy says whether a policy that only overlays have can stand on one.
func checkOverlayPolicy(p hcn.NetworkPolicy) error {
	var err error
	switch p.Type {
	case hcn.DrMacAddress:
		_, err = parseRouter(p.Settings)
	case hcn.RemoteSubnetRoute:
		_, err = parseRemoteSubnet(p.Settings)
	case hcn.VxlanPort:
		_, err = parseVXLANPort(p.Settings)
	}
	return at("Settings", err)
}

// overlayOf reads the policies of an overlay; of another network it is zero.
func overlayOf(d *NetworkDoc) (o overlayNet, err error) {
	if d.Type != hcn.Overlay {
		return o, nil
	}
	o.udp = vswitch.VXLANPort
	for i, p := range d.Policies {
		field := fmt.Sprintf("Policies[%d].Settings", i)
		switch p.Type {
		case hcn.DrMacAddress:
			o.router, err = parseRouter(p.Settings)
		case hcn.VxlanPort:
			o.udp, err = parseVXLANPort(p.Settings)
		case hcn.RemoteSubnetRoute:
			var r remoteSubnet
			r, err = parseRemoteSubnet(p.Settings)
			r.field = field
			o.remotes = append(o.remotes, r)
		}
		if err != nil {
			return o, at(field, err)
		}
	}
	return o, nil
}

func parseRouter(raw json.RawMessage) (ipam.MAC, error) {
	var s hcn.DrMacAddressNetworkPolicySetting
	if err := decodeMembers(raw, &s); err != nil {
		return ipam.MAC{}, err
	}
	return parseRouterMAC(s.Address, "Address")
}

func parseRouterMAC(s, field string) (ipam.MAC, error) {
	m, err := ipam.ParseMAC(s)
	switch {
	case err != nil:
		return m, refuseAt(hcn.HCN_E_INVALID_POLICY, field, "%v", err)
	case !m.IsUnicast() || m == ipam.MAC{}:
		return m, refuseAt(hcn.HCN_E_INVALID_POLICY, field, "%s is not the address of one router", m)
	}
	return m, nil
}

func parseVXLANPort(raw json.RawMessage) (uint16, error) {
	var s hcn.VxlanPortPolicySetting
	if err := decodeMembers(raw, &s); err != nil {
		return 0, err
	}
	if s.Port == 0 {
		return 0, refuseAt(hcn.HCN_E_INVALID_POLICY, "Port", "0 is no port; leave the policy out for %d", vswitch.VXLANPort)
	}
	return s.Port, nil
}

// remoteSubnetSetting is hcn.RemoteSubnetRoutePolicySetting, whose IsolationId is too
// narrow for a VNI, with what is absent told from what is empty.
type remoteSubnetSetting struct {
	DestinationPrefix           *string
	IsolationId                 *uint32
	ProviderAddress             *string
	DistributedRouterMacAddress *string
}

func parseRemoteSubnet(raw json.RawMessage) (r remoteSubnet, err error) {
	var s remoteSubnetSetting
	if err := decodeMembers(raw, &s); err != nil {
		return r, err
	}
	text := func(p *string) string {
		if p == nil {
			return ""
		}
		return *p
	}
	if r.prefix, err = parsePrefix(text(s.DestinationPrefix)); err != nil {
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "DestinationPrefix", "%q: %v", text(s.DestinationPrefix), err)
	}
	if s.IsolationId != nil {
		r.vni = *s.IsolationId
	}
	if err := checkVSID(r.vni); err != nil {
		return r, err
	}
	if r.provider, err = parseHost(text(s.ProviderAddress), "ProviderAddress"); err != nil {
		return r, err
	}
	r.router, err = parseRouterMAC(text(s.DistributedRouterMacAddress), "DistributedRouterMacAddress")
	return r, err
}

func checkVSID(v uint32) error {
	if v == vswitch.ServiceVNI {
		return refuseAt(hcn.HCN_E_INVALID_POLICY, "IsolationId", "%d is the switch's own, for services between hosts; choose another, up to %d", v, maxVSID)
	}
	if v == 0 || v > maxVSID {
		return refuseAt(hcn.HCN_E_INVALID_POLICY, "IsolationId", "%d: must be 1 to %d", v, maxVSID)
	}
	return nil
}

// matchesRemoteSubnet: every member that a request names has the stored value. What is
// removed is told by all of that, so that a late removal of a host's old lease leaves
// its new one.
func matchesRemoteSubnet(stored, named json.RawMessage) bool {
	have, err := parseRemoteSubnet(stored)
	var s remoteSubnetSetting
	if err != nil || decodeMembers(named, &s) != nil {
		return false
	}
	if s.DestinationPrefix != nil {
		if p, err := parsePrefix(*s.DestinationPrefix); err != nil || p != have.prefix {
			return false
		}
	}
	if s.IsolationId != nil && *s.IsolationId != have.vni {
		return false
	}
	if s.ProviderAddress != nil {
		if a, err := netip.ParseAddr(*s.ProviderAddress); err != nil || a != have.provider {
			return false
		}
	}
	if s.DistributedRouterMacAddress != nil {
		if m, err := ipam.ParseMAC(*s.DistributedRouterMacAddress); err != nil || m != have.router {
			return false
		}
	}
	return true
}

// fillRouter gives a new overlay the MAC of this host's router, which peers learn from
// the document and which stays.
func fillRouter(d *NetworkDoc, in Input) {
	if d.Type == hcn.Overlay && !hasPolicy(d, hcn.DrMacAddress) {
		// Not from the network's id: peers may be given networks with the same.
		addRouter(d, ipam.HostMAC(in.NewID()))
	}
}

func addRouter(d *NetworkDoc, m ipam.MAC) {
	d.Policies = append(slices.Clip(d.Policies), hcn.NetworkPolicy{Type: hcn.DrMacAddress, Settings: []byte(`{"Address":"` + m.String() + `"}`)})
}

// vsidOf a subnet's policies; 0 = none.
func vsidOf(policies []json.RawMessage) (vsid uint32) {
	for _, raw := range policies {
		var p hcn.SubnetPolicy
		if json.Unmarshal(raw, &p) == nil && p.Type == hcn.VSID {
			vsid, _ = parseVSID(p.Settings)
		}
	}
	return vsid
}

func parseVSID(raw json.RawMessage) (uint32, error) {
	var s hcn.VsidPolicySetting
	if err := decodeMembers(raw, &s); err != nil {
		return 0, err
	}
	return s.IsolationId, checkVSID(s.IsolationId)
}

// vnis are the networks that have them on a UDP port, n aside.
func (w *World) vnis(udp uint16, n string) map[uint32]*Network {
	out := map[uint32]*Network{}
	for _, o := range w.networks.all {
		if !o.isOverlay() || o.Doc.Id == n || o.overlay.udp != udp {
			continue
		}
		for _, s := range o.subnets {
			out[s.vsid] = o
		}
		for _, r := range o.overlay.remotes {
			out[r.vni] = o
		}
	}
	return out
}

// fillVSIDs gives the subnets of a new overlay that name none the lowest that is free.
// Subnets of different families may share one: no frame is of both.
func (w *World) fillVSIDs(d *NetworkDoc) error {
	o, err := overlayOf(d)
	if err != nil || d.Type != hcn.Overlay {
		return err
	}
	taken := w.vnis(o.udp, d.Id)
	own := map[bool]map[uint32]bool{true: {}, false: {}}
	v4 := func(s *Subnet) bool {
		p, err := parsePrefix(s.IpAddressPrefix)
		return err == nil && p.Addr().Is4()
	}
	each := func(f func(s *Subnet)) {
		for i := range d.Ipams {
			for j := range d.Ipams[i].Subnets {
				f(&d.Ipams[i].Subnets[j])
			}
		}
	}
	each(func(s *Subnet) { own[v4(s)][vsidOf(s.Policies)] = true })
	each(func(s *Subnet) {
		if vsidOf(s.Policies) != 0 {
			return
		}
		v := uint32(firstVSID)
		for taken[v] != nil || own[v4(s)][v] {
			v++
		}
		own[v4(s)][v] = true
		s.Policies = append(slices.Clip(s.Policies), fmt.Appendf(nil, `{"Type":"VSID","Settings":{"IsolationId":%d}}`, v))
	})
	return nil
}

// checkOverlay holds an overlay against the others: what is on one tunnel must be told
// apart there.
func (w *World) checkOverlay(n *Network) error {
	if !n.isOverlay() {
		return nil
	}
	udp := n.overlay.udp
	ports := map[uint16]bool{udp: true}
	for _, o := range w.AllNetworks() {
		if !o.isOverlay() || o.Doc.Id == n.Doc.Id {
			continue
		}
		if ports[o.overlay.udp] = true; o.Uplink == n.Uplink && o.overlay.udp != udp {
			return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies", "VxlanPort: %d, but %s has %d on uplink %q; all overlays of an uplink share one port", udp, o.label(), o.overlay.udp, n.Uplink)
		}
	}
	if len(ports) > vswitch.MaxTunnels {
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies", "VxlanPort: the host has overlays on %d other UDP ports, more than that do not fit; share one of theirs", vswitch.MaxTunnels)
	}
	taken := w.vnis(udp, n.Doc.Id)
	k := 0
	for i, im := range n.Doc.Ipams {
		for j := range im.Subnets {
			if o := taken[n.subnets[k].vsid]; o != nil {
				return refuseAt(hcn.HCN_E_NETWORK_ALREADY_EXISTS, fmt.Sprintf("Ipams[%d].Subnets[%d].Policies", i, j), "VSID %d is that of %s, on uplink %q and the same UDP port; choose another, or another VxlanPort", n.subnets[k].vsid, o.label(), o.Uplink)
			}
			k++
		}
	}
	for _, r := range n.overlay.remotes {
		if o := taken[r.vni]; o != nil {
			return refuseAt(hcn.HCN_E_NETWORK_ALREADY_EXISTS, r.field+".IsolationId", "%d is that of %s, whose frames would come here", r.vni, o.label())
		}
	}
	return nil
}

// checkHostRoute refuses prefixes that the host could not tell from others it routes.
func (w *World) checkHostRoute(n *Network, in Input) error {
	if !n.isOverlay() || !hasPolicy(&n.Doc, hcn.HostRoute) {
		return nil
	}
	if n.Doc.Flags&hcn.DisableHostPort != 0 {
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies", "HostRoute: the network has the flag DisableHostPort, without which the host would be in it")
	}
	var avoid []netip.Prefix
	if in.Avoid != nil {
		avoid = in.Avoid()
	}
	for _, p := range n.prefixes() {
		for _, o := range w.AllNetworks() {
			if o.HostPort != 0 && o.Doc.Id != n.Doc.Id && slices.ContainsFunc(o.prefixes(), p.Overlaps) {
				return refuseAt(hcn.E_DUPLICATE_NAME, "Policies", "HostRoute: the host reaches %s by %s already", p, o.label())
			}
		}
		for _, o := range avoid {
			if o.Bits() > 0 && o.Overlaps(p) {
				return refuseAt(hcn.E_DUPLICATE_NAME, "Policies", "HostRoute: %s overlaps %s, which the host routes already", p, o)
			}
		}
	}
	return nil
}

// settleTunnel gives an overlay the port of its UDP port's tunnel, which all share.
func (w *World) settleTunnel(was, n *Network) (err error) {
	if !n.isOverlay() || was != nil && was.overlay.udp == n.overlay.udp {
		return nil
	}
	alone := n.Tunnel != 0 && !w.sharesTunnel(n)
	for _, o := range w.networks.all {
		if o.isOverlay() && o.Doc.Id != n.Doc.Id && o.overlay.udp == n.overlay.udp {
			if alone {
				w.free(portNumbers, uint32(n.Tunnel))
			}
			n.Tunnel = o.Tunnel
			return nil
		}
	}
	if alone {
		return nil
	}
	n.Tunnel, err = w.takePort()
	return err
}

func (w *World) sharesTunnel(n *Network) bool {
	for _, o := range w.networks.all {
		if o.Tunnel == n.Tunnel && o.Doc.Id != n.Doc.Id {
			return true
		}
	}
	return false
}

// keepRouter brings back the router's MAC where a request took it away. Peers know it,
// and endpoints have it as their gateway's: it is never another.
func keepRouter(was, n *Network) error {
	if !n.isOverlay() {
		return nil
	}
	if !hasPolicy(&n.Doc, hcn.DrMacAddress) {
		addRouter(&n.Doc, was.overlay.router)
	}
	o, err := overlayOf(&n.Doc)
	if err == nil && o.router != was.overlay.router {
		err = refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies", "DrMacAddress is %s for good: peers know it; make another network for %s", was.overlay.router, o.router)
	}
	return err
}

// changeOverlay is what a modified overlay needs besides; was is how it was before.
func (w *World) changeOverlay(was, n *Network, in Input) error {
	if err := w.checkOverlay(n); err != nil {
		return err
	}
	if err := w.settleTunnel(was, n); err != nil {
		return err
	}
	switch host := hasHostNIC(&n.Doc); {
	case !n.isOverlay() || host == (n.HostPort != 0):
		return nil
	case host:
		if err := w.checkHostRoute(n, in); err != nil {
			return err
		}
		var err error
		n.HostPort, err = w.takePort()
		return err
	}
	w.free(portNumbers, uint32(n.HostPort))
	n.HostPort = 0
	return nil
}

// gatewayMAC is what endpoints have as their gateway's: the host vNIC's, and where
// there is none the router's.
func (n *Network) gatewayMAC() ipam.MAC {
	if n.isOverlay() {
		return n.overlay.router
	}
	return ipam.HostMAC(n.Doc.Id)
}

// overhead is what the vNICs of a network leave to headers outside.
func (n *Network) overhead() int {
	if !n.isOverlay() {
		return 0
	}
	return int(vswitch.VXLANOverhead(n.provider()))
}

// ways of an overlay into its tunnel. Of two to one prefix the later counts; what leads
// back to this host or to a subnet of its own leads nowhere.
func (n *Network) ways() []vswitch.Route {
	var out []vswitch.Route
	own := n.provider()
	for _, r := range n.overlay.remotes {
		if r.provider == own || slices.Contains(n.prefixes(), r.prefix) {
			continue
		}
		out = slices.DeleteFunc(out, func(o vswitch.Route) bool { return o.Prefix == r.prefix })
		out = append(out, vswitch.Route{Prefix: r.prefix, To: vswitch.RouteTunnel, VTEP: r.provider, VNI: r.vni, MAC: vswitch.MAC(r.router)})
	}
	return out
}

// compileOverlay adds what only overlays have.
func (n *Network) compileOverlay(p *netPart) {
	if !n.isOverlay() {
		return
	}
	p.network.Overlay = vswitch.Overlay{Tunnel: n.Tunnel, RouterMAC: vswitch.MAC(n.overlay.router)}
	p.network.Routes = n.ways()
	for i, s := range n.subnets {
		p.network.Subnets[i].VNI, p.network.Subnets[i].Gateway = s.vsid, s.gateway
	}
}

// addTunnels adds the tunnels of all overlays, one for each UDP port. Its packets
// leave from the networks' provider address; where they have different ones, from
// where the kernel's routes say.
func (w *World) addTunnels(d *Desired) {
	at := map[vswitch.PortID]int{}
	various := map[vswitch.PortID][2]bool{}
	for _, n := range w.networks.all {
		if !n.isOverlay() {
			continue
		}
		i, ok := at[n.Tunnel]
		if !ok {
			i = len(d.Tunnels)
			at[n.Tunnel] = i
			name := w.inst.TunnelDevice(n.overlay.udp)
			d.Tunnels = append(d.Tunnels, Tunnel{Name: name, UDPPort: n.overlay.udp})
			d.Switch.Tunnels = append(d.Switch.Tunnels, vswitch.Tunnel{ID: n.Tunnel, Interface: name, UDPPort: n.overlay.udp, Up: true})
		}
		a := n.provider()
		if !a.IsValid() {
			continue
		}
		family := 0
		if a.Is6() {
			family = 1
		}
		source, differ := &d.Switch.Tunnels[i].Sources[family], various[n.Tunnel]
		switch {
		case differ[family] || *source == a:
		case source.IsValid():
			differ[family], *source = true, netip.Addr{}
			various[n.Tunnel] = differ
		default:
			*source = a
		}
	}
}

// withoutHost has routes to the host's stack refuse where the host is not in the network:
// there is no other way to what they name.
func withoutHost(n *Network, routes []vswitch.Route) []vswitch.Route {
	for i := range routes {
		if n != nil && n.HostPort == 0 && !n.isFabric() && routes[i].To == vswitch.RouteHost {
			routes[i] = vswitch.Route{Prefix: routes[i].Prefix, To: vswitch.RouteReject}
		}
	}
	return routes
}

// checkFar refuses a remote endpoint of an overlay that nothing tells the host of.
func (e *Endpoint) checkFar(n *Network) error {
	if !e.IsRemote() || !n.isOverlay() {
		return nil
	}
	for i, p := range e.addrs {
		a := p.Addr()
		covered := slices.ContainsFunc(n.ways(), func(r vswitch.Route) bool { return r.Prefix.Contains(a) })
		switch {
		case covered:
		case !e.provider.IsValid():
			return refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "Policies", "no ProviderAddress says on which host IpConfigurations[%d] is (%s), and no RemoteSubnetRoute of %s leads there", i, a, n.label())
		case e.Doc.MacAddress == "":
			return refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "MacAddress", "is empty: frames for %s through the overlay need it", a)
		}
	}
	return nil
}

// checkSource checks a ProviderAddress policy of a local endpoint: its packets leave
// from the network's.
func checkSource(p hcn.EndpointPolicy, n *Network) error {
	if !n.isOverlay() {
		return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "ProviderAddress cannot stand on an endpoint of a network of type %s: it has no tunnel", n.Doc.Type)
	}
	a, err := parseProvider(p)
	if own := n.provider(); err == nil && a != own {
		err = refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Settings.ProviderAddress", "%s, but packets of %s leave from %s; choose the address by a ProviderAddress policy of the network", a, n.label(), own)
	}
	return err
}

// farRoutes are the ways to remote endpoints outside a network's subnets that no
// RemoteSubnetRoute covers, whose router it would be for.
func (w *World) farRoutes(n *Network) []vswitch.Route {
	var out []vswitch.Route
	for _, r := range w.farWays.prefixed(n.Doc.Id + "/") {
		if !slices.ContainsFunc(n.compiled.network.Routes, func(o vswitch.Route) bool { return o.To == vswitch.RouteTunnel && o.Prefix.Contains(r.Prefix.Addr()) }) {
			out = append(out, r)
		}
	}
	return out
}

// leadsTo: other hosts of an overlay have the address, by its subnets, by a route, or
// as a remote endpoint outside of them.
func (w *World) leadsTo(n *Network, a netip.Addr) bool {
	if s, ok := n.subnetOf(a); ok {
		return a != s.gateway
	}
	return w.farWays.has(remotesOf(n.Doc.Id, a)) ||
		slices.ContainsFunc(n.compiled.network.Routes, func(r vswitch.Route) bool { return r.To == vswitch.RouteTunnel && r.Prefix.Contains(a) })
}
