// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
)

// The schema's flags that have no Go names there.
const (
	disableInterComputeCommunication hcn.EndpointFlags = 2
	enableLowInterfaceMetric         hcn.EndpointFlags = 8
	enableDhcp                       hcn.EndpointFlags = 32
	knownEndpointFlags               hcn.EndpointFlags = 1<<6 - 1
)

// CreateEndpoint adds an endpoint to the network that the document names, or to
// network if that is not "". A document that names a namespace is attached to it.
// created is false when the identical create, with its id, was done before.
func (w World) CreateEndpoint(network string, body []byte, in Input) (next World, e *Endpoint, created bool, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	d, err := DecodeEndpoint(body)
	if err != nil {
		return w, nil, false, err
	}
	id, err := takeID(d.Id, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	if old, ok := w.endpoints.get(id); ok {
		if d.Id != "" && old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.E_ALREADY_EXISTS, "ID", "endpoint %s exists", id)
	}
	if network != "" {
		d.HostComputeNetwork = network
	}
	n, err := w.findNetwork(d.HostComputeNetwork)
	if err != nil {
		return w, nil, false, err
	}
	namespace := d.HostComputeNamespace
	e = &Endpoint{Doc: d, Created: in.Now, Body: digest(body)}
	e.Doc.Id, e.Doc.HostComputeNetwork, e.Doc.HostComputeNamespace = id, n.Doc.Id, ""
	e.Doc.Version, e.Doc.State, e.Doc.Health = 1, StateCreated, hcn.Health{}
	if e.Doc.Owner == "" {
		e.Doc.Owner = in.Owner
	}
	if e.Doc.SchemaVersion, err = checkSchema(d.SchemaVersion); err != nil {
		return w, nil, false, err
	}
	if d.Flags&^knownEndpointFlags != 0 {
		return w, nil, false, refuseAt(hcn.E_INVALID_PARAMETER, "Flags", "%d has unknown bits", d.Flags)
	}
	if e.IsRemote() {
		err = e.fillRemote(n)
	} else {
		err = w.fillLocal(e, n, in)
	}
	if err != nil {
		return w, nil, false, err
	}
	if err := checkDNS(d.Dns); err != nil {
		return w, nil, false, at("Dns", err)
	}
	if emptyDNS(d.Dns) && !e.IsRemote() {
		e.InheritDNS = true
		e.Doc.Dns = n.inheritedDNS()
	}
	if e.Lease != nil {
		if err := w.lend(e, n, in.leased(&e.Doc), in); err != nil {
			return w, nil, false, err
		}
	}
	if _, err := aliasesOf(&d); err != nil {
		return w, nil, false, err
	}
	if err := w.setPolicies(e, nil, d.Policies, n, in); err != nil {
		return w, nil, false, err
	}
	if !e.IsRemote() {
		if e.Port, err = w.takePort(); err != nil {
			return w, nil, false, err
		}
	}
	e.Sequence = w.sequence()
	if err := e.parse(n); err != nil {
		return w, nil, false, err
	}
	if err := e.checkFar(n); err != nil {
		return w, nil, false, err
	}
	if n, err = w.plugIn(e, n); err != nil {
		return w, nil, false, err
	}
	if !e.IsRemote() {
		if err := w.refer(e, n); err != nil {
			return w, nil, false, err
		}
	}
	w.putEndpoint(e)
	w.event(hcn.EventEndpointCreate, "EndpointCreate", Endpoints, id, e.Doc)
	if namespace != "" && namespace != zeroGUID {
		ns, ok := w.Namespace(namespace)
		if !ok {
			return w, nil, false, at("HostComputeNamespace", namespaceMissing(namespace))
		}
		if e, err = w.attach(ns, e); err != nil {
			return w, nil, false, err
		}
	}
	if e.Lease != nil && !e.Lease.Addr.IsValid() {
		return w, nil, false, &NeedsLease{e.client(n)}
	}
	return w, e, true, nil
}

// fillLocal fills in what a vNIC needs.
func (w *World) fillLocal(e *Endpoint, n *Network, in Input) error {
	asks, err := e.asks(n)
	if err != nil {
		return err
	}
	if asks {
		e.Lease, e.OwnRoutes = &DHCPLease{}, len(e.Doc.Routes) > 0
	}
	if err := w.fillAddresses(e, n, in); err != nil {
		return err
	}
	if err := w.fillMAC(e, n); err != nil {
		return err
	}
	return fillRoutes(e, n)
}

