/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * L7 and the birth of a flow. The answer's entry is inserted first and only if
 * nobody has its key: that insert is the claim of a NAT tuple, atomic between
 * CPUs without a lock. A conversation that another CPU is making at the same
 * moment is recognised by its pair key and adopted; the candidates come in the
 * same order on every CPU, so both arrive at the same port.
 */
#ifndef GH_NAT_H
#define GH_NAT_H

#include "apply.h"
#include "frag.h"
#include "lb.h"
#include "reap.h"
#include "route.h"

#define GH_NAT_TRIES 32
#define GH_EEXIST 17

enum gh_snat {
	GH_SNAT_NONE = 0,
	GH_SNAT_FIXED = 1, /* source becomes w.nsrc: pool, host or hairpin address */
};

static __always_inline int gh_has_ports(const struct gh_pkt *p)
{
	if (p->kflags & GH_FKEY_L3)
		return 0;
	return p->h.l4 == GH_L4_TCP || p->h.l4 == GH_L4_UDP || p->h.l4 == GH_L4_ICMP || p->h.l4 == GH_L4_ICMP6 ||
	       p->h.frag == GH_FRAG_LATER;
}

/* An ICMP id stands in the source port's place in both directions. */
static __always_inline int gh_is_echo(const struct gh_pkt *p)
{
	return p->proto == IPPROTO_ICMP || p->proto == IPPROTO_ICMPV6;
}

static __always_inline __u16 gh_ops(const struct gh_pkt *p, const struct gh_walk *w)
{
	__u16 ops = 0;

	if (!gh_addr_eq(&w->nsrc, &p->src))
		ops |= GH_OP_NSRC;
	if (!gh_addr_eq(&w->ndst, &p->dst))
		ops |= GH_OP_NDST;
	if (w->nsport_be != p->sport_be)
		ops |= GH_OP_NSPORT;
	if (w->ndport_be != p->dport_be)
		ops |= GH_OP_NDPORT;
	if (w->routed)
		ops |= GH_OP_TTL;
	if (w->frame)
		ops |= w->frame;
	else if (w->out_kind != GH_OUT_NEIGH)
		ops |= GH_OP_MAC;
	if (w->prio)
		ops |= GH_OP_PRIO;
	return ops | w->copy; /* without a branch, which would double what the verifier walks */
}

/* gh_line() writes the first line of the packet's own direction, all but tag. */
static __always_inline void gh_line(void *f, const struct gh_pkt *p, const struct gh_walk *w, int fam)
{
	struct gh_head *hd = f;

	hd->ops = gh_ops(p, w);
	hd->verdict = GH_VERDICT_FORWARD;
	hd->out_kind = w->out_kind;
	hd->out_ifindex = w->out_ifindex;
	__builtin_memcpy(hd->dmac, w->dmac, ETH_ALEN);
	__builtin_memcpy(hd->smac, w->smac, ETH_ALEN);
	if (fam == 4) {
		struct gh_act4 *a = f;

		a->nsrc_be = gh_word(&w->nsrc, 3);
		a->ndst_be = gh_word(&w->ndst, 3);
		a->nsport_be = w->nsport_be;
		a->ndport_be = w->ndport_be;
		a->nh_be = gh_word(&w->nh, 3);
		a->out_mtu = w->mtu;
		a->out_port = w->out_port;
		a->e_in = w->e_in;
		a->e_out = w->e_out;
		a->e_net = w->e_net;
		a->tun = w->tun;
		a->vtep = w->vtep;
		a->prio = w->prio;
	} else {
		struct gh_act6 *a = f;

		gh_addr_set(&a->nsrc, &w->nsrc);
		gh_addr_set(&a->ndst, &w->ndst);
		gh_addr_set(&a->nh, &w->nh);
		a->nsport_be = w->nsport_be;
		a->ndport_be = w->ndport_be;
		a->out_mtu = w->mtu;
		a->out_port = w->out_port;
		a->e_in = w->e_in;
		a->e_out = w->e_out;
		a->e_net = w->e_net;
		a->tun = w->tun;
		a->vtep = w->vtep;
		a->prio = w->prio;
	}
}

