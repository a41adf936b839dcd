// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

//go:build failpoint

package network

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
)

// gen makes verbs by chance, most of them such as a client would send, about what
// there is at the moment.
//
// To have a new kind of network, policy or document tortured, add a function to one of
// the lists below: what it makes need not be valid in every World.
type gen struct {
	r *rand.Rand
	h *HNS
	n int // verbs made
}

// call is one verb: on a collection of documents, or on a container's network.
type call struct {
	kind, verb string // verb: create, modify, delete; plug, unplug; lend
	ref, body  string
	match      uint64
}

func (c call) String() string {
	return fmt.Sprintf("%s %s %s match %d: %s", c.verb, c.kind, c.ref, c.match, c.body)
}

// Limits of the World, so that it stays small enough to look at and things meet.
const (
	tortureNetworks, tortureEndpoints, tortureSpaces = 6, 40, 12
	tortureBalancers, tortureRoutes, tortureHeld     = 20, 10, 8
	tortureServices, tortureGuests                   = 12, 4
)

// form is a document, or a part of one, as the generator makes it.
type form func(*gen) string

// networkForms are documents of networks.
var networkForms = []form{
	func(g *gen) string { return g.doc(`"Type":"NAT"`) },
	func(g *gen) string { return g.doc(`"Type":"NAT",` + g.subnets()) },
	func(g *gen) string { return g.doc(`"Type":"NAT",` + g.subnets()) },
	func(g *gen) string { return g.doc(`"Type":"Internal",` + g.subnets()) },
	func(g *gen) string {
		return g.doc(fmt.Sprintf(`"Type":"Internal","Flags":%d,%s`, g.pick(0, 1024, 8, 2), g.subnets()))
	},
	func(g *gen) string { return g.doc(`"Type":"ICS",` + g.subnets()) },
	func(g *gen) string {
		return g.doc(fmt.Sprintf(`"Type":"NAT","Dns":{"Domain":"d%d.example","ServerList":["192.0.2.%d"]},"Policies":[%s]`, g.r.IntN(3), g.r.IntN(3), g.some(networkPolicies, 3)))
	},
	func(g *gen) string {
		return g.doc(fmt.Sprintf(`"Type":%q,%s`, g.word("Private", "Overlay", "Transparent", "L2Bridge", "L2Tunnel"), g.subnets()))
	},
	func(g *gen) string { return g.bound(g.subnets()) },
	func(g *gen) string {
		return g.doc(`"Type":"Transparent","Ipams":[{"Type":"Dhcp"}],"Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":"up1"}}]`)
	},
	func(g *gen) string {
		return g.bound(g.word(`"Ipams":[{"Type":"Dhcp"}]`, `"Ipams":[{"Type":"Dhcp"},{"Subnets":[{"IpAddressPrefix":"fd86::/64"}]}]`))
	},
	func(g *gen) string { return g.bound(g.segments()) },
	func(g *gen) string { return g.bound(g.segments()) },
	func(g *gen) string {
		return g.doc(fmt.Sprintf(`"Type":"Overlay","Ipams":[{"Subnets":[{"IpAddressPrefix":"10.%d.0.0/24","Routes":[{"NextHop":"10.%[1]d.0.1","DestinationPrefix":"0.0.0.0/0"}],"Policies":[{"Type":"VSID","Settings":{"IsolationId":%d}}]}]}],"Policies":[%s]`,
			90+g.r.IntN(3), 4096+g.r.IntN(3), g.some(overlayPolicies, 2)))
	},
}

// bound is a network on an uplink.
func (g *gen) bound(subnets string) string {
	return g.doc(fmt.Sprintf(`"Type":%q,"Flags":%d,%s,"Policies":[{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":%q}}]`,
		g.word("Transparent", "L2Bridge", "L2Tunnel"), g.pick(0, 0, 0, 32, 128), subnets, g.word("up0", "up1", "up1", "nowhere")))
}

