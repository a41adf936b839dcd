/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * The hit path: parse, look up, three epochs, rewrite, redirect. All inline in
 * the entry programs; its budget is 180 ns. Everything else is a tail call.
 */
#ifndef GH_FAST_H
#define GH_FAST_H

#include "apply.h"
#include "encap.h"
#include "parse.h"

/* Ends of the hit path that are not verdicts. */
enum gh_end {
	GH_END_MISS = -1,
	GH_END_STATE = -2, /* a hit, but connection state changes */
	GH_END_TTL = -3,
	GH_END_MTU = -4,
	GH_END_ERROR = -5,
};

/* Second half of a hit: the line was copied between two reads of the same tag. */
static __always_inline int gh_valid(const struct gh_head *hd, const struct gh_track *t, __u32 e_in, __u32 e_out,
				    __u32 e_net, __u16 out_port, __u32 port_id, __u32 now_s, int fam)
{
	if (e_in != gh_epoch_at(port_id) || e_out != gh_epoch_at(out_port) || e_net != gh_epoch_net(t->net))
		return 0;
	return !gh_idle(t, now_s, fam);
}

/*
 * gh_hit4() looks for the flow of k and sends the packet by it. advance is set
 * by the state stage, which has done what a change of state needs.
 */
static __always_inline int gh_hit4(struct __sk_buff *skb, struct gh_flow4 *f, const struct gh_fkey4 *k,
				   const struct gh_hdr *h, __u32 l4_off, __u32 in_port, __u32 now_s, int advance)
{
	struct gh_track *t = gh_track(f, 4);
	struct gh_act4 a __attribute__((aligned(8)));
	__u32 tag = GH_READ(f->tag);
	__u64 n = 0;

	if (!advance)
		n = __sync_fetch_and_add(&f->packets, 1);
	else
		gh_fence(t);
	a = *(struct gh_act4 *)f;
	if (!advance)
		n += __sync_fetch_and_add(&f->bytes, skb->len);
	else
		gh_fence(t);
	/* Used, so that the adds are the kind that are barriers. */
	asm volatile("" : : "r"(n));
	if ((tag & 1) || GH_READ(f->tag) != tag || (tag ^ gh_fold(k, 4)) >> 16)
		return GH_END_MISS;
	if (!gh_valid(&a.hd, t, a.e_in, a.e_out, a.e_net, a.out_port, k->port, now_s, 4))
		return GH_END_MISS;
	if (!advance && unlikely(gh_changes_state(t, h)))
		return GH_END_STATE;
	gh_touch(t, now_s);
	if ((a.hd.ops & GH_OP_TTL) && h->ttl <= 1)
		return GH_END_TTL;
	if (gh_toobig(skb, h, a.out_mtu))
		return GH_END_MTU;
	if (unlikely(a.hd.ops & GH_OPS_FRAME) && gh_frame(skb, &a.hd, a.tun))
		return GH_END_MISS;
	if (gh_rewrite4(skb, l4_off, h->l4, h->frag, &a))
		return GH_END_ERROR;
	gh_arrives(skb, a.hd.ops, a.prio, a.out_port);
	if (unlikely(a.hd.out_kind == GH_OUT_TUNNEL) && gh_encap(skb, a.tun, a.vtep))
		return GH_END_ERROR;
	gh_count(in_port, a.out_port, skb->len);
	gh_note(skb, GH_RESULT_FORWARD, a.hd.out_kind, a.hd.out_ifindex, a.out_port, 0, GH_LAYER_FLOW, GH_VIA_HIT);
	return gh_send(skb, &a.hd, a.nh_be, NULL);
}

