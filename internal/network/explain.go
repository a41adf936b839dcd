// SPDX-License-Identifier: Apache-2.0
// Copyright The gatehouse authors

package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"gatehouse.dev/gatehouse/hcn"
	"gatehouse.dev/gatehouse/internal/network/model"
	"gatehouse.dev/gatehouse/internal/vswitch"
	"gatehouse.dev/gatehouse/internal/vswitch/bpf/pkt"
	"gatehouse.dev/gatehouse/internal/vswitch/explain"
)

// Sight are the hands that look at the kernel for Explain, and only look.
type Sight interface {
	// Look calls f with the flows and the routing table of the moment.
	Look(f func(explain.Live, explain.FIB)) error
}

// Words for ends that are not endpoints.
const (
	endHost    = "host"
	endOutside = "outside"
	endGateway = "gateway"
)

const (
	explainPort = 50000 // a source port that no service has
	protoTCP    = 6
)

// Machines outside when none is named: TEST-NET-3 (RFC 5737) and the
// documentation prefix of IPv6 (RFC 3849).
func someoneOutside(is4 bool) netip.Addr {
	if is4 {
		return netip.AddrFrom4([4]byte{203, 0, 113, 1})
	}
	return netip.AddrFrom16([16]byte{0x20, 0x01, 0x0d, 0xb8, 0xff, 0xff, 15: 1})
}

// Explain says what would happen to the first packet of a conversation: it walks
// the tables that the switch holds now and asks the kernel for flows and routes.
// Nothing is sent, nothing is written.
func (h *HNS) Explain(_ context.Context, body json.RawMessage) (hcn.Explanation, error) {
	var r hcn.ExplainRequest
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(&r); err != nil {
		return hcn.Explanation{}, wrap("explain", &model.Error{Code: hcn.HCN_E_INVALID_JSON, Text: err.Error()})
	}
	q := question{h: h, w: h.World(), facts: h.Facts(), r: r}
	if t := h.tables.Load(); t != nil {
		q.sw.Rows = t.Rows()
	} else {
		q.sw.Rows = vswitch.Tables{}.Rows()
	}
	q.names()
	var x hcn.Explanation
	var err error
	look := func(l explain.Live, f explain.FIB) {
		q.sw.Live, q.sw.FIB = l, f
		x, err = q.answer()
	}
	if h.o.Sight == nil {
		look(nil, nil)
	} else if lerr := h.o.Sight.Look(look); lerr != nil {
		err = errors.Join(err, lerr)
	}
	return x, wrap("explain", err)
}

// question is one request on its way to an answer.
type question struct {
	h     *HNS
	w     model.World
	facts vswitch.Facts
	r     hcn.ExplainRequest
	sw    explain.Switch
	ports map[vswitch.PortID]string

	from, to end
	src, dst netip.Addr
	x        hcn.Explanation
}

// end is one of the two.
type end struct {
	text      string
	kind      string // endHost, endOutside, endGateway, "" = endpoint or address
	endpoints []*model.Endpoint
	addr      netip.Addr // as named; invalid = not named
}

func (q *question) names() {
	q.ports = map[vswitch.PortID]string{}
	for _, e := range q.w.AllEndpoints() {
		name := e.Doc.Name
		if name == "" {
			name = e.Doc.Id
		}
		q.ports[e.Port] = "endpoint " + name
	}
	q.ports[model.ResolverPort] = "the network's resolver"
	nets := map[vswitch.NetworkID]string{}
	for _, n := range q.w.AllNetworks() {
		for _, v := range n.Numbers() {
			nets[v] = n.Doc.Name
		}
		if n.HostPort != 0 {
			q.ports[n.HostPort] = "the host"
		}
		if n.Tunnel != 0 {
			q.ports[n.Tunnel] = "another host by the tunnel"
		}
	}
	if t := q.h.tables.Load(); t != nil {
		for _, u := range t.Uplinks {
			q.ports[u.Port] = "uplink " + u.Name
		}
	}
	q.sw.Name = func(p vswitch.PortID) string { return q.ports[p] }
	q.sw.NetworkName = func(n vswitch.NetworkID) string { return nets[n] }
}

func invalid(field, format string, args ...any) error {
	return &model.Error{Code: hcn.E_INVALID_PARAMETER, Field: field, Text: fmt.Sprintf(format, args...)}
}