/*
 * gh_answer_line() writes the first line of the other direction. An answer that
 * leaves by an uplink or a tunnel is written stale: its first packet asks for the
 * route. So is one that goes by MAC: whom it will be addressed to is not known; and
 * one to a trunk, whose tag that packet finds.
 */
static __always_inline int gh_answer_line(void *f, const struct gh_pkt *p, const struct gh_walk *w,
					  const struct gh_port *in, const struct gh_port *out, int fam)
{
	struct gh_head *hd = f;
	__u16 ops = 0, nsport_be;
	__u32 e_in = w->e_out;
	int ret;

	if (w->okey_port != w->out_port)
		e_in = gh_epoch_at(w->okey_port);
	if (!gh_addr_eq(&w->nsrc, &p->src))
		ops |= GH_OP_NDST;
	if (!gh_addr_eq(&w->ndst, &p->dst))
		ops |= GH_OP_NSRC;
	if (w->ndport_be != p->dport_be)
		ops |= GH_OP_NSPORT;
	/* Of what comes by a tunnel the sender's host has taken the hop. */
	if (w->routed && w->out_kind != GH_OUT_TUNNEL)
		ops |= GH_OP_TTL;
	ops |= in->flags & GH_PORT_COPY;
	if (out->class)
		ops |= GH_OP_PRIO;
	hd->verdict = GH_VERDICT_FORWARD;
	if (p->kind == GH_PORT_UPLINK || p->kind == GH_PORT_TUNNEL || w->frame || in->vlan) {
		if (p->kind == GH_PORT_TUNNEL)
			ops |= GH_OP_MAC;
		hd->out_kind = p->kind == GH_PORT_TUNNEL ? GH_OUT_TUNNEL : GH_OUT_NEIGH;
		hd->out_ifindex = in->ifindex;
		e_in--;
	} else {
		ops |= GH_OP_MAC;
		ret = gh_hand_over(in, out, &hd->out_kind, &hd->out_ifindex, hd->dmac, hd->smac);
		if (ret)
			return ret;
	}
	hd->ops = ops; /* a rewritten source port is added with the candidate */
	nsport_be = gh_is_echo(p) ? p->sport_be : p->dport_be;
	if (fam == 4) {
		struct gh_act4 *a = f;

		a->nsrc_be = gh_word(&p->dst, 3);
		a->ndst_be = gh_word(&p->src, 3);
		a->nsport_be = nsport_be;
		a->ndport_be = p->sport_be;
		a->out_mtu = in->mtu;
		a->out_port = p->in_port;
		a->e_in = e_in;
		a->e_out = p->kind == GH_PORT_UPLINK ? gh_epoch_at(p->in_port) : w->e_in;
		a->e_net = w->e_net;
		a->prio = out->class;
	} else {
		struct gh_act6 *a = f;

		gh_addr_set(&a->nsrc, &p->dst);
		gh_addr_set(&a->ndst, &p->src);
		a->nsport_be = nsport_be;
		a->ndport_be = p->sport_be;
		a->out_mtu = in->mtu;
		a->out_port = p->in_port;
		a->e_in = e_in;
		a->e_out = p->kind == GH_PORT_UPLINK ? gh_epoch_at(p->in_port) : w->e_in;
		a->e_net = w->e_net;
		a->prio = out->class;
	}
	return 0;
}

static __always_inline void gh_track_new(struct gh_track *t, const struct gh_pkt *p, const struct gh_walk *w,
					 __u32 len, int reply, int nat)
{
	t->packets = reply ? 0 : 1;
	t->bytes = reply ? 0 : len;
	t->last_s = p->now_s;
	t->born_s = p->now_s;
	t->tcp_own = reply ? 0 : p->h.tcp_flags;
	t->tcp_peer = reply ? p->h.tcp_flags : 0;
	t->state = w->state;
	t->in_port = reply ? w->okey_port : p->port;
	t->net = w->net;
	t->reply = reply;
	t->nat = nat;
	t->svc = w->svc;
	t->backend = w->backend;
	t->rule = w->rule;
}

