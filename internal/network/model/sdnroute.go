// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// SDNRouteDoc is an SDN route on the wire. The schema calls its list Routes, the Go
// package Setting: both are read and written.
type SDNRouteDoc struct {
	hcn.HostComputeRoute
	Setting            []json.RawMessage `json:",omitempty"`
	Routes             []json.RawMessage `json:",omitempty"`
	Name               string            `json:",omitempty"`
	Owner              string            `json:",omitempty"`
	HostComputeNetwork string            `json:",omitempty"`
	Version            uint64            `json:",omitempty"`
	AdditionalParams   json.RawMessage   `json:",omitempty"`
	State              uint16            `json:",omitempty"`
}

// SDNRoute is a stored row.
type SDNRoute struct {
	Doc      SDNRouteDoc
	Sequence uint64
	Created  time.Time
	Body     string

	ways []vswitch.Route
}

// DecodeSDNRoute reads a document; unknown members are ignored.
func DecodeSDNRoute(body []byte) (SDNRouteDoc, error) {
	var d SDNRouteDoc
	err := decode(body, &d)
	return d, err
}

// SDNRoute by id.
func (w World) SDNRoute(id string) (*SDNRoute, bool) { return w.sdnRoutes.get(strings.ToLower(id)) }

// AllSDNRoutes in order of creation.
func (w World) AllSDNRoutes() []*SDNRoute {
	return sorted(w.sdnRoutes, func(r *SDNRoute) uint64 { return r.Sequence })
}

// CreateSDNRoute gives the listed endpoints routes. created is false when the
// identical create, with its id, was done before.
func (w World) CreateSDNRoute(body []byte, in Input) (next World, r *SDNRoute, created bool, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	d, err := DecodeSDNRoute(body)
	if err != nil {
		return w, nil, false, err
	}
	id, err := takeID(d.ID, in.NewID)
	if err != nil {
		return w, nil, false, err
	}
	if old, ok := w.sdnRoutes.get(id); ok {
		if d.ID != "" && old.Body == digest(body) {
			return w, old, false, nil
		}
		return w, nil, false, refuseAt(hcn.E_ALREADY_EXISTS, "ID", "SDN route %s exists", id)
	}
	r = &SDNRoute{Doc: d, Created: in.Now, Body: digest(body)}
	r.Doc.ID, r.Doc.Version, r.Doc.State = id, 1, StateCreated
	if r.Doc.Owner == "" {
		r.Doc.Owner = in.Owner
	}
	if err := w.fillSDNRoute(r); err != nil {
		return w, nil, false, err
	}
	r.Sequence = w.sequence()
	w.putSDNRoute(r)
	w.event(hcn.EventSdnRouteCreate, "SdnRouteCreate", SDNRoutes, id, r.Doc)
	return w, r, true, nil
}

// ModifySDNRoute replaces an SDN route by a whole document, or by the one in the
// Settings of a modify request; Add and Remove change its endpoints alone.
func (w World) ModifySDNRoute(id string, body []byte, match uint64) (next World, r *SDNRoute, err error) {
	before := w
	defer func() {
		if err != nil {
			next = before
		}
	}()
	old, ok := w.SDNRoute(id)
	if !ok {
		return w, nil, sdnRouteMissing(id)
	}
	body, verb, err := wholeDocument(body, old.Doc.Version, match)
	if err != nil || verb == hcn.RequestTypeRefresh {
		return w, old, err
	}
	d, err := DecodeSDNRoute(body)
	if err != nil {
		return w, nil, err
	}
	if verb != hcn.RequestTypeUpdate {
		change := d.HostComputeEndpoints
		d = old.Doc
		d.HostComputeEndpoints = changeList(verb, old.Doc.HostComputeEndpoints, change)
	}
	c := *old
	c.Doc = d
	c.Doc.ID, c.Doc.Version, c.Doc.State = old.Doc.ID, old.Doc.Version+1, old.Doc.State
	keepUnsaid(&c.Doc.Name, &c.Doc.Owner, &c.Doc.AdditionalParams, old.Doc.Name, old.Doc.Owner, old.Doc.AdditionalParams)
	if err := w.fillSDNRoute(&c); err != nil {
		return w, nil, err
	}
	w.putSDNRoute(&c)
	w.event(hcn.EventSdnRouteModify, "SdnRouteModify", SDNRoutes, c.Doc.ID, c.Doc)
	return w, &c, nil
}

