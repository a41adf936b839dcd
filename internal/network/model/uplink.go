// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package model

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/uuid"

	"gatehouse.dev/gatehouse/hcn"
)

// Uplink is an interface of the host that networks can be bound to.
type Uplink struct {
	Name     string
	AltNames []string // as in `ip link property`
	Alias    string   // free text, as in `ip link set alias`
	Ifindex  int
	Addrs    []netip.Prefix // global ones, the primary of each family first
	Default  bool           // the host's default route leaves by it
}

// layer is the id that networks on the uplink report as Health.Extra.LayeredOn. It
// follows from the name, as the kernel gives interfaces no lasting id.
func (u Uplink) layer() string {
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("gatehouse uplink "+u.Name)).String()
}

// management is the address that stands for the host on the uplink; invalid = none.
func (u Uplink) management() netip.Addr {
	for _, v4 := range []bool{true, false} {
		for _, p := range u.Addrs {
			if p.Addr().Is4() == v4 {
				return p.Addr()
			}
		}
	}
	return netip.Addr{}
}

func (u Uplink) hasName(s string) bool { return u.Name == s || slices.Contains(u.AltNames, s) }

// uplinkPolicies choose an uplink: those that are given must mean the same one.
var uplinkPolicies = []hcn.NetworkPolicyType{hcn.NetAdapterName, hcn.InterfaceConstraint, hcn.ProviderAddress, hcn.LayerConstraint}

// uplinkChoice is what one of uplinkPolicies says.
type uplinkChoice struct {
	member string // that it says it with
	means  func(Uplink) bool
	layer  string // of a LayerConstraint
}

// mediaEthernet is ethernetCsmacd(6) of the IANA interface types.
const mediaEthernet = 6

// parseUplinkChoice reads one of uplinkPolicies. An interface's GUID is the id of its
// layer and its LUID the ifindex, for Linux has neither.
func parseUplinkChoice(p hcn.NetworkPolicy) (uplinkChoice, error) {
	switch p.Type {
	case hcn.NetAdapterName:
		var s hcn.NetAdapterNameNetworkPolicySetting
		if err := decodeMembers(p.Settings, &s); err != nil {
			return uplinkChoice{}, err
		}
		c := uplinkChoice{member: "NetworkAdapterName", means: func(u Uplink) bool { return u.hasName(s.NetworkAdapterName) }}
		if s.NetworkAdapterName == "" {
			return c, refuseAt(hcn.HCN_E_INVALID_POLICY, c.member, "is empty; name an interface of the host")
		}
		return c, nil
	case hcn.ProviderAddress:
		var s hcn.ProviderAddressEndpointPolicySetting
		if err := decodeMembers(p.Settings, &s); err != nil {
			return uplinkChoice{}, err
		}
		a, err := netip.ParseAddr(s.ProviderAddress)
		c := uplinkChoice{member: "ProviderAddress", means: func(u Uplink) bool {
			return slices.ContainsFunc(u.Addrs, func(p netip.Prefix) bool { return p.Addr() == a })
		}}
		if err != nil || a.Zone() != "" || a.Is4In6() {
			return c, refuseAt(hcn.HCN_E_INVALID_POLICY, c.member, "%q is not an address", s.ProviderAddress)
		}
		return c, nil
	case hcn.LayerConstraint:
		var s hcn.LayerConstraintNetworkPolicySetting
		if err := decodeMembers(p.Settings, &s); err != nil {
			return uplinkChoice{}, err
		}
		id, ok := parseGUID(s.LayerId)
		c := uplinkChoice{member: "LayerId", layer: id, means: func(u Uplink) bool { return u.layer() == id }}
		if !ok {
			return c, refuseAt(hcn.HCN_E_INVALID_POLICY, c.member, "%q is not a GUID", s.LayerId)
		}
		return c, nil
	}
	return parseInterfaceConstraint(p.Settings)
}

