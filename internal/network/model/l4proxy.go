// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// l4Proxy is an L4Proxy policy of an endpoint or a network, checked.
type l4Proxy struct {
	at     netip.AddrPort
	protos []uint8
	to     netip.Prefix
	but    []netip.Prefix // of both families
	snat   bool
}

// parseL4Proxy reads the settings. The schema spells Exceptions ExceptionList.
func parseL4Proxy(raw json.RawMessage) (l4Proxy, error) {
	var r l4Proxy
	var s hcn.L4ProxyPolicySetting
	var schema struct{ ExceptionList []string }
	if err := decodeMembers(raw, &s); err != nil {
		return r, err
	}
	if err := decodeMembers(raw, &schema); err != nil {
		return r, err
	}
	a, err := netip.ParseAddr(s.IP)
	if err != nil || a.Zone() != "" || a.Is4In6() || !a.IsGlobalUnicast() {
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "IP", "%q is not the address of a proxy", s.IP)
	}
	port, err := strconv.ParseUint(s.Port, 10, 16)
	if err != nil || port == 0 {
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Port", "%q is not a port from 1 to 65535", s.Port)
	}
	r.at = netip.AddrPortFrom(a, uint16(port))
	switch s.Protocol {
	case 0:
		r.protos = []uint8{6, 17}
	case 6, 17:
		r.protos = []uint8{uint8(s.Protocol)}
	default:
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Protocol", "%d: only 6 (TCP), 17 (UDP) and 0 (both) can be redirected", s.Protocol)
	}
	r.to = netip.PrefixFrom(a, 0).Masked()
	if s.Destination != "" {
		if r.to, err = parseDestination(s.Destination); err != nil {
			return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Destination", "%q: %v", s.Destination, err)
		}
		if r.to.Addr().Is4() != a.Is4() {
			return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Destination", "%s is not of the family of the proxy %s", r.to, a)
		}
	}
	for i, w := range append(s.Exceptions, schema.ExceptionList...) {
		q, err := parseDestination(w)
		if err != nil {
			return r, refuseAt(hcn.HCN_E_INVALID_POLICY, fmt.Sprintf("Exceptions[%d]", i), "%q: %v", w, err)
		}
		r.but = append(r.but, q)
	}
	r.but = append(r.but, netip.PrefixFrom(a, a.BitLen())) // the proxy itself
	r.snat = s.OutboundNAT
	return r, nil
}

// checkProxies refuses proxies of an endpoint that would ask themselves, and two for
// the same destinations.
func checkProxies(e *Endpoint, policies []hcn.EndpointPolicy) error {
	type what struct {
		proto uint8
		to    netip.Prefix
	}
	has := map[what]netip.AddrPort{}
	for i, p := range policies {
		if p.Type != hcn.L4Proxy {
			continue
		}
		field := fmt.Sprintf("Policies[%d].Settings", i)
		r, err := parseL4Proxy(p.Settings)
		if err != nil {
			return at(field, err)
		}
		if e.holds(r.at.Addr()) {
			return refuseAt(hcn.HCN_E_INVALID_POLICY, field+".IP", "%s is the endpoint's own address: what the proxy sends would come back to it", r.at.Addr())
		}
		for _, proto := range r.protos {
			k := what{proto, r.to}
			if o, ok := has[k]; ok && o != r.at {
				return refuseAt(hcn.HCN_E_POLICY_ALREADY_EXISTS, field, "%s to %s has the proxy %s already", protoName(proto), r.to, o)
			}
			has[k] = r.at
		}
	}
	return nil
}

// l4Proxies are the endpoint's, then its network's but those that it is itself.
func (e *Endpoint) l4Proxies(n *Network) []l4Proxy {
	var out []l4Proxy
	for _, p := range e.Doc.Policies {
		if p.Type == hcn.L4Proxy {
			if r, err := parseL4Proxy(p.Settings); err == nil {
				out = append(out, r)
			}
		}
	}
	for _, p := range n.Doc.Policies {
		if p.Type == hcn.NetworkL4Proxy {
			if r, err := parseL4Proxy(p.Settings); err == nil && !e.holds(r.at.Addr()) {
				out = append(out, r)
			}
		}
	}
	return out
}

// proxies is what the policies say, for each prefix that one of them names: of those
// that do not except it the one with the longest Destination decides, the endpoint's
// own before its network's. nat are rules without which a proxy outside could not be
// reached, or not in the host's name.
func (e *Endpoint) proxies(n *Network) (all []vswitch.Proxy, nat []vswitch.NATRule) {
	policies := e.l4Proxies(n)
	for _, proto := range []uint8{6, 17} {
		of := slices.DeleteFunc(slices.Clone(policies), func(r l4Proxy) bool { return !slices.Contains(r.protos, proto) })
		slices.SortStableFunc(of, func(a, b l4Proxy) int { return cmp.Compare(b.to.Bits(), a.to.Bits()) })
		seen := func(q netip.Prefix) vswitch.Proxy {
			within := func(p netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }
			for _, r := range of {
				if within(r.to) && !slices.ContainsFunc(r.but, within) {
					return vswitch.Proxy{Proto: proto, Prefix: q, To: r.at, SNAT: r.snat}
				}
			}
			return vswitch.Proxy{Proto: proto, Prefix: q}
		}
		var prefixes []netip.Prefix
		for _, r := range of {
			prefixes = append(append(prefixes, r.to), r.but...)
		}
		slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
			return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
		})
		begin := len(all)
		for _, q := range slices.Compact(prefixes) {
			is, over := seen(q), vswitch.Proxy{Proto: proto}
			for _, x := range all[begin:] { // the last that holds it is the longest
				if x.Prefix.Contains(q.Addr()) {
					over = x
				}
			}
			if is.To != over.To || is.SNAT != over.SNAT {
				all = append(all, is)
			}
		}
	}
	for _, r := range policies {
		a := r.at.Addr()
		if _, inside := n.subnetOf(a); !inside && (translates(n.Doc.Type) && r.snat || !translates(n.Doc.Type) && (leaves(n.Doc.Type) || bindsUplink(n.Doc.Type))) {
			rule := vswitch.NATRule{Prefix: netip.PrefixFrom(a, a.BitLen())}
			if !slices.Contains(nat, rule) {
				nat = append(nat, rule)
			}
		}
	}
	return all, nat
}
