/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* How a packet's way ends: every program returns through one of these. */
#ifndef GH_EVENT_H
#define GH_EVENT_H

#include "copy.h"

/* Leave the packet to whoever is next: TCX_NEXT and TC_ACT_UNSPEC alike. */
#define GH_PASS_ON (-1)

int st_v4(struct __sk_buff *skb);
int st_v6(struct __sk_buff *skb);
int st_arp(struct __sk_buff *skb);
int st_nd(struct __sk_buff *skb);
int st_icmp(struct __sk_buff *skb);
int st_frag(struct __sk_buff *skb);
int st_flood(struct __sk_buff *skb);
int st_reject(struct __sk_buff *skb);
int st_state(struct __sk_buff *skb);
int st_drop(struct __sk_buff *skb);
int st_new4(struct __sk_buff *skb);
int st_new6(struct __sk_buff *skb);
int st_error4(struct __sk_buff *skb);
int st_error6(struct __sk_buff *skb);
int st_vip(struct __sk_buff *skb);
int st_fetch(struct __sk_buff *skb);
int st_trunk(struct __sk_buff *skb);
int st_tunnel(struct __sk_buff *skb);
int st_sort(struct __sk_buff *skb);
int st_wire(struct __sk_buff *skb);
int st_control(struct __sk_buff *skb);
int st_proxy(struct __sk_buff *skb);
int st_outside(struct __sk_buff *skb);
int st_relayed(struct __sk_buff *skb);

/* Filled when the object is loaded. Pin it: without a descriptor it is emptied. */
struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, GH_STAGES);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} stages SEC(".maps") = {
	.values = {
		[GH_STAGE_V4] = (void *)&st_v4,
		[GH_STAGE_V6] = (void *)&st_v6,
		[GH_STAGE_ARP] = (void *)&st_arp,
		[GH_STAGE_ND] = (void *)&st_nd,
		[GH_STAGE_ICMP] = (void *)&st_icmp,
		[GH_STAGE_FRAG] = (void *)&st_frag,
		[GH_STAGE_FLOOD] = (void *)&st_flood,
		[GH_STAGE_REJECT] = (void *)&st_reject,
		[GH_STAGE_STATE] = (void *)&st_state,
		[GH_STAGE_DROP] = (void *)&st_drop,
		[GH_STAGE_NEW4] = (void *)&st_new4,
		[GH_STAGE_NEW6] = (void *)&st_new6,
		[GH_STAGE_ERROR4] = (void *)&st_error4,
		[GH_STAGE_ERROR6] = (void *)&st_error6,
		[GH_STAGE_VIP] = (void *)&st_vip,
		[GH_STAGE_FETCH] = (void *)&st_fetch,
		[GH_STAGE_TRUNK] = (void *)&st_trunk,
		[GH_STAGE_TUNNEL] = (void *)&st_tunnel,
		[GH_STAGE_SORT] = (void *)&st_sort,
		[GH_STAGE_WIRE] = (void *)&st_wire,
		[GH_STAGE_CONTROL] = (void *)&st_control,
		[GH_STAGE_PROXY] = (void *)&st_proxy,
		[GH_STAGE_OUTSIDE] = (void *)&st_outside,
		[GH_STAGE_RELAYED] = (void *)&st_relayed,
	},
};

/*
 * gh_note() shows a test what TEST_RUN hides. Costs nothing in production: the
 * kernel drops the branch on a read-only constant.
 */
static __always_inline void gh_note(struct __sk_buff *skb, __u32 verdict, __u32 kind, __u32 ifindex,
				    __u32 out_port, __u32 reason, __u32 layer, __u32 via)
{
	struct gh_result *r;
	__u32 zero = 0;

	if (!unit)
		return;
	skb->cb[0] = verdict;
	skb->cb[1] = kind;
	skb->cb[2] = ifindex;
	skb->cb[3] = reason;
	skb->cb[4] = layer;
	r = bpf_map_lookup_elem(&result, &zero);
	if (!r)
		return;
	r->verdict = verdict;
	r->out_kind = kind;
	r->out_ifindex = ifindex;
	r->out_port = out_port;
	r->reason = reason;
	r->layer = layer;
	r->flow = via;
}

static __always_inline int gh_pass(struct __sk_buff *skb)
{
	gh_note(skb, GH_RESULT_NEXT, 0, 0, 0, 0, 0, 0);
	return GH_PASS_ON;
}