static __always_inline __u8 gh_state_new(const struct gh_pkt *p)
{
	switch (p->proto) {
	case IPPROTO_TCP:
		return (p->h.tcp_flags & (GH_TCP_SYN | GH_TCP_ACK)) == GH_TCP_SYN ? GH_FLOW_SYN : GH_FLOW_EST;
	case IPPROTO_UDP:
		return GH_FLOW_UDP1;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return GH_FLOW_ICMP;
	default:
		return GH_FLOW_OTHER;
	}
}

/* gh_rkey() makes the key of the answer to w's translation with source port cand. */
static __always_inline void gh_rkey(struct gh_scratch *s, __u16 cand_be, int fam)
{
	const struct gh_pkt *p = &s->p;
	const struct gh_walk *w = &s->w;
	int echo = gh_is_echo(p);

	gh_key_make(&s->rkey, fam, &w->ndst, &w->nsrc, echo ? cand_be : w->ndport_be, echo ? 0 : cand_be,
		    w->okey_port, w->ozone, p->proto, p->kflags);
}

static __always_inline int gh_busy(const struct gh_addr *a, __u16 port_be, __u8 proto)
{
	struct gh_busy_key k __attribute__((aligned(8))) = { .port_be = port_be, .proto = proto };

	gh_addr_set(&k.addr, a);
	return bpf_map_lookup_elem(&portbusy, &k) != NULL;
}

/*
 * gh_socket() is 1 when a socket of the host would get the answer to w's translation
 * with source port cand_be: bound to it by hand, as the kernel gives out others.
 */
static __always_inline int gh_socket(struct __sk_buff *skb, const struct gh_scratch *s, __u16 cand_be, int fam)
{
	struct bpf_sock_tuple t = {};
	__u32 size = fam == 4 ? sizeof(t.ipv4) : sizeof(t.ipv6);
	struct bpf_sock *sk;

	if (fam == 4) {
		t.ipv4.saddr = gh_word(&s->w.ndst, 3);
		t.ipv4.daddr = gh_word(&s->w.nsrc, 3);
		t.ipv4.sport = s->w.ndport_be;
		t.ipv4.dport = cand_be;
	} else {
		__builtin_memcpy(t.ipv6.saddr, &s->w.ndst, 16);
		__builtin_memcpy(t.ipv6.daddr, &s->w.nsrc, 16);
		t.ipv6.sport = s->w.ndport_be;
		t.ipv6.dport = cand_be;
	}
	if (s->p.proto == IPPROTO_TCP)
		sk = bpf_skc_lookup_tcp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else if (s->p.proto == IPPROTO_UDP)
		sk = bpf_sk_lookup_udp(skb, &t, size, BPF_F_CURRENT_NETNS, 0);
	else
		return 0;
	if (!sk)
		return 0;
	bpf_sk_release(sk);
	return 1;
}

enum gh_try {
	GH_TRY_TAKEN = 0,
	GH_TRY_CLAIMED = 1,
	GH_TRY_FULL = 2,
};

