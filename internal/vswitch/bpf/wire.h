/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Uplinks that networks are bound to. A frame from the wire belongs to such a
 * network by its tag and its MAC, or, where the uplink's MAC stands for the
 * endpoints, by its address. All else is the host's, or that of host-wide NAT and
 * published ports, as at any uplink.
 */
#ifndef GH_WIRE_H
#define GH_WIRE_H

#include "announce.h"
#include "fast.h"
#include "flood.h"
#include "reply.h"
#include "slow.h"

static __always_inline int gh_is_tag(__u16 proto)
{
	return proto == bpf_htons(ETH_P_8021Q) || proto == bpf_htons(ETH_P_8021AD);
}

/*
 * gh_priority_only() takes a tag away that names no VLAN: then the frame is an
 * untagged one. 0 for other tags, and where another tag follows.
 */
static __always_inline int gh_priority_only(struct __sk_buff *skb)
{
	return skb->vlan_present && skb->vlan_proto == bpf_htons(ETH_P_8021Q) && !(skb->vlan_tci & GH_VID) &&
	       !gh_is_tag(skb->protocol) && !bpf_skb_vlan_pop(skb);
}

static __always_inline __u32 gh_segment_get(__u16 at, __u16 vlan)
{
	struct gh_segment_key k = { .at = at, .vlan = vlan };
	__u32 *id = bpf_map_lookup_elem(&segment, &k);

	return id ? *id : 0;
}

/*
 * gh_trunk() takes the tag off a frame of trunk id: the port of that VLAN, or 0 for
 * one that is not allowed there, and where another tag follows.
 */
static __always_inline __u32 gh_trunk(struct __sk_buff *skb, __u32 id)
{
	__u16 vid = skb->vlan_tci & GH_VID;

	if (!skb->vlan_present || skb->vlan_proto != bpf_htons(ETH_P_8021Q) || !vid || gh_is_tag(skb->protocol))
		return 0;
	id = gh_segment_get(id, vid);
	return id && !bpf_skb_vlan_pop(skb) ? id : 0;
}

/*
 * A MAC that stands for endpoints at uplink id: its own, or one of its networks', which
 * fdb has under the number of the uplink: no zone has it.
 */
static __always_inline int gh_for_endpoints(__u32 id, const struct gh_port *pt, const __u8 *mac)
{
	return gh_mac_eq(mac, pt->mac) || gh_fdb_get(id, mac) == id;
}

/* gh_ip_dst() fills the destination of an IP packet; 0 when there is none. */
static __always_inline int gh_ip_dst(struct __sk_buff *skb, struct gh_addr *a)
{
	__u32 v4;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (bpf_skb_load_bytes(skb, ETH_HLEN + __builtin_offsetof(struct iphdr, daddr), &v4, 4))
			return 0;
		gh_addr4(a, v4);
		return 1;
	}
	return skb->protocol == bpf_htons(ETH_P_IPV6) &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, daddr), a, 16);
}

/* gh_wire_rest() ends what no single port gets: all of the segment, and the host. */
static __always_inline int gh_wire_rest(struct __sk_buff *skb, struct gh_scratch *s)
{
	const struct gh_port *in = gh_port_get(s->p.in_port);

	if (s->p.net && s->p.h.group)
		return gh_stage(skb, s, GH_STAGE_FLOOD);
	if (in && s->p.h.group && gh_own_mac(skb, s->p.in_port, in))
		return gh_consumed(skb, s->p.in_port, GH_LAYER_L2);
	return gh_pass(skb);
}

/*
 * gh_sorted() is gh_sort() for what there is most of: packets to the uplink's MAC
 * without a tag, for an endpoint that the wire knows by its address. All else it
 * leaves to the stage.
 */
