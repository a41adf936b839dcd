/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Broadcast and multicast inside a network that asks for it (GH_NET_FLOOD), and
 * over the wire that it is bound to.
 */
#ifndef GH_FLOOD_H
#define GH_FLOOD_H

#include "apply.h"
#include "encap.h"
#include "group.h"
#include "parse.h"
#include "spoof.h"
#include "tunnel.h"

#define GH_FLOOD_MAX 256 /* members of one network that get a copy */
#define GH_FLOOD_RATE 200 /* frames a second and port */
#define GH_FLOOD_WIRE_RATE 2000 /* and of those that come by an uplink */

struct gh_flood_loop {
	struct __sk_buff *skb;
	__u32 netid, in_port, copies, vni;
	__u64 barred[GH_FLOOD_MAX / 64]; /* members whose rules do not let it in */
};

static __always_inline __u64 *gh_flood_barred(struct gh_flood_loop *l, __u32 i)
{
	return i < 64 ? &l->barred[0] : i < 128 ? &l->barred[1] : i < 192 ? &l->barred[2] : &l->barred[3];
}

static long gh_flood_ask(__u32 i, void *arg)
{
	struct gh_flood_loop *l = arg;
	struct gh_flood_key k = { .net = l->netid, .i = i };
	__u32 *member = bpf_map_lookup_elem(&flood, &k);

	if (member && gh_group_in(l->skb, *member & 0xffff))
		*gh_flood_barred(l, i) |= 1ULL << (i & 63);
	return 0;
}

static __always_inline void gh_flood_clone(struct gh_flood_loop *l, __u32 id, __u32 ifindex, __u64 flags)
{
	__u32 len = l->skb->len;

	if (bpf_clone_redirect(l->skb, ifindex, flags))
		return;
	gh_count_to(id, len);
	l->copies++;
}

static long gh_flood_one(__u32 i, void *arg)
{
	struct gh_flood_loop *l = arg;
	struct gh_flood_key k = { .net = l->netid, .i = i };
	const struct gh_port *q;
	__u32 *member, id;

	member = bpf_map_lookup_elem(&flood, &k);
	id = member ? *member & 0xffff : 0;
	/* What came out of a tunnel goes into none: its sender has told the others. */
	if (!id || id == l->in_port)
		return 0;
	q = gh_port_get(id);
	if (!q || !(q->flags & GH_PORT_UP) || (*gh_flood_barred(l, i) >> (i & 63) & 1))
		return 0;
	if (q->kind == GH_PORT_TUNNEL && !l->vni)
		return 0;
	if (q->vlan && gh_tag(l->skb, q->vlan))
		return 0;
	if (q->flags & GH_PORT_COPY)
		gh_copy(l->skb, id, GH_COPY_DELIVERED);
	if (q->kind == GH_PORT_TUNNEL && gh_encap(l->skb, l->vni, *member >> 16))
		return 0;
	/* The host's vNIC is reached through its pair, as any other port. */
	gh_flood_clone(l, id, q->ifindex, 0);
	if (q->vlan && bpf_skb_vlan_pop(l->skb)) /* never: nobody else may get it with that tag */
		return 1;
	return 0;
}

/*
 * gh_flood_wire() sends a copy out by the uplink that n is bound to, and one to
 * the host behind it, which the wire does not bring back. Where the uplink's MAC
 * stands for the sender, the egress program sees to it that others here hear it.
 * The frame in hand is changed.
 */
static __always_inline void gh_flood_wire(struct gh_flood_loop *l, __u32 uplink, __u16 vlan, __u32 flags)
{
	int rewrite = (flags & GH_NET_MAC_REWRITE) != 0;
	const struct gh_port *q = gh_port_get(uplink);
	const struct gh_net *n = gh_net_get(l->netid);
	__u8 mac[ETH_ALEN];
	__u32 dev;

	if (!q || !n || !(q->flags & GH_PORT_UP))
		return;
	dev = q->ifindex;
	if (rewrite) {
		__builtin_memcpy(mac, n->wire_mac, ETH_ALEN);
		if (bpf_skb_store_bytes(l->skb, ETH_ALEN, mac, ETH_ALEN, 0))
			return;
	}
	if (vlan && gh_tag(l->skb, vlan))
		return;
	if (q->flags & GH_PORT_COPY)
		gh_copy(l->skb, uplink, GH_COPY_DELIVERED);
	gh_flood_clone(l, uplink, dev, 0);
	if (!(flags & (GH_NET_MAC_REWRITE | GH_NET_NO_HOST)))
		gh_flood_clone(l, uplink, dev, BPF_F_INGRESS);
}

/*
 * Who may speak to groups with a source that is not in its set: hosts that have
 * no address yet, or their link-local one.
 */
static __always_inline int gh_flood_source(const struct gh_pkt *p, const struct gh_net *n)
{
	if (p->fam == 6)
		return n->flags & GH_NET_L2 ? p->proto == IPPROTO_ICMPV6 && gh_addr_zero(&p->src) :
					      gh_link_local(&p->src);
	return (n->flags & GH_NET_ARP_PASS) && !gh_word(&p->src, 3) && p->h.l4 == GH_L4_UDP &&
	       p->dport_be == GH_DHCP_SERVER;
}

