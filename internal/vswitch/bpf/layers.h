/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* The layers of the pipeline, in their order; slow.h walks them. */
#ifndef GH_LAYERS_H
#define GH_LAYERS_H

#include "pool.h"
#include "recall.h"
#include "spoof.h"

/*
 * The row that publishes vip:port as seen from p's zone. host: vip is an address
 * of the host; outside: the packet came by an uplink.
 */
static __always_inline const struct gh_svc_val *gh_published(const struct gh_pkt *p, const struct gh_addr *vip,
							      __u16 port_be, int host, int outside)
{
	const struct gh_svc_val *sv = NULL;

	if (!port_be)
		return NULL;
	if (p->zone)
		sv = gh_svc_get(vip, port_be, p->zone, p->proto, GH_SCOPE_ANY);
	if (!sv && (host || outside))
		sv = gh_svc_get(vip, port_be, GH_ZONE_HOST, p->proto, GH_SCOPE_ANY);
	if (!sv && host)
		sv = gh_svc_any(vip, port_be, p->proto);
	return sv;
}

/*
 * gh_legal() is true when svc still publishes vip:port and backend is one that
 * answers at ip:bport.
 */
static __always_inline int gh_legal(const struct gh_svc_val *sv, __u32 id, __u32 bid, const struct gh_addr *ip,
				    __u16 bport_be)
{
	const struct gh_backend *b;

	if (!sv || sv->id != id)
		return 0;
	b = gh_backend_get(bid);
	return gh_backend_ok(b) && gh_addr_eq(&b->addr, ip) && b->port_be == bport_be;
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

/*
 * The layers. Each is a global function: the verifier walks it once, by itself,
 * with nothing known but that scratch holds a packet and a walk. So their costs
 * add up instead of multiplying. They return 0 (go on), GH_NO(), or
 * GH_NOT_OURS (uplinks only).
 */
#define GH_NOT_OURS 1

/* L0: epochs are read before what they guard. */
__noinline int gh_layer_begin(void)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_pkt *p;
	struct gh_walk *w;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_PORT, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	w->e_in = gh_epoch_at(p->port);
	w->e_net = gh_epoch_net(p->net);
	gh_walk_reset(w, p);
	w->how = GH_TO_NOBODY;
	w->target = 0;
	w->host = 0;
	w->no_nat = 0;
	/* A later fragment whose ports nobody knows: only what needs none. */
	w->blind = p->h.frag == GH_FRAG_LATER && (p->kflags & GH_FKEY_L3);
	if (p->fam == 4) {
		gh_key_make(&s->key, 4, &p->src, &p->dst, p->sport_be, p->dport_be, p->port, p->zone, p->proto,
			    p->kflags);
		gh_recall4();
	} else {
		gh_key_make(&s->key, 6, &p->src, &p->dst, p->sport_be, p->dport_be, p->port, p->zone, p->proto,
			    p->kflags);
		gh_recall6();
	}
	if (!w->reply)
		w->net = p->net;
	return 0;
}

/* L1 */
__noinline int gh_layer_spoof(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in = s ? gh_port_get(s->p.in_port) : NULL;
	int ret;

	if (!in)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_SPOOF, GH_REJECT_NONE);
	ret = gh_spoof(skb, &s->p, in);
	return ret ? GH_NO(ret, GH_LAYER_SPOOF, GH_REJECT_NONE) : 0;
}

/*
 * Of an answer everything is known but whether both ends are still there. If
 * not, it is given up, and the packet walks on as the first of a conversation.
 */
static __always_inline int gh_back(struct gh_pkt *p, struct gh_walk *w)
{
	const struct gh_port *q;

	if (w->svc) {
		const struct gh_svc_val *sv;
		struct gh_addr *vip = &w->nsrc;

		sv = gh_svc_get(vip, w->nsport_be, w->ozone, p->proto, GH_SCOPE_ANY);
		if (!sv && w->ozone)
			sv = gh_svc_get(vip, w->nsport_be, GH_ZONE_HOST, p->proto, GH_SCOPE_ANY);
		if (!sv)
			sv = gh_svc_any(vip, w->nsport_be, p->proto);
		if (!gh_legal(sv, w->svc, w->backend, &p->src, p->sport_be))
			return 0;
	}
	if (!w->okey_port) {
		w->how = GH_TO_UPLINK;
		return 1;
	}
	w->target = w->okey_port;
	q = gh_port_get(w->target);
	if (!q || !(q->flags & GH_PORT_UP) || q->zone != w->ozone)
		return 0;
	if (gh_is_endpoint(q->kind)) {
		const struct gh_addr_val *av = gh_addr_get(q->zone, &w->ndst);

		if (!av || av->port != w->target)
			return 0;
	}
	w->how = GH_TO_PORT;
	return 1;
}