static __always_inline int gh_sorted(struct __sk_buff *skb, struct gh_scratch *s, __u32 id)
{
	const struct gh_port *q;
	struct gh_addr dst;

	s->p.in_port = id;
	if (skb->pkt_type != PACKET_HOST || skb->vlan_present || gh_is_control(skb) || !gh_ip_dst(skb, &dst))
		return 0;
	q = gh_port_get(gh_wireip_get(id, 0, &dst));
	if (!q || q->kind == GH_PORT_UPLINK || !(q->flags & GH_PORT_UP))
		return 0;
	s->p.kind = GH_PORT_WIRE;
	s->p.zone = q->zone;
	s->p.net = q->net;
	s->p.vlan = 0;
	s->p.tun = 0;
	s->p.vtep = 0;
	s->p.h.group = 0;
	return 1;
}

/* gh_sort() is the sort stage: whose is a frame from the wire? */
static __always_inline int gh_sort(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	__u32 id = gh_port_of(skb->ifindex), target = 0;
	const struct gh_port *pt = gh_port_get(id), *q;
	__u8 macs[2 * ETH_ALEN], own, host, control;
	const struct gh_net *n;

	if (!pt || !s || gh_is_tag(skb->protocol) || bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
	    (skb->vlan_present && skb->vlan_proto != bpf_htons(ETH_P_8021Q)))
		return gh_pass(skb);
	own = gh_mac_eq(macs, pt->mac);
	host = own || gh_for_endpoints(id, pt, macs);
	control = gh_is_control(skb);
	__builtin_memset(&s->p, 0, sizeof(s->p));
	s->p.in_port = id;
	s->p.kind = GH_PORT_WIRE;
	s->p.vlan = skb->vlan_present ? skb->vlan_tci & GH_VID : 0;
	s->p.h.group = macs[0] & 1;
	s->p.net = gh_segment_get(id, s->p.vlan);
	n = gh_net_get(s->p.net);
	if (!n)
		return gh_pass(skb);
	s->p.zone = n->zone;
	if (s->p.net && !host)
		target = gh_fdb_get(s->p.zone, s->p.h.group ? macs + ETH_ALEN : macs);
	else if (host && !control && gh_ip_dst(skb, &s->p.dst))
		target = gh_wireip_get(id, s->p.vlan, &s->p.dst);
	q = gh_port_get(target);
	if (!q || q->kind == GH_PORT_UPLINK)
		target = 0;
	/* The host's copy of what an endpoint said to all has been everywhere else. */
	if (s->p.h.group && target)
		s->p.net = 0;
	if (control && (s->p.h.group || host))
		return gh_stage(skb, s, GH_STAGE_PROXY);
	if (s->p.h.group)
		return s->p.net ? gh_stage(skb, s, GH_STAGE_FLOOD) : gh_pass(skb);
	if (target && q) {
		s->p.zone = q->zone;
		s->p.net = q->net;
		if (skb->vlan_present && bpf_skb_vlan_pop(skb))
			return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_PORT);
	} else {
		if (!own || skb->vlan_present)
			return gh_pass(skb);
		return gh_stage(skb, s, GH_STAGE_OUTSIDE);
	}
	return gh_stage(skb, s, GH_STAGE_WIRE);
}

/* gh_wire() is the wire stage: the entry of what the sort stage found a network for. */
static __always_inline int gh_wire(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_in in = {};

	if (!s)
		return TC_ACT_SHOT;
	gh_load_in(&in, &s->p);
	in.port = GH_PORT_UPLINK_ANY;
	in.kind = GH_PORT_WIRE;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return gh_enter4(skb, &in, 0);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return gh_enter6(skb, &in, 0, 0);
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return gh_stage(skb, s, GH_STAGE_CONTROL);
	return gh_drop(skb, s, GH_DROP_L2_PROTO, GH_LAYER_PORT);
}

/* gh_outside() is the outside stage: the same as at an uplink that no network is bound to. */
static __always_inline int gh_outside(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_in in = {};

	if (!s)
		return TC_ACT_SHOT;
	in.in_port = s->p.in_port;
	in.port = GH_PORT_UPLINK_ANY;
	in.zone = GH_ZONE_HOST;
	in.kind = GH_PORT_UPLINK;
	if (skb->protocol == bpf_htons(ETH_P_IP))
		return gh_enter4(skb, &in, 1);
	if (skb->protocol == bpf_htons(ETH_P_IPV6))
		return gh_enter6(skb, &in, 1, 0);
	return gh_pass(skb);
}