// parseInterfaceConstraint: all members that are given must agree; the first is named
// where none does.
func parseInterfaceConstraint(raw json.RawMessage) (uplinkChoice, error) {
	var s hcn.InterfaceConstraintPolicySetting
	if err := decodeMembers(raw, &s); err != nil {
		return uplinkChoice{}, err
	}
	c := uplinkChoice{}
	var all []func(Uplink) bool
	given := func(member string, is bool, means func(Uplink) bool) {
		if !is {
			return
		}
		if c.member == "" {
			c.member = member
		}
		all = append(all, means)
	}
	given("InterfaceGuid", s.InterfaceGuid != "" && s.InterfaceGuid != zeroGUID, func(u Uplink) bool { return strings.EqualFold(u.layer(), s.InterfaceGuid) })
	given("InterfaceLuid", s.InterfaceLuid != 0, func(u Uplink) bool { return uint64(u.Ifindex) == s.InterfaceLuid })
	given("InterfaceIndex", s.InterfaceIndex != 0, func(u Uplink) bool { return uint64(u.Ifindex) == uint64(s.InterfaceIndex) })
	given("InterfaceAlias", s.InterfaceAlias != "", func(u Uplink) bool { return u.hasName(s.InterfaceAlias) || u.Alias == s.InterfaceAlias })
	given("InterfaceDescription", s.InterfaceDescription != "", func(u Uplink) bool { return u.Alias == s.InterfaceDescription })
	given("InterfaceMediaType", s.InterfaceMediaType != 0, func(Uplink) bool { return s.InterfaceMediaType == mediaEthernet })
	if len(all) == 0 {
		return c, refuse(hcn.HCN_E_INVALID_POLICY, "names no interface; give a GUID, LUID, index, alias or description")
	}
	c.means = func(u Uplink) bool {
		return !slices.ContainsFunc(all, func(is func(Uplink) bool) bool { return !is(u) })
	}
	return c, nil
}

// uplinks of the host now.
func (in Input) uplinks() []Uplink {
	if in.Uplinks == nil {
		return nil
	}
	return in.Uplinks()
}

// selectUplink chooses the interface that a network's policies ask for, by default
// that of the default route. All policies that choose one must agree.
func (w *World) selectUplink(d *NetworkDoc, in Input) (Uplink, error) {
	have := in.uplinks()
	var (
		chosen Uplink
		by     string // the field that chose it
	)
	for _, t := range uplinkPolicies {
		for i, p := range d.Policies {
			if p.Type != t {
				continue
			}
			field := fmt.Sprintf("Policies[%d].Settings", i)
			c, err := parseUplinkChoice(p)
			if err != nil {
				return Uplink{}, at(field, err)
			}
			if c.member != "" {
				field += "." + c.member
			}
			switch u, err := w.choose(c, have); {
			case err != nil:
				return Uplink{}, at(field, err)
			case by != "" && u.Name != chosen.Name:
				return Uplink{}, refuseAt(hcn.HCN_E_ADAPTER_NOT_FOUND, field, "means %q, but %s means %q", u.Name, by, chosen.Name)
			case by == "":
				chosen, by = u, field
			}
		}
	}
	if by != "" {
		return chosen, nil
	}
	for _, u := range have {
		if u.Default {
			return u, nil
		}
	}
	return Uplink{}, refuseAt(hcn.HCN_E_ADAPTER_NOT_FOUND, "Policies",
		"the host has no default route whose interface could be taken; choose one with NetAdapterName (%s)", uplinkNames(have))
}