// segments are subnets of few VLANs, which several networks may share.
func (g *gen) segments() string {
	var all []string
	for range 1 + g.r.IntN(2) {
		n := g.r.IntN(4)
		all = append(all, fmt.Sprintf(`{"IpAddressPrefix":"10.8%d.0.0/24","Routes":[{"NextHop":"10.8%[1]d.0.1","DestinationPrefix":"0.0.0.0/0"}],"Policies":[{"Type":"VLAN","Settings":{"IsolationId":%d}}]}`,
			n, g.pick(7, 7, 8, n+7)))
	}
	return `"Ipams":[{"Subnets":[` + strings.Join(all, ",") + `]}]`
}

// networkPolicies are policies of networks.
var networkPolicies = []form{
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"SetPolicy","Settings":{"Id":"set%d","Name":"s","PolicyType":"IPSET","Values":%q}}`, g.r.IntN(4), g.addrs())
	},
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"SetPolicy","Settings":{"Id":"all%d","Name":"n","PolicyType":"NESTEDIPSET","Values":"set%d,set%d"}}`, g.r.IntN(2), g.r.IntN(4), g.r.IntN(4))
	},
	func(g *gen) string { return `{"Type":"NetworkACL","Settings":` + g.rule() + `}` },
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"VSwitchExtension","Settings":{"ExtensionID":"x%d","Enable":true}}`, g.r.IntN(2))
	},
	func(g *gen) string { return `{"Type":"AutomaticDNS","Settings":{"Enable":true}}` },
	func(g *gen) string { return `{"Type":"OutBoundNAT","Settings":{"Exceptions":["192.0.2.0/24"]}}` },
}

// overlayPolicies are policies of networks that only overlays, or networks on an
// uplink, may have.
var overlayPolicies = []form{
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"RemoteSubnetRoute","Settings":{"DestinationPrefix":"10.9%d.1.0/24","IsolationId":%d,"ProviderAddress":"198.51.100.%d","DistributedRouterMacAddress":"02-11-22-33-44-0%d"}}`,
			g.r.IntN(3), 4096+g.r.IntN(3), 2+g.r.IntN(3), g.r.IntN(9))
	},
	func(g *gen) string { return `{"Type":"HostRoute","Settings":{}}` },
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"VxlanPort","Settings":{"Port":%d}}`, 4789+g.r.IntN(2))
	},
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"NetAdapterName","Settings":{"NetworkAdapterName":%q}}`, g.word("up0", "up1"))
	},
}

// endpointPolicies are policies of endpoints.
var endpointPolicies = []form{
	func(g *gen) string { return g.published() },
	func(g *gen) string { return `{"Type":"ACL","Settings":` + g.rule() + `}` },
	func(g *gen) string { return `{"Type":"ACL","Settings":` + g.rule() + `}` },
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"TierAcl","Settings":{"Name":"t%d","Direction":%q,"Order":%d,"TierAclRules":[{"Id":"a","TierAclRuleAction":%q,"Protocols":"6","LocalPorts":"80","Priority":1},{"TierAclRuleAction":"Pass","Priority":2}]}}`,
			g.r.IntN(2), g.word("In", "Out"), g.r.IntN(3), g.word("Allow", "Block", "Pass"))
	},
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"QOS","Settings":{"MaximumOutgoingBandwidthInBytes":%d}}`, g.pick(0, 1_250_000, 12_500_000))
	},
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"SDNRoute","Settings":{"DestinationPrefix":"10.10%d.0.0/16","NeedEncap":%v,"NextHop":%q}}`, g.r.IntN(3), g.r.IntN(2) == 0, g.word("", g.addr()))
	},
	func(g *gen) string {
		return g.word(`{"Type":"OutBoundNAT"}`, `{"Type":"OutBoundNAT","Settings":{"Exceptions":["192.0.2.0/24"]}}`)
	},
	func(g *gen) string { return `{"Type":"Iov","Settings":{"IovOffloadWeight":100}}` },
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":%q,"Settings":{}}`, g.word("L2Driver", "PortName", "EncapOverhead", "L4Proxy", "InterfaceParameters", "VLAN", "Encryption", "Nonsense"))
	},
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"L4Proxy","Settings":{"IP":%q,"Port":"15001","Protocol":6,"Exceptions":["192.0.2.0/24"],"OutboundNAT":%v}}`, g.addr(), g.r.IntN(2) == 0)
	},
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"L4WFPPROXY","Settings":{"InboundProxyPort":%q,"OutboundProxyPort":"15001","UserSID":%q,"OutboundExceptions":{"PortExceptions":["22"]}}}`, g.word("", "15006"), g.word("1337", "uid:0", "S-1-5-18"))
	},
	func(g *gen) string { return fmt.Sprintf(`{"Type":"PortName","Settings":{"Name":"p%d"}}`, g.r.IntN(3)) },
	func(g *gen) string {
		return fmt.Sprintf(`{"Type":"EncapOverhead","Settings":{"Overhead":%d}}`, g.pick(0, 50, 100))
	},
	func(g *gen) string { return fmt.Sprintf(`{"Type":"VLAN","Settings":{"IsolationId":%d}}`, g.r.IntN(4)) },
	func(g *gen) string { return `{"Type":"InterfaceParameters","Settings":{"Mtu":1400}}` },
}