/*
 * gh_control() is the control stage: ARP and ND go by their MAC without a flow.
 * Where the uplink's MAC stands for the sender's, it does so inside them, too.
 */
static __always_inline int gh_control(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in, *q;
	const struct gh_net *n;
	struct gh_head hd = {};
	__u8 macs[2 * ETH_ALEN], mac[ETH_ALEN];
	struct gh_rate *r;
	__u32 id = 0, at;
	struct gh_pkt *p;
	int no;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->p;
	at = p->in_port;
	in = gh_port_get(at);
	n = gh_net_get(p->net);
	r = bpf_map_lookup_elem(&rate, &at);
	if (!in || !n || !r || bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (p->kind == GH_PORT_WIRE && gh_usurps(skb, p->zone, p->net))
		return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	if ((macs[0] & 1) && !(n->flags & GH_NET_MAC_REWRITE))
		return gh_stage(skb, s, GH_STAGE_FLOOD);
	if (macs[0] & 1) {
		if (!gh_rate_ok(&r->flood_s, &r->flood_n, gh_now_s(), GH_FLOOD_RATE))
			return gh_drop(skb, s, GH_DROP_METER, GH_LAYER_METER);
	} else if (p->kind == GH_PORT_WIRE || !(n->flags & GH_NET_NO_LOCAL)) {
		id = gh_fdb_get(p->zone, macs);
	}
	if (id && id == at)
		return gh_drop(skb, s, GH_DROP_LOOP, GH_LAYER_ROUTE);
	q = gh_port_get(id);
	if (gh_hostless(p, n, in, q, macs))
		return gh_drop(skb, s, GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE);
	if (id && q && q->kind != GH_PORT_UPLINK) {
		no = gh_hand_over(q, in, &hd.out_kind, &hd.out_ifindex, hd.dmac, hd.smac);
		if (no)
			return gh_drop(skb, s, -no & 0xff, GH_LAYER_ROUTE);
		if (q->vlan && gh_tag(skb, q->vlan))
			return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	} else {
		if (p->kind == GH_PORT_WIRE || !n->uplink)
			return gh_drop(skb, s, GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE);
		hd.out_kind = id ? GH_OUT_INGRESS : GH_OUT_EGRESS;
		id = n->uplink;
		q = gh_port_get(id);
		if (!q || !(q->flags & GH_PORT_UP))
			return gh_drop(skb, s, GH_DROP_PORT_DOWN, GH_LAYER_ROUTE);
		hd.out_ifindex = q->ifindex;
		__builtin_memcpy(mac, n->wire_mac, ETH_ALEN);
		if (n->flags & GH_NET_MAC_REWRITE) {
			no = p->fam ? gh_nd_options(skb, p->net) : 0;
			if (no)
				return gh_drop(skb, s, no, GH_LAYER_L2);
			if (bpf_skb_store_bytes(skb, ETH_ALEN, mac, ETH_ALEN, 0) ||
			    (!p->fam && bpf_skb_store_bytes(skb, __builtin_offsetof(struct gh_arp, sha), mac,
							    ETH_ALEN, 0)))
				return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
		}
		if (n->vlan && gh_tag(skb, n->vlan))
			return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	}
	if (q->flags & GH_PORT_COPY)
		gh_copy(skb, id, GH_COPY_DELIVERED);
	gh_count(at, id, skb->len);
	gh_note(skb, GH_RESULT_FORWARD, hd.out_kind, hd.out_ifindex, id, 0, GH_LAYER_L2, 0);
	return gh_send(skb, &hd, 0, NULL);
}

/* gh_proxied() gives a port what came for it in the uplink's name. */
static __always_inline int gh_proxied(struct __sk_buff *skb, struct gh_scratch *s, __u32 id, const struct gh_port *in)
{
	const struct gh_port *q = gh_port_get(id);
	struct gh_head hd = {};
	int no;

	if (!q)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (gh_usurps(skb, q->zone, q->net))
		return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	no = gh_hand_over(q, in, &hd.out_kind, &hd.out_ifindex, hd.dmac, hd.smac);
	if (no)
		return gh_drop(skb, s, -no & 0xff, GH_LAYER_ROUTE);
	if (bpf_skb_store_bytes(skb, 0, hd.dmac, ETH_ALEN, 0) ||
	    (s->p.fam == 0 &&
	     bpf_skb_store_bytes(skb, __builtin_offsetof(struct gh_arp, tha), hd.dmac, ETH_ALEN, 0)) ||
	    (skb->vlan_present && bpf_skb_vlan_pop(skb)) || (q->vlan && gh_tag(skb, q->vlan)))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (q->flags & GH_PORT_COPY)
		gh_copy(skb, id, GH_COPY_DELIVERED);
	gh_count(s->p.in_port, id, skb->len);
	gh_note(skb, GH_RESULT_FORWARD, hd.out_kind, hd.out_ifindex, id, 0, GH_LAYER_L2, 0);
	return gh_send(skb, &hd, 0, NULL);
}

/*
 * gh_stand_in() fills the MAC that stands for port id at the wire. 0 when the host
 * asks, whose frame was turned round, and is no member of its network.
 */
static __always_inline int gh_stand_in(__u32 id, int turned, __u8 *mac)
{
	const struct gh_port *q = gh_port_get(id);
	const struct gh_net *n = q ? gh_net_get(q->net) : NULL;

	if (!n || (turned && (n->flags & GH_NET_NO_HOST)))
		return 0;
	__builtin_memcpy(mac, n->wire_mac, ETH_ALEN);
	return 1;
}

static __always_inline int gh_proxy_arp(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_port *in)
{
	struct gh_addr tip __attribute__((aligned(8)));
	__u32 sip4, tip4, id;
	int turned = gh_turned(skb, in);
	__u8 mac[ETH_ALEN];
	struct gh_arp a;

	if (bpf_skb_load_bytes(skb, 0, &a, sizeof(a)) || a.hrd != bpf_htons(1) || a.pro != bpf_htons(ETH_P_IP) ||
	    a.hln != ETH_ALEN || a.pln != 4)
		return gh_wire_rest(skb, s);
	__builtin_memcpy(&sip4, a.sip, 4);
	__builtin_memcpy(&tip4, a.tip, 4);
	gh_addr4(&tip, tip4);
	if (!skb->vlan_present && a.op == GH_ARP_REQUEST && sip4 != tip4 && gh_announced(s->p.in_port, 0, &tip))
		return gh_stage(skb, s, GH_STAGE_VIP);
	id = gh_wireip_get(s->p.in_port, s->p.vlan, &tip);
	if (id && !gh_stand_in(id, turned, mac))
		return gh_consumed(skb, s->p.in_port, GH_LAYER_L2);
	if (id && a.op == GH_ARP_REQUEST && sip4 != tip4) {
		gh_arp_turn(&a, mac, sip4, tip4);
		if (bpf_skb_store_bytes(skb, 0, &a, sizeof(a), 0))
			return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
		return gh_answer(skb, s, in, skb->len, turned);
	}
	if (id && a.op == GH_ARP_REPLY && !s->p.h.group)
		return gh_proxied(skb, s, id, in);
	return gh_wire_rest(skb, s);
}

static __always_inline int gh_proxy_nd(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_port *in)
{
	struct gh_nd_frame *f = (struct gh_nd_frame *)s->buf;
	struct gh_addr target __attribute__((aligned(8)));
	int turned = gh_turned(skb, in);
	__u8 mac[ETH_ALEN];
	__u32 id, asked;

	if (bpf_skb_load_bytes(skb, 0, &f->eth, GH_ND_FRAME - 8) || f->ip.hop_limit != 255)
		return gh_wire_rest(skb, s);
	s->p.fam = 6;
	s->p.proto = IPPROTO_ICMPV6;
	s->p.h.icmp_type = f->nd.type;
	__builtin_memcpy(&s->p.src, &f->ip.saddr, 16);
	__builtin_memcpy(&target, f->nd.target, 16);
	if (!skb->vlan_present && f->nd.type == GH_ND_NS && gh_announced(s->p.in_port, 0, &target))
		return gh_stage(skb, s, GH_STAGE_VIP);
	id = f->nd.type == GH_ND_NS ? gh_wireip_get(s->p.in_port, s->p.vlan, &target) : 0;
	if (id) {
		if (!gh_stand_in(id, turned, mac))
			return gh_consumed(skb, s->p.in_port, GH_LAYER_L2);
		asked = skb->len;
		if (gh_advertise(skb, f, &s->p.src, &target, mac, 0))
			return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
		return gh_answer(skb, s, in, asked, turned);
	}
	__builtin_memcpy(&target, &f->ip.daddr, 16);
	id = s->p.h.group ? 0 : gh_wireip_get(s->p.in_port, s->p.vlan, &target);
	if (id && !gh_stand_in(id, turned, mac))
		return gh_consumed(skb, s->p.in_port, GH_LAYER_L2);
	if (id)
		return gh_proxied(skb, s, id, in);
	return gh_wire_rest(skb, s);
}

/* gh_proxy() is the proxy stage. */
static __always_inline int gh_proxy(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in;

	if (!s)
		return TC_ACT_SHOT;
	in = gh_port_get(s->p.in_port);
	if (!in)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return gh_proxy_arp(skb, s, in);
	return gh_proxy_nd(skb, s, in);
}

/*
 * gh_turn_round() lets a frame of the host enter by the device it leaves by, as
 * if the wire had brought it, when an endpoint here is to get it: so it passes
 * all layers. What ports sent has other source MACs, or was rewritten.
 */
static __always_inline int gh_turn_round(struct __sk_buff *skb)
{
	struct gh_addr dst __attribute__((aligned(8)));
	const struct gh_port *from = gh_port_get(gh_port_of(skb->ingress_ifindex)), *pt, *q;
	__u32 id, to = 0;
	const struct gh_net *n;
	__u8 macs[2 * ETH_ALEN];
	__u16 vlan;

	/* Most of what leaves has just come from a port: it was switched already. */
	if (from && (from->flags & GH_PORT_UP) && from->kind != GH_PORT_UPLINK)
		return GH_PASS_ON;
	id = gh_port_of(skb->ifindex);
	pt = gh_port_get(id);
	if (!id || !pt || !(pt->flags & GH_PORT_WIRES) || bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)) ||
	    !gh_mac_eq(macs + ETH_ALEN, pt->mac))
		return GH_PASS_ON;
	vlan = skb->vlan_present ? skb->vlan_tci & GH_VID : 0;
	n = gh_net_get(gh_segment_get(id, vlan));
	if (!n)
		return GH_PASS_ON;
	if (macs[0] & 1) {
		if ((n->flags & GH_NET_FLOOD) || gh_is_control(skb))
			bpf_clone_redirect(skb, skb->ifindex, BPF_F_INGRESS);
		return GH_PASS_ON;
	}
	if (!gh_for_endpoints(id, pt, macs))
		to = gh_fdb_get(n->zone, macs);
	else if (gh_ip_dst(skb, &dst))
		to = gh_wireip_get(id, vlan, &dst);
	q = gh_port_get(to);
	n = q ? gh_net_get(q->net) : NULL;
	if (!to || !q || !n || q->kind == GH_PORT_UPLINK || (n->flags & GH_NET_NO_LOCAL))
		return GH_PASS_ON;
	skb->mark = 0;
	return bpf_redirect(skb->ifindex, BPF_F_INGRESS);
}

#endif /* GH_WIRE_H */