/* gh_try() claims the answer's key with one source port. */
static __always_inline int gh_try(struct __sk_buff *skb, struct gh_scratch *s, __u16 cand, int fam)
{
	struct gh_walk *w = &s->w;
	struct gh_pkt *p = &s->p;
	struct gh_head *rh = (struct gh_head *)&s->rval;
	__u16 port_op = gh_is_echo(p) ? GH_OP_NSPORT : GH_OP_NDPORT;
	/* Not long, as libbpf says: before Linux 6.4 the upper half of the answer is not the sign's. */
	struct gh_track *t;
	__s32 asked;
	int nat, ret;
	void *r;

	if (w->pool_busy && gh_has_ports(p)) {
		__u16 host = bpf_ntohs(cand);

		if (host < w->nat_lo || host > w->nat_hi || gh_busy(&w->nsrc, cand, p->proto) ||
		    gh_socket(skb, s, cand, fam))
			return GH_TRY_TAKEN;
	}
	rh->ops &= ~port_op;
	if (cand != p->sport_be)
		rh->ops |= port_op;
	nat = (rh->ops & GH_OPS_NAT) != 0;
	gh_track(&s->rval, fam)->nat = nat;
	w->nsport_be = cand;
	gh_rkey(s, cand, fam);
	rh->tag = gh_tag_new(&s->rkey, fam);
	ret = bpf_map_update_elem(gh_table(fam), &s->rkey, &s->rval, BPF_NOEXIST);
	if (!ret)
		return GH_TRY_CLAIMED;
	if (ret != -GH_EEXIST)
		return GH_TRY_FULL;
	r = gh_flow_get(&s->rkey, fam);
	if (!r)
		return GH_TRY_TAKEN;
	t = gh_track(r, fam);
	if (gh_key_eq(gh_pair(r, fam), &s->key, fam)) { /* ours, or its two ends the other way round */
		asked = t->reply ? -1 : t->in_port;
		if (bpf_map_update_elem(gh_table(fam), &s->rkey, &s->rval, BPF_ANY))
			return GH_TRY_FULL;
		if (asked >= 0)
			gh_quota(asked, -1, fam);
		return GH_TRY_CLAIMED;
	}
	/* Plain and of the same two ends, or dead: that one ends. Zones may use the
	 * same addresses; outside, the answer's key does not tell them apart. */
	if (!(!nat && !t->nat && gh_pair_zone(r, fam) == p->zone) && !gh_dead(r, &s->rkey, fam, p->now_s))
		return GH_TRY_TAKEN;
	gh_unlink(r, &s->rkey, (union gh_key *)s->buf, fam);
	ret = bpf_map_update_elem(gh_table(fam), &s->rkey, &s->rval, BPF_NOEXIST);
	if (!ret)
		return GH_TRY_CLAIMED;
	return ret == -GH_EEXIST ? GH_TRY_TAKEN : GH_TRY_FULL;
}

/* Global, so that the verifier walks a try once and not 32 times. */
__noinline int gh_try4(struct __sk_buff *skb, __u32 cand)
{
	struct gh_scratch *s = gh_scratch_get();

	return s ? gh_try(skb, s, cand, 4) : GH_TRY_FULL;
}

__noinline int gh_try6(struct __sk_buff *skb, __u32 cand)
{
	struct gh_scratch *s = gh_scratch_get();

	return s ? gh_try(skb, s, cand, 6) : GH_TRY_FULL;
}

/*
 * gh_claim() inserts the answer's entry from rval, trying source ports: first
 * the one it has, then in strides that start at a hash of the tuple. Returns 1
 * when claimed, 0 when the table is full, or GH_NO().
 */
static __always_inline int gh_claim(struct __sk_buff *skb, struct gh_scratch *s, __u16 first_be, int fam)
{
	struct gh_walk *w = &s->w;
	__u32 range = (__u32)w->nat_hi - w->nat_lo + 1, hash = gh_tuple_hash(&s->p), stride = hash >> 16 | 1;
	int ports = gh_has_ports(&s->p), i, ret;

	if (w->nat_hi < w->nat_lo)
		return GH_NO(GH_DROP_NAT_PORTS, GH_LAYER_NAT, GH_REJECT_NONE);
	for (i = 0; i < GH_NAT_TRIES; i++) {
		__u16 cand = i ? bpf_htons(w->nat_lo + (hash + i * stride) % range) : first_be;

		ret = fam == 4 ? gh_try4(skb, cand) : gh_try6(skb, cand);
		if (ret == GH_TRY_CLAIMED)
			return 1;
		if (ret == GH_TRY_FULL)
			return 0;
		if (!ports)
			return GH_NO(GH_DROP_NAT_PROTO, GH_LAYER_NAT, GH_REJECT_NONE);
	}
	return GH_NO(GH_DROP_NAT_PORTS, GH_LAYER_NAT, GH_REJECT_NONE);
}

/*
 * gh_ask() inserts the asking half from val: 1 when it was not there yet, 0 when
 * it was, made by another CPU or left behind, or a negative number.
 */