// verbs are what is done, each as often as it stands here.
var tortureVerbs = []func(*gen) call{
	(*gen).network, (*gen).networkPolicy, (*gen).networkPolicy,
	(*gen).endpoint, (*gen).endpoint, (*gen).endpoint, (*gen).endpointPolicy, (*gen).endpointPolicy, (*gen).endpointPolicy,
	(*gen).namespace, (*gen).attach, (*gen).attach, (*gen).attach, (*gen).attach, (*gen).detach, (*gen).container, (*gen).vmPort,
	(*gen).balancer, (*gen).balancer, (*gen).balancer, (*gen).balanced, (*gen).balanced, (*gen).route, (*gen).ports, (*gen).plug, (*gen).plug,
	(*gen).service, (*gen).service, (*gen).served, (*gen).guest, (*gen).lease, (*gen).lease,
}

// next is the next verb. One in seven is spoiled.
func (g *gen) next() call {
	g.n++
	c := tortureVerbs[g.r.IntN(len(tortureVerbs))](g)
	switch {
	case g.r.IntN(7) > 0:
	case c.body == "" || g.r.IntN(4) == 0:
		c.ref = g.word("", "x", "name:x", tortureID(g.r.IntN(40)), strings.ToUpper(c.ref))
		c.match = uint64(g.r.IntN(3))
	default:
		c.body = g.spoil(c.body)
	}
	return c
}

// spoil changes, removes or adds one member somewhere in a document, or cuts it.
func (g *gen) spoil(body string) string {
	var v any
	if g.r.IntN(10) == 0 || json.Unmarshal([]byte(body), &v) != nil {
		return body[:g.r.IntN(len(body))]
	}
	out, err := json.Marshal(g.spoiled(v))
	if err != nil {
		return body
	}
	return string(out)
}

