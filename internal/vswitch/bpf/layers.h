/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* The layers of the pipeline, in their order; slow.h walks them. */
#ifndef GH_LAYERS_H
#define GH_LAYERS_H

#include "acl.h"
#include "bridge.h"
#include "pool.h"
#include "spoof.h"
#include "svc.h"
#include "tunnel.h"

/*
 * The layers. Each is a global function: the verifier walks it once, by itself,
 * with nothing known but that scratch holds a packet and a walk. So their costs
 * add up instead of multiplying. They return 0 (go on), GH_NO(), or
 * GH_NOT_OURS (uplinks only).
 */

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
	p->l2 = gh_is_l2(p->net);
	gh_walk_reset(w, p);
	w->how = GH_TO_NOBODY;
	w->target = 0;
	w->host = 0;
	w->nat = 0;
	w->pool = 0;
	w->aside = 0;
	w->dsr = 0;
	w->dst_known = 0;
	w->blind = (p->kflags & GH_FKEY_BLIND) != 0; /* only what needs no ports */
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
	ret = gh_spoof(skb, &s->p, in, s->w.keep && s->w.reply && s->w.svc && gh_addr_eq(&s->w.nsrc, &s->p.src));
	if (!ret && s->p.kind == GH_PORT_TUNNEL && !gh_far_source())
		ret = GH_DROP_SPOOF_IP;
	return ret ? GH_NO(ret, GH_LAYER_SPOOF, GH_REJECT_NONE) : 0;
}

/*
 * Of an answer everything is known but whether both ends are still there. If
 * not, it is given up, and the packet walks on as the first of a conversation.
 */
static __always_inline int gh_back(struct gh_pkt *p, struct gh_walk *w)
{
	const struct gh_port *q;

	if (!w->okey_port) {
		w->how = GH_TO_UPLINK;
		return 1;
	}
	w->target = w->okey_port;
	q = gh_port_get(w->target);
	if (!q || !(q->flags & GH_PORT_UP) || (q->zone != w->ozone && q->kind != GH_PORT_TUNNEL))
		return 0;
	if (gh_is_endpoint(q->kind)) {
		const struct gh_addr_val *av = gh_addr_get(q->zone, &w->ndst);

		/* A router takes back what it sent on for others. */
		if (av ? av->port != w->target && !(q->flags & GH_PORT_FORWARD) : !(q->flags & GH_PORT_FORWARD))
			return 0;
	}
	w->how = GH_TO_PORT;
	return 1;
}

__noinline int gh_layer_answer(void)
{
	struct gh_scratch *s = gh_scratch_get();
	int gone;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_FLOW, GH_REJECT_NONE);
	gone = s->w.svc && !gh_svc_answers();
	if (gone || !gh_back(&s->p, &s->w)) {
		/* Who went left its connection in TIME_WAIT: the far end must not see
		 * the port of the binding again before its time. */
		if (s->w.held && s->w.okey_port)
			return GH_NO(GH_DROP_PORT_DOWN, GH_LAYER_FLOW, GH_REJECT_NONE);
		s->w.how = GH_TO_NOBODY;
		s->w.target = 0;
		gh_forget(s, s->p.fam);
		/* Its client hears the same at its next word. */
		if (gone && s->p.kind != GH_PORT_UPLINK && gh_tcp_middle(&s->p))
			return GH_NO(GH_DROP_NOSTATE, GH_LAYER_LB, GH_REJECT_STATE);
	}
	return 0;
}

