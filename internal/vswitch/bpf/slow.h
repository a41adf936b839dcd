/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * The pipeline: what a packet without a valid flow walks through, in the order
 * of the layers. An entry that exists but was built under another configuration
 * is revalidated: its backend and its NAT binding stay if they are still legal.
 */
#ifndef GH_SLOW_H
#define GH_SLOW_H

#include "nat.h"
#include "spoof.h"

enum gh_how {
	GH_TO_NOBODY = 0,
	GH_TO_PORT = 1,
	GH_TO_UPLINK = 2,
};

/* A SYN on a connection that is over, or that its initiator forgot, is a new one. */
static __always_inline int gh_reopened(const struct gh_track *t, __u8 flags)
{
	if ((flags & (GH_TCP_SYN | GH_TCP_ACK)) != GH_TCP_SYN)
		return 0;
	if (t->state == GH_FLOW_FIN || t->state == GH_FLOW_TW || t->state == GH_FLOW_RST)
		return 1;
	/* Established by both SYNs: the initiator may still repeat its own. */
	return t->state == GH_FLOW_EST && !t->reply && t->packets > 4;
}

static __always_inline void gh_walk_reset(struct gh_walk *w, const struct gh_pkt *p)
{
	gh_addr_set(&w->nsrc, &p->src);
	gh_addr_set(&w->ndst, &p->dst);
	w->nsport_be = p->sport_be;
	w->ndport_be = p->dport_be;
	w->ozone = p->zone;
	w->okey_port = 0;
	w->svc = 0;
	w->backend = 0;
	w->reply = 0;
	w->keep = 0;
	w->routed = 0;
}

/* gh_recall() takes over what must survive from the entry of s.key, if it is one. */
static __always_inline void gh_recall(struct gh_scratch *s, int fam)
{
	struct gh_pkt *p = &s->p;
	struct gh_walk *w = &s->w;
	struct gh_track *t;
	struct gh_head *hd;
	__u32 tag;
	__u16 ops;
	void *f;

	f = gh_flow_get(&s->key, fam);
	if (!f)
		return;
	hd = f;
	t = gh_track(f, fam);
	tag = GH_READ(hd->tag);
	if ((tag & 1) || (tag ^ gh_fold(&s->key, fam)) >> 16)
		return; /* another CPU is writing it */
	if (gh_dead(f, &s->key, fam, p->now_s) || (p->proto == IPPROTO_TCP && gh_reopened(t, p->h.tcp_flags))) {
		gh_unlink(f, &s->key, &s->rkey, fam);
		return;
	}
	gh_fence(t);
	ops = hd->ops;
	if (fam == 4) {
		struct gh_flow4 *v = f;

		if (ops & GH_OP_NSRC)
			gh_addr4(&w->nsrc, v->nsrc_be);
		if (ops & GH_OP_NDST)
			gh_addr4(&w->ndst, v->ndst_be);
		if (ops & GH_OP_NSPORT)
			w->nsport_be = v->nsport_be;
		if (ops & GH_OP_NDPORT)
			w->ndport_be = v->ndport_be;
		w->okey_port = v->pair.port;
		w->ozone = v->pair.zone;
	} else {
		struct gh_flow6 *v = f;

		if (ops & GH_OP_NSRC)
			gh_addr_set(&w->nsrc, &v->nsrc);
		if (ops & GH_OP_NDST)
			gh_addr_set(&w->ndst, &v->ndst);
		if (ops & GH_OP_NSPORT)
			w->nsport_be = v->nsport_be;
		if (ops & GH_OP_NDPORT)
			w->ndport_be = v->ndport_be;
		w->okey_port = v->pair.port;
		w->ozone = v->pair.zone;
	}
	w->routed = (ops & GH_OP_TTL) != 0;
	w->svc = t->svc;
	w->backend = t->backend;
	w->net = t->net;
	w->reply = t->reply;
	w->tag = tag;
	w->keep = 1;
	gh_fence(t);
	if (GH_READ(hd->tag) != tag)
		gh_walk_reset(w, p);
}

/* Global, so that the verifier need not carry what they found through the walk. */
__noinline int gh_recall4(__u32 zero)
{
	struct gh_scratch *s = gh_scratch_get();

	if (s)
		gh_recall(s, 4);
	return 0;
}

__noinline int gh_recall6(__u32 zero)
{
	struct gh_scratch *s = gh_scratch_get();

	if (s)
		gh_recall(s, 6);
	return 0;
}

/* gh_unlink4() and gh_unlink6() remove the entry of s.key and its other half. */
__noinline int gh_unlink4(__u32 zero)
{
	struct gh_scratch *s = gh_scratch_get();
	void *f = s ? gh_flow_get(&s->key, 4) : NULL;

	if (f)
		gh_unlink(f, &s->key, &s->rkey, 4);
	return 0;
}

