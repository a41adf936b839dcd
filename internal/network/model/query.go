// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"bytes"
	"encoding/json"
	"net/netip"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/ipam"
)

// Filter are the members that a document must have, ANDed. The zero value is all.
type Filter map[string]string

// ParseFilter reads a filter: a JSON object whose values are strings or numbers.
func ParseFilter(text string) (Filter, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		return nil, refuse(hcn.HCN_E_INVALID_JSON, "filter: not a JSON object of members and values")
	}
	f := Filter{}
	for k, v := range m {
		switch v := v.(type) {
		case string:
			f[k] = v
		case json.Number:
			f[k] = v.String()
		default:
			return nil, refuse(hcn.HCN_E_INVALID_JSON, "filter: %q is neither a string nor a number", k)
		}
	}
	return f, nil
}

// ParseQuery reads a HostComputeQuery.
func ParseQuery(text string) (Filter, bool, error) {
	if len(bytes.TrimSpace([]byte(text))) == 0 {
		return nil, false, nil
	}
	var q hcn.HostComputeQuery
	if err := decode([]byte(text), &q); err != nil {
		return nil, false, at("query", err)
	}
	f, err := ParseFilter(q.Filter)
	return f, q.Flags&hcn.HostComputeQueryFlagsDetailed != 0, err
}

// match asks value for each member; an unknown member or an empty value matches
// nothing. GUIDs, MACs and addresses compare by value.
func (f Filter) match(value func(member string) (string, bool)) bool {
	for k, want := range f {
		have, ok := value(strings.ToLower(k))
		if !ok || want == "" || !sameValue(have, want) {
			return false
		}
	}
	return true
}

func sameValue(a, b string) bool {
	if a == b {
		return true
	}
	if x, ok := parseGUID(a); ok {
		y, ok := parseGUID(b)
		return ok && x == y
	}
	if x, err := ipam.ParseMAC(a); err == nil {
		y, err := ipam.ParseMAC(b)
		return err == nil && x == y
	}
	if x, err := netip.ParseAddr(a); err == nil {
		y, err := netip.ParseAddr(b)
		return err == nil && x == y
	}
	return false
}

func base(member, id, name, owner string, state uint16) (string, bool) {
	switch member {
	case "id":
		return id, true
	case "name":
		return name, true
	case "owner":
		return owner, true
	case "state":
		return itoa(int(state)), true
	}
	return "", false
}

// FindNetworks in order of creation.
func (w World) FindNetworks(f Filter) []*Network {
	var out []*Network
	for _, n := range w.AllNetworks() {
		if f.match(func(m string) (string, bool) {
			if m == "type" {
				return string(n.Doc.Type), true
			}
			return base(m, n.Doc.Id, n.Doc.Name, n.Doc.Owner, n.Doc.State)
		}) {
			out = append(out, n)
		}
	}
	return out
}

// FindEndpoints in order of creation.
func (w World) FindEndpoints(f Filter) []*Endpoint {
	var out []*Endpoint
	for _, e := range w.AllEndpoints() {
		if f.match(func(m string) (string, bool) {
			switch m {
			case "virtualnetwork", "hostcomputenetwork":
				return e.Doc.HostComputeNetwork, true
			case "virtualnetworkname":
				n, ok := w.networks.get(e.Doc.HostComputeNetwork)
				if !ok {
					return "", false
				}
				return n.Doc.Name, true
			case "hostcomputenamespace":
				return e.Doc.HostComputeNamespace, true
			case "macaddress":
				return e.Doc.MacAddress, true
			case "ipaddress":
				want, err := netip.ParseAddr(valueOf(f, m))
				for _, a := range e.addrs {
					if err == nil && a.Addr() == want {
						return want.String(), true
					}
				}
				return "", true
			}
			return base(m, e.Doc.Id, e.Doc.Name, e.Doc.Owner, e.Doc.State)
		}) {
			out = append(out, e)
		}
	}
	return out
}

// valueOf a member, whatever its case.
func valueOf(f Filter, member string) string {
	for k, v := range f {
		if strings.EqualFold(k, member) {
			return v
		}
	}
	return ""
}

// FindNamespaces in order of creation.
func (w World) FindNamespaces(f Filter) []*Namespace {
	var out []*Namespace
	for _, n := range w.AllNamespaces() {
		if f.match(func(m string) (string, bool) {
			switch m {
			case "namespaceid":
				return itoa(int(n.Doc.NamespaceId)), true
			case "type":
				return string(n.Doc.Type), true
			}
			return base(m, n.Doc.Id, n.Doc.Name, n.Doc.Owner, n.Doc.State)
		}) {
			out = append(out, n)
		}
	}
	return out
}

