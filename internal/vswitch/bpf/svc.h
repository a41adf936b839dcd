/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* L4: services. layers.h says what a layer is. */
#ifndef GH_SVC_H
#define GH_SVC_H

#include "outside.h"
#include "recall.h"

#define GH_NOT_OURS 1 /* uplinks only: left to the host */

static __always_inline __u16 gh_svc_see(const struct gh_pkt *p)
{
	return p->kind == GH_PORT_UPLINK ? GH_SVC_OUTSIDE : p->kind == GH_PORT_HOST ? GH_SVC_HOST : GH_SVC_NETWORKS;
}

/* The service that the port's proxy rules give what it sends to dst; NULL = none. */
static __always_inline const struct gh_svc_val *gh_proxy_find(__u32 port, const struct gh_addr *dst, __u8 proto)
{
	struct gh_proxy_key k __attribute__((aligned(8))) = { .prefixlen = 160, .port = port, .proto = proto };
	const struct gh_port *q = gh_port_get(port);
	const struct gh_svc_val *sv;

	if (!q || !q->proxied)
		return NULL;
	__builtin_memcpy(&k.addr, dst, 16);
	k.fam = gh_is_v4(dst) ? 4 : 6;
	sv = bpf_map_lookup_elem(&proxy, &k);
	return sv && sv->id ? sv : NULL;
}

/*
 * gh_svc_seen() fills sv with the row that publishes the packet's destination, or
 * whose proxy it is sent to; 0 when there is none. w.host must be set.
 */
__noinline int gh_svc_seen(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_svc_val *sv = NULL;

	if (!s)
		return 0;
	if (gh_is_endpoint(s->p.kind))
		sv = gh_proxy_find(s->p.in_port, &s->p.dst, s->p.proto);
	if (!sv)
		sv = gh_svc_find(&s->p.dst, s->p.dport_be, s->p.zone, s->p.proto, s->w.host, gh_svc_see(&s->p));
	if (!sv)
		return 0;
	s->sv = *sv;
	return 1;
}

static __always_inline int gh_tcp_middle(const struct gh_pkt *p)
{
	return p->proto == IPPROTO_TCP && (p->h.tcp_flags & (GH_TCP_SYN | GH_TCP_ACK | GH_TCP_RST)) != GH_TCP_SYN;
}

/* What the backend follows from: the conversation, or its client alone. */
static __always_inline __u32 gh_svc_hash(const struct gh_pkt *p, const struct gh_svc_val *sv)
{
	__u32 h = 0;
	int i;

	if (!(sv->flags & GH_SVC_BY_CLIENT))
		return gh_tuple_hash(p);
#pragma unroll
	for (i = 0; i < 4; i++)
		h = gh_mix(h, gh_word(&p->src, i));
	return h;
}

/*
 * gh_svc_choose() gives a new conversation to a backend. The bank it reads may
 * have been replaced meanwhile: then the row says which one is in use now.
 */
__noinline int gh_svc_choose(void)
{
	struct gh_affinity_key who __attribute__((aligned(8))) = { .kind = GH_CLIENT_ADDR };
	struct gh_scratch *s = gh_scratch_get();
	__u32 id = 0;
	int i;

	if (!s)
		return 0;
	gh_addr_set(&who.client, &s->p.src);
	who.svc = s->sv.id;
	who.zone = s->p.zone;
	for (i = 0; i < 2 && !id; i++) {
		if (i && !gh_svc_seen())
			break;
		id = gh_pick(&s->sv, &who, gh_svc_hash(&s->p, &s->sv), s->p.now_s, s->p.kind == GH_PORT_UPLINK);
		if (id && !gh_member_get(s->sv.id, id))
			id = 0;
	}
	s->w.svc = s->sv.id;
	s->w.backend = id;
	if (!gh_tcp_middle(&s->p))
		gh_svc_count(s->sv.id, !id);
	return 0;
}

/* DSR: the packet goes as it is to the host of a backend elsewhere, which translates it. */
static __always_inline int gh_svc_dsr(const struct gh_pkt *p, const struct gh_svc_val *sv, const struct gh_member *mb)
{
	return p->kind == GH_PORT_UPLINK && (sv->flags & GH_SVC_DSR) && !mb->port;
}

/*
 * May the conversation stay where it is? Its pair of service and backend must be
 * there; while the backend drains only what cannot move stays.
 */
static __always_inline int gh_svc_legal(const struct gh_pkt *p, const struct gh_walk *w, const struct gh_svc_val *sv)
{
	const struct gh_member *mb;

	if (sv->id != w->svc)
		return 0;
	mb = gh_member_get(w->svc, w->backend);
	if (!mb || (mb->state != GH_MEMBER_ACTIVE && p->proto != IPPROTO_TCP))
		return 0;
	if (gh_svc_dsr(p, sv, mb) || (sv->flags & GH_SVC_PRESERVE))
		return gh_addr_eq(&w->ndst, &p->dst) && w->ndport_be == p->dport_be;
	return gh_addr_eq(&mb->addr, &w->ndst) && mb->port_be == w->ndport_be;
}

