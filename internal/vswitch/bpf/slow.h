/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * The pipeline: what a packet without a valid flow walks through, in the order
 * of the layers. An entry that exists but was built under another configuration
 * is revalidated: its backend and its NAT binding stay if they are still legal.
 */
#ifndef GH_SLOW_H
#define GH_SLOW_H

#include "layers.h"
#include "notice.h"

/* gh_no() ends a walk that returned GH_NO(). */
static __always_inline int gh_no(struct __sk_buff *skb, struct gh_scratch *s, int no)
{
	no = -no;
	if (no >> 16)
		return gh_refuse(skb, s, no & 0xff, (no >> 8) & 0xff, no >> 16);
	return gh_drop(skb, s, no & 0xff, (no >> 8) & 0xff);
}

/*
 * gh_leave4() and gh_leave6() count and send a packet that is as val, the line of
 * its flow, says. Global, so that the verifier walks it once and not for every
 * way of rewriting.
 */
__noinline int gh_leave4(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return TC_ACT_SHOT;
	gh_count(s->p.in_port, s->w.out_port, skb->len);
	return gh_send(skb, (struct gh_head *)&s->val, gh_word(&s->w.nh, 3), NULL);
}

__noinline int gh_leave6(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return TC_ACT_SHOT;
	gh_count(s->p.in_port, s->w.out_port, skb->len);
	return gh_send(skb, (struct gh_head *)&s->val, 0, &s->w.nh);
}

static __always_inline int gh_leave(struct __sk_buff *skb, int fam)
{
	return fam == 4 ? gh_leave4(skb) : gh_leave6(skb);
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
	if ((((struct gh_head *)&s->val)->ops & GH_OPS_FRAME) && gh_frame(skb, (struct gh_head *)&s->val, w->tun))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (fam == 4)
		ret = gh_rewrite4(skb, l4_off, p->h.l4, p->h.frag, (struct gh_act4 *)&s->val);
	else
		ret = gh_rewrite6(skb, l4_off, p->h.l4, p->h.frag, (struct gh_act6 *)&s->val);
	if (ret)
		return gh_drop(skb, s, -ret, GH_LAYER_L2);
	gh_arrives(skb, ((struct gh_head *)&s->val)->ops, w->prio, w->out_port);
	if (w->out_kind == GH_OUT_TUNNEL && gh_encap(skb, w->tun, w->vtep))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	gh_note(skb, GH_RESULT_FORWARD, w->out_kind, w->out_ifindex, w->out_port, 0, 0, w->via);
	return gh_leave(skb, fam);
}

/* The service and the backend that were chosen are there still. */
static __always_inline int gh_svc_there(struct gh_scratch *s)
{
	return gh_svc_seen() && s->sv.id == s->w.svc && gh_member_get(s->w.svc, s->w.backend);
}

/* gh_slow() is stages v4 and v6. */
static __always_inline int gh_slow(struct __sk_buff *skb, int fam)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_walk *w;
	void *f;
	int ret;

	if (!s)
		return TC_ACT_SHOT;
	w = &s->w;
	ret = gh_walk_layers(skb, s);
	if (s->p.icmp_off) {
		if (!ret && w->keep)
			return gh_stage(skb, s, fam == 4 ? GH_STAGE_ERROR4 : GH_STAGE_ERROR6);
		if (s->p.kind == GH_PORT_UPLINK)
			return gh_not_ours(skb, s, GH_DROP_ICMP_NOFLOW, GH_LAYER_FLOW);
		return gh_drop(skb, s, GH_DROP_ICMP_NOFLOW, GH_LAYER_FLOW);
	}
	if (ret == GH_NOT_OURS)
		return gh_not_ours(skb, s, GH_DROP_NO_BACKEND, GH_LAYER_LB);
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
	/* As in gh_new(): the backend may have gone before the epochs were read. */
	if (!w->reply && w->svc && !gh_svc_there(s))
		return gh_depart(skb, s, fam);
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
	/* The service was read before the epochs that guard it: where it leads was not
	 * known yet. Had it gone in between, nobody would notice later. */
	if (s->w.svc && !gh_svc_there(s))
		return gh_drop(skb, s, GH_DROP_NO_BACKEND, GH_LAYER_LB);
	ret = gh_commit(skb, s, in, s->w.first_be, fam);
	if (ret)
		return gh_no(skb, s, ret);
	/* Nobody will know its answers: are they let through all the same? */
	if (s->w.via == GH_VIA_STATELESS && gh_acl_back(skb))
		return gh_drop(skb, s, GH_DROP_FLOW_FULL, GH_LAYER_NAT);
	if (s->w.via == GH_VIA_NEW)
		gh_notice_new();
	return gh_depart(skb, s, fam);
}

#endif /* GH_SLOW_H */
