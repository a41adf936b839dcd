// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"fmt"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// CreateNetwork adds a network. created is false when the identical create, with
// its id, was done before.
func (w World) CreateNetwork(body []byte, in Input) (next World, n *Network, created bool, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	d, err := DecodeNetwork(body)
	if err != nil {
		return w, nil, false, err
	}
	id, err := takeID(d.Id, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	if old, ok := w.networks.get(id); ok {
		if d.Id != "" && old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.HCN_E_NETWORK_ALREADY_EXISTS, "ID", "network %s exists", id)
	}
	n = &Network{Doc: d, Created: in.Now, Body: digest(body)}
	n.Doc.Id = id
	n.Doc.Version, n.Doc.State, n.Doc.Health = 1, StateCreated, hcn.Health{}
	if n.Doc.Owner == "" {
		n.Doc.Owner = in.Owner
	}
	if n.Doc.SchemaVersion, err = checkSchema(d.SchemaVersion); err != nil {
		return w, nil, false, err
	}
	if err := w.checkNetworkType(&n.Doc); err != nil {
		return w, nil, false, err
	}
	if other, ok := w.NetworkNamed(d.Name); ok {
		return w, nil, false, refuseAt(hcn.HCN_E_NETWORK_ALREADY_EXISTS, "Name",
			"network %q exists (%s); choose another name", d.Name, other.Doc.Id)
	}
	for i, p := range n.Doc.Policies {
		field := fmt.Sprintf("Policies[%d]", i)
		if err := checkNetworkPolicy(p, n.Doc.Type); err != nil {
			return w, nil, false, at(field, err)
		}
		if slices.ContainsFunc(n.Doc.Policies[:i], func(q hcn.NetworkPolicy) bool {
			return networkPolicyKey(p) == networkPolicyKey(q) && canonical(p.Settings) != canonical(q.Settings)
		}) {
			return w, nil, false, refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, field, "%s is there already with other settings", p.Type)
		}
	}
	if bindsUplink(n.Doc.Type) {
		if err := w.bindUplink(n, in); err != nil {
			return w, nil, false, err
		}
	}
	fillRouter(&n.Doc, in)
	if err := checkDNS(n.Doc.Dns); err != nil {
		return w, nil, false, at("Dns", err)
	}
	if err := w.fillMACs(&n.Doc); err != nil {
		return w, nil, false, err
	}
	if err := w.fillSubnets(&n.Doc, in); err != nil {
		return w, nil, false, err
	}
	if err := w.fillVSIDs(&n.Doc); err != nil {
		return w, nil, false, err
	}
	n.Doc.Health.Extra.SwitchGuid = n.switchOf()
	if hasHostNIC(&n.Doc) {
		if n.HostPort, err = w.takePort(); err != nil {
			return w, nil, false, err
		}
	}
	n.Sequence = w.sequence()
	if err := w.numberSets(n); err != nil {
		return w, nil, false, err
	}
	if err := n.parse(); err != nil {
		return w, nil, false, err
	}
	if err := w.takeNumbers(n); err != nil {
		return w, nil, false, err
	}
	if err := w.checkBound(n, in); err != nil {
		return w, nil, false, err
	}
	if err := w.settleTunnel(nil, n); err != nil {
		return w, nil, false, err
	}
	n.Zone = vswitch.Zone(n.Number) // a zone of its own
	w.putNetwork(n)
	w.event(hcn.EventNetworkPreCreate, "NetworkPreCreate", Networks, id, n.Doc)
	w.event(hcn.EventNetworkCreate, "NetworkCreate", Networks, id, n.Doc)
	return w, n, true, nil
}

func (w *World) fillMACs(d *NetworkDoc) error {
	if len(d.MacPool.Ranges) == 0 {
		var taken []ipam.MACRange
		for _, n := range w.networks.all {
			ranges, _ := macRanges(n.Doc.MacPool)
			taken = append(taken, ranges...)
		}
		r, err := ipam.DefaultMACRange(d.Id, taken)
		if err != nil {
			return refuseAt(hcn.HCN_E_INVALID_NETWORK, "MacPool", "%v", err)
		}
		d.MacPool.Ranges = []hcn.MacRange{{StartMacAddress: r.Start.String(), EndMacAddress: r.End.String()}}
		return nil
	}
	d.MacPool.Ranges = slices.Clone(d.MacPool.Ranges)
	ranges, err := macRanges(d.MacPool)
	if err != nil {
		return err
	}
	for i, r := range ranges {
		d.MacPool.Ranges[i] = hcn.MacRange{StartMacAddress: r.Start.String(), EndMacAddress: r.End.String()}
	}
	return nil
}

func macRanges(p hcn.MacPool) ([]ipam.MACRange, error) {
	var out []ipam.MACRange
	for i, r := range p.Ranges {
		field := fmt.Sprintf("MacPool.Ranges[%d]", i)
		start, err := ipam.ParseMAC(r.StartMacAddress)
		if err != nil {
			return nil, refuseAt(hcn.E_INVALID_PARAMETER, field+".StartMacAddress", "%v", err)
		}
		end, err := ipam.ParseMAC(r.EndMacAddress)
		if err != nil {
			return nil, refuseAt(hcn.E_INVALID_PARAMETER, field+".EndMacAddress", "%v", err)
		}
		mr := ipam.MACRange{Start: start, End: end}
		if err := mr.Check(); err != nil {
			return nil, refuseAt(hcn.E_INVALID_PARAMETER, field, "%v", err)
		}
		out = append(out, mr)
	}
	return out, nil
}