/* gh_by_route() is L6 for what is no known address: 0 with w.target or w.how, or GH_NO(). */
static __always_inline int gh_by_route(const struct gh_pkt *p, struct gh_walk *w, const struct gh_net *n,
				       const struct gh_addr *dst)
{
	const struct gh_port *in = gh_port_get(p->in_port), *q;
	const struct gh_route_val *rt;
	const struct gh_addr_val *av;
	const struct gh_nh *h;
	__u16 kind;

	if (!in)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	if (gh_unroutable(dst, p->fam))
		return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_NONE);
	rt = gh_route_get(in, p->in_port, p->zone, dst);
	kind = rt ? rt->kind : 0;
	if (kind == GH_ROUTE_LOCAL)
		return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
	if (rt && (kind == GH_ROUTE_VIA || kind == GH_ROUTE_TUNNEL)) {
		h = gh_nh_get(rt->nh);
		if (!h)
			return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
		w->target = h->port;
		if (kind == GH_ROUTE_VIA) {
			av = gh_addr_get(p->zone, &h->via);
			w->target = av ? av->port : 0;
		}
		if (!w->target)
			return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
	} else if (p->kind == GH_PORT_HOST) {
		return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
	} else if (kind == GH_ROUTE_HOST) {
		w->target = n->host_port;
	} else if (kind == GH_ROUTE_UPLINK && ((n->flags & GH_NET_UPLINK) || (rt->flags & GH_ROUTE_NAT)) &&
		   p->kind != GH_PORT_TUNNEL) {
		w->how = GH_TO_UPLINK;
		w->nat = rt->flags & GH_ROUTE_NAT;
		w->pool = rt->nh;
		return 0;
	}
	/* Who takes what is not for itself must be meant to. */
	q = gh_port_get(w->target);
	if (!q || (q->kind != GH_PORT_TUNNEL && !(q->flags & GH_PORT_FORWARD)))
		return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
	w->how = GH_TO_PORT;
	w->routed = 1;
	return 0;
}

/* L6 of what comes from outside for a backend of another host. */
static __always_inline int gh_elsewhere(const struct gh_pkt *p, struct gh_walk *w, __u16 zone)
{
	const struct gh_port *in = gh_port_get(p->in_port);
	struct gh_far f = {};

	if (!w->net) {
		w->how = GH_TO_UPLINK;
		return 0;
	}
	if (!in || !gh_far_find(in, 0, zone, w->dsr ? &w->nh : &w->ndst, &f))
		return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
	w->target = f.port;
	w->how = GH_TO_PORT;
	return 0;
}

/* L6: where it goes, of what no service has decided. */
__noinline int gh_layer_route(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_addr_val *av;
	const struct gh_addr *dst;
	const struct gh_net *n;
	struct gh_pkt *p;
	struct gh_walk *w;
	__u16 port;
	int host, ret;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	n = gh_net_get(w->net);
	if (!n)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	w->routed = w->svc != 0;
	if (p->kind == GH_PORT_UPLINK) /* on to a backend elsewhere */
		return gh_elsewhere(p, w, n->zone);
	/* The packet's own destination, or the backend that a service put in its place. */
	dst = &w->ndst;
	host = w->svc ? gh_is_host(dst) : w->host;
	if (w->dst_known && !w->svc) {
		port = w->dst_port;
	} else {
		av = gh_addr_get(p->zone, dst);
		port = av ? av->port : 0;
	}
	if (port) {
		w->target = port;
		w->how = GH_TO_PORT;
	} else if (host && p->kind != GH_PORT_HOST && p->kind != GH_PORT_TUNNEL) {
		if (!(n->flags & GH_NET_HOSTNIC) || !n->host_port)
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
		w->target = n->host_port;
		w->how = GH_TO_PORT;
		if (w->blind) /* it might be a published port */
			return GH_NO(GH_DROP_FRAG_ORDER, GH_LAYER_ROUTE, GH_REJECT_NONE);
	} else {
		ret = gh_by_route(p, w, n, dst);
		if (ret)
			return ret;
	}
	if (w->how == GH_TO_PORT && w->target == p->in_port && (!w->svc || p->kind == GH_PORT_TUNNEL))
		return GH_NO(GH_DROP_LOOP, GH_LAYER_ROUTE, GH_REJECT_NONE);
	return 0;
}