func (g *gen) spoiled(v any) any {
	junk := []any{nil, -1, 0, 1, 65536, 1e20, 0.5, "", "x", "255.255.255.255", "::", "0.0.0.0/0", "ff-ff-ff-ff-ff-ff", true, []any{}, map[string]any{}, tortureID(1), strings.Repeat("x", 300)}
	switch x := v.(type) {
	case map[string]any:
		if len(x) == 0 {
			break
		}
		keys := make([]string, 0, len(x))
		for k := range x {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		k := keys[g.r.IntN(len(keys))]
		if g.r.IntN(6) == 0 {
			delete(x, k)
		} else {
			x[k] = g.spoiled(x[k])
		}
		return x
	case []any:
		if len(x) == 0 || g.r.IntN(4) == 0 {
			return append(x, junk[g.r.IntN(len(junk))])
		}
		i := g.r.IntN(len(x))
		x[i] = g.spoiled(x[i])
		return x
	}
	return junk[g.r.IntN(len(junk))]
}

func tortureID(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012x", n) }

func (g *gen) word(of ...string) string { return of[g.r.IntN(len(of))] }
func (g *gen) pick(of ...int) int       { return of[g.r.IntN(len(of))] }

// some are up to n of forms, with commas between.
func (g *gen) some(forms []form, n int) string {
	var out []string
	for range g.r.IntN(n + 1) {
		out = append(out, forms[g.r.IntN(len(forms))](g))
	}
	return strings.Join(out, ",")
}

// doc wraps members; one in four documents says its ID.
func (g *gen) doc(members string) string {
	id := ""
	if g.r.IntN(4) == 0 {
		id = fmt.Sprintf(`"ID":%q,`, tortureID(g.r.IntN(60)))
	}
	return fmt.Sprintf(`{%s"Name":"t%d",%s}`, id, g.r.IntN(30), members)
}

// subnets overlap now and then.
func (g *gen) subnets() string {
	n := g.r.IntN(8)
	v4 := fmt.Sprintf(`{"IpAddressPrefix":"10.6%d.0.0/%d","Routes":[{"NextHop":"10.6%[1]d.0.1","DestinationPrefix":"0.0.0.0/0"}]}`, n, g.pick(24, 24, 28, 16))
	v6 := fmt.Sprintf(`{"IpAddressPrefix":"fd6%d::/64","Routes":[{"NextHop":"fd6%[1]d::1","DestinationPrefix":"::/0"}]}`, n)
	return `"Ipams":[{"Subnets":[` + g.word(v4, v6, v4+","+v6, v4+","+v6) + `]}]`
}

// addr is one that an endpoint has, or nobody.
func (g *gen) addr() string {
	all := g.h.World().AllEndpoints()
	if len(all) > 0 && g.r.IntN(4) > 0 {
		if e := all[g.r.IntN(len(all))]; len(e.Doc.IpConfigurations) > 0 {
			return e.Doc.IpConfigurations[g.r.IntN(len(e.Doc.IpConfigurations))].IpAddress
		}
	}
	return g.word("192.0.2.7", "2001:db8::7", "10.60.0.9", "fd61::9", "198.51.100.2")
}

func (g *gen) addrs() string {
	var out []string
	for range g.r.IntN(5) {
		out = append(out, g.word(g.addr(), "10.60.0.0/20", "fd60::/60"))
	}
	return strings.Join(out, ",")
}

func (g *gen) rule() string {
	side := g.addrs()
	if g.r.IntN(3) == 0 {
		side = g.word("set0", "set1,set2", "all0")
	}
	return fmt.Sprintf(`{"Id":"r%d","Action":%q,"Direction":%q,"Protocols":%q,"RemoteAddresses":%q,"LocalPorts":%q,"Priority":%d,"RuleType":%q}`,
		g.r.IntN(4), g.word("Allow", "Block", "Pass"), g.word("In", "Out"), g.word("6", "17", "", "256", "6,17"), side,
		g.word("", "80", "80,443,8000-8099"), g.pick(0, 100, 200, 65500), g.word("", "Switch", "Host"))
}

func (g *gen) published() string {
	return fmt.Sprintf(`{"Type":"PortMapping","Settings":{"Protocol":%d,"InternalPort":%d,"ExternalPort":%d,"Flags":%d}}`,
		g.pick(0, 6, 17, 132), g.pick(0, 80, 81), g.pick(0, 8000, 8001, 8002, 8003, 8004), g.pick(0, 0, 1, 2, 4))
}

func (g *gen) network() call {
	all := g.h.World().AllNetworks()
	if len(all) >= tortureNetworks || len(all) > 2 && g.r.IntN(3) == 0 {
		return call{kind: "networks", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.Id}
	}
	return call{kind: "networks", verb: "create", body: networkForms[g.r.IntN(len(networkForms))](g)}
}

func (g *gen) networkRef() string {
	all := g.h.World().AllNetworks()
	if len(all) == 0 {
		return tortureID(0)
	}
	return all[g.r.IntN(len(all))].Doc.Id
}

func (g *gen) networkPolicy() call {
	c := call{kind: "networks", verb: "modify", ref: g.networkRef()}
	switch g.r.IntN(8) {
	case 0:
		c.body = fmt.Sprintf(`{"ResourceType":"DNS","RequestType":"Update","Settings":{"Domain":"d%d.example","ServerList":["192.0.2.9"]}}`, g.r.IntN(3))
	case 1:
		c.body = fmt.Sprintf(`{"ResourceType":"Subnet","RequestType":%q,"Settings":{"Subnets":[{"IpAddressPrefix":"10.7%d.0.0/24"}]}}`, g.word("Add", "Remove"), g.r.IntN(4))
	default:
		c.body = fmt.Sprintf(`{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[%s]}}`, g.word("Add", "Add", "Update", "Remove", "Reset"), g.some(append(slices.Clip(networkPolicies), overlayPolicies...), 3))
	}
	return c
}

func (g *gen) endpoint() call {
	w := g.h.World()
	all := w.AllEndpoints()
	if len(all) >= tortureEndpoints || len(all) > 4 && g.r.IntN(3) == 0 {
		return call{kind: "endpoints", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.Id}
	}
	members := fmt.Sprintf(`"HostComputeNetwork":%q,"Policies":[%s]`, g.networkRef(), g.some(endpointPolicies, 3))
	if g.r.IntN(3) == 0 {
		members += fmt.Sprintf(`,"IpConfigurations":[{"IpAddress":%q}]`, g.addr())
	}
	if g.r.IntN(5) == 0 {
		members += fmt.Sprintf(`,"MacAddress":"02-11-00-00-00-%02x"`, g.r.IntN(9))
	}
	if spaces := w.AllNamespaces(); len(spaces) > 0 && g.r.IntN(3) == 0 {
		members += fmt.Sprintf(`,"HostComputeNamespace":%q`, spaces[g.r.IntN(len(spaces))].Doc.Id)
	}
	switch g.r.IntN(8) {
	case 0:
		members += fmt.Sprintf(`,"Flags":%d`, g.pick(1, 2, 8, 32))
	case 1: // on another host of an overlay
		members = fmt.Sprintf(`"HostComputeNetwork":%q,"Flags":1,"MacAddress":"02-12-00-00-00-%02x","IpConfigurations":[{"IpAddress":%q}],"Policies":[{"Type":"ProviderAddress","Settings":{"ProviderAddress":"198.51.100.%d"}}]`,
			g.networkRef(), g.r.IntN(9), g.word(g.addr(), fmt.Sprintf("10.9%d.0.%d", g.r.IntN(3), 20+g.r.IntN(9))), 2+g.r.IntN(4))
	}
	return call{kind: "endpoints", verb: "create", body: g.doc(members)}
}

func (g *gen) endpointRef() string {
	all := g.h.World().AllEndpoints()
	if len(all) == 0 {
		return tortureID(0)
	}
	return all[g.r.IntN(len(all))].Doc.Id
}

func (g *gen) endpointPolicy() call {
	return call{kind: "endpoints", verb: "modify", ref: g.endpointRef(), body: fmt.Sprintf(`{"ResourceType":"Policy","RequestType":%q,"Settings":{"Policies":[%s]}}`,
		g.word("Add", "Add", "Update", "Remove", "Reset"), g.some(endpointPolicies, 3))}
}

func (g *gen) namespace() call {
	all := g.h.World().AllNamespaces()
	if len(all) >= tortureSpaces || len(all) > 2 && g.r.IntN(3) == 0 {
		return call{kind: "namespaces", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.Id}
	}
	return call{kind: "namespaces", verb: "create", body: g.doc(fmt.Sprintf(`"Type":%q`, g.word("Host", "Host", "Host", "Guest", "HostDefault")))}
}

func (g *gen) spaceRef() string {
	all := g.h.World().AllNamespaces()
	if len(all) == 0 {
		return tortureID(0)
	}
	return all[g.r.IntN(len(all))].Doc.Id
}

func (g *gen) attach() call {
	id := g.endpointRef()
	if g.r.IntN(4) > 0 { // one that can be
		var free []string
		for _, e := range g.h.World().AllEndpoints() {
			if !e.IsRemote() && e.Doc.HostComputeNamespace == "" {
				free = append(free, e.Doc.Id)
			}
		}
		if len(free) > 0 {
			id = g.word(free...)
		}
	}
	return call{kind: "namespaces", verb: "modify", ref: g.spaceRef(),
		body: fmt.Sprintf(`{"ResourceType":"Endpoint","RequestType":"Add","Settings":{"EndpointId":%q}}`, id)}
}

func (g *gen) detach() call {
	for _, ns := range g.h.World().AllNamespaces() {
		if len(ns.NICs) > 0 && g.r.IntN(3) == 0 {
			return call{kind: "namespaces", verb: "modify", ref: ns.Doc.Id,
				body: fmt.Sprintf(`{"ResourceType":"Endpoint","RequestType":"Remove","Settings":{"EndpointId":%q}}`, ns.NICs[g.r.IntN(len(ns.NICs))].Endpoint)}
		}
	}
	return g.attach()
}

func (g *gen) container() call {
	return call{kind: "namespaces", verb: "modify", ref: g.spaceRef(),
		body: fmt.Sprintf(`{"ResourceType":"Container","RequestType":%q,"Settings":{"ContainerId":"c%d"}}`, g.word("Add", "Remove", "Remove"), g.r.IntN(3))}
}

// backends are up to four endpoints as a list, mostly of one network.
func (g *gen) backends() string {
	var some []string
	members := g.h.World().EndpointsOf(g.networkRef())
	for range g.r.IntN(5) {
		if len(members) > 0 && g.r.IntN(8) > 0 {
			some = append(some, members[g.r.IntN(len(members))].Doc.Id)
		} else {
			some = append(some, g.endpointRef())
		}
	}
	list, _ := json.Marshal(some)
	if some == nil {
		return "[]"
	}
	return string(list)
}

func (g *gen) balancerDoc() string {
	v6 := g.r.IntN(3) / 2
	members := fmt.Sprintf(`"HostComputeEndpoints":%s,"Flags":%d,"PortMappings":[{"Protocol":%d,"ExternalPort":%d,"InternalPort":%d,"DistributionType":%d,"Flags":%d}]`,
		g.backends(), 2*v6+g.r.IntN(2), g.pick(0, 6, 17), g.pick(0, 30080, 30081, 30082, 30083), g.pick(0, 80, 81), g.r.IntN(3), g.pick(0, 1, 2, 3, 4, 8, 12, 16, 18))
	if g.r.IntN(3) > 0 {
		members += fmt.Sprintf(`,"FrontendVIPs":[%q]`, []string{fmt.Sprintf("10.96.0.%d", 1+g.r.IntN(5)), fmt.Sprintf("fd96::%d", 1+g.r.IntN(5))}[v6])
	}
	if g.r.IntN(5) == 0 {
		members += fmt.Sprintf(`,"SourceVIP":%q`, g.addr())
	}
	return g.doc(members)
}

func (g *gen) balancer() call {
	all := g.h.World().AllLoadBalancers()
	if len(all) >= tortureBalancers || len(all) > 4 && g.r.IntN(3) == 0 {
		return call{kind: "loadbalancers", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.Id}
	}
	return call{kind: "loadbalancers", verb: "create", body: g.balancerDoc()}
}

func (g *gen) balanced() call {
	c := call{kind: "loadbalancers", verb: "modify", ref: tortureID(0)}
	if all := g.h.World().AllLoadBalancers(); len(all) > 0 {
		c.ref = all[g.r.IntN(len(all))].Doc.Id
	}
	if c.body = g.balancerDoc(); g.r.IntN(2) == 0 {
		c.body = fmt.Sprintf(`{"RequestType":%q,"Settings":{"HostComputeEndpoints":%s}}`, g.word("Add", "Remove"), g.backends())
	}
	return c
}

// serviceDoc is of any type; backends are named by id, or by a name that an endpoint
// has, had or may have.
func (g *gen) serviceDoc() string {
	var backends []string
	for range g.r.IntN(4) {
		backends = append(backends, fmt.Sprintf("%q", g.word(g.endpointRef(), fmt.Sprintf("t%d", g.r.IntN(30)), fmt.Sprintf("c%d", g.r.IntN(9)))))
	}
	members := fmt.Sprintf(`"Type":%q,"Backends":[%s],"Ports":[{"Name":"a","Protocol":%q,"Port":%d,"TargetPort":%d,"NodePort":%d}],"AffinitySeconds":%d,"ExternalPolicy":%q,"InternalPolicy":%q`,
		g.word("ClusterIP", "ClusterIP", "NodePort", "NodePort", "LoadBalancer"), strings.Join(backends, ","), g.word("", "TCP", "UDP", "SCTP"),
		g.pick(80, 81, 30080), g.pick(0, 80, 8080), g.pick(0, 0, 31003, 30081), g.pick(0, 0, 60), g.word("", "Local", "Cluster"), g.word("", "", "Local"))
	switch g.r.IntN(10) {
	case 0:
		members = `"Type":"ExternalName","ExternalName":"www.example.com"`
	case 1:
		members += `,"ClusterIPs":["None"]`
	case 2:
		members += fmt.Sprintf(`,"ClusterIPs":["10.97.0.%d"]`, g.r.IntN(16))
	case 3:
		members += fmt.Sprintf(`,"LoadBalancerIPs":["198.51.100.%d"]`, g.r.IntN(16))
	case 4:
		members += `,"NodeAddresses":["198.51.100.1"]`
	}
	return g.doc(members)
}

func (g *gen) service() call {
	all := g.h.World().AllServices()
	if len(all) >= tortureServices || len(all) > 3 && g.r.IntN(3) == 0 {
		return call{kind: "services", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.ID}
	}
	return call{kind: "services", verb: "create", body: g.serviceDoc()}
}

func (g *gen) served() call {
	c := call{kind: "services", verb: "modify", ref: tortureID(0), body: g.serviceDoc()}
	if all := g.h.World().AllServices(); len(all) > 0 {
		s := all[g.r.IntN(len(all))]
		c.ref = s.Doc.ID
		if g.r.IntN(2) == 0 {
			c.body = fmt.Sprintf(`{"RequestType":%q,"Settings":{"Backends":[%q]}}`, g.word("Add", "Remove"), g.word(append(slices.Clone(s.Doc.Backends), g.endpointRef())...))
		}
	}
	return c
}

// vmPort plugs an endpoint into a virtual machine, or out.
func (g *gen) vmPort() call {
	id, verb := g.endpointRef(), g.word("Add", "Add", "Remove")
	for _, e := range g.h.World().AllEndpoints() {
		if e.VM != nil && g.r.IntN(3) > 0 {
			id, verb = e.Doc.Id, "Remove"
		}
	}
	return call{kind: "endpoints", verb: "modify", ref: id, body: fmt.Sprintf(`{"ResourceType":"Port","RequestType":%q,"Settings":{"PortId":%q,"VirtualMachineId":%q}}`,
		verb, g.word("", tortureID(0x400+g.r.IntN(4))), g.word("", tortureID(0x300+g.r.IntN(4))))}
}

// guest is the networking of a virtual machine: a document alone.
func (g *gen) guest() call {
	all := g.h.World().AllGuestServices()
	switch {
	case len(all) >= tortureGuests || len(all) > 1 && g.r.IntN(3) == 0:
		return call{kind: "guestnetworkservices", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.ID}
	case len(all) > 0 && g.r.IntN(2) == 0:
		return call{kind: "guestnetworkservices", verb: "modify", ref: all[g.r.IntN(len(all))].Doc.ID,
			body: fmt.Sprintf(`{"ResourceType":"State","RequestType":"Update","Settings":{"State":%q}}`, g.word("Bootstrapping", "Synchronized", "Paused"))}
	}
	return call{kind: "guestnetworkservices", verb: "create", body: g.doc(fmt.Sprintf(`"VirtualMachineId":%q`, tortureID(0x300+g.r.IntN(4))))}
}

func (g *gen) route() call {
	all := g.h.World().AllSDNRoutes()
	body := g.doc(fmt.Sprintf(`"HostComputeEndpoints":%s,"Setting":[{"DestinationPrefix":"10.%d.0.0/16","NeedEncap":%v,"NextHop":%q}]`, g.backends(), 110+g.r.IntN(3), g.r.IntN(2) == 0, g.word("", g.addr())))
	switch {
	case len(all) >= tortureRoutes || len(all) > 2 && g.r.IntN(3) == 0:
		return call{kind: "sdnroutes", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.ID}
	case len(all) > 0 && g.r.IntN(2) == 0:
		return call{kind: "sdnroutes", verb: "modify", ref: all[g.r.IntN(len(all))].Doc.ID, body: body}
	}
	return call{kind: "sdnroutes", verb: "create", body: body}
}

func (g *gen) ports() call {
	all := g.h.World().AllReservations()
	if len(all) >= tortureHeld || len(all) > 2 && g.r.IntN(3) == 0 {
		return call{kind: "ports", verb: "delete", ref: all[g.r.IntN(len(all))].Doc.ID}
	}
	return call{kind: "ports", verb: "create", body: g.doc(fmt.Sprintf(`"Protocol":%d,"Access":%d,"StartingPort":%d,"Count":%d`, 1+g.r.IntN(3), 1+g.r.IntN(2), g.pick(0, 8001, 30081, 7000), g.r.IntN(4)))}
}

// plug is what a container's start and end do.
func (g *gen) plug() call {
	plugs := g.h.Plugs()
	ids := make([]string, 0, len(plugs))
	for id := range plugs {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	if len(ids) > 3 || len(ids) > 0 && g.r.IntN(2) == 0 {
		return call{verb: "unplug", ref: ids[g.r.IntN(len(ids))]}
	}
	return call{verb: "plug", ref: tortureID(0x100 + g.r.IntN(6)), body: fmt.Sprintf(`{"ID":%q,"Name":"c%d","HostComputeNetwork":%q,"Policies":[%s]}`,
		tortureID(0x200+g.r.IntN(6)), g.r.IntN(9), g.networkRef(), g.some(endpointPolicies, 2))}
}

// do carries a verb out.
func (c call) do(ctx context.Context, h *HNS) error {
	switch c.verb {
	case "plug":
		_, err := h.Plug(ctx, "rt-"+c.ref, c.ref, []json.RawMessage{json.RawMessage(c.body)})
		return err
	case "unplug":
		return h.Unplug(ctx, c.ref)
	case "lend":
		var l model.DHCPLease
		if err := json.Unmarshal([]byte(c.body), &l); err != nil { // spoiled: no client tells that
			return &model.Error{Code: hcn.HCN_E_INVALID_JSON, Text: err.Error()}
		}
		return h.Lend(ctx, c.ref, l)
	}
	of := h.Collections()[c.kind]
	switch c.verb {
	case "create":
		_, _, err := of.Create(ctx, json.RawMessage(c.body))
		return err
	case "modify":
		_, err := of.Modify(ctx, c.ref, json.RawMessage(c.body), c.match)
		return err
	}
	return of.Delete(ctx, c.ref, c.match)
}