// findNetwork resolves a reference: a GUID, or a name, with "name:" before it or not.
func (w World) findNetwork(ref string) (*Network, error) {
	if ref == "" || ref == zeroGUID {
		return nil, refuseAt(hcn.HCN_E_NETWORK_NOT_FOUND, "HostComputeNetwork", "an endpoint needs a network: the network was not found")
	}
	if id, ok := parseGUID(ref); ok {
		if n, ok := w.networks.get(id); ok {
			return n, nil
		}
		return nil, at("HostComputeNetwork", networkMissing(ref))
	}
	if n, ok := w.NetworkNamed(strings.TrimPrefix(ref, "name:")); ok {
		return n, nil
	}
	return nil, at("HostComputeNetwork", networkMissing(ref))
}

// endpointLabel names an endpoint to people.
func (w *World) endpointLabel(id string) string {
	if e, ok := w.endpoints.get(id); ok && e.Doc.Name != "" {
		return fmt.Sprintf("endpoint %q (%s)", e.Doc.Name, id)
	}
	return "endpoint " + id
}

func (w *World) fillMAC(e *Endpoint, n *Network) error {
	if e.Doc.MacAddress == "" {
		ranges, err := macRanges(n.Doc.MacPool)
		if err != nil {
			return err
		}
		last, _ := w.lastMAC.get(n.Doc.Id)
		if e.Lease != nil {
			// Several that ask at the same time each ask by their own.
			last = ipam.SeedMAC(ranges, e.Doc.Id)
		}
		host := n.gatewayMAC()
		m, err := ipam.NextMAC(ranges, last, func(m ipam.MAC) bool {
			held := m == host || w.macs.has(macKey(n.Doc.Id, m))
			for o := range w.beside(n) {
				held = held || w.macs.has(macKey(o.Doc.Id, m))
			}
			return held
		})
		if err != nil {
			return refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "MacAddress", "no MAC address is free on %s", n.label())
		}
		e.Doc.MacAddress = m.String()
		return nil
	}
	m, err := ipam.ParseMAC(e.Doc.MacAddress)
	switch {
	case err != nil:
		return refuseAt(hcn.E_INVALID_PARAMETER, "MacAddress", "%v", err)
	case !m.IsUnicast():
		return refuseAt(hcn.E_INVALID_PARAMETER, "MacAddress", "%s is not the address of one interface", m)
	case m == n.gatewayMAC():
		return refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "MacAddress", "%s is the gateway of %s", m, n.label())
	}
	if other, ok := w.macs.get(macKey(n.Doc.Id, m)); ok {
		return refuseAt(hcn.HCN_E_INVALID_ENDPOINT, "MacAddress", "%s is held by %s", m, w.endpointLabel(other))
	}
	e.Doc.MacAddress = m.String()
	return nil
}

// fillRoutes copies the routes of the endpoint's subnets where it has none of its own; a
// default route without next hop, as CNI plugins send it, gets the one of theirs.
func fillRoutes(e *Endpoint, n *Network) error {
	if err := checkRoutes(e.Doc.Routes); err != nil {
		return err
	}
	var own []hcn.Route
	for _, im := range n.Doc.Ipams {
		for _, s := range im.Subnets {
			p, err := parsePrefix(s.IpAddressPrefix)
			if err != nil || !slices.ContainsFunc(e.Doc.IpConfigurations, func(c IpConfig) bool {
				a, err := netip.ParseAddr(c.IpAddress)
				return err == nil && p.Contains(a)
			}) {
				continue
			}
			own = append(own, s.Routes...)
		}
	}
	if len(e.Doc.Routes) == 0 {
		e.Doc.Routes = own
		return nil
	}
	e.Doc.Routes = slices.Clone(e.Doc.Routes)
	for i, r := range e.Doc.Routes {
		if p, err := parsePrefix(r.DestinationPrefix); err != nil || p.Bits() != 0 || r.NextHop != "" {
			continue
		}
		if k := slices.IndexFunc(own, func(o hcn.Route) bool { return o.DestinationPrefix == r.DestinationPrefix }); k >= 0 {
			e.Doc.Routes[i].NextHop = own[k].NextHop
		}
	}
	return nil
}

func emptyDNS(d hcn.Dns) bool {
	return d.Domain == "" && len(d.Search) == 0 && len(d.ServerList) == 0 && len(d.Options) == 0
}

// aliasesOf reads the Aliases of the document and of its AdditionalParams.
func aliasesOf(d *EndpointDoc) ([]string, error) {
	out := slices.Clone(d.Aliases)
	if len(bytes.TrimSpace(d.AdditionalParams)) > 0 {
		var p struct{ Aliases []string }
		err := json.Unmarshal(d.AdditionalParams, &p)
		var te *json.UnmarshalTypeError
		switch {
		case errors.As(err, &te) && te.Field == "": // not an object: nothing of ours
		case err != nil:
			return nil, refuseAt(hcn.HCN_E_INVALID_JSON, "AdditionalParams.Aliases", "not a list of names")
		default:
			out = append(out, p.Aliases...)
		}
	}
	for i, a := range out {
		if !isHostName(a) {
			return nil, refuseAt(hcn.E_INVALID_PARAMETER, fmt.Sprintf("Aliases[%d]", i), "%q is not a host name", a)
		}
	}
	return out, nil
}

