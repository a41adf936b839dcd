/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * What survives of an entry that was built under another configuration, and how
 * one is given up.
 */
#ifndef GH_RECALL_H
#define GH_RECALL_H

#include "nat.h"

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
	w->net = p->net;
	w->svc = 0;
	w->backend = 0;
	w->reply = 0;
	w->keep = 0;
	w->held = 0;
	w->routed = 0;
	w->tun = 0;
	w->vtep = 0;
	w->prio = 0;
	w->rule = 0;
	w->frame = 0;
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

	if (p->unknown)
		return;
	f = gh_flow_get(&s->key, fam);
	if (!f)
		return;
	hd = f;
	t = gh_track(f, fam);
	tag = GH_READ(hd->tag);
	if ((tag & 1) || (tag ^ gh_fold(&s->key, fam)) >> 16)
		return; /* another CPU is writing it */
	if (gh_dead(f, &s->key, fam, p->now_s) || (p->proto == IPPROTO_TCP && gh_reopened(t, p->h.tcp_flags))) {
		gh_end_by_packet(s, f, fam);
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
	w->held = t->nat && t->state == GH_FLOW_TW;
	w->tag = tag;
	w->keep = 1;
	gh_fence(t);
	if (GH_READ(hd->tag) != tag)
		gh_walk_reset(w, p);
}

/* Global, so that the verifier need not carry what they found through the walk. */
__noinline int gh_recall4(void)
{
	struct gh_scratch *s = gh_scratch_get();

	if (s)
		gh_recall(s, 4);
	return 0;
}

__noinline int gh_recall6(void)
{
	struct gh_scratch *s = gh_scratch_get();

	if (s)
		gh_recall(s, 6);
	return 0;
}

/* gh_unlink4() and gh_unlink6() remove the entry of s.key and its other half. */
__noinline int gh_unlink4(void)
{
	struct gh_scratch *s = gh_scratch_get();
	void *f = s ? gh_flow_get(&s->key, 4) : NULL;

	if (f)
		gh_end_by_packet(s, f, 4);
	return 0;
}

__noinline int gh_unlink6(void)
{
	struct gh_scratch *s = gh_scratch_get();
	void *f = s ? gh_flow_get(&s->key, 6) : NULL;

	if (f)
		gh_end_by_packet(s, f, 6);
	return 0;
}

static __always_inline void gh_unlink_key(int fam)
{
	if (fam == 4)
		gh_unlink4();
	else
		gh_unlink6();
}

/* gh_forget() gives up the recalled entry; the packet starts a new conversation. */
static __always_inline void gh_forget(struct gh_scratch *s, int fam)
{
	if (s->w.keep)
		gh_unlink_key(fam);
	gh_walk_reset(&s->w, &s->p);
}

#endif /* GH_RECALL_H */