// DeleteSDNRoute takes the routes away.
func (w World) DeleteSDNRoute(id string, match uint64) (World, error) {
	r, ok := w.SDNRoute(id)
	if !ok {
		return w, sdnRouteMissing(id)
	}
	if match != 0 && match != r.Doc.Version {
		return w, versionMismatch(r.Doc.Version, match)
	}
	w.removeSDNRoute(r)
	return w, nil
}

func (w *World) removeSDNRoute(r *SDNRoute) {
	w.unindexSDNRoute(r)
	w.sdnRoutes = w.sdnRoutes.del(r.Doc.ID)
	w.reroute(r)
	w.changed(SDNRoutes, r.Doc.ID, nil)
	w.event(hcn.EventSdnRouteDelete, "SdnRouteDelete", SDNRoutes, r.Doc.ID, struct{ ID string }{r.Doc.ID})
}

func (w *World) putSDNRoute(r *SDNRoute) {
	id := r.Doc.ID
	old, ok := w.sdnRoutes.get(id)
	if ok {
		w.unindexSDNRoute(old)
	}
	for _, e := range r.Doc.HostComputeEndpoints {
		w.routed = w.routed.set(e+"/"+id, id)
	}
	w.countHops(r.Doc.HostComputeNetwork, r.ways, 1)
	w.sdnRoutes = w.sdnRoutes.set(id, r)
	w.reroute(r)
	if ok {
		w.reroute(old)
	}
	w.changed(SDNRoutes, id, r)
}

func (w *World) unindexSDNRoute(r *SDNRoute) {
	for _, e := range r.Doc.HostComputeEndpoints {
		w.routed = w.routed.del(e + "/" + r.Doc.ID)
	}
	w.countHops(r.Doc.HostComputeNetwork, r.ways, -1)
}

// countHops keeps who forwards for routes of a network: an endpoint by its address,
// or the network's host port.
func (w *World) countHops(network string, ways []vswitch.Route, by int) {
	for _, x := range ways {
		k := hostHop(network)
		if x.To != vswitch.RouteHost {
			k = remotesOf(network, x.Via)
		}
		n, _ := w.hops.get(k)
		if n+by > 0 {
			w.hops = w.hops.set(k, n+by)
		} else {
			w.hops = w.hops.del(k)
		}
		if e, ok := w.addrs.get(addrKey(network, x.Via)); ok && x.To != vswitch.RouteHost && (n > 0) != (n+by > 0) {
			w.replug(e) // which forwards now, or not any more
		}
	}
}

func hostHop(network string) string { return network + "/host" }

// forwards: an SDN route leads to the endpoint, which must then be able to send on
// what is not from its own addresses.
func (w *World) forwards(e *Endpoint) bool {
	return w.hops.len() > 0 && slices.ContainsFunc(e.addrs, func(p netip.Prefix) bool {
		return w.hops.has(remotesOf(e.Doc.HostComputeNetwork, p.Addr()))
	})
}

// reroute compiles the endpoints of a route again.
func (w *World) reroute(r *SDNRoute) {
	for _, id := range r.Doc.HostComputeEndpoints {
		if e, ok := w.endpoints.get(id); ok {
			c := *e
			w.compileEndpointOf(&c)
			w.endpoints = w.endpoints.set(id, &c)
			w.replug(id)
		}
	}
}

// sdnRoutesOf are the routes that an endpoint has from SDN routes.
func (w *World) sdnRoutesOf(endpoint string) []vswitch.Route {
	var out []vswitch.Route
	for _, id := range w.routed.prefixed(endpoint + "/") {
		if r, ok := w.sdnRoutes.get(id); ok {
			out = append(out, r.ways...)
		}
	}
	return out
}

// leaveSDNRoutes takes an endpoint out of every list; the last one takes the route
// with it.
func (w *World) leaveSDNRoutes(endpoint string) {
	for _, id := range w.routed.prefixed(endpoint + "/") {
		r, ok := w.sdnRoutes.get(id)
		if !ok {
			continue
		}
		c := *r
		c.Doc.HostComputeEndpoints = changeList(hcn.RequestTypeRemove, r.Doc.HostComputeEndpoints, []string{endpoint})
		if len(c.Doc.HostComputeEndpoints) == 0 {
			w.removeSDNRoute(r)
			continue
		}
		c.Doc.Version++
		w.putSDNRoute(&c)
		w.event(hcn.EventSdnRouteModify, "SdnRouteModify", SDNRoutes, id, c.Doc)
	}
}