func (q *question) answer() (hcn.Explanation, error) {
	var err error
	if len(q.r.Frame) > 0 {
		err = q.frameAsItIs()
		return q.x, err
	}
	if q.from, err = q.end("From", q.r.From); err != nil {
		return q.x, err
	}
	if q.to, err = q.end("To", q.r.To); err != nil {
		return q.x, err
	}
	if q.from.kind == endGateway {
		return q.x, invalid("From", "the gateway is the host; say host")
	}
	if q.r.Protocol == 0 {
		q.r.Protocol = protoTCP
		if q.r.Port == 0 {
			q.r.Protocol = pkt.ICMP
		}
	}
	if err := q.addresses(); err != nil {
		return q.x, err
	}
	switch {
	case q.r.Protocol == pkt.ICMP && q.src.Is6():
		q.r.Protocol = pkt.ICMP6
	case q.r.Protocol == pkt.ICMP6 && q.src.Is4():
		q.r.Protocol = pkt.ICMP
	}
	switch q.r.Protocol {
	case pkt.TCP, pkt.UDP, pkt.SCTP:
		if q.r.Port == 0 {
			return q.x, invalid("Port", "protocol %d needs one", q.r.Protocol)
		}
	default:
		q.r.Port = 0
	}
	q.x.From, q.x.To = q.describe(q.from, q.src), q.describe(q.to, q.dst)
	switch {
	case q.from.kind == endHost:
		q.fromHost()
	case len(q.from.endpoints) > 0:
		q.fromEndpoint()
	default:
		q.fromOutside()
	}
	return q.x, nil
}

// end understands a word of the request.
func (q *question) end(field, ref string) (end, error) {
	e := end{text: ref}
	switch strings.ToLower(ref) {
	case "":
		return e, invalid(field, "empty; name an endpoint, an address, host or outside")
	case endHost, "localhost":
		e.kind = endHost
		if ref == "localhost" {
			e.addr = netip.AddrFrom4([4]byte{127, 0, 0, 1})
		}
		return e, nil
	case endOutside, endGateway:
		e.kind = strings.ToLower(ref)
		return e, nil
	}
	if a, err := netip.ParseAddr(ref); err == nil {
		e.addr = a.Unmap()
		e.endpoints, _ = q.w.Speakers(ref)
		if len(e.endpoints) == 0 && (e.addr.IsLoopback() || q.isHost(e.addr)) {
			e.kind = endHost
		}
		return e, nil
	}
	var err error
	if e.endpoints, err = q.w.Speakers(ref); err != nil {
		return e, err
	}
	return e, nil
}

func (q *question) isHost(a netip.Addr) bool {
	for _, h := range q.facts.HostAddrs {
		if h == a {
			return true
		}
	}
	return false
}

// addresses chooses the family and both addresses.
func (q *question) addresses() error {
	var named netip.Addr
	for _, a := range []netip.Addr{q.to.addr, q.from.addr} {
		if a.IsValid() && !named.IsValid() {
			named = a
		}
	}
	if q.r.Source != "" {
		a, err := netip.ParseAddr(q.r.Source)
		if err != nil {
			return invalid("Source", "%q is not an address", q.r.Source)
		}
		q.src = a.Unmap()
		if !named.IsValid() {
			named = q.src
		}
	}
	for _, is4 := range []bool{true, false} {
		if named.IsValid() && named.Is4() != is4 {
			continue
		}
		src := q.src
		if !src.IsValid() {
			src = q.sourceOf(q.from, is4)
		}
		dst := q.addrOf(q.to, is4)
		if src.IsValid() && dst.IsValid() && src.Is4() == dst.Is4() {
			q.src, q.dst = src, dst
			return nil
		}
	}
	return invalid("To", "%s and %s have no addresses of one family", q.from.text, q.to.text)
}

func (q *question) sourceOf(e end, is4 bool) netip.Addr {
	if e.addr.IsValid() && e.addr.Is4() != is4 {
		return netip.Addr{}
	}
	if len(e.endpoints) > 0 && !e.addr.IsValid() {
		return e.endpoints[0].Addr(is4)
	}
	return q.addrOf(e, is4)
}