static __always_inline int gh_hit6(struct __sk_buff *skb, struct gh_flow6 *f, const struct gh_fkey6 *k,
				   const struct gh_hdr *h, __u32 l4_off, __u32 in_port, __u32 now_s, int advance)
{
	struct gh_track *t = gh_track(f, 6);
	struct gh_act6 a __attribute__((aligned(8)));
	__u32 tag = GH_READ(f->tag);
	__u64 n = 0;

	if (!advance)
		n = __sync_fetch_and_add(&f->packets, 1);
	else
		gh_fence(t);
	a = *(struct gh_act6 *)f;
	if (!advance)
		n += __sync_fetch_and_add(&f->bytes, skb->len);
	else
		gh_fence(t);
	asm volatile("" : : "r"(n));
	if ((tag & 1) || GH_READ(f->tag) != tag || (tag ^ gh_fold(k, 6)) >> 16)
		return GH_END_MISS;
	if (!gh_valid(&a.hd, t, a.e_in, a.e_out, a.e_net, a.out_port, k->port, now_s, 6))
		return GH_END_MISS;
	if (!advance && unlikely(gh_changes_state(t, h)))
		return GH_END_STATE;
	gh_touch(t, now_s);
	if ((a.hd.ops & GH_OP_TTL) && h->ttl <= 1)
		return GH_END_TTL;
	if (gh_toobig(skb, h, a.out_mtu))
		return GH_END_MTU;
	if (unlikely(a.hd.ops & GH_OPS_FRAME) && gh_frame(skb, &a.hd, a.tun))
		return GH_END_MISS;
	if (gh_rewrite6(skb, l4_off, h->l4, h->frag, &a))
		return GH_END_ERROR;
	gh_arrives(skb, a.hd.ops, a.prio, a.out_port);
	if (unlikely(a.hd.out_kind == GH_OUT_TUNNEL) && gh_encap(skb, a.tun, a.vtep))
		return GH_END_ERROR;
	gh_count(in_port, a.out_port, skb->len);
	gh_note(skb, GH_RESULT_FORWARD, a.hd.out_kind, a.hd.out_ifindex, a.out_port, 0, GH_LAYER_FLOW, GH_VIA_HIT);
	return gh_send(skb, &a.hd, 0, &a.nh);
}

/* gh_finish() turns an enum gh_end into a stage; scratch holds the packet. */
static __always_inline int gh_finish(struct __sk_buff *skb, struct gh_scratch *s, int end, __u32 mtu, int fam)
{
	switch (end) {
	case GH_END_STATE:
		return gh_stage(skb, s, GH_STAGE_STATE);
	case GH_END_TTL:
		return gh_refuse(skb, s, GH_DROP_TTL, GH_LAYER_FLOW, GH_REJECT_TTL);
	case GH_END_MTU:
		s->reject_mtu = mtu;
		return gh_refuse(skb, s, GH_DROP_MTU, GH_LAYER_FLOW, GH_REJECT_TOOBIG);
	case GH_END_ERROR:
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_FLOW);
	}
	return gh_stage(skb, s, fam == 4 ? GH_STAGE_V4 : GH_STAGE_V6);
}

/*
 * gh_question() ends a frame at an uplink that is no packet of ours: ARP and ND may
 * ask for an address that is announced there; all else is the host's.
 */
static __always_inline int gh_question(struct __sk_buff *skb, __u32 uplink)
{
	struct gh_scratch *s;

	if (!gh_is_control(skb))
		return gh_pass(skb);
	s = gh_scratch_get();
	if (!s)
		return TC_ACT_SHOT;
	s->p.in_port = uplink;
	return gh_stage(skb, s, GH_STAGE_VIP);
}

/* What the entry knows about where the packet came in. */
struct gh_in {
	__u16 in_port, port, zone, net;
	__u16 vtep; /* of a tunnel's frames, like tun */
	__u8 kind;
	__u32 tun;
};

static __always_inline void gh_save_in(struct gh_pkt *p, const struct gh_in *in, const struct gh_hdr *h, int fam)
{
	p->h = *h;
	p->in_port = in->in_port;
	p->port = in->port;
	p->zone = in->zone;
	p->net = in->net;
	p->kind = in->kind;
	p->tun = in->tun;
	p->vtep = in->vtep;
	p->fam = fam;
	p->now_s = gh_now_s();
	p->icmp_off = 0;
	p->unknown = 0;
}

/* gh_load_in() is the other way: what an earlier program of the packet's way knew. */
static __always_inline void gh_load_in(struct gh_in *in, const struct gh_pkt *p)
{
	in->in_port = p->in_port;
	in->port = p->port;
	in->zone = p->zone;
	in->net = p->net;
	in->kind = p->kind;
	in->tun = p->tun;
	in->vtep = p->vtep;
}

static __always_inline void gh_save4(struct gh_pkt *p, const struct gh_in *in, const struct gh_fkey4 *k,
				     const struct gh_hdr *h)
{
	gh_save_in(p, in, h, 4);
	gh_addr4(&p->src, k->src_be);
	gh_addr4(&p->dst, k->dst_be);
	p->sport_be = k->sport_be;
	p->dport_be = k->dport_be;
	p->proto = k->proto;
	p->kflags = k->flags;
}

static __always_inline void gh_save6(struct gh_pkt *p, const struct gh_in *in, const struct gh_fkey6 *k,
				     const struct gh_hdr *h)
{
	gh_save_in(p, in, h, 6);
	gh_addr_set(&p->src, &k->src);
	gh_addr_set(&p->dst, &k->dst);
	p->sport_be = k->sport_be;
	p->dport_be = k->dport_be;
	p->proto = k->proto;
	p->kflags = k->flags;
}

