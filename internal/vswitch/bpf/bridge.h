/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * L6 of networks that forward by MAC: which port, the wire of the uplink the
 * network is bound to, or the host behind it. MACs and TTL stay as they are,
 * except that towards the wire the uplink's MAC may stand for the sender's, and
 * that what came for the uplink's MAC gets the endpoint's.
 */
#ifndef GH_BRIDGE_H
#define GH_BRIDGE_H

#include "route.h"

/* Nothing of the packet but its MAC decides where it goes. */
static __always_inline int gh_by_mac(const struct gh_scratch *s)
{
	return s->p.l2 && !s->w.svc;
}

/* And no service can change that: it comes from a wire, or answers. */
static __always_inline int gh_only_by_mac(const struct gh_scratch *s)
{
	return gh_by_mac(s) && (s->p.kind == GH_PORT_WIRE || (s->w.keep && s->w.reply));
}

/*
 * gh_switch() finds the port for a frame of p's network: 0 for none here. What
 * comes by a wire for the uplink's MAC is found by its address.
 */
static __always_inline __u32 gh_switch(const struct gh_pkt *p, const struct gh_net *n, const __u8 *dmac)
{
	if (p->kind != GH_PORT_WIRE)
		return n->flags & GH_NET_NO_LOCAL ? 0 : gh_fdb_get(p->zone, dmac);
	if (n->flags & GH_NET_MAC_REWRITE)
		return gh_wireip_get(n->uplink, n->vlan, &p->dst);
	return gh_fdb_get(p->zone, dmac);
}

/*
 * gh_in_name_of_host(): what would go by the uplink, or to the host behind it to be
 * sent on, is routed and bears an address of the host's or of a pool instead. A
 * network's own prefixes and the exceptions of its NAT are none of that, nor are
 * answers, whose conversation began with the endpoint's own address.
 */
static __always_inline int gh_in_name_of_host(const struct gh_pkt *p, struct gh_walk *w, const struct gh_port *in,
					      const struct gh_net *n)
{
	const struct gh_route_val *rt;

	if (!((n->flags & GH_NET_SNAT) || (in->flags & GH_PORT_ROUTES)) || !gh_is_endpoint(p->kind) || w->reply ||
	    gh_unroutable(&p->dst, p->fam))
		return 0;
	rt = gh_route_get(in, p->in_port, p->zone, &p->dst);
	if (!rt || rt->kind != GH_ROUTE_UPLINK || !(rt->flags & GH_ROUTE_NAT))
		return 0;
	w->nat = GH_ROUTE_NAT;
	w->pool = rt->nh;
	return 1;
}

/*
 * gh_past_host() is 1, and fills how it leaves, when the host, whose vNIC the frame
 * is for, would only send it on by the uplink of the network. It keeps its address,
 * so its answers come by the wire and not by the host: there they are looked for.
 */
static __always_inline int gh_past_host(struct __sk_buff *skb, const struct gh_pkt *p, struct gh_walk *w,
					const struct gh_port *in, const struct gh_net *n)
{
	const struct gh_route_val *rt = gh_route_get(in, p->in_port, p->zone, &p->dst);

	if (!n->uplink || n->vlan || !gh_is_endpoint(p->kind) || (rt && rt->kind == GH_ROUTE_HOST) ||
	    gh_unroutable(&p->dst, p->fam) || gh_addr_get(p->zone, &p->dst) || gh_wireip_get(n->uplink, 0, &p->dst))
		return 0;
	if (gh_layer_uplink(skb) || w->out_port != n->uplink) {
		w->routed = 0;
		return 0;
	}
	w->ozone = p->zone;
	w->how = GH_TO_ROUTER;
	w->frame = 0;
	return 1;
}

/* gh_to_wire() fills how a frame leaves by the uplink of n, or enters the host's stack there. */
static __always_inline int gh_to_wire(struct gh_walk *w, const struct gh_pkt *p, const struct gh_net *n)
{
	const struct gh_port *q;
	__u32 id = n->uplink;

	w->e_out = gh_epoch_at(id);
	q = gh_port_get(id);
	if (!q || !(q->flags & GH_PORT_UP))
		return GH_NO(GH_DROP_PORT_DOWN, GH_LAYER_ROUTE, GH_REJECT_NONE);
	w->out_kind = w->how == GH_TO_STACK ? GH_OUT_INGRESS : GH_OUT_EGRESS;
	w->out_ifindex = q->ifindex;
	w->out_port = id;
	w->okey_port = GH_PORT_UPLINK_ANY;
	w->ozone = p->zone;
	w->mtu = q->mtu;
	w->copy = q->flags & GH_PORT_COPY;
	if (n->vlan) {
		w->frame |= GH_OP_VLAN;
		w->tun = n->vlan;
	}
	if (n->flags & GH_NET_MAC_REWRITE) {
		w->frame |= GH_OP_SMAC;
		__builtin_memcpy(w->smac, n->wire_mac, ETH_ALEN);
	}
	return 0;
}

/*
 * gh_by_router() is 1, and fills how it leaves, or is GH_NO(), when a route gives what is
 * for nobody here to a router of the network, whatever MAC it was sent to: to one of its
 * ports, or to a machine behind the uplink, whose MAC the host asks for. from is the port
 * that the conversation was with until now.
 */