// FindLoadBalancers in order of creation.
func (w World) FindLoadBalancers(f Filter) []*LoadBalancer {
	var out []*LoadBalancer
	for _, lb := range w.AllLoadBalancers() {
		if f.match(func(m string) (string, bool) {
			if v, ok := spread(f, m, lb.Doc.HostComputeNetwork, lb.Doc.HostComputeEndpoints); ok {
				return v, true
			}
			return base(m, lb.Doc.Id, lb.Doc.Name, lb.Doc.Owner, lb.Doc.State)
		}) {
			out = append(out, lb)
		}
	}
	return out
}

// FindSDNRoutes in order of creation.
func (w World) FindSDNRoutes(f Filter) []*SDNRoute {
	var out []*SDNRoute
	for _, r := range w.AllSDNRoutes() {
		if f.match(func(m string) (string, bool) {
			if v, ok := spread(f, m, r.Doc.HostComputeNetwork, r.Doc.HostComputeEndpoints); ok {
				return v, true
			}
			return base(m, r.Doc.ID, r.Doc.Name, r.Doc.Owner, r.Doc.State)
		}) {
			out = append(out, r)
		}
	}
	return out
}

// spread are the members of what lists endpoints; one that is listed is a value of
// HostComputeEndpoint.
func spread(f Filter, member, network string, endpoints []string) (string, bool) {
	switch member {
	case "hostcomputenetwork":
		return network, true
	case "hostcomputeendpoint":
		want := valueOf(f, member)
		for _, id := range endpoints {
			if sameValue(id, want) {
				return want, true
			}
		}
		return "", true
	}
	return "", false
}

// FindReservations in order of creation.
func (w World) FindReservations(f Filter) []*Reservation {
	var out []*Reservation
	for _, r := range w.AllReservations() {
		if f.match(func(m string) (string, bool) { return base(m, r.Doc.ID, r.Doc.Name, r.Doc.Owner, StateCreated) }) {
			out = append(out, r)
		}
	}
	return out
}

// ResolveLoadBalancer finds by GUID or "name:<name>".
func (w World) ResolveLoadBalancer(ref string) (*LoadBalancer, error) {
	return resolve(ref, w.LoadBalancer, w.FindLoadBalancers, loadBalancerMissing, "load balancers")
}

// ResolveSDNRoute finds by GUID or "name:<name>".
func (w World) ResolveSDNRoute(ref string) (*SDNRoute, error) {
	return resolve(ref, w.SDNRoute, w.FindSDNRoutes, sdnRouteMissing, "SDN routes")
}

// FindServices in order of creation.
func (w World) FindServices(f Filter) []*Service {
	var out []*Service
	for _, s := range w.AllServices() {
		if f.match(func(m string) (string, bool) {
			if m == "type" {
				return string(s.Doc.Type), true
			}
			return base(m, s.Doc.ID, s.Doc.Name, s.Doc.Owner, StateCreated)
		}) {
			out = append(out, s)
		}
	}
	return out
}

// ResolveService finds by GUID or "name:<name>".
func (w World) ResolveService(ref string) (*Service, error) {
	if name, ok := strings.CutPrefix(ref, "name:"); ok {
		if id, ok := w.serviceBy.get(canonicalName(name)); ok {
			ref = id
		}
	}
	if s, ok := w.Service(ref); ok {
		return s, nil
	}
	return nil, serviceMissing(ref)
}

// ResolveReservation finds by GUID or "name:<name>".
func (w World) ResolveReservation(ref string) (*Reservation, error) {
	return resolve(ref, w.Reservation, w.FindReservations, reservationMissing, "port reservations")
}

// resolve finds by GUID, or by the name of one only.
func resolve[R any](ref string, get func(string) (*R, bool), find func(Filter) []*R, missing func(string) *Error, plural string) (*R, error) {
	name, ok := strings.CutPrefix(ref, "name:")
	if !ok {
		if r, ok := get(ref); ok {
			return r, nil
		}
		return nil, missing(ref)
	}
	found := find(Filter{"Name": name})
	switch len(found) {
	case 0:
		return nil, missing(ref)
	case 1:
		return found[0], nil
	}
	return nil, refuse(hcn.E_INVALID_PARAMETER, "%d %s are named %q; name one by its ID", len(found), plural, name)
}

// ResolveNetwork finds by GUID or "name:<name>".
func (w World) ResolveNetwork(ref string) (*Network, error) {
	if name, ok := strings.CutPrefix(ref, "name:"); ok {
		if n, ok := w.NetworkNamed(name); ok {
			return n, nil
		}
	} else if n, ok := w.Network(ref); ok {
		return n, nil
	}
	return nil, networkMissing(ref)
}

// ResolveEndpoint finds by GUID or "name:<name>"; a name must be that of one only.
func (w World) ResolveEndpoint(ref string) (*Endpoint, error) {
	return resolve(ref, w.Endpoint, w.FindEndpoints, endpointMissing, "endpoints")
}

// ResolveNamespace finds by GUID or "name:<name>".
func (w World) ResolveNamespace(ref string) (*Namespace, error) {
	return resolve(ref, w.Namespace, w.FindNamespaces, namespaceMissing, "namespaces")
}
