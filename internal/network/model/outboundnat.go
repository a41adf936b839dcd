// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/vswitch"
)

// outboundNAT is an OutBoundNAT policy, checked.
type outboundNAT struct {
	to, but []netip.Prefix // to none = anywhere
	virtual netip.Addr     // invalid = an address of the host
	v6      bool           // of IPv6 alone
	share   uint8          // percent of the ports outside; 0 = all
}

// NATPoolRef is the switch's number of a pool for a VirtualIP. It is stored, so that
// flows keep their address over a restart.
type NATPoolRef struct {
	Addr netip.Addr
	ID   vswitch.NATPoolID
}

// natPool is the pool of a VirtualIP that endpoints refer to.
type natPool struct {
	id    vswitch.NATPoolID
	users int
}

// translates: what leaves a network of this type bears the host's address without a
// policy that says so.
func translates(t hcn.NetworkType) bool { return kinds[t].flags&vswitch.NetSNAT != 0 }

// leaves: endpoints of the type reach outside at all, so that OutBoundNAT has a meaning.
func leaves(t hcn.NetworkType) bool {
	return translates(t) || t == hcn.L2Bridge || t == hcn.L2Tunnel || t == hcn.Overlay
}

// parseOutBoundNAT reads the settings of a policy on an endpoint of n.
func parseOutBoundNAT(p hcn.EndpointPolicy, n *Network) (outboundNAT, error) {
	var r outboundNAT
	if n != nil && !leaves(n.Doc.Type) {
		return r, refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Type", "OutBoundNAT: nothing leaves a network of type %s in the host's name", n.Doc.Type)
	}
	var s hcn.OutboundNatPolicySetting
	if err := decodeSettings(p.Settings, &s); err != nil {
		return r, err
	}
	if s.Flags&^knownNatFlags != 0 {
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Settings.Flags", "%d has unknown bits", s.Flags)
	}
	if s.MaxPortPoolUsage > 100 {
		return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Settings.MaxPortPoolUsage", "%d: percent of the ports of an address, at most 100", s.MaxPortPoolUsage)
	}
	r.v6, r.share = s.Flags&hcn.NatFlagsIPv6 != 0, uint8(s.MaxPortPoolUsage)
	for _, l := range []struct {
		field string
		words []string
		into  *[]netip.Prefix
	}{{"Exceptions", s.Exceptions, &r.but}, {"Destinations", s.Destinations, &r.to}} {
		for i, w := range l.words {
			q, err := parseDestination(w)
			if err != nil {
				return r, refuseAt(hcn.HCN_E_INVALID_POLICY, fmt.Sprintf("Settings.%s[%d]", l.field, i), "%q: %v", w, err)
			}
			*l.into = append(*l.into, q)
		}
	}
	if s.VirtualIP != "" {
		a, err := netip.ParseAddr(s.VirtualIP)
		switch {
		case err != nil || a.Zone() != "" || a.Is4In6() || !a.IsGlobalUnicast():
			return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Settings.VirtualIP", "%q is not an address that others could answer to", s.VirtualIP)
		case r.v6 && a.Is4():
			return r, refuseAt(hcn.HCN_E_INVALID_POLICY, "Settings.VirtualIP", "%s is not IPv6, as Flags says", a)
		}
		r.virtual = a
	}
	return r, nil
}

// parseDestination reads an address or a prefix.
func parseDestination(s string) (netip.Prefix, error) {
	if a, err := netip.ParseAddr(s); err == nil && a.Zone() == "" && !a.Is4In6() {
		return netip.PrefixFrom(a, a.BitLen()), nil
	}
	p, err := parsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("neither an address nor a prefix such as 10.1.0.0/16")
	}
	return p, nil
}