__noinline int gh_unlink6(__u32 zero)
{
	struct gh_scratch *s = gh_scratch_get();
	void *f = s ? gh_flow_get(&s->key, 6) : NULL;

	if (f)
		gh_unlink(f, &s->key, &s->rkey, 6);
	return 0;
}

static __always_inline void gh_unlink_key(int fam)
{
	if (fam == 4)
		gh_unlink4(0);
	else
		gh_unlink6(0);
}

/* gh_forget() gives up the recalled entry; the packet starts a new conversation. */
static __always_inline void gh_forget(struct gh_scratch *s, int fam)
{
	if (s->w.keep)
		gh_unlink_key(fam);
	gh_walk_reset(&s->w, &s->p);
}

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
 * gh_walk_layers() decides. Returns 0, GH_NO(), or 1: not ours (uplinks only).
 */
static __always_inline int gh_walk_layers(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_port *in,
					  int fam)
{
	struct gh_pkt *p = &s->p;
	struct gh_walk *w = &s->w;
	const struct gh_svc_val *sv = NULL;
	const struct gh_addr_val *av = NULL;
	const struct gh_port *q;
	const struct gh_net *n;
	__u32 target = 0, netid = p->net;
	int uplink = p->kind == GH_PORT_UPLINK, endpoint = gh_is_endpoint(p->kind);
	int how = GH_TO_NOBODY, host = 0, ret, blind;
	struct gh_addr *want;

	/* L0: epochs are read before what they guard. */
	w->e_in = gh_epoch_at(p->port);
	w->e_net = gh_epoch_net(netid);
	gh_walk_reset(w, p);
	gh_key_make(&s->key, fam, &p->src, &p->dst, p->sport_be, p->dport_be, p->port, p->zone, p->proto, p->kflags);
	if (fam == 4)
		gh_recall4(0);
	else
		gh_recall6(0);

	/* L1 */
	ret = gh_spoof(skb, p, in);
	if (ret)
		return GH_NO(ret, GH_LAYER_SPOOF, GH_REJECT_NONE);

	/* A later fragment whose ports nobody knows: only what needs none. */
	blind = p->h.frag == GH_FRAG_LATER && (p->kflags & GH_FKEY_L3);
	if (blind && uplink)
		return 1;

	/* Of an answer everything is known but whether both ends are still there. */
	if (w->keep && w->reply) {
		if (w->svc) {
			struct gh_addr *vip = &w->nsrc;

			sv = gh_svc_get(vip, w->nsport_be, w->ozone, p->proto, GH_SCOPE_ANY);
			if (!sv && w->ozone)
				sv = gh_svc_get(vip, w->nsport_be, GH_ZONE_HOST, p->proto, GH_SCOPE_ANY);
			if (!sv)
				sv = gh_svc_any(vip, w->nsport_be, p->proto);
			if (!gh_legal(sv, w->svc, w->backend, &p->src, p->sport_be))
				goto fresh;
		}
		if (!w->okey_port) {
			how = GH_TO_UPLINK;
			goto deliver;
		}
		target = w->okey_port;
		q = gh_port_get(target);
		if (!q || !(q->flags & GH_PORT_UP) || q->zone != w->ozone)
			goto fresh;
		if (gh_is_endpoint(q->kind)) {
			av = gh_addr_get(q->zone, &w->ndst);
			if (!av || av->port != target)
				goto fresh;
		}
		how = GH_TO_PORT;
		goto deliver;
fresh:
		gh_forget(s, fam);
	}

	/* L4 */
	if (!uplink)
		av = gh_addr_get(p->zone, &p->dst);
	if (p->kind != GH_PORT_HOST && (!av || (av->flags & GH_ADDR_GATEWAY)))
		host = gh_is_host(&p->dst);
	sv = gh_published(p, &p->dst, p->dport_be, host, uplink);
	if (uplink && !sv) {
		if (w->keep)
			gh_forget(s, fam);
		return 1;
	}
	if (w->keep && w->svc && !gh_legal(sv, w->svc, w->backend, &w->ndst, w->ndport_be))
		gh_forget(s, fam);
	if (w->keep && !w->svc)
		sv = NULL; /* it was not published when this conversation began */
	if (sv) {
		const struct gh_backend *b;

		if (!w->keep) {
			if (p->proto == IPPROTO_TCP &&
			    (p->h.tcp_flags & (GH_TCP_SYN | GH_TCP_ACK | GH_TCP_RST)) != GH_TCP_SYN)
				return uplink ? 1 : GH_NO(GH_DROP_NOSTATE, GH_LAYER_LB, GH_REJECT_STATE);
			w->svc = sv->id;
			w->backend = gh_backend_pick(sv, gh_tuple_hash(p));
		}
		b = gh_backend_get(w->backend);
		if (!w->backend || !gh_backend_ok(b) || gh_is_v4(&b->addr) != (fam == 4))
			return uplink ? 1 : GH_NO(GH_DROP_NO_BACKEND, GH_LAYER_LB, GH_REJECT_PORT);
		if (p->h.l4 == GH_L4_SCTP && b->port_be != p->dport_be)
			return GH_NO(GH_DROP_NAT_PROTO, GH_LAYER_LB, GH_REJECT_NONE);
		gh_addr_set(&w->ndst, &b->addr);
		w->ndport_be = b->port_be;
		w->routed = 1;
		target = b->port;
		how = GH_TO_PORT;
		if (uplink) {
			q = gh_port_get(target);
			netid = q ? q->net : 0;
			w->e_net = gh_epoch_net(netid);
		}
	}
	n = gh_net_get(netid);
	if (!n)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);

	/* L6 */
	if (how == GH_TO_NOBODY) {
		w->routed = 0;
		if (av) {
			target = av->port;
			how = GH_TO_PORT;
		} else if (p->kind == GH_PORT_HOST) {
			return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
		} else if (host) {
			if (!(n->flags & GH_NET_HOSTNIC) || !n->host_port)
				return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
			target = n->host_port;
			how = GH_TO_PORT;
			if (blind) /* it might be a published port */
				return GH_NO(GH_DROP_FRAG_ORDER, GH_LAYER_ROUTE, GH_REJECT_NONE);
		} else {
			const struct gh_route_val *rt = gh_route_get(p->zone, &p->dst);

			if (gh_unroutable(&p->dst, fam))
				return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_NONE);

			if (rt && rt->kind == GH_ROUTE_LOCAL)
				return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
			if (!rt || rt->kind != GH_ROUTE_UPLINK || !(n->flags & GH_NET_UPLINK))
				return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_ROUTE, GH_REJECT_ROUTE);
			how = GH_TO_UPLINK;
		}
		if (how == GH_TO_PORT && target == p->in_port)
			return GH_NO(GH_DROP_LOOP, GH_LAYER_ROUTE, GH_REJECT_NONE);
	}

