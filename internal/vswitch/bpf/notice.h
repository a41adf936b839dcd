/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Events of conversations that begin and end, while somebody watches
 * (gh_cfg.flow_rate). What ends of age is reported by the sweeper in user space;
 * here only what a packet puts an end to.
 */
#ifndef GH_NOTICE_H
#define GH_NOTICE_H

#include "recall.h"

/* gh_flow_event() reserves the event of a conversation that entered by port id. */
static __always_inline struct gh_flow_event *gh_flow_event(__u32 id, __u32 kind)
{
	const struct gh_cfg *c = gh_config();
	struct gh_flow_event *e;
	struct gh_rate *r;
	__u64 now;

	if (!c || !c->flow_rate)
		return NULL;
	r = bpf_map_lookup_elem(&rate, &id);
	if (!r)
		return NULL;
	now = gh_now_ns();
	if (!gh_rate_ok(&r->flow_s, &r->flow_n, now / GH_NSEC, c->flow_rate)) {
		r->flow_held++;
		return NULL;
	}
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		r->flow_held++;
		return NULL;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->head.time_ns = now;
	e->head.port = id;
	e->head.kind = kind;
	e->head.suppressed = r->flow_held;
	r->flow_held = 0;
	return e;
}

/* gh_notice_new() reports what gh_commit() made. */
__noinline int gh_notice_new(void)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_flow_event *e;
	struct gh_pkt *p;
	struct gh_walk *w;

	if (!s)
		return 0;
	p = &s->p;
	w = &s->w;
	e = gh_flow_event(p->in_port, GH_EVENT_FLOW_NEW);
	if (!e)
		return 0;
	gh_addr_set(&e->src, &p->src);
	gh_addr_set(&e->dst, &p->dst);
	gh_addr_set(&e->nsrc, &w->nsrc);
	gh_addr_set(&e->ndst, &w->ndst);
	e->sport_be = p->sport_be;
	e->dport_be = p->dport_be;
	e->nsport_be = w->nsport_be;
	e->ndport_be = w->ndport_be;
	e->svc = w->svc;
	e->backend = w->backend;
	e->out_port = w->out_port;
	e->net = w->net;
	e->rule = w->rule;
	e->proto = p->proto;
	e->state = w->state;
	e->born_s = p->now_s;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

/* The asking half of a conversation whose one half has key and is f. */
static __always_inline void *gh_asking(void *f, const void *key, int fam)
{
	void *r;

	if (!gh_track(f, fam)->reply)
		return f;
	r = gh_flow_get(gh_pair(f, fam), fam);
	return r && gh_key_eq(gh_pair(r, fam), key, fam) ? r : NULL;
}

static __always_inline void gh_end_event(struct gh_scratch *s, int fam)
{
	void *one = gh_flow_get(&s->key, fam), *f, *r;
	struct gh_track *t, *rt = NULL;
	struct gh_flow_event *e;

	f = one ? gh_asking(one, &s->key, fam) : NULL;
	if (!f)
		return;
	t = gh_track(f, fam);
	e = gh_flow_event(t->in_port, GH_EVENT_FLOW_END);
	if (!e)
		return;
	r = f == one ? gh_flow_get(gh_pair(f, fam), fam) : one;
	if (r)
		rt = gh_track(r, fam);
	if (fam == 4) {
		struct gh_flow4 *v = f;
		/* The answer's pair is the key of the question. */
		struct gh_fkey4 *k = f == one ? &s->key.k4 : &((struct gh_flow4 *)one)->pair;

		gh_addr4(&e->src, k->src_be);
		gh_addr4(&e->dst, k->dst_be);
		gh_addr4(&e->nsrc, v->nsrc_be);
		gh_addr4(&e->ndst, v->ndst_be);
		e->sport_be = k->sport_be;
		e->dport_be = k->dport_be;
		e->nsport_be = v->nsport_be;
		e->ndport_be = v->ndport_be;
		e->out_port = v->out_port;
		e->proto = k->proto;
	} else {
		struct gh_flow6 *v = f;
		struct gh_fkey6 *k = f == one ? &s->key.k6 : &((struct gh_flow6 *)one)->pair;

		gh_addr_set(&e->src, &k->src);
		gh_addr_set(&e->dst, &k->dst);
		gh_addr_set(&e->nsrc, &v->nsrc);
		gh_addr_set(&e->ndst, &v->ndst);
		e->sport_be = k->sport_be;
		e->dport_be = k->dport_be;
		e->nsport_be = v->nsport_be;
		e->ndport_be = v->ndport_be;
		e->out_port = v->out_port;
		e->proto = k->proto;
	}
	e->packets = t->packets;
	e->bytes = t->bytes;
	if (rt) {
		e->rpackets = rt->packets;
		e->rbytes = rt->bytes;
	}
	e->svc = t->svc;
	e->backend = t->backend;
	e->net = t->net;
	e->rule = t->rule;
	e->state = t->state;
	e->born_s = t->born_s;
	e->last_s = t->last_s;
	if (gh_idle(t, s->p.now_s, fam) && (!rt || gh_idle(rt, s->p.now_s, fam)))
		e->why = GH_FLOW_END_IDLE;
	else if (e->proto == IPPROTO_TCP && gh_reopened(t, s->p.h.tcp_flags))
		e->why = GH_FLOW_END_REOPENED;
	else
		e->why = GH_FLOW_END_CHANGED;
	bpf_ringbuf_submit(e, 0);
}

/* gh_notice_end() reports the conversation of s.key, which is about to end. */
__noinline int gh_notice_end(void)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return 0;
	if (s->p.fam == 4)
		gh_end_event(s, 4);
	else
		gh_end_event(s, 6);
	return 0;
}

#endif /* GH_NOTICE_H */