func (w *World) fillSDNRoute(r *SDNRoute) error {
	var err error
	d := &r.Doc
	if d.SchemaVersion, err = checkSchema(d.SchemaVersion); err != nil {
		return err
	}
	if len(d.HostComputeEndpoints) == 0 {
		return refuseAt(hcn.E_INVALID_PARAMETER, "HostComputeEndpoints", "missing endpoints: nobody would have the route")
	}
	network := ""
	var ids []string
	for i, ref := range d.HostComputeEndpoints {
		field := fmt.Sprintf("HostComputeEndpoints[%d]", i)
		e, ok := w.Endpoint(ref)
		switch {
		case !ok:
			return at(field, endpointMissing(ref))
		case e.IsRemote():
			return refuseAt(hcn.HCN_E_ENDPOINT_NOT_LOCAL, field, "%s is on another host, which has its own routes", w.endpointLabel(e.Doc.Id))
		case network == "":
			network = e.Doc.HostComputeNetwork
		case network != e.Doc.HostComputeNetwork:
			return refuseAt(hcn.HCN_E_INVALID_ENDPOINT, field, "%s is on another network than the first: all must be on one", w.endpointLabel(e.Doc.Id))
		}
		if !slices.Contains(ids, e.Doc.Id) {
			ids = append(ids, e.Doc.Id)
		}
	}
	d.HostComputeEndpoints, d.HostComputeNetwork = ids, network
	if len(d.Setting) == 0 {
		d.Setting = d.Routes
	}
	d.Routes = d.Setting
	if len(d.Setting) == 0 {
		return refuseAt(hcn.E_INVALID_PARAMETER, "Setting", "a route needs at least one")
	}
	n, _ := w.networks.get(network)
	if err := r.parse(n); err != nil {
		return err
	}
	for _, id := range ids {
		e, _ := w.endpoints.get(id)
		for i, x := range r.ways {
			if by := w.routesTo(e, x.Prefix, d.ID); by != "" {
				return refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, fmt.Sprintf("Setting[%d].DestinationPrefix", i),
					"%s has a route to %s already, by %s", w.endpointLabel(id), x.Prefix, by)
			}
		}
	}
	return nil
}

// routesTo says what gives an endpoint a route to just that prefix, but for one SDN
// route; "" = nothing does.
func (w *World) routesTo(e *Endpoint, prefix netip.Prefix, but string) string {
	same := func(r vswitch.Route) bool { return r.Prefix == prefix }
	if slices.ContainsFunc(e.ways, same) && but != "" {
		return "a policy of its own"
	}
	for _, id := range w.routed.prefixed(e.Doc.Id + "/") {
		if o, ok := w.sdnRoutes.get(id); ok && id != but && slices.ContainsFunc(o.ways, same) {
			return "SDN route " + id
		}
	}
	return ""
}

// parseWays derives the routes of an endpoint's own SDNRoute policies.
func (e *Endpoint) parseWays(n *Network) error {
	e.ways = nil
	for i, p := range e.Doc.Policies {
		if p.Type != hcn.SDNRoute {
			continue
		}
		way, err := parseSDNRoute(p.Settings, n)
		if err != nil {
			return at(fmt.Sprintf("Policies[%d].Settings", i), err)
		}
		e.ways = append(e.ways, way)
	}
	return nil
}

// checkWays refuses a policy for a prefix that an SDN route has.
func (w *World) checkWays(e *Endpoint, n *Network) error {
	c := *e
	if err := c.parseWays(n); err != nil {
		return err
	}
	for _, x := range c.ways {
		if by := w.routesTo(e, x.Prefix, ""); by != "" {
			return refuse(hcn.HCN_E_POLICY_ALREADY_EXISTS, "a route to %s is there already, by %s", x.Prefix, by)
		}
	}
	return nil
}

