/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* L6: where the packet goes, and how it is handed over there. */
#ifndef GH_ROUTE_H
#define GH_ROUTE_H

#include "lb.h"

/* BPF_FIB_LOOKUP_SKIP_NEIGH, since 6.3: redirect_neigh looks the neighbour up anyway. */
#define GH_FIB_SKIP_NEIGH (1U << 2)
#define GH_EINVAL 22

/* gh_fib() asks the host's routing table: 1 when it has a forwarding route. */
static __always_inline int gh_fib(struct __sk_buff *skb, struct bpf_fib_lookup *fib)
{
	int ret = bpf_fib_lookup(skb, fib, sizeof(*fib), GH_FIB_SKIP_NEIGH);

	if (ret == -GH_EINVAL)
		ret = bpf_fib_lookup(skb, fib, sizeof(*fib), 0);
	return ret == BPF_FIB_LKUP_RET_SUCCESS || ret == BPF_FIB_LKUP_RET_NO_NEIGH;
}

/* A refusal in one number: reason, layer and what the sender is told. */
#define GH_NO(reason, layer, how) (-(int)((reason) | (layer) << 8 | (how) << 16))

/* The way to dst as a packet of port id sees it: its own routes come first. */
static __always_inline const struct gh_route_val *gh_route_get(const struct gh_port *in, __u16 id, __u16 zone,
							       const struct gh_addr *dst)
{
	struct gh_route_key k __attribute__((aligned(8))) = { .prefixlen = 160, .zone = zone };
	const struct gh_route_val *rt = NULL;

	__builtin_memcpy(&k.addr, dst, 16);
	if (in->flags & GH_PORT_ROUTES) {
		k.port = id;
		rt = bpf_map_lookup_elem(&route, &k);
		k.port = 0;
	}
	return rt ? rt : bpf_map_lookup_elem(&route, &k);
}

/*
 * Multicast, loopback, and in IPv6 link-local destinations end at the network.
 * 169.254.0.0/16 is routed: clouds keep their metadata there.
 */
static __always_inline int gh_unroutable(const struct gh_addr *dst, int fam)
{
	__u32 first = bpf_ntohl(gh_word(dst, fam == 4 ? 3 : 0));

	if (fam == 4)
		return first >> 28 >= 0xe || first >> 24 == 127 || !(first >> 24);
	return first >> 24 == 0xff || first >> 22 == 0xfe80 >> 6 || !first;
}

static __always_inline const struct gh_nh *gh_nh_get(__u32 id)
{
	return bpf_map_lookup_elem(&nh, &id);
}

/*
 * gh_hand_over() fills how a packet reaches the vNIC behind q. What the host
 * gets bears the sender's MAC, what endpoints get bears their gateway's.
 */
static __always_inline int gh_hand_over(const struct gh_port *q, const struct gh_port *from, __u8 *kind,
					__u32 *ifindex, __u8 *dmac, __u8 *smac)
{
	const __u8 *sender = q->gw_mac;

	if (!(q->flags & GH_PORT_UP))
		return GH_NO(GH_DROP_PORT_DOWN, GH_LAYER_ROUTE, GH_REJECT_HOST);
	*ifindex = q->ifindex;
	switch (q->kind) {
	case GH_PORT_CONTAINER:
		*kind = q->flags & GH_PORT_NO_PEER ? GH_OUT_EGRESS : GH_OUT_PEER;
		break;
	case GH_PORT_VM:
		*kind = GH_OUT_EGRESS;
		break;
	case GH_PORT_HOST:
		*kind = GH_OUT_INGRESS;
		*ifindex = q->nic_ifindex;
		if (gh_is_endpoint(from->kind))
			sender = from->mac;
		break;
	case GH_PORT_TUNNEL: /* gh_layer_tunnel() fills the rest */
		*kind = GH_OUT_TUNNEL;
		break;
	default:
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	}
	__builtin_memcpy(dmac, q->mac, ETH_ALEN);
	__builtin_memcpy(smac, sender, ETH_ALEN);
	return 0;
}

static __always_inline int gh_to_port(struct gh_walk *w, __u32 id, const struct gh_port *from)
{
	const struct gh_port *q;

	w->e_out = gh_epoch_at(id); /* before the row it guards */
	q = gh_port_get(id);
	if (!q)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	w->out_port = id;
	w->okey_port = id;
	if (q->kind != GH_PORT_TUNNEL) /* which is of every zone */
		w->ozone = q->zone;
	w->mtu = q->mtu;
	w->copy = (q->flags & GH_PORT_COPY) | (q->vlan ? GH_OP_VLAN : 0);
	w->tun = q->vlan;
	return gh_hand_over(q, from, &w->out_kind, &w->out_ifindex, w->dmac, w->smac);
}

/*
 * gh_to_uplink() asks the host's routing table. src is the address the packet
 * has by now. Only uplinks that we know are taken: a route to one of our own
 * host vNICs would lead into another network.
 */
static __always_inline int gh_to_uplink(struct __sk_buff *skb, const struct gh_pkt *p, struct gh_walk *w,
					const struct gh_addr *src, const struct gh_addr *dst, int fam)
{
	struct bpf_fib_lookup fib = {};
	const struct gh_cfg *c = gh_config();
	const struct gh_port *q, *in;
	__u32 id;

	if (!c)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	fib.ifindex = c->anchor_ifindex;
	fib.l4_protocol = p->proto;
	/* Asking for one byte makes the kernel answer with the route's MTU. */
	fib.tot_len = 1;
	if (fam == 4) {
		fib.family = GH_AF_INET;
		fib.tos = p->h.tos & 0x1e;
		fib.ipv4_src = gh_word(src, 3);
		fib.ipv4_dst = gh_word(dst, 3);
	} else {
		fib.family = GH_AF_INET6;
		__builtin_memcpy(fib.ipv6_src, src, 16);
		__builtin_memcpy(fib.ipv6_dst, dst, 16);
	}
	if (!gh_fib(skb, &fib))
		return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
	id = gh_port_of(fib.ifindex);
	w->e_out = gh_epoch_at(id);
	q = gh_port_get(id);
	in = gh_port_get(p->in_port);
	if (!id || !q || !in || q->kind != GH_PORT_UPLINK || !(q->flags & GH_PORT_UP) || (in->only && in->only != id))
		return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
	w->out_kind = GH_OUT_NEIGH;
	w->out_ifindex = fib.ifindex;
	w->out_port = id;
	w->okey_port = GH_PORT_UPLINK_ANY;
	w->ozone = GH_ZONE_HOST;
	w->routed = 1;
	w->mtu = q->mtu;
	w->copy = q->flags & GH_PORT_COPY;
	if (fib.mtu_result > 1 && (fib.mtu_result < w->mtu || !w->mtu))
		w->mtu = fib.mtu_result;
	if (fam == 4) {
		/* A next hop of the other family is left to redirect_neigh. */
		gh_addr4(&w->nh, fib.family == GH_AF_INET ? fib.ipv4_dst : 0);
	} else {
		__builtin_memcpy(&w->nh, fib.ipv6_dst, 16);
	}
	return 0;
}

/* gh_layer_uplink() is L6 by the host's routes. */
__noinline int gh_layer_uplink(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_pkt *p;
	struct gh_walk *w;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	if (p->fam == 4)
		return gh_to_uplink(skb, p, w, w->reply ? &w->nsrc : &p->src, w->dsr ? &w->nh : &w->ndst, 4);
	return gh_to_uplink(skb, p, w, w->reply ? &w->nsrc : &p->src, w->dsr ? &w->nh : &w->ndst, 6);
}

#endif /* GH_ROUTE_H */