/* Handled, nothing left to deliver, nothing lost. */
static __always_inline int gh_consumed(struct __sk_buff *skb, __u32 in_port, __u32 layer)
{
	gh_count_from(in_port, skb->len);
	gh_note(skb, GH_RESULT_CONSUMED, 0, 0, 0, 0, layer, 0);
	return TC_ACT_SHOT;
}

static __always_inline int gh_stage(struct __sk_buff *skb, struct gh_scratch *s, __u32 stage)
{
	bpf_tail_call(skb, &stages, stage);
	/* The slot is empty. Say so, if at least the drop stage is there. */
	s->reason = GH_DROP_TAIL_CALL;
	s->layer = GH_LAYER_PORT;
	bpf_tail_call(skb, &stages, GH_STAGE_DROP);
	return TC_ACT_SHOT;
}

/* Drops are counted at one place, the drop stage; p.in_port must be set. */
static __always_inline int gh_drop(struct __sk_buff *skb, struct gh_scratch *s, __u32 reason, __u32 layer)
{
	s->reason = reason;
	s->layer = layer;
	return gh_stage(skb, s, GH_STAGE_DROP);
}

/*
 * What from outside concerns nothing of ours is the host's. What another host has
 * relayed is nobody's.
 */
static __always_inline int gh_not_ours(struct __sk_buff *skb, struct gh_scratch *s, __u32 reason, __u32 layer)
{
	return s->p.tun ? gh_drop(skb, s, reason, layer) : gh_pass(skb);
}

/* Drop and tell the sender, where that is allowed. */
static __always_inline int gh_refuse(struct __sk_buff *skb, struct gh_scratch *s, __u32 reason, __u32 layer,
				     __u32 how)
{
	s->reason = reason;
	s->layer = layer;
	s->reject = how;
	return gh_stage(skb, s, GH_STAGE_REJECT);
}

/* gh_account() counts the drop described in scratch and reports it now and then. */
static __always_inline void gh_account(struct __sk_buff *skb, struct gh_scratch *s)
{
	struct gh_drop_key k = { .port = s->p.in_port, .reason = s->reason, .layer = s->layer };
	struct gh_drop_val *v, first = {};
	const struct gh_cfg *c = gh_config();
	__u32 in = s->p.in_port, judge, n;
	struct gh_pstats *st;
	struct gh_event *e;
	__u64 now;

	st = bpf_map_lookup_elem(&pstats, &in);
	if (st)
		st->tx_drops++;
	gh_copy(skb, in, GH_COPY(GH_COPY_DROPPED, s->reason, s->layer));
	/* Only rules speak for who was to get it: those of the other end. */
	judge = s->w.judge;
	if ((1U << s->layer & GH_LAYERS_ACL) && judge != in) {
		st = bpf_map_lookup_elem(&pstats, &judge);
		if (st)
			st->rx_drops++;
		gh_copy(skb, judge, GH_COPY(GH_COPY_REFUSED, s->reason, s->layer));
	}
	v = bpf_map_lookup_elem(&drops, &k);
	if (!v) {
		bpf_map_update_elem(&drops, &k, &first, BPF_NOEXIST);
		v = bpf_map_lookup_elem(&drops, &k);
		if (!v)
			return;
	}
	v->packets++;
	v->bytes += skb->len;

	if (!c || !c->event_rate)
		return;
	now = gh_now_ns();
	if (!gh_rate_ok(&v->ev_s, &v->ev_n, now / GH_NSEC, c->event_rate)) {
		v->suppressed++;
		return;
	}
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		v->suppressed++;
		return;
	}
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = now;
	e->ifindex = skb->ifindex;
	e->len = skb->len;
	e->suppressed = v->suppressed;
	e->port = in;
	e->kind = GH_EVENT_DROP;
	e->reason = s->reason;
	e->layer = s->layer;
	v->suppressed = 0;
	n = skb->len;
	if (n > GH_EVENT_BYTES)
		n = GH_EVENT_BYTES;
	/* No frame is shorter. "n != 0" would do, but Linux 6.1 does not learn n >= 1 from it. */
	asm volatile("" : "+r"(n));
	if (n >= ETH_HLEN && !bpf_skb_load_bytes(skb, 0, e->data, n))
		e->caplen = n;
	/* The first of a second wakes the reader, the others wait for it. */
	bpf_ringbuf_submit(e, v->ev_n == 1 ? 0 : BPF_RB_NO_WAKEUP);
}

#endif /* GH_EVENT_H */