// checkVirtualIPs refuses a new OutBoundNAT policy whose VirtualIP would not bring
// answers back: it must be an address of the host, or the endpoint's own, which then
// goes out as it is.
func (w *World) checkVirtualIPs(e *Endpoint, policies []hcn.EndpointPolicy, n *Network, in Input) error {
	stored, _ := w.endpoints.get(e.Doc.Id)
	for i, p := range policies {
		if p.Type != hcn.OutBoundNAT {
			continue
		}
		r, err := parseOutBoundNAT(p, n)
		if err != nil {
			return at(fmt.Sprintf("Policies[%d]", i), err)
		}
		same := func(q hcn.EndpointPolicy) bool {
			return q.Type == p.Type && canonical(q.Settings) == canonical(p.Settings)
		}
		if !r.virtual.IsValid() || e.holds(r.virtual) || in.IsHost != nil && in.IsHost(r.virtual) ||
			stored != nil && slices.ContainsFunc(stored.Doc.Policies, same) {
			continue
		}
		field := fmt.Sprintf("Policies[%d].Settings.VirtualIP", i)
		if other, ok := w.addrs.get(addrKey(n.Doc.Id, r.virtual)); ok {
			return refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, field, "%s is held by %s, which gets what is sent there; name an address of the host", r.virtual, w.endpointLabel(other))
		}
		return refuseAt(hcn.HCN_E_ADDR_INVALID_OR_RESERVED, field, "%s is no address of this host, so answers would not come back; add it to an interface first", r.virtual)
	}
	return nil
}

func (e *Endpoint) holds(a netip.Addr) bool {
	return slices.ContainsFunc(e.Doc.IpConfigurations, func(c IpConfig) bool { return sameAddr(c.IpAddress, a) })
}

// outboundNATs are the endpoint's policies without those that say how it reaches
// itself: it always does, by services that lead to it.
func (e *Endpoint) outboundNATs(n *Network) []outboundNAT {
	var out []outboundNAT
	for _, p := range e.Doc.Policies {
		if p.Type != hcn.OutBoundNAT {
			continue
		}
		r, err := parseOutBoundNAT(p, n)
		if err != nil {
			continue // checked when it came
		}
		self := func(q netip.Prefix) bool { return q.IsSingleIP() && e.holds(q.Addr()) }
		if len(r.to) > 0 {
			if r.to = slices.DeleteFunc(r.to, self); len(r.to) == 0 {
				continue
			}
		}
		out = append(out, r)
	}
	// In IPv6 those that are of it alone come first.
	slices.SortStableFunc(out, func(a, b outboundNAT) int { return cmp.Compare(btoi(b.v6), btoi(a.v6)) })
	return out
}

// natShare is the least that a policy leaves e of the ports outside, in percent; 0 = all.
func (e *Endpoint) natShare(n *Network) (least uint8) {
	for _, r := range e.outboundNATs(n) {
		if r.share != 0 && (least == 0 || r.share < least) {
			least = r.share
		}
	}
	return least
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// natSeen is what a destination sees of an endpoint.
type natSeen struct {
	own  bool
	pool vswitch.NATPoolID
}

// natRules is what the policies of e say, for each prefix that one of them names and
// for the rest: the first policy with such a Destination decides, then the first
// without any, then the type of the network.
func (e *Endpoint) natRules(n *Network) []vswitch.NATRule {
	policies := e.outboundNATs(n)
	if len(policies) == 0 {
		return nil
	}
	rest := natSeen{own: !translates(n.Doc.Type)}
	seen := func(q netip.Prefix) natSeen {
		within := func(p netip.Prefix) bool { return p.Bits() <= q.Bits() && p.Contains(q.Addr()) }
		for _, general := range []bool{false, true} {
			for _, r := range policies {
				if r.v6 && q.Addr().Is4() || r.virtual.IsValid() && r.virtual.Is4() != q.Addr().Is4() ||
					(len(r.to) == 0) != general || !general && !slices.ContainsFunc(r.to, within) {
					continue
				}
				if slices.ContainsFunc(r.but, within) || e.holds(r.virtual) {
					return natSeen{own: true}
				}
				return natSeen{pool: e.natPool(r.virtual)}
			}
		}
		return rest
	}
	var prefixes []netip.Prefix
	for _, a := range e.addrs {
		prefixes = append(prefixes, netip.PrefixFrom(a.Addr(), 0).Masked())
	}
	for _, r := range policies {
		prefixes = append(append(prefixes, r.to...), r.but...)
	}
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(cmp.Compare(a.Bits(), b.Bits()), a.Addr().Compare(b.Addr()))
	})
	var rules []vswitch.NATRule
	for _, q := range slices.Compact(prefixes) {
		if !slices.ContainsFunc(e.addrs, func(a netip.Prefix) bool { return a.Addr().Is4() == q.Addr().Is4() }) {
			continue
		}
		is, over := seen(q), rest
		for _, r := range rules { // the last that holds it is the longest
			if r.Prefix.Contains(q.Addr()) {
				over = natSeen{r.Own, r.Pool}
			}
		}
		if is != over {
			rules = append(rules, vswitch.NATRule{Prefix: q, Own: is.own, Pool: is.pool})
		}
	}
	return rules
}

