/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* Broadcast and multicast inside a network that asks for it (GH_NET_FLOOD). */
#ifndef GH_FLOOD_H
#define GH_FLOOD_H

#include "encap.h"
#include "group.h"
#include "spoof.h"
#include "tunnel.h"

#define GH_FLOOD_MAX 256 /* members of one network that get a copy */
#define GH_FLOOD_RATE 200 /* frames a second and port */

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
	if (q->flags & GH_PORT_COPY)
		gh_copy(l->skb, id, GH_COPY_DELIVERED);
	if (q->kind == GH_PORT_TUNNEL && gh_encap(l->skb, l->vni, *member >> 16))
		return 0;
	/* The host's vNIC is reached through its pair, as any other port. */
	if (!bpf_clone_redirect(l->skb, q->ifindex, 0))
		l->copies++;
	return 0;
}

static __always_inline int gh_flood(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_flood_loop loop = { .skb = skb };
	__u32 netid, in_port, count, zero = 0, *np;
	struct gh_result *res;
	const struct gh_port *in;
	const struct gh_net *n;
	struct gh_rate *r;
	int bad, asked;

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
	if (!(n->flags & GH_NET_FLOOD))
		return gh_drop(skb, s, GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE);
	if (gh_is_endpoint(s->p.kind) && !gh_own_mac(skb, in))
		return gh_drop(skb, s, GH_DROP_SPOOF_MAC, GH_LAYER_SPOOF);
	/* ARP and ND came by their own stages, which looked at the sender. A host
	 * without an address yet, or with its link-local one, may speak to groups. */
	bad = s->p.fam ? gh_spoof(skb, &s->p, in) : 0;
	if (!bad && s->p.fam && in->kind == GH_PORT_TUNNEL && !gh_far_source())
		bad = GH_DROP_SPOOF_IP;
	if (bad == GH_DROP_SPOOF_IP && s->p.fam == 6 && s->p.src.b[0] == 0xfe && (s->p.src.b[1] & 0xc0) == 0x80)
		bad = 0;
	if (bad)
		return gh_drop(skb, s, bad, GH_LAYER_SPOOF);
	asked = gh_group_asked(&s->p);
	if (asked && (bad = gh_group_out(skb)))
		return gh_no(skb, s, bad);
	r = bpf_map_lookup_elem(&rate, &in_port);
	if (!r || !gh_rate_ok(&r->flood_s, &r->flood_n, gh_now_s(), GH_FLOOD_RATE))
		return gh_drop(skb, s, GH_DROP_METER, GH_LAYER_METER);
	np = bpf_map_lookup_elem(&floodn, &netid);
	count = np ? *np : 0;
	if (count > GH_FLOOD_MAX)
		count = GH_FLOOD_MAX;
	if (asked)
		bpf_loop(count, gh_flood_ask, &loop, 0);
	/* From here on nothing of scratch is used: a copy's transmission may run
	 * other programs on this CPU. */
	bpf_loop(count, gh_flood_one, &loop, 0);
	if (unit) {
		res = bpf_map_lookup_elem(&result, &zero);
		if (res)
			res->copies = loop.copies;
	}
	return gh_consumed(skb, GH_LAYER_L2);
}

#endif /* GH_FLOOD_H */