static __always_inline int gh_by_router(const struct gh_pkt *p, struct gh_walk *w, const struct gh_port *in,
					const struct gh_net *n, __u16 from)
{
	const struct gh_route_val *rt;
	const struct gh_addr_val *av;
	const struct gh_port *q;
	const struct gh_nh *h;
	int ret;

	if (!gh_is_endpoint(p->kind) || gh_unroutable(&p->dst, p->fam))
		return 0;
	rt = gh_route_get(in, p->in_port, p->zone, &p->dst);
	if (!rt || rt->kind != GH_ROUTE_VIA)
		return 0;
	av = gh_addr_get(p->zone, &p->dst);
	if (av && av->port)
		return 0;
	h = gh_nh_get(rt->nh);
	if (!h)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	w->how = GH_TO_ROUTER;
	w->routed = 1;
	av = n->flags & GH_NET_NO_LOCAL ? NULL : gh_addr_get(p->zone, &h->via);
	if (av && av->port) {
		if (av->port == p->in_port)
			return GH_NO(GH_DROP_LOOP, GH_LAYER_ROUTE, GH_REJECT_NONE);
		q = gh_port_get(av->port);
		if (!q || !(q->flags & GH_PORT_FORWARD))
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
		w->aside = w->reply && av->port != from;
		ret = gh_to_port(w, av->port, in);
		__builtin_memcpy(w->smac, in->mac, ETH_ALEN);
	} else {
		/* The host knows no neighbours on a VLAN of ours, and is none to itself. */
		if (!n->uplink || n->vlan || gh_is_host(&h->via))
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
		ret = gh_to_wire(w, p, n);
		w->out_kind = GH_OUT_NEIGH;
		gh_addr_set(&w->nh, &h->via);
	}
	w->frame = 0;
	return ret ? ret : 1;
}

/*
 * gh_hostless() is 1 for what passes between an endpoint and the host behind the
 * uplink of a network that the host is no member of. macs are the frame's; q is the
 * port that the first of them means. What a fabric sends back has one MAC for all.
 */
static __always_inline int gh_hostless(const struct gh_pkt *p, const struct gh_net *n, const struct gh_port *in,
				       const struct gh_port *q, const __u8 *macs)
{
	if (!(n->flags & GH_NET_NO_HOST))
		return 0;
	if (p->kind == GH_PORT_WIRE)
		return (!(n->flags & GH_NET_NO_LOCAL) && gh_mac_eq(macs + ETH_ALEN, in->mac)) ||
		       (p->fam && gh_is_host(&p->src));
	return (q && q->kind == GH_PORT_UPLINK) || (p->fam && gh_is_host(&p->dst));
}

__noinline int gh_layer_switch(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in, *q;
	const struct gh_net *n;
	struct gh_pkt *p;
	struct gh_walk *w;
	__u8 macs[2 * ETH_ALEN];
	__u16 from;
	int hop, ret;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	from = w->okey_port;
	w->net = p->net;
	w->routed = 0;
	w->first_be = w->nsport_be;
	w->snat = 0;
	w->frame = GH_OP_HOP;
	in = gh_port_get(p->in_port);
	n = gh_net_get(p->net);
	if (!in || !n || bpf_skb_load_bytes(skb, 0, macs, sizeof(macs)))
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	w->prio = in->class;
	w->target = gh_switch(p, n, macs);
	if (w->target && w->target == p->in_port)
		return GH_NO(GH_DROP_LOOP, GH_LAYER_ROUTE, GH_REJECT_NONE);
	q = gh_port_get(w->target);
	if (gh_hostless(p, n, in, q, macs))
		return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_NONE);
	hop = q && (q->kind == GH_PORT_UPLINK || q->host) && !gh_is_host(&p->dst);
	if ((!w->target || hop) && gh_in_name_of_host(p, w, in, n)) {
		w->how = GH_TO_UPLINK;
		w->frame = 0;
		return 0;
	}
	ret = gh_by_router(p, w, in, n, from);
	if (ret)
		return ret < 0 ? ret : 0;
	if (hop && q->host && gh_past_host(skb, p, w, in, n))
		return 0;
	if (!w->target || !q) {
		if (p->kind == GH_PORT_WIRE || !n->uplink)
			return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_NONE);
		w->how = GH_TO_WIRE;
		ret = gh_to_wire(w, p, n);
	} else if (q->kind == GH_PORT_UPLINK) {
		w->how = GH_TO_STACK;
		ret = gh_to_wire(w, p, n);
	} else {
		w->how = GH_TO_PORT;
		ret = gh_to_port(w, w->target, in);
		w->aside = w->reply && w->target != from;
		if (!ret && p->kind == GH_PORT_WIRE && (n->flags & GH_NET_MAC_REWRITE)) {
			w->frame = GH_OP_DMAC;
			return 0;
		}
	}
	__builtin_memcpy(w->dmac, macs, ETH_ALEN);
	if (gh_is_endpoint(p->kind) && !(w->frame & GH_OP_SMAC)) {
		w->frame |= GH_OP_FROM;
		__builtin_memcpy(w->smac, macs + ETH_ALEN, ETH_ALEN);
	}
	return ret;
}

#endif /* GH_BRIDGE_H */