func (q *question) addrOf(e end, is4 bool) netip.Addr {
	switch {
	case e.addr.IsValid():
		return e.addr
	case len(e.endpoints) > 0:
		return e.endpoints[0].Addr(is4)
	case e.kind == endOutside:
		return someoneOutside(is4)
	case e.kind == endGateway:
		for _, f := range q.from.endpoints {
			if n, ok := q.w.Network(f.Doc.HostComputeNetwork); ok {
				return n.Gateway(is4)
			}
		}
		return netip.Addr{}
	}
	for _, u := range q.facts.Uplinks { // the host: what it is known by outside
		for _, p := range u.Addrs {
			if a := p.Addr(); a.Is4() == is4 && a.IsGlobalUnicast() {
				return a
			}
		}
	}
	for _, a := range q.facts.HostAddrs {
		if a.Is4() == is4 {
			return a
		}
	}
	return netip.Addr{}
}

func (q *question) describe(e end, a netip.Addr) string {
	switch {
	case len(e.endpoints) > 0 && e.endpoints[0].Doc.Name != "":
		return fmt.Sprintf("endpoint %s (%s)", e.endpoints[0].Doc.Name, a)
	case e.kind == endHost && !e.addr.IsValid() && a == q.src:
		return endHost // which of its addresses it uses follows from where it sends
	case e.kind != "":
		return fmt.Sprintf("%s (%s)", e.kind, a)
	}
	return a.String()
}

// ---- the three ways in ---------------------------------------------------------

// unsent ends an explanation before the switch.
func (q *question) unsent(layer, packet, format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	q.x.Verdict, q.x.Layer, q.x.Text = "unreachable", layer, text
	q.x.Walks = append(q.x.Walks, hcn.ExplainWalk{Packet: packet, Verdict: "unreachable", Text: text,
		Steps: []hcn.ExplainStep{{Layer: layer, Verdict: "drop", Reason: text}}})
}

// unseen ends an explanation of a packet that never comes to the switch.
func (q *question) unseen(layer, why string) {
	q.x.Verdict, q.x.Text = "pass", why
	q.x.Walks = append(q.x.Walks, hcn.ExplainWalk{Verdict: "pass", Text: why, Steps: []hcn.ExplainStep{{Layer: layer, Verdict: "pass", Reason: why}}})
}

// isOwn reports whether the sender's own kernel keeps the packet: a loopback
// address, or one of any vNIC in the sender's compartment.
func (q *question) isOwn() bool {
	in := func(e *model.Endpoint) bool {
		return e.Attached() && e.Doc.HostComputeNamespace == q.from.endpoints[0].Doc.HostComputeNamespace
	}
	return in(q.from.endpoints[0]) && (q.dst.IsLoopback() || slices.ContainsFunc(q.to.endpoints, in))
}

func (q *question) fromEndpoint() {
	if q.isOwn() {
		q.unseen("compartment", fmt.Sprintf("%s is the container itself: its own kernel answers over loopback, and a process in it has to listen", q.dst))
		return
	}
	e, how, hop := q.chooseNIC()
	if e == nil {
		e = q.from.endpoints[0]
		if !e.Attached() {
			q.unsent("compartment", "", "endpoint %s is not attached to a namespace, so nothing can be sent", e.Doc.Name)
		} else {
			q.unsent("compartment", "", "the container has no route to %s: its own kernel refuses (network is unreachable)", q.dst)
		}
		return
	}
	if q.r.Source == "" && !q.from.addr.IsValid() {
		q.src = e.Addr(q.dst.Is4())
	}
	row := q.sw.Rows.Port[uint32(e.Port)]
	p := explain.Packet{Ifindex: int(row.Ifindex)}
	q.before(hcn.ExplainStep{Layer: "compartment", Verdict: "pass", Reason: how})
	if hop.IsValid() && !q.neighbour(p, pkt.MAC(row.Mac), e.Addr(hop.Is4()), hop) {
		return
	}
	q.walk(p, pkt.MAC(row.Mac), pkt.MAC(row.GwMac))
}

// before adds what happens before the switch sees anything.
func (q *question) before(steps ...hcn.ExplainStep) {
	q.x.Walks = append(q.x.Walks, hcn.ExplainWalk{Steps: steps, Verdict: "pass"})
}