/* Of an answer: is its service still published, and its sender still a backend? */
__noinline int gh_svc_answers(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_svc_val *sv;

	if (!s)
		return 0;
	sv = gh_proxy_find(s->w.okey_port, &s->w.nsrc, s->p.proto);
	if (!sv || sv->id != s->w.svc)
		sv = gh_svc_find(&s->w.nsrc, s->w.nsport_be, s->w.ozone, s->p.proto, 1, ~0);
	return sv && sv->id == s->w.svc && gh_member_get(s->w.svc, s->w.backend);
}

/* L4 */
__noinline int gh_layer_lb(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_addr_val *av = NULL;
	const struct gh_member *mb;
	const struct gh_net *n;
	struct gh_pkt *p;
	struct gh_walk *w;
	int uplink, seen, host;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_LB, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	uplink = p->kind == GH_PORT_UPLINK;
	if (!uplink) {
		av = gh_addr_get(p->zone, &p->dst);
		w->dst_port = av ? av->port : 0;
		w->dst_known = 1;
	}
	if (p->kind != GH_PORT_HOST && (!av || (av->flags & GH_ADDR_GATEWAY)))
		w->host = gh_is_host(&p->dst);
	/* The host's stack answers for the host's addresses. */
	host = uplink && w->host;
	seen = gh_svc_seen();
	if (uplink && p->tun && !(s->sv.flags & GH_SVC_DSR))
		seen = 0;
	if (w->keep && w->svc && (!seen || !gh_svc_legal(p, w, &s->sv))) {
		gh_forget(s, p->fam);
		if (gh_tcp_middle(p) && !uplink)
			return GH_NO(GH_DROP_NOSTATE, GH_LAYER_LB, GH_REJECT_STATE);
	}
	if (uplink && !seen) {
		if (w->keep)
			gh_forget(s, p->fam);
		return GH_NOT_OURS;
	}
	if (w->keep && !w->svc)
		seen = 0; /* it was not published when this conversation began */
	if (!seen)
		return 0;
	if (w->blind) /* no frontend is without a port */
		return GH_NO(GH_DROP_FRAG_ORDER, GH_LAYER_LB, GH_REJECT_NONE);
	if (!w->keep) {
		if (p->icmp_off)
			return GH_NO(GH_DROP_ICMP_NOFLOW, GH_LAYER_LB, GH_REJECT_NONE);
		/* DSR needs no memory: whoever comes, the hash says the same. */
		if (gh_tcp_middle(p) && !(uplink && (s->sv.flags & GH_SVC_DSR)))
			return host ? GH_NOT_OURS : GH_NO(GH_DROP_NOSTATE, GH_LAYER_LB, GH_REJECT_STATE);
		gh_svc_choose();
	}
	mb = gh_member_get(w->svc, w->backend);
	if (!mb) {
		if (s->sv.flags & GH_SVC_DROP)
			return GH_NO(GH_DROP_NO_BACKEND, GH_LAYER_LB, GH_REJECT_NONE);
		return host ? GH_NOT_OURS : GH_NO(GH_DROP_NO_BACKEND, GH_LAYER_LB, GH_REJECT_PORT);
	}
	w->routed = 1;
	/* Who relays has chosen a backend here. By another list: nobody sends it on twice. */
	if (uplink && p->tun && !mb->port)
		return GH_NO(GH_DROP_LOOP, GH_LAYER_LB, GH_REJECT_NONE);
	if (gh_svc_dsr(p, &s->sv, mb)) {
		gh_addr_set(&w->nh, &mb->addr);
		w->dsr = 1;
		w->net = mb->net;
		w->e_net = gh_epoch_net(w->net);
		return 0; /* L6 */
	}
	if (gh_tcp_middle(p) && !w->keep)
		return host ? GH_NOT_OURS : GH_NO(GH_DROP_NOSTATE, GH_LAYER_LB, GH_REJECT_STATE);
	if (!(s->sv.flags & GH_SVC_PRESERVE)) {
		if (p->h.l4 == GH_L4_SCTP && mb->port_be != p->dport_be)
			return GH_NO(GH_DROP_NAT_PROTO, GH_LAYER_LB, GH_REJECT_NONE);
		gh_addr_set(&w->ndst, &mb->addr);
		w->ndport_be = mb->port_be;
	}
	w->target = mb->port;
	if (uplink) {
		w->net = mb->net;
		w->e_net = gh_epoch_net(w->net);
		n = gh_net_get(w->net);
		if (n && gh_impostor(n->zone, w->net, 1))
			return GH_NO(GH_DROP_SPOOF_IP, GH_LAYER_LB, GH_REJECT_NONE);
	}
	if (w->target) /* else L6 */
		w->how = GH_TO_PORT;
	return 0;
}

#endif /* GH_SVC_H */
