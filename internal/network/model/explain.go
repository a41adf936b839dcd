// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
)

// Speakers are the endpoints that a person may mean by ref: a GUID, a name or an
// alias, an address, or a namespace or container whose endpoints they are.
func (w World) Speakers(ref string) ([]*Endpoint, error) {
	if e, ok := w.Endpoint(ref); ok {
		return []*Endpoint{e}, nil
	}
	bare := strings.TrimPrefix(ref, "name:")
	a, aerr := netip.ParseAddr(ref)
	var out []*Endpoint
	for _, e := range w.AllEndpoints() {
		named := strings.EqualFold(e.Doc.Name, bare) || slices.ContainsFunc(e.aliases, func(s string) bool { return strings.EqualFold(s, bare) })
		if aerr == nil {
			named = e.Holds(a)
		}
		if !named && e.Doc.HostComputeNamespace != "" {
			if ns, ok := w.Namespace(e.Doc.HostComputeNamespace); ok {
				named = strings.EqualFold(ns.Doc.Id, ref) || slices.Contains(ns.Containers, ref) || ns.Plug == ref
			}
		}
		if named {
			out = append(out, e)
		}
	}
	if len(out) == 0 {
		return nil, endpointMissing(ref)
	}
	for _, e := range out[1:] {
		if e.Doc.HostComputeNamespace == "" || e.Doc.HostComputeNamespace != out[0].Doc.HostComputeNamespace {
			return nil, refuse(hcn.E_INVALID_PARAMETER, "%d endpoints are meant by %q; name one by its ID", len(out), ref)
		}
	}
	return out, nil
}

// Holds reports whether a is an address of the endpoint.
func (e *Endpoint) Holds(a netip.Addr) bool {
	return slices.ContainsFunc(e.addrs, func(p netip.Prefix) bool { return p.Addr() == a })
}

// Addr is the endpoint's first address of a family; invalid = none.
func (e *Endpoint) Addr(is4 bool) netip.Addr {
	for _, p := range e.addrs {
		if p.Addr().Is4() == is4 {
			return p.Addr()
		}
	}
	return netip.Addr{}
}

// Attached reports whether the endpoint is plugged into a namespace.
func (e *Endpoint) Attached() bool { return e.compiled.attached }

// VNIC is the endpoint's interface in its compartment. foreign: somebody else made
// the namespace, and may have put routes there that we do not know.
func (w World) VNIC(e *Endpoint) (v VNIC, foreign, ok bool) {
	ns, found := w.Namespace(e.Doc.HostComputeNamespace)
	if !found {
		return v, false, false
	}
	for _, v := range ns.compiled.VNICs {
		if v.Endpoint == e.Doc.Id {
			return v, ns.Foreign, true
		}
	}
	return v, ns.Foreign, false
}

// Gateway is the network's gateway address of a family; invalid = none.
func (n *Network) Gateway(is4 bool) netip.Addr {
	for _, g := range n.gateways() {
		if g.Is4() == is4 {
			return g
		}
	}
	return netip.Addr{}
}

// HasSubnet reports whether a is of the network's prefixes.
func (n *Network) HasSubnet(a netip.Addr) bool { _, ok := n.subnetOf(a); return ok }