// neighbour asks the switch, as the sender's kernel would, who has the address
// that the packet is handed to on the link. It adds a walk, and ends the
// explanation when there is no answer.
func (q *question) neighbour(p explain.Packet, mac pkt.MAC, from, hop netip.Addr) bool {
	k := pkt.Packet{From: mac, To: pkt.MAC{255, 255, 255, 255, 255, 255}, Ether: pkt.EtherARP, Src: from, Dst: hop, Op: 1, ArpSrc: mac}
	if hop.Is6() {
		a := hop.As16()
		k = pkt.Packet{From: mac, To: pkt.MAC{0x33, 0x33, 0xff, a[13], a[14], a[15]}, Ether: pkt.EtherIP6, Src: from, Proto: pkt.ICMP6, TTL: 255, Type: 135,
			Dst:    netip.AddrFrom16([16]byte{0xff, 0x02, 11: 1, 12: 0xff, 13: a[13], 14: a[14], 15: a[15]}), // solicited-node, RFC 4291 section 2.7.1
			Target: hop, Link: &mac}
	}
	p.Frame = k.Bytes()
	t := explain.Explain(q.sw, p)
	q.add(t)
	if t.Verdict == explain.Reply {
		return true
	}
	q.x.Verdict, q.x.Reason, q.x.Layer, q.x.Answer = "unreachable", t.Reason, t.Layer, ""
	q.x.Text = fmt.Sprintf("nobody answers for %s on the link; the sender's kernel gives up after some seconds (no route to host)", hop)
	return false
}

// chooseNIC picks the vNIC by which the container's own routing table sends. hop
// is who has to be found on the link first; invalid = known for good.
func (q *question) chooseNIC() (best *model.Endpoint, how string, hop netip.Addr) {
	bits := -1
	known := func(v model.VNIC, a netip.Addr) netip.Addr {
		for _, n := range v.Neighbours {
			if n.Addr == a {
				return netip.Addr{}
			}
		}
		return a
	}
	for _, e := range q.from.endpoints {
		v, foreign, ok := q.w.VNIC(e)
		if !ok || !e.Attached() || !e.Addr(q.dst.Is4()).IsValid() {
			continue
		}
		for _, p := range v.Addrs {
			if p.Contains(q.dst) && p.Bits() > bits {
				best, bits, how = e, p.Bits(), fmt.Sprintf("the container sends by %s, on the link", v.Name)
				hop = known(v, q.dst)
			}
		}
		for _, r := range v.Routes {
			if r.Dst.Contains(q.dst) && r.Dst.Bits() > bits {
				best, bits, how, hop = e, r.Dst.Bits(), fmt.Sprintf("the container sends by %s, on the link", v.Name), known(v, q.dst)
				if r.NextHop.IsValid() {
					how, hop = fmt.Sprintf("the container sends by %s, via %s", v.Name, r.NextHop), known(v, r.NextHop)
				}
			}
		}
		if foreign && best == nil {
			best, how = e, fmt.Sprintf("sent by %s; the namespace is not ours, its routes are not known", v.Name)
		}
	}
	return best, how, hop
}

func (q *question) fromHost() {
	dst := netip.AddrPortFrom(q.dst, q.r.Port)
	var steps []hcn.ExplainStep
	if q.r.Protocol == pkt.TCP || q.r.Protocol == pkt.UDP {
		if to, s, ok := explain.Socket(q.sw, q.r.Protocol, dst); ok {
			if s.Verdict == "drop" {
				q.unsent(s.Layer, "", "%s", s.Reason)
				return
			}
			q.dst, q.r.Port = to.Addr(), to.Port()
			steps = append(steps, stepOf(s))
		}
	}
	for _, n := range q.w.AllNetworks() {
		gw := n.Gateway(q.dst.Is4())
		if n.HostPort == 0 || !gw.IsValid() || !n.HasSubnet(q.dst) || gw == q.dst {
			continue
		}
		if q.r.Source == "" {
			q.src = gw
		}
		row := q.sw.Rows.Port[uint32(n.HostPort)]
		steps = append(steps, hcn.ExplainStep{Layer: "host", Verdict: "pass", Reason: fmt.Sprintf("the host sends by its vNIC on network %s, from %s", n.Doc.Name, q.src)})
		p := explain.Packet{Ifindex: int(row.Ifindex)}
		q.before(steps...)
		if q.neighbour(p, pkt.MAC(row.Mac), gw, q.dst) {
			q.walk(p, pkt.MAC(row.Mac), pkt.MAC{2, 0, 0, 0, 0, 1})
		}
		return
	}
	why := fmt.Sprintf("%s is reached by the host's own routing table; the switch does not see it", q.dst)
	if q.isHost(q.dst) || q.dst.IsLoopback() {
		why = fmt.Sprintf("%s is the host itself, and nothing is published there; a process of the host has to listen", dst)
	}
	q.unseen("host", why)
}