// parse derives what the indexes and the compiler look at from the document.
func (e *Endpoint) parse(n *Network) error {
	var err error
	if e.Doc.MacAddress != "" || !e.IsRemote() {
		if e.mac, err = ipam.ParseMAC(e.Doc.MacAddress); err != nil {
			return refuseAt(hcn.E_INVALID_PARAMETER, "MacAddress", "%v", err)
		}
	}
	if e.provider, err = providerOf(e); err != nil {
		return err
	}
	if err := e.parseWays(n); err != nil {
		return err
	}
	e.addrs = nil
	for i, c := range e.Doc.IpConfigurations {
		a, err := netip.ParseAddr(c.IpAddress)
		if err != nil || int(c.PrefixLength) > a.BitLen() {
			return refuseAt(hcn.HCN_E_INVALID_IP, fmt.Sprintf("IpConfigurations[%d]", i), "%q/%d is not an address", c.IpAddress, c.PrefixLength)
		}
		e.addrs = append(e.addrs, netip.PrefixFrom(a, int(c.PrefixLength)))
	}
	if e.vlan, err = vlanOf(e, n); err != nil {
		return err
	}
	if e.aliases, err = aliasesOf(&e.Doc); err != nil {
		return err
	}
	e.mappings, err = expandMappings(e, n)
	return err
}

// DeleteEndpoint detaches and removes an endpoint.
func (w World) DeleteEndpoint(id string, match uint64, in Input) (World, error) {
	e, ok := w.Endpoint(id)
	if !ok {
		return w, endpointMissing(id)
	}
	if match != 0 && match != e.Doc.Version {
		return w, versionMismatch(e.Doc.Version, match)
	}
	w.removeEndpoint(e, in)
	return w, nil
}

func (w *World) removeEndpoint(e *Endpoint, in Input) {
	if ns, ok := w.namespaces.get(e.Doc.HostComputeNamespace); ok {
		e = w.detach(ns, e)
	}
	w.dropEndpoint(e, in.Now)
	w.leaveLoadBalancers(e.Doc.Id)
	w.leaveSDNRoutes(e.Doc.Id)
	w.leaveGuestServices(e.Doc.Id)
	w.event(hcn.EventEndpointDelete, "EndpointDelete", Endpoints, e.Doc.Id, struct{ ID, Name string }{e.Doc.Id, e.Doc.Name})
}

// ModifyEndpoint applies a modify request.
func (w World) ModifyEndpoint(id string, body []byte, match uint64, in Input) (World, *Endpoint, error) {
	before := w
	e, ok := w.Endpoint(id)
	if !ok {
		return w, nil, endpointMissing(id)
	}
	if match != 0 && match != e.Doc.Version {
		return w, nil, versionMismatch(e.Doc.Version, match)
	}
	r, err := decodeModify(body)
	if err != nil {
		return w, nil, err
	}
	switch hcn.EndpointResourceType(r.ResourceType) {
	case hcn.EndpointResourceTypePolicy:
	case hcn.EndpointResourceTypePort:
		return w.modifyPort(e, r, in)
	default:
		return w, nil, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "ResourceType", "%q: an endpoint has Policy and Port", r.ResourceType)
	}
	n, _ := w.networks.get(e.Doc.HostComputeNetwork)
	wanted, err := requestedPolicies(e.Doc.Policies, r)
	if err != nil {
		return w, nil, err
	}
	c := *e
	if err := w.setPolicies(&c, e.mappings, wanted, n, in); err != nil {
		return w, nil, at("Settings", err)
	}
	if err := c.parse(n); err != nil {
		return w, nil, at("Settings", err)
	}
	if err := c.checkFar(n); err != nil {
		return w, nil, at("Settings", err)
	}
	if n, err = w.plugIn(&c, n); err != nil {
		return before, nil, at("Settings", err)
	}
	if !c.IsRemote() {
		if err := w.refer(&c, n); err != nil {
			return before, nil, at("Settings", err)
		}
	}
	c.Doc.Version++
	w.putEndpoint(&c)
	if c.vnicSettings() != e.vnicSettings() || !reflect.DeepEqual(c.redirects(), e.redirects()) {
		w.refit(c.Doc.HostComputeNamespace)
	}
	w.event(hcn.EventEndpointModify, "EndpointModify", Endpoints, c.Doc.Id, c.Doc)
	return w, &c, nil
}