// choose finds the one uplink that a policy means.
func (w *World) choose(c uplinkChoice, have []Uplink) (Uplink, error) {
	if c.layer != "" && !slices.ContainsFunc(w.AllNetworks(), func(n *Network) bool { return n.Doc.Health.Extra.LayeredOn == c.layer }) {
		return Uplink{}, refuse(hcn.HCN_E_LAYER_NOT_FOUND, "no network is layered on %s; Health.Extra.LayeredOn of a network says on what it is", c.layer)
	}
	var found []Uplink
	for _, u := range have {
		if c.means(u) {
			found = append(found, u)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return Uplink{}, refuse(hcn.HCN_E_ADAPTER_NOT_FOUND, "the host has no such interface (%s)", uplinkNames(have))
	}
	return Uplink{}, refuse(hcn.HCN_E_ADAPTER_NOT_FOUND, "means several interfaces: %s", uplinkNames(found))
}

func uplinkNames(us []Uplink) string {
	if len(us) == 0 {
		return "there is none"
	}
	var s []string
	for _, u := range us {
		s = append(s, u.Name)
	}
	return "there are: " + strings.Join(s, ", ")
}

// bindUplink binds a new network to its uplink.
func (w *World) bindUplink(n *Network, in Input) error {
	u, err := w.selectUplink(&n.Doc, in)
	if err != nil {
		return err
	}
	if err := w.checkSharing(&n.Doc, u.Name); err != nil {
		return err
	}
	n.Uplink = u.Name
	n.Doc.Health.Extra.LayeredOn = u.layer()
	n.fillProvider(u)
	return nil
}

// The schema's flags that have no Go names there.
const (
	isolateVSwitch hcn.NetworkFlags = 32
	disableSharing hcn.NetworkFlags = 128
)

// checkSharing refuses a second network that an uplink does not allow.
func (w *World) checkSharing(d *NetworkDoc, uplink string) error {
	for _, o := range w.AllNetworks() {
		switch {
		case o.Uplink != uplink:
		case o.Doc.Type != d.Type:
			return refuseAt(hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "Type", "uplink %q has %s of type %s, beside which only that type can be; choose another uplink", uplink, o.label(), o.Doc.Type)
		case d.Flags&disableSharing != 0:
			return refuseAt(hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "Flags", "DisableSharing: uplink %q has %s; choose another uplink", uplink, o.label())
		case o.Doc.Flags&disableSharing != 0:
			return refuse(hcn.HCN_E_SHARED_SWITCH_MODIFICATION, "uplink %q has %s, which does not share it (DisableSharing); choose another uplink", uplink, o.label())
		}
	}
	return nil
}

// switchOf names the vSwitch of a network: that of its uplink, or one of its own.
func (n *Network) switchOf() string {
	what := n.Doc.Id
	if n.Uplink != "" && n.Doc.Flags&isolateVSwitch == 0 {
		what = n.Uplink
	}
	return uuid.NewSHA1(uuid.NameSpaceOID, []byte("gatehouse switch "+what)).String()
}

// provider is the address of the network's ProviderAddress policy; invalid = none.
func (n *Network) provider() netip.Addr {
	for _, p := range n.Doc.Policies {
		if p.Type == hcn.ProviderAddress {
			var s hcn.ProviderAddressEndpointPolicySetting
			_ = decodeMembers(p.Settings, &s)
			a, _ := netip.ParseAddr(s.ProviderAddress)
			return a
		}
	}
	return netip.Addr{}
}

// fillProvider keeps the ProviderAddress policy of our making at the uplink's
// management address, and reports whether that changed it. An uplink that has lost
// its address leaves it as it was.
func (n *Network) fillProvider(u Uplink) bool {
	a := u.management()
	if !a.IsValid() || n.provider() == a || n.provider().IsValid() && !n.ProviderFilled {
		return false
	}
	n.Doc.Policies = slices.DeleteFunc(slices.Clone(n.Doc.Policies), func(p hcn.NetworkPolicy) bool { return p.Type == hcn.ProviderAddress })
	n.Doc.Policies = append(n.Doc.Policies, hcn.NetworkPolicy{Type: hcn.ProviderAddress, Settings: []byte(`{"ProviderAddress":"` + a.String() + `"}`)})
	n.ProviderFilled = true
	return true
}

// rebindUplink looks at the policies that choose an uplink after a request changed
// some: a network keeps the uplink it was made with.
func (w *World) rebindUplink(was, n *Network, in Input) error {
	chosen := func(p hcn.NetworkPolicy) bool { return slices.Contains(uplinkPolicies, p.Type) }
	same := func(a hcn.NetworkPolicy) func(hcn.NetworkPolicy) bool {
		return func(b hcn.NetworkPolicy) bool {
			return a.Type == b.Type && canonical(a.Settings) == canonical(b.Settings)
		}
	}
	var fresh NetworkDoc
	for _, p := range n.Doc.Policies {
		if chosen(p) && !slices.ContainsFunc(was.Doc.Policies, same(p)) {
			fresh.Policies = append(fresh.Policies, p)
		}
	}
	if len(fresh.Policies) > 0 {
		u, err := w.selectUplink(&fresh, in)
		if err != nil {
			return err
		}
		if u.Name != n.Uplink {
			return refuseAt(hcn.HCN_E_REQUEST_UNSUPPORTED, "Policies", "%s is bound to uplink %q for good; make another network for %q", n.label(), n.Uplink, u.Name)
		}
	}
	n.ProviderFilled = n.ProviderFilled && n.provider() == was.provider()
	if !n.provider().IsValid() {
		for _, u := range in.uplinks() {
			if u.Name == n.Uplink {
				n.fillProvider(u)
			}
		}
	}
	return nil
}

// FollowUplinks brings the ProviderAddress policies of our making in line with the
// addresses that uplinks have now. w itself is returned where nothing is to be done.
func (w World) FollowUplinks(in Input) World {
	var bound []*Network
	for _, n := range w.networks.all {
		if n.Uplink != "" {
			bound = append(bound, n)
		}
	}
	if len(bound) == 0 {
		return w
	}
	now := in.uplinks()
	for _, n := range bound {
		i := slices.IndexFunc(now, func(u Uplink) bool { return u.Name == n.Uplink })
		if i < 0 {
			continue
		}
		c := *n
		if !c.fillProvider(now[i]) {
			continue
		}
		c.Doc.Version++
		w.putNetwork(&c)
		w.event(hcn.EventNetworkModify, "NetworkModify", Networks, c.Doc.Id, c.Doc)
	}
	return w
}