// sdnRouteKey is what two SDNRoute policies of one endpoint may not share.
func sdnRouteKey(raw json.RawMessage) string {
	var s hcn.SDNRoutePolicySetting
	_ = json.Unmarshal(raw, &s)
	p, err := parsePrefix(s.DestinationPrefix)
	if err != nil {
		return string(hcn.SDNRoute) + " " + s.DestinationPrefix
	}
	return string(hcn.SDNRoute) + " " + p.Masked().String()
}

// parse derives the routes of the switch from the document.
func (r *SDNRoute) parse(n *Network) error {
	r.ways = nil
	for i, raw := range r.Doc.Setting {
		field := fmt.Sprintf("Setting[%d]", i)
		way, err := parseSDNRoute(raw, n)
		if err != nil {
			return at(field, err)
		}
		if slices.ContainsFunc(r.ways, func(o vswitch.Route) bool { return o.Prefix == way.Prefix }) {
			return refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, field+".DestinationPrefix", "%s is listed twice", way.Prefix)
		}
		r.ways = append(r.ways, way)
	}
	return nil
}

// parseSDNRoute reads the settings of one route of a network's endpoints.
//
// NeedEncap hands over to the host's stack, as they are, what goes to the prefix. A
// NextHop is another endpoint of the network, which gets it; the network's own
// gateway is the host's stack again. In an overlay that is refused to packets until
// there is a HostRoute. In a network whose endpoints are part of the fabric, where the
// host is one endpoint among others, what goes to the prefix keeps its address, and
// the endpoint's own gateway gets it: there the host is if it is to route.
func parseSDNRoute(raw json.RawMessage, n *Network) (vswitch.Route, error) {
	var s hcn.SDNRoutePolicySetting
	var r vswitch.Route
	if err := decodeMembers(raw, &s); err != nil {
		return r, err
	}
	prefix, err := parsePrefix(s.DestinationPrefix)
	if err != nil {
		return r, refuseAt(hcn.HCN_E_INVALID_PREFIX, "DestinationPrefix", "%q: %v", s.DestinationPrefix, err)
	}
	r.Prefix = prefix.Masked()
	if n != nil && slices.Contains(n.prefixes(), r.Prefix) {
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "DestinationPrefix", "%s is a subnet of %s, whose endpoints are reached directly", r.Prefix, n.label())
	}
	if s.NextHop == "" && !s.NeedEncap {
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "NextHop", "is missing: name an endpoint's address, or set NeedEncap for the host's stack")
	}
	if s.NextHop != "" {
		r.Via, err = netip.ParseAddr(s.NextHop)
		if err != nil || r.Via.Zone() != "" || r.Via.Is4In6() || r.Via.Is4() != r.Prefix.Addr().Is4() {
			return r, refuseAt(hcn.HCN_E_INVALID_IP, "NextHop", "%q is not the address of a router to %s", s.NextHop, r.Prefix)
		}
	}
	if n == nil {
		return r, nil
	}
	if s.NeedEncap || slices.Contains(n.gateways(), r.Via) {
		if n.HostPort == 0 && !n.isOverlay() && !n.isFabric() {
			return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "NeedEncap", "%s has no host port (DisableHostPort): the host's stack is not on it", n.label())
		}
		return vswitch.Route{Prefix: r.Prefix, To: vswitch.RouteHost}, nil
	}
	r.To = vswitch.RouteVia
	if _, ok := n.subnetOf(r.Via); !ok {
		return r, refuseAt(hcn.HCN_E_INVALID_IP, "NextHop", "%s is in no subnet of %s (%s)", r.Via, n.label(), join(n.prefixes()))
	}
	return r, nil
}

// isFabric: what endpoints send is part of the fabric, and no port of ours stands for
// the host.
func (n *Network) isFabric() bool {
	return n.HostPort == 0 && (n.Doc.Type == hcn.L2Bridge || n.Doc.Type == hcn.L2Tunnel)
}

// decodeMembers reads settings whose members, not "Settings", are what an error names.
func decodeMembers(raw json.RawMessage, out any) error {
	if s := bytes.TrimSpace(raw); len(s) == 0 || s[0] != '{' {
		return refuse(hcn.HCN_E_INVALID_POLICY, "is not a JSON object")
	}
	err := decodeSettings(raw, out)
	if e, ok := err.(*Error); ok {
		c := *e
		c.Field = strings.TrimPrefix(strings.TrimPrefix(c.Field, "Settings"), ".")
		return &c
	}
	return err
}