// parse derives what the verbs look at from the document.
func (n *Network) parse() error {
	n.subnets = nil
	for i, im := range n.Doc.Ipams {
		for j, s := range im.Subnets {
			sub, err := parseSubnet(s)
			if err != nil {
				return at(fmt.Sprintf("Ipams[%d].Subnets[%d]", i, j), err)
			}
			sub.dhcp = isDHCP(im.Type)
			if n.HostPort != 0 || n.isOverlay() {
				sub.pool.Gateway = sub.gateway // is here, whatever DoNotReserveGatewayAddress says
			}
			n.subnets = append(n.subnets, sub)
		}
	}
	var err error
	if n.overlay, err = overlayOf(&n.Doc); err != nil {
		return err
	}
	return n.parsePolicies()
}

// prefixes of a network.
func (n *Network) prefixes() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range n.subnets {
		out = append(out, s.pool.Prefix)
	}
	return out
}

// gateways that the host's vNIC holds.
func (n *Network) gateways() []netip.Addr {
	var out []netip.Addr
	for _, s := range n.subnets {
		if s.gateway.IsValid() {
			out = append(out, s.gateway)
		}
	}
	return out
}

// subnetOf finds the subnet that holds an address.
func (n *Network) subnetOf(a netip.Addr) (*subnet, bool) {
	for i := range n.subnets {
		if n.subnets[i].pool.Prefix.Contains(a) {
			return &n.subnets[i], true
		}
	}
	return nil, false
}

// DeleteNetwork removes a network with its load balancers, SDN routes and endpoints. match is the version the
// caller saw, 0 = any.
func (w World) DeleteNetwork(id string, match uint64, in Input) (World, error) {
	n, ok := w.Network(id)
	if !ok {
		return w, networkMissing(id)
	}
	if match != 0 && match != n.Doc.Version {
		return w, versionMismatch(n.Doc.Version, match)
	}
	ids := struct{ ID, Name string }{n.Doc.Id, n.Doc.Name}
	w.event(hcn.EventNetworkPreDelete, "NetworkPreDelete", Networks, n.Doc.Id, ids)
	// Before the endpoints, that would leave them one by one.
	for _, lb := range w.AllLoadBalancers() {
		if lb.Doc.HostComputeNetwork == n.Doc.Id {
			w.removeLoadBalancer(lb)
		}
	}
	for _, r := range w.AllSDNRoutes() {
		if r.Doc.HostComputeNetwork == n.Doc.Id {
			w.removeSDNRoute(r)
		}
	}
	for _, e := range w.EndpointsOf(n.Doc.Id) {
		w.removeEndpoint(e, in)
	}
	w.dropNetwork(n)
	w.event(hcn.EventNetworkDelete, "NetworkDelete", Networks, n.Doc.Id, ids)
	return w, nil
}

// ModifyNetwork applies a modify request.
func (w World) ModifyNetwork(id string, body []byte, match uint64, in Input) (World, *Network, error) {
	before := w
	n, ok := w.Network(id)
	if !ok {
		return w, nil, networkMissing(id)
	}
	if match != 0 && match != n.Doc.Version {
		return w, nil, versionMismatch(n.Doc.Version, match)
	}
	r, err := decodeModify(body)
	if err != nil {
		return w, nil, err
	}
	c := *n
	switch hcn.NetworkResourceType(r.ResourceType) {
	case hcn.NetworkResourceTypePolicy:
		if c.Doc.Policies, err = modifyNetworkPolicies(&c, r); err != nil {
			return w, nil, err
		}
		if err := w.rebindUplink(n, &c, in); err != nil {
			return before, nil, at("Settings", err)
		}
		if err := keepRouter(n, &c); err != nil {
			return before, nil, at("Settings", err)
		}
		if err := w.changeSets(n, &c); err != nil {
			return before, nil, at("Settings", err)
		}
		if err := w.changeOverlay(n, &c, in); err != nil {
			return before, nil, at("Settings", err)
		}
		if err := w.checkWire(&c); err != nil {
			return before, nil, at("Settings", err)
		}
	case hcn.NetworkResourceTypeDNS:
		if c.Doc.Dns, err = modifyDNS(c.Doc.Dns, r); err != nil {
			return w, nil, err
		}
	case hcn.NetworkResourceTypeExtension:
		if c.Doc.Policies, err = modifyExtension(c.Doc.Policies, r); err != nil {
			return w, nil, err
		}
	case "Subnet":
		if err := w.modifySubnets(&c, r, in); err != nil {
			return w, nil, err
		}
	case "IPSubnet":
		if err := w.modifyIPSubnets(&c, r, in); err != nil {
			return w, nil, err
		}
	default:
		return w, nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "ResourceType", "%q: a network has Policy, DNS, Subnet, IPSubnet and Extension", r.ResourceType)
	}
	c.Doc.Version++
	w.putNetwork(&c)
	w.event(hcn.EventNetworkModify, "NetworkModify", Networks, c.Doc.Id, c.Doc)
	// What endpoints inherit is compiled into them.
	for _, e := range w.EndpointsOf(c.Doc.Id) {
		ec := *e
		if ec.InheritDNS {
			ec.Doc.Dns = ec.inheritedDNS(&c)
		}
		if !ec.IsRemote() {
			if err := w.refer(&ec, &c); err != nil {
				return before, nil, at("Settings", err)
			}
		}
		w.putEndpoint(&ec)
	}
	return w, &c, nil
}