// natPool is the number that e has of the pool of an address; 0 = an invalid one.
func (e *Endpoint) natPool(a netip.Addr) vswitch.NATPoolID {
	for _, r := range e.NATPools {
		if r.Addr == a {
			return r.ID
		}
	}
	return 0
}

// refNATPools gives e, which is not in the World yet, the pools that its policies
// ask for, and gives back those that it has and does not need any more.
func (w *World) refNATPools(e *Endpoint, n *Network) error {
	before := e.NATPools
	has := func(refs []NATPoolRef, a netip.Addr) bool {
		return slices.ContainsFunc(refs, func(r NATPoolRef) bool { return r.Addr == a })
	}
	var refs []NATPoolRef
	for _, r := range e.outboundNATs(n) {
		a := r.virtual
		if !a.IsValid() || e.holds(a) || has(refs, a) {
			continue
		}
		p, ok := w.natPools.get(a.String())
		switch {
		case !ok && w.loading && has(before, a):
			p.id = e.natPool(a)
			w.use(natPoolNumbers, uint32(p.id))
		case !ok:
			id, ok := w.next(natPoolNumbers, uint32(w.numbers.NATPool), 1, vswitch.MaxNATPools)
			if !ok {
				return refuse(hcn.HCN_E_DEGRADED_OPERATION, "all %d pools of outbound NAT are in use: so many different VirtualIPs are there", vswitch.MaxNATPools)
			}
			p.id, w.numbers.NATPool = vswitch.NATPoolID(id), vswitch.NATPoolID(id)
		case !w.loading && has(before, a):
			p.users--
		}
		p.users++
		w.natPools = w.natPools.set(a.String(), p)
		refs = append(refs, NATPoolRef{a, p.id})
	}
	e.NATPools = refs
	for _, r := range before {
		if !has(refs, r.Addr) && !w.loading {
			w.unrefNATPool(r)
		}
	}
	return nil
}

// unrefNATPool gives a pool back.
func (w *World) unrefNATPool(r NATPoolRef) {
	p, ok := w.natPools.get(r.Addr.String())
	if !ok {
		return
	}
	if p.users--; p.users > 0 {
		w.natPools = w.natPools.set(r.Addr.String(), p)
		return
	}
	w.natPools = w.natPools.del(r.Addr.String())
	w.free(natPoolNumbers, uint32(p.id))
}

// switchPools are the pools of all VirtualIPs.
func (w *World) switchPools() []vswitch.NATPool {
	var out []vswitch.NATPool
	for a, p := range w.natPools.all {
		out = append(out, vswitch.NATPool{ID: p.id, Name: a, Addrs: []netip.Addr{netip.MustParseAddr(a)}})
	}
	return out
}