func (q *question) fromOutside() {
	u, ok := q.uplinkOf(q.src)
	if !ok {
		q.unsent("host", "", "the host has no uplink that %s could come by", q.src)
		return
	}
	q.walk(explain.Packet{Ifindex: u.Ifindex, Uplink: true}, pkt.MAC{2, 0, 0, 0, 0, 2}, pkt.MAC(u.MAC))
	if q.x.Verdict != string(explain.Pass) {
		return
	}
	// Left to the host. What it would do with it is its own affair, but where it
	// forwards to one of our networks the packet comes back to the switch.
	for _, n := range q.w.AllNetworks() {
		if n.HostPort != 0 && n.HasSubnet(q.dst) && !q.isHost(q.dst) {
			row := q.sw.Rows.Port[uint32(n.HostPort)]
			q.before(hcn.ExplainStep{Layer: "host", Verdict: "pass", Reason: "if the host forwards at all, it does so into network " + n.Doc.Name})
			q.walk(explain.Packet{Ifindex: int(row.Ifindex)}, pkt.MAC(row.Mac), pkt.MAC{2, 0, 0, 0, 0, 1})
			return
		}
	}
	if q.isHost(q.dst) {
		q.x.Text = fmt.Sprintf("%s is not published; the host's own stack answers", netip.AddrPortFrom(q.dst, q.r.Port))
	}
}

// uplinkOf is where packets of a machine outside come in: on whose link it is, or
// by which the host would answer it.
func (q *question) uplinkOf(a netip.Addr) (vswitch.Uplink, bool) {
	for _, u := range q.facts.Uplinks {
		for _, p := range u.Addrs {
			if p.Masked().Contains(a) {
				return u, true
			}
		}
	}
	if q.sw.FIB != nil {
		if r, ok := q.sw.FIB.Lookup(explain.FIBQuery{Anchor: q.facts.Anchor, Src: q.dst, Dst: a, Protocol: q.r.Protocol}); ok {
			for _, u := range q.facts.Uplinks {
				if u.Ifindex == r.Ifindex {
					return u, true
				}
			}
		}
	}
	if len(q.facts.Uplinks) > 0 {
		return q.facts.Uplinks[0], true
	}
	return vswitch.Uplink{}, false
}

// walk puts the packet into the switch and adds what comes of it.
func (q *question) walk(p explain.Packet, from, to pkt.MAC) {
	p.Frame = q.frame(from, to)
	q.add(explain.Explain(q.sw, p))
}

func (q *question) add(t explain.Trace) {
	k := hcn.ExplainWalk{Packet: t.Packet, Verdict: string(t.Verdict), Text: t.Outcome(), Steps: []hcn.ExplainStep{}}
	for _, s := range t.Steps {
		k.Steps = append(k.Steps, stepOf(s))
	}
	q.x.Walks = append(q.x.Walks, k)
	q.x.Verdict, q.x.Reason, q.x.Layer, q.x.Answer, q.x.Text = string(t.Verdict), t.Reason, t.Layer, t.Answer, k.Text
	q.x.Out = ""
	if t.Verdict == explain.Forward {
		q.x.Out = q.ports[t.Out]
		q.x.Text = "reaches " + q.x.Out + " as " + k.Text
	}
}

func stepOf(s explain.Step) hcn.ExplainStep {
	o := hcn.ExplainStep{Layer: s.Layer, Verdict: s.Verdict, Object: s.Object, Rule: s.Rule, NextHop: s.NextHop, Reason: s.Reason}
	if s.Before != nil && s.After != nil {
		o.Before, o.After = s.Before.String(), s.After.String()
	}
	return o
}

// frame builds the first packet of the conversation.
func (q *question) frame(from, to pkt.MAC) []byte {
	k := pkt.Packet{From: from, To: to, Ether: pkt.EtherIP, Src: q.src, Dst: q.dst, Proto: q.r.Protocol, TTL: pkt.DefaultTTL, DstPort: q.r.Port, SrcPort: q.r.SourcePort}
	if q.src.Is6() {
		k.Ether = pkt.EtherIP6
	}
	if k.SrcPort == 0 {
		k.SrcPort = explainPort
	}
	switch q.r.Protocol {
	case pkt.TCP:
		k.Flags = pkt.SYN
	case pkt.ICMP:
		k.Type, k.ID = 8, k.SrcPort
	case pkt.ICMP6:
		k.Type, k.ID = 128, k.SrcPort
	}
	return k.Bytes()
}