__noinline int gh_layer_answer(void)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_FLOW, GH_REJECT_NONE);
	if (!gh_back(&s->p, &s->w)) {
		/* Who went left its connection in TIME_WAIT: the far end must not see
		 * the port of the binding again before its time. */
		if (s->w.held && s->w.okey_port)
			return GH_NO(GH_DROP_PORT_DOWN, GH_LAYER_FLOW, GH_REJECT_NONE);
		s->w.how = GH_TO_NOBODY;
		s->w.target = 0;
		gh_forget(s, s->p.fam);
	}
	return 0;
}

/* L4: published ports and services. */
__noinline int gh_layer_lb(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_addr_val *av = NULL;
	const struct gh_svc_val *sv;
	const struct gh_backend *b;
	const struct gh_port *q;
	struct gh_pkt *p;
	struct gh_walk *w;
	int uplink;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_LB, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	uplink = p->kind == GH_PORT_UPLINK;
	if (!uplink)
		av = gh_addr_get(p->zone, &p->dst);
	if (p->kind != GH_PORT_HOST && (!av || (av->flags & GH_ADDR_GATEWAY)))
		w->host = gh_is_host(&p->dst);
	sv = gh_published(p, &p->dst, p->dport_be, w->host, uplink);
	if (uplink && !sv) {
		if (w->keep)
			gh_forget(s, p->fam);
		return GH_NOT_OURS;
	}
	if (w->keep && w->svc && !gh_legal(sv, w->svc, w->backend, &w->ndst, w->ndport_be))
		gh_forget(s, p->fam);
	if (w->keep && !w->svc)
		sv = NULL; /* it was not published when this conversation began */
	if (!sv)
		return 0;
	if (!w->keep) {
		if (p->proto == IPPROTO_TCP &&
		    (p->h.tcp_flags & (GH_TCP_SYN | GH_TCP_ACK | GH_TCP_RST)) != GH_TCP_SYN)
			return uplink ? GH_NOT_OURS : GH_NO(GH_DROP_NOSTATE, GH_LAYER_LB, GH_REJECT_STATE);
		w->svc = sv->id;
		w->backend = gh_backend_pick(sv, gh_tuple_hash(p));
	}
	b = gh_backend_get(w->backend);
	if (!w->backend || !gh_backend_ok(b) || gh_is_v4(&b->addr) != (p->fam == 4))
		return uplink ? GH_NOT_OURS : GH_NO(GH_DROP_NO_BACKEND, GH_LAYER_LB, GH_REJECT_PORT);
	if (p->h.l4 == GH_L4_SCTP && b->port_be != p->dport_be)
		return GH_NO(GH_DROP_NAT_PROTO, GH_LAYER_LB, GH_REJECT_NONE);
	gh_addr_set(&w->ndst, &b->addr);
	w->ndport_be = b->port_be;
	w->routed = 1;
	w->target = b->port;
	w->how = GH_TO_PORT;
	if (uplink) {
		q = gh_port_get(w->target);
		w->net = q ? q->net : 0;
		w->e_net = gh_epoch_net(w->net);
	}
	return 0;
}

/* L6: where it goes, of what no service has decided. */
__noinline int gh_layer_route(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_route_val *rt;
	const struct gh_addr_val *av;
	const struct gh_net *n;
	struct gh_pkt *p;
	struct gh_walk *w;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	n = gh_net_get(w->net);
	if (!n)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	w->routed = 0;
	av = p->kind == GH_PORT_UPLINK ? NULL : gh_addr_get(p->zone, &p->dst);
	if (av) {
		w->target = av->port;
		w->how = GH_TO_PORT;
	} else if (p->kind == GH_PORT_HOST) {
		return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
	} else if (w->host) {
		if (!(n->flags & GH_NET_HOSTNIC) || !n->host_port)
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
		w->target = n->host_port;
		w->how = GH_TO_PORT;
		if (w->blind) /* it might be a published port */
			return GH_NO(GH_DROP_FRAG_ORDER, GH_LAYER_ROUTE, GH_REJECT_NONE);
	} else {
		if (gh_unroutable(&p->dst, p->fam))
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_NONE);
		rt = gh_route_get(p->zone, &p->dst);
		if (rt && rt->kind == GH_ROUTE_LOCAL)
			return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
		if (!rt || rt->kind != GH_ROUTE_UPLINK || !(n->flags & GH_NET_UPLINK))
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
		w->how = GH_TO_UPLINK;
		w->no_nat = rt->flags & GH_ROUTE_NO_NAT;
	}
	if (w->how == GH_TO_PORT && w->target == p->in_port)
		return GH_NO(GH_DROP_LOOP, GH_LAYER_ROUTE, GH_REJECT_NONE);
	return 0;
}