/* An endpoint asks a DHCP server, which is the host and has heard it at the vNIC. */
static __always_inline int gh_flood_asks(const struct gh_pkt *p, const struct gh_net *n)
{
	return (n->flags & GH_NET_DHCP) && gh_is_endpoint(p->kind) && p->fam == 4 && p->h.l4 == GH_L4_UDP &&
	       p->sport_be == GH_DHCP_CLIENT && p->dport_be == GH_DHCP_SERVER;
}

static __always_inline int gh_is_nd(const struct gh_pkt *p)
{
	return p->proto == IPPROTO_ICMPV6 && p->h.icmp_type >= GH_ND_RS && p->h.icmp_type <= GH_ND_REDIRECT;
}

/* gh_flood_not() ends a frame of a wire of which nobody here gets a copy: it is the host's, or was. */
static __always_inline int gh_flood_not(struct __sk_buff *skb, __u32 in_port, int host)
{
	return host ? gh_pass(skb) : gh_consumed(skb, in_port, GH_LAYER_L2);
}

static __always_inline int gh_flood(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_flood_loop loop = { .skb = skb };
	__u32 netid, in_port, count, flags, uplink, zero = 0, *np;
	int bad, wire, host, tagged;
	struct gh_result *res;
	const struct gh_port *in;
	const struct gh_net *n;
	struct gh_rate *r;
	__u16 vlan, tci;
	int asked;

	if (!s)
		return TC_ACT_SHOT;
	netid = s->p.net;
	in_port = s->p.in_port;
	loop.netid = netid;
	loop.in_port = in_port;
	in = gh_port_get(in_port);
	n = gh_net_get(netid);
	if (!in || !n)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	loop.vni = in->vni;
	wire = s->p.kind == GH_PORT_WIRE;
	/* The egress program turns the host's own frames round: it knows them. */
	host = wire && !gh_own_mac(skb, in_port, in);
	if (!(n->flags & GH_NET_FLOOD) || (wire && !host && (n->flags & GH_NET_NO_HOST))) {
		if (wire)
			return gh_flood_not(skb, in_port, host);
		return gh_drop(skb, s, GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE);
	}
	if (wire && !gh_group_read(skb))
		return gh_flood_not(skb, in_port, host);
	if (gh_is_endpoint(s->p.kind) && !gh_own_mac(skb, in_port, in))
		return gh_drop(skb, s, GH_DROP_SPOOF_MAC, GH_LAYER_SPOOF);
	if (gh_flood_asks(&s->p, n))
		return gh_consumed(skb, in_port, GH_LAYER_L2);
	/* ARP and ND of ports came by their own stages, which looked at the sender. */
	if (wire && (!s->p.fam || gh_is_nd(&s->p)) && gh_usurps(skb, s->p.zone, netid))
		return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	bad = s->p.fam && !gh_is_nd(&s->p) ? gh_spoof(skb, &s->p, in, 0) : 0;
	if (!bad && s->p.fam && in->kind == GH_PORT_TUNNEL && !gh_far_source())
		bad = GH_DROP_SPOOF_IP;
	if (bad == GH_DROP_SPOOF_IP && gh_flood_source(&s->p, n))
		bad = 0;
	if (bad)
		return gh_drop(skb, s, bad, GH_LAYER_SPOOF);
	asked = gh_group_asked(&s->p);
	if (asked && (bad = gh_group_out(skb)))
		return gh_no(skb, s, bad);
	r = bpf_map_lookup_elem(&rate, &in_port);
	if (!r || !gh_rate_ok(&r->flood_s, &r->flood_n, gh_now_s(), wire ? GH_FLOOD_WIRE_RATE : GH_FLOOD_RATE)) {
		if (!host)
			return gh_drop(skb, s, GH_DROP_METER, GH_LAYER_METER);
		/* Our ports do not get it; the host does. */
		s->reason = GH_DROP_METER;
		s->layer = GH_LAYER_METER;
		gh_account(skb, s);
		return gh_pass(skb);
	}
	np = bpf_map_lookup_elem(&floodn, &netid);
	count = np ? *np : 0;
	if (count > GH_FLOOD_MAX)
		count = GH_FLOOD_MAX;
	flags = n->flags;
	uplink = n->uplink;
	vlan = n->vlan;
	tagged = wire && skb->vlan_present;
	tci = skb->vlan_tci;
	if (tagged && bpf_skb_vlan_pop(skb))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (asked && !(flags & GH_NET_NO_LOCAL))
		bpf_loop(count, gh_flood_ask, &loop, 0);
	/* From here on nothing of scratch is used: a copy's transmission may run
	 * other programs on this CPU. */
	if (!(flags & GH_NET_NO_LOCAL))
		bpf_loop(count, gh_flood_one, &loop, 0);
	if (uplink && !wire)
		gh_flood_wire(&loop, uplink, vlan, flags);
	if (unit) {
		res = bpf_map_lookup_elem(&result, &zero);
		if (res)
			res->copies = loop.copies;
	}
	if (!host)
		return gh_consumed(skb, in_port, GH_LAYER_L2);
	if (loop.copies)
		gh_count_from(in_port, skb->len);
	/* As it came. */
	if (tagged)
		bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tci);
	return gh_pass(skb);
}

#endif /* GH_FLOOD_H */