/* L6: how it is handed over there. */
__noinline int gh_layer_deliver(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in, *q;
	struct gh_pkt *p;
	struct gh_walk *w;
	int ret;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	in = gh_port_get(p->in_port);
	if (!in)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	w->prio = in->class;
	if (w->reply)
		w->e_net = gh_epoch_net(w->net);
	if (w->how == GH_TO_UPLINK) {
		ret = gh_layer_uplink(skb);
	} else {
		ret = gh_to_port(w, w->target, in);
		q = gh_port_get(w->target);
		if (p->kind == GH_PORT_UPLINK && q && q->only && q->only != p->in_port)
			ret = GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_NONE);
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
	/* From outside, by us, to a backend elsewhere: the answer must come back to us. */
	if (w->how == GH_TO_UPLINK && !w->dsr && (w->nat || p->kind == GH_PORT_UPLINK)) {
		/* In the host's name it could speak to our tunnels' other ends. */
		if (p->proto == IPPROTO_UDP && gh_peer_get(0, 0, w->ndport_be, &w->ndst))
			return GH_NO(GH_DROP_TUN_PEER, GH_LAYER_NAT, GH_REJECT_ROUTE);
		np = gh_pool_pick(p, w, gh_pool_of(p, w, n));
		if (!np)
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_NAT, GH_REJECT_ROUTE);
		if (w->blind)
			return GH_NO(GH_DROP_FRAG_ORDER, GH_LAYER_NAT, GH_REJECT_NONE);
		want = (struct gh_addr *)&np->addr;
		w->nat_lo = np->lo;
		w->nat_hi = np->hi;
		gh_pool_share(p, w);
		w->pool_busy = 1;
		w->snat = GH_SNAT_FIXED;
	} else if (p->kind == GH_PORT_UPLINK && w->out_kind == GH_OUT_TUNNEL && !w->dsr) {
		/* The backend's host knows no way back to the client but by us. */
		want = &s->sv.source;
		if (gh_addr_zero(want))
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_NAT, GH_REJECT_ROUTE);
		w->snat = GH_SNAT_FIXED;
	} else if (w->svc && w->how == GH_TO_PORT && (gh_is_endpoint(p->kind) || p->kind == GH_PORT_TUNNEL)) {
		if (w->out_port == p->in_port || (s->sv.flags & GH_SVC_SNAT) ||
		    (p->zone != w->ozone && gh_addr_eq(&w->ndst, &p->dst))) {
			/* Itself, or asked at an address that it has: it would not
			 * take a packet from its own address. */
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
	if (w->keep && w->reply && !gh_by_mac(s) && (ret = gh_layer_answer()))
		return ret;
	if (!w->reply && s->p.kind != GH_PORT_UPLINK && (ret = gh_layer_acl(skb, GH_LAYER_ACL_PRE)))
		return ret;
	if (w->how == GH_TO_NOBODY && !gh_only_by_mac(s) && (ret = gh_layer_lb()))
		return ret;
	/* Of what comes from outside only what is ours is asked about. */
	if (!w->reply && s->p.kind == GH_PORT_UPLINK && (ret = gh_layer_acl(skb, GH_LAYER_ACL_PRE)))
		return ret;
	if (!w->reply && (ret = gh_layer_acl(skb, GH_LAYER_ACL_OUT)))
		return ret;
	if (w->how == GH_TO_NOBODY && gh_by_mac(s) && (ret = gh_layer_switch(skb)))
		return ret;
	if (w->how == GH_TO_NOBODY && (ret = gh_layer_route()))
		return ret;
	if (!w->frame && w->how != GH_TO_ROUTER && (ret = gh_layer_deliver(skb)))
		return ret;
	if (w->out_kind == GH_OUT_TUNNEL && (ret = gh_layer_tunnel(skb)))
		return ret;
	if (!w->reply && (ret = gh_layer_nat()))
		return ret;
	/* An answer was let in by what let its conversation begin. */
	if (w->reply && ((ret = gh_layer_acl(skb, GH_LAYER_ACL_PRE)) || (ret = gh_layer_acl(skb, GH_LAYER_ACL_OUT))))
		return ret;
	if ((ret = gh_layer_acl(skb, GH_LAYER_ACL_IN)))
		return ret;
	return gh_layer_l2(skb);
}

#endif /* GH_LAYERS_H */