/*
 * gh_fetch() hands a packet whose headers are not linear to the stage that makes
 * them so. Parsing a second time here would cost the verifier of Linux 6.1 half of
 * what it walks at all.
 */
static __always_inline int gh_fetch(struct __sk_buff *skb, const struct gh_in *in, int fam, int group)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_hdr h = {};

	if (!s)
		return TC_ACT_SHOT;
	h.group = group;
	gh_save_in(&s->p, in, &h, fam);
	return gh_stage(skb, s, GH_STAGE_FETCH);
}

/*
 * gh_enter() is the way in of an IP packet. uplink is a constant of the program:
 * what does not concern us there is left to the host, whatever it is.
 */
static __always_inline int gh_enter4(struct __sk_buff *skb, const struct gh_in *in, int uplink)
{
	struct gh_fkey4 k __attribute__((aligned(8))) = {};
	struct gh_hdr h __attribute__((aligned(8))) = {};
	int next, end = GH_END_MISS, unknown = 0;
	struct gh_scratch *s;
	struct gh_flow4 *f;
	__u32 mtu = 0;

	next = gh_parse4(skb, &k, &h);
	if (unlikely(next < 0) && gh_scattered(skb))
		return gh_fetch(skb, in, 4, 0);
	if (next < 0 && uplink)
		return gh_pass(skb);
	k.port = in->port;
	k.zone = in->zone;
	if (likely(next == GH_NEXT_FLOW)) {
		f = bpf_map_lookup_elem(&flow4, &k);
		if (likely(f)) {
			end = gh_hit4(skb, f, &k, &h, h.l4_off, in->in_port, gh_now_s(), 0);
			if (likely(end >= 0))
				return end;
			if (end == GH_END_MTU)
				mtu = f->out_mtu;
		} else if (uplink && gh_outer(&h, k.dport_be)) {
			return gh_pass(skb);
		} else {
			unknown = 1;
		}
	}
	s = gh_scratch_get();
	if (!s)
		return TC_ACT_SHOT;
	gh_save4(&s->p, in, &k, &h);
	s->p.unknown = unknown;
	if (next < 0)
		return gh_drop(skb, s, -next, GH_LAYER_PORT);
	if (next == GH_NEXT_FRAG)
		return gh_stage(skb, s, GH_STAGE_FRAG);
	if (next == GH_NEXT_ERROR)
		return gh_stage(skb, s, GH_STAGE_ICMP);
	return gh_finish(skb, s, end, mtu, 4);
}

static __always_inline int gh_enter6(struct __sk_buff *skb, const struct gh_in *in, int uplink, int group)
{
	struct gh_fkey6 k __attribute__((aligned(8))) = {};
	struct gh_hdr h __attribute__((aligned(8))) = {};
	int next, end = GH_END_MISS, unknown = 0;
	struct gh_scratch *s;
	struct gh_flow6 *f;
	__u32 mtu = 0;

	next = gh_parse6(skb, &k, &h);
	if (unlikely(next < 0) && gh_scattered(skb))
		return gh_fetch(skb, in, 6, group);
	if (uplink && (next < 0 || next == GH_NEXT_ND))
		return gh_question(skb, in->in_port);
	k.port = in->port;
	k.zone = in->zone;
	if (likely(next == GH_NEXT_FLOW && !group)) {
		f = bpf_map_lookup_elem(&flow6, &k);
		if (likely(f)) {
			end = gh_hit6(skb, f, &k, &h, h.l4_off & GH_L4_MASK6, in->in_port, gh_now_s(), 0);
			if (likely(end >= 0))
				return end;
			if (end == GH_END_MTU)
				mtu = f->out_mtu;
		} else if (uplink && gh_outer(&h, k.dport_be)) {
			return gh_pass(skb);
		} else {
			unknown = 1;
		}
	}
	s = gh_scratch_get();
	if (!s)
		return TC_ACT_SHOT;
	gh_save6(&s->p, in, &k, &h);
	s->p.unknown = unknown;
	s->p.h.group = group;
	if (next < 0)
		return gh_drop(skb, s, -next, GH_LAYER_PORT);
	if (next == GH_NEXT_ND) /* nobody relays it */
		return in->kind == GH_PORT_UPLINK ? gh_drop(skb, s, GH_DROP_L2_PROTO, GH_LAYER_PORT) :
						    gh_stage(skb, s, GH_STAGE_ND);
	if (group)
		return gh_stage(skb, s, GH_STAGE_FLOOD);
	if (next == GH_NEXT_FRAG)
		return gh_stage(skb, s, GH_STAGE_FRAG);
	if (next == GH_NEXT_ERROR)
		return gh_stage(skb, s, GH_STAGE_ICMP);
	return gh_finish(skb, s, end, mtu, 6);
}

#endif /* GH_FAST_H */