deliver:
	w->net = w->keep && w->reply ? w->net : netid;
	if (w->keep && w->reply)
		w->e_net = gh_epoch_net(w->net);
	if (how == GH_TO_UPLINK)
		ret = gh_to_uplink(skb, p, w, w->reply ? &w->nsrc : &p->src, &w->ndst, fam);
	else
		ret = gh_to_port(w, target, in);
	if (ret)
		return ret;
	w->first_be = w->nsport_be;
	if (w->reply) {
		w->snat = GH_SNAT_NONE;
		goto limits;
	}
	if (p->zone != w->ozone)
		w->routed = 1;

	/* L7: which source address the other side is to see. */
	n = gh_net_get(w->net);
	if (!n)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_NAT, GH_REJECT_NONE);
	want = &p->src;
	w->nat_lo = 1024; /* below: ports of daemons, by custom */
	w->nat_hi = 65535;
	w->pool_busy = 0;
	w->snat = GH_SNAT_NONE;
	if (how == GH_TO_UPLINK && (n->flags & GH_NET_SNAT)) {
		const struct gh_natpool *np;
		__u32 pool;

		q = gh_port_get(w->out_port);
		pool = !q ? 0 : fam == 4 ? q->natpool4 : q->natpool6;
		np = bpf_map_lookup_elem(&natpool, &pool);
		if (!pool || !np || !np->hi)
			return GH_NO(GH_DROP_NO_ROUTE, GH_LAYER_NAT, GH_REJECT_ROUTE);
		if (blind)
			return GH_NO(GH_DROP_FRAG_ORDER, GH_LAYER_NAT, GH_REJECT_NONE);
		want = (struct gh_addr *)&np->addr;
		w->nat_lo = np->lo;
		w->nat_hi = np->hi;
		w->pool_busy = 1;
		w->snat = GH_SNAT_FIXED;
	} else if (sv && endpoint) {
		if (w->out_port == p->in_port) {
			/* Itself: it would not take a packet from its own address. */
			want = (struct gh_addr *)(fam == 4 ? &n->hairpin4 : &n->hairpin6);
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
		gh_unlink_key(fam);
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

limits:
	/* L9 */
	if (w->routed && p->h.ttl <= 1)
		return GH_NO(GH_DROP_TTL, GH_LAYER_L2, GH_REJECT_TTL);
	if (gh_toobig(skb, &p->h, w->mtu)) {
		s->reject_mtu = w->mtu;
		return GH_NO(GH_DROP_MTU, GH_LAYER_L2, GH_REJECT_TOOBIG);
	}
	return 0;
}

/* gh_no() ends a walk that returned GH_NO(). */
static __always_inline int gh_no(struct __sk_buff *skb, struct gh_scratch *s, int no)
{
	no = -no;
	if (no >> 16)
		return gh_refuse(skb, s, no & 0xff, (no >> 8) & 0xff, no >> 16);
	return gh_drop(skb, s, no & 0xff, (no >> 8) & 0xff);
}

/* gh_depart() does to the packet what was decided. */
static __always_inline int gh_depart(struct __sk_buff *skb, struct gh_scratch *s, int fam)
{
	struct gh_pkt *p = &s->p;
	struct gh_walk *w = &s->w;
	__u32 l4_off = p->h.l4_off & (fam == 4 ? GH_L4_MASK4 : GH_L4_MASK6);
	int ret;

	if (p->h.frag == GH_FRAG_FIRST)
		gh_frag_put(p, fam);
	gh_line(&s->val, p, w, fam);
	if (fam == 4)
		ret = gh_rewrite4(skb, l4_off, p->h.l4, p->h.frag, (struct gh_act4 *)&s->val);
	else
		ret = gh_rewrite6(skb, l4_off, p->h.l4, p->h.frag, (struct gh_act6 *)&s->val);
	if (ret)
		return gh_drop(skb, s, -ret, GH_LAYER_L2);
	gh_count(p->in_port, w->out_port, skb->len);
	gh_note(skb, GH_RESULT_FORWARD, w->out_kind, w->out_ifindex, w->out_port, 0, 0, w->via);
	return gh_send(skb, (struct gh_head *)&s->val, gh_word(&w->nh, 3), fam == 6 ? &w->nh : NULL);
}

/* gh_slow() is stages v4 and v6. */
static __always_inline int gh_slow(struct __sk_buff *skb, int fam)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in;
	struct gh_walk *w;
	void *f;
	int ret;

	if (!s)
		return TC_ACT_SHOT;
	w = &s->w;
	in = gh_port_get(s->p.in_port);
	if (!in)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_PORT);
	ret = gh_walk_layers(skb, s, in, fam);
	if (s->p.icmp_off) {
		if (!ret && w->keep)
			return gh_stage(skb, s, fam == 4 ? GH_STAGE_ERROR4 : GH_STAGE_ERROR6);
		if (s->p.kind == GH_PORT_UPLINK)
			return gh_pass(skb);
		return gh_drop(skb, s, GH_DROP_ICMP_NOFLOW, GH_LAYER_FLOW);
	}
	if (ret == 1)
		return gh_pass(skb);
	if (ret)
		return gh_no(skb, s, ret);
	if (!w->keep)
		return gh_stage(skb, s, fam == 4 ? GH_STAGE_NEW4 : GH_STAGE_NEW6);
	f = gh_flow_get(&s->key, fam);
	gh_rkey(s, w->nsport_be, fam);
	/* The answer must still come in where its entry waits. */
	if (!w->reply && (!f || !gh_key_eq(gh_pair(f, fam), &s->rkey, fam))) {
		gh_unlink_key(fam);
		return gh_stage(skb, s, fam == 4 ? GH_STAGE_NEW4 : GH_STAGE_NEW6);
	}
	gh_renew(s, fam);
	/* The state stage finds the entry valid now and sends the packet. */
	if (f && gh_changes_state(gh_track(f, fam), &s->p.h))
		return gh_stage(skb, s, GH_STAGE_STATE);
	return gh_depart(skb, s, fam);
}

/* gh_new() is stages new4 and new6. */
static __always_inline int gh_new(struct __sk_buff *skb, int fam)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in;
	int ret;

	if (!s)
		return TC_ACT_SHOT;
	in = gh_port_get(s->p.in_port);
	if (!in)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_PORT);
	if (s->w.svc) {
		/* The row was read before the epochs that guard it: its network was
		 * not known yet. Had it gone in between, nobody would notice later. */
		int host = s->p.kind != GH_PORT_HOST && gh_is_host(&s->p.dst);
		const struct gh_svc_val *sv = gh_published(&s->p, &s->p.dst, s->p.dport_be, host,
							   s->p.kind == GH_PORT_UPLINK);

		if (!gh_legal(sv, s->w.svc, s->w.backend, &s->w.ndst, s->w.ndport_be))
			return gh_drop(skb, s, GH_DROP_NO_BACKEND, GH_LAYER_LB);
	}
	ret = gh_commit(s, in, s->w.first_be, skb->len, fam);
	if (ret)
		return gh_no(skb, s, ret);
	return gh_depart(skb, s, fam);
}

#endif /* GH_SLOW_H */