static __always_inline int gh_ask(struct gh_scratch *s, int fam)
{
	int ret = bpf_map_update_elem(gh_table(fam), &s->key, &s->val, BPF_NOEXIST);
	int known;
	void *f;

	if (!ret)
		return 1;
	if (ret != -GH_EEXIST)
		return -1;
	f = gh_flow_get(&s->key, fam);
	known = f && !gh_track(f, fam)->reply;
	ret = bpf_map_update_elem(gh_table(fam), &s->key, &s->val, BPF_ANY);
	return ret ? -1 : !known;
}

/*
 * gh_commit() makes both entries of a new conversation. s.key is the packet's
 * key; w holds the whole decision but the source port. Returns 0 or GH_NO().
 */
static __always_inline int gh_commit(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_port *in, __u16 first_be,
				     int fam)
{
	struct gh_walk *w = &s->w;
	struct gh_pkt *p = &s->p;
	struct gh_head *hd = (struct gh_head *)&s->val, *rh = (struct gh_head *)&s->rval;
	__u32 len = skb->len;
	const struct gh_port *out = gh_port_get(w->out_port);
	int ret, nat, fresh;

	if (!out)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_NAT, GH_REJECT_NONE);
	if (gh_over_quota(p->port, in->max_flows, fam)) {
		gh_born(0, fam); /* some of what counts may be dead */
		return GH_NO(GH_DROP_PORT_QUOTA, GH_LAYER_NAT, GH_REJECT_NONE);
	}
	__builtin_memset(&s->val, 0, sizeof(s->val));
	__builtin_memset(&s->rval, 0, sizeof(s->rval));
	w->state = gh_state_new(p);
	ret = gh_answer_line(&s->rval, p, w, in, out, fam);
	if (ret)
		return ret;
	gh_track_new(gh_track(&s->rval, fam), p, w, len, 1, 0);
	gh_key_copy(gh_pair(&s->rval, fam), &s->key, fam);
	ret = gh_claim(skb, s, first_be, fam);
	if (ret < 0)
		return ret;
	nat = (gh_ops(p, w) & GH_OPS_NAT) != 0;
	if (ret) {
		gh_line(&s->val, p, w, fam);
		gh_track_new(gh_track(&s->val, fam), p, w, len, 0, nat);
		gh_key_copy(gh_pair(&s->val, fam), &s->rkey, fam);
		hd->tag = gh_tag_new(&s->key, fam);
		fresh = gh_ask(s, fam);
		if (fresh >= 0) {
			gh_settle(&s->rkey, rh->tag, fam);
			gh_settle(&s->key, hd->tag, fam);
			if (fresh)
				gh_quota(p->port, 1, fam);
			gh_born(1, fam);
			w->via = GH_VIA_NEW;
			return 0;
		}
		bpf_map_delete_elem(gh_table(fam), &s->rkey);
	}
	gh_born(0, fam);
	/* Table full. A flow that needs no memory goes on without. */
	if (nat)
		return GH_NO(GH_DROP_FLOW_FULL, GH_LAYER_NAT, GH_REJECT_NONE);
	w->via = GH_VIA_STATELESS;
	return 0;
}

/*
 * gh_renew() rewrites the first line of an entry that is revalidated. If another
 * CPU is at it, or the element is not ours any more, this packet just goes by
 * its own decision.
 */
static __always_inline void gh_renew(struct gh_scratch *s, int fam)
{
	struct gh_head *hd = gh_flow_get(&s->key, fam);
	__u32 tag = s->w.tag;

	s->w.via = GH_VIA_REVALIDATED;
	if (!hd || __sync_val_compare_and_swap(&hd->tag, tag, tag | 1) != tag)
		return;
	gh_line(hd, &s->p, &s->w, fam);
	gh_track(hd, fam)->net = s->w.net;
	gh_track(hd, fam)->rule = s->w.rule;
	gh_touch(gh_track(hd, fam), s->p.now_s);
	/* Full barrier, then a new incarnation: the increment stays in its half. Had
	 * the element become another flow's meanwhile, that one bears our line now:
	 * nobody may go by it. */
	if (__sync_val_compare_and_swap(&hd->tag, tag | 1, (tag & 0xffff0000U) | ((tag + 2) & 0xfffe)) != (tag | 1))
		__sync_fetch_and_or(&hd->tag, 1);
}

#endif /* GH_NAT_H */