/* L6: how it is handed over there. */
__noinline int gh_layer_deliver(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in;
	struct gh_pkt *p;
	struct gh_walk *w;
	int ret;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	if (w->reply)
		w->e_net = gh_epoch_net(w->net);
	if (w->how == GH_TO_UPLINK) {
		if (p->fam == 4)
			ret = gh_to_uplink(skb, p, w, w->reply ? &w->nsrc : &p->src, &w->ndst, 4);
		else
			ret = gh_to_uplink(skb, p, w, w->reply ? &w->nsrc : &p->src, &w->ndst, 6);
	} else {
		in = gh_port_get(p->in_port);
		if (!in)
			return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
		ret = gh_to_port(w, w->target, in);
	}
	w->first_be = w->nsport_be;
	w->snat = GH_SNAT_NONE;
	return ret;
}

/* L7: which source address the other side is to see. Not for answers. */
__noinline int gh_layer_nat(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_natpool *np;
	const struct gh_net *n;
	struct gh_addr *want;
	struct gh_pkt *p;
	struct gh_walk *w;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_NAT, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	if (p->zone != w->ozone)
		w->routed = 1;
	n = gh_net_get(w->net);
	if (!n)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_NAT, GH_REJECT_NONE);
	want = &p->src;
	w->nat_lo = 1024; /* below: ports of daemons, by custom */
	w->nat_hi = 65535;
	w->pool_busy = 0;
	if (w->how == GH_TO_UPLINK && (n->flags & GH_NET_SNAT) && !w->no_nat) {
		np = gh_pool_pick(p, w, gh_pool_of(p, w, n));
		if (!np)
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_NAT, GH_REJECT_ROUTE);
		if (w->blind)
			return GH_NO(GH_DROP_FRAG_ORDER, GH_LAYER_NAT, GH_REJECT_NONE);
		want = (struct gh_addr *)&np->addr;
		w->nat_lo = np->lo;
		w->nat_hi = np->hi;
		w->pool_busy = 1;
		w->snat = GH_SNAT_FIXED;
	} else if (w->svc && gh_is_endpoint(p->kind)) {
		if (w->out_port == p->in_port) {
			/* Itself: it would not take a packet from its own address. */
			want = (struct gh_addr *)(p->fam == 4 ? &n->hairpin4 : &n->hairpin6);
			if (gh_addr_zero(want))
				want = &p->dst;
			w->snat = GH_SNAT_FIXED;
		} else if (p->zone != w->ozone) {
			/* Another network: it knows the host, not our addresses. */
			want = &p->dst;
			w->snat = GH_SNAT_FIXED;
		}
	}
	if (w->keep && !gh_addr_eq(&w->nsrc, want)) {
		/* The binding is not legal any more. What was chosen for the
		 * destination stays, only the source is new. */
		gh_unlink_key(p->fam);
		w->keep = 0;
		w->nsport_be = p->sport_be;
		w->first_be = p->sport_be;
	}
	gh_addr_set(&w->nsrc, want);
	if (!w->keep && p->proto == IPPROTO_TCP) {
		__u8 f = p->h.tcp_flags & (GH_TCP_SYN | GH_TCP_ACK | GH_TCP_RST);

		/* Without NAT the middle of a connection is taken up, a reset never. */
		if (f != GH_TCP_SYN && p->h.frag != GH_FRAG_LATER &&
		    (w->snat != GH_SNAT_NONE || (f & GH_TCP_RST)))
			return GH_NO(GH_DROP_NOSTATE, GH_LAYER_NAT, GH_REJECT_STATE);
	}
	return 0;
}

/* L9 */
__noinline int gh_layer_l2(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_L2, GH_REJECT_NONE);
	if (s->w.routed && s->p.h.ttl <= 1)
		return GH_NO(GH_DROP_TTL, GH_LAYER_L2, GH_REJECT_TTL);
	if (gh_toobig(skb, &s->p.h, s->w.mtu)) {
		s->reject_mtu = s->w.mtu;
		return GH_NO(GH_DROP_MTU, GH_LAYER_L2, GH_REJECT_TOOBIG);
	}
	return 0;
}

/* gh_walk_layers() decides: the layers in their order. */
static __always_inline int gh_walk_layers(struct __sk_buff *skb, struct gh_scratch *s)
{
	struct gh_walk *w = &s->w;
	int ret;

	if ((ret = gh_layer_begin()))
		return ret;
	if ((ret = gh_layer_spoof(skb)))
		return ret;
	if (w->blind && s->p.kind == GH_PORT_UPLINK)
		return GH_NOT_OURS;
	if (w->keep && w->reply && (ret = gh_layer_answer()))
		return ret;
	if (w->how == GH_TO_NOBODY && (ret = gh_layer_lb()))
		return ret;
	if (w->how == GH_TO_NOBODY && (ret = gh_layer_route()))
		return ret;
	if ((ret = gh_layer_deliver(skb)))
		return ret;
	if (!w->reply && (ret = gh_layer_nat()))
		return ret;
	return gh_layer_l2(skb);
}

#endif /* GH_LAYERS_H */
