/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * L3, L5 and L8: ACL sets. A list of rules is searched by tuples (Srinivasan,
 * Suri and Varghese, SIGCOMM 1999): all rules that look at the same bits of the
 * same fields share one, and one hash look-up tells the best of them. Tuples
 * stand in the order of their best rule, so the search ends as soon as none that
 * is left could beat what was found. Its cost follows from the number of shapes
 * of rules, not of rules.
 *
 * A conversation is judged as it was begun, also when it is an answer that has to
 * be looked at again: then the tuple is turned round first. What is denied leaves
 * the entry as it is, stale: every packet of either direction is judged again
 * until the policy lets it, and then the conversation goes on where it was. Were
 * the entry removed, the next packet of the other side would begin one anew, with
 * the roles exchanged.
 */
#ifndef GH_ACL_H
#define GH_ACL_H

#include "recall.h"

/* What evaluation ends with beside enum gh_acl_action. */
#define GH_ACL_BLIND 4 /* a rule with ports could decide, and they are not known */
#define GH_ACL_GONE 5  /* the set was replaced meanwhile */

static __always_inline __u64 gh_acl_mask(__u32 bits)
{
	return bits >= 64 ? ~0ULL : !bits ? 0 : __builtin_bswap64(~0ULL << (64 - bits));
}

static __always_inline void gh_acl_cut(struct gh_addr *to, const struct gh_addr *from, __u32 bits)
{
	const __u64 *x = (const __u64 *)from->b;
	__u64 *y = (__u64 *)to->b;

	y[0] = x[0] & gh_acl_mask(bits);
	y[1] = x[1] & gh_acl_mask(bits > 64 ? bits - 64 : 0);
}

static __always_inline __u16 gh_acl_port(__u16 port_be, __u32 bits)
{
	return port_be & bpf_htons(0xffff0000U >> (bits & 31));
}

/* Which address sets the remote address is in. Asked once an evaluation. */
static __always_inline __u32 gh_acl_class(struct gh_acl_ask *a)
{
	struct gh_acl_class_key k = { .prefixlen = 128 };
	__u32 *c;

	if (!a->classed) {
		__builtin_memcpy(&k.addr, &a->remote, 16);
		c = bpf_map_lookup_elem(&aclclass, &k);
		a->class = c ? *c : 0;
		a->classed = 1;
	}
	return a->class;
}

/*
 * gh_acl_probe() asks one tuple of the list in scratch; bits and how are its two
 * words, with the tuple's place in the upper half of how. Returns 0, or
 * GH_ACL_BLIND. Global, so that the verifier walks it once and not for each tuple.
 */
__noinline int gh_acl_probe(__u32 bits, __u32 how)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_acl_rule *r;
	struct gh_acl_ask *a;
	__u32 kinds;

	if (!s)
		return 0;
	a = &s->acl;
	kinds = (how >> 8) & a->kinds;
	if (!(kinds & GH_ACL_FAMS) || !(kinds & ~GH_ACL_FAMS))
		return 0;
	if (a->blind && (bits >> 16))
		return GH_ACL_BLIND;
	if (how & GH_ACL_CLASS) {
		__u32 *w = (__u32 *)a->key.remote.b;

		w[0] = gh_acl_class(a);
		w[1] = 0;
		w[2] = 0;
		w[3] = 0;
		if (!w[0])
			return 0;
	} else {
		gh_acl_cut(&a->key.remote, &a->remote, bits & 0xff);
	}
	gh_acl_cut(&a->key.local, &a->local, (bits >> 8) & 0xff);
	a->key.rport_be = gh_acl_port(a->rport_be, (bits >> 16) & 0xff);
	a->key.lport_be = gh_acl_port(a->lport_be, bits >> 24);
	a->key.proto = how & GH_ACL_PROTO ? s->p.proto : 0;
	a->key.tuple = how >> 16;
	r = bpf_map_lookup_elem(&aclrule, &a->key);
	if (r && r->rank < a->rank) {
		a->rank = r->rank;
		a->rule = r->rule;
		a->action = r->action;
	}
	return 0;
}

/* gh_acl_search() is one list of one set: an action, with the rule that decided if one did, GH_ACL_BLIND or GH_ACL_GONE. */
__noinline int gh_acl_search(__u32 set, __u32 list)
{
	struct gh_acl_set_key k = { .set = set, .list = list };
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_acl_set *h;
	struct gh_acl_ask *a;
	__u32 i;

	if (!s)
		return GH_ACL_GONE;
	a = &s->acl;
	a->rule = 0;
	h = bpf_map_lookup_elem(&aclset, &k);
	if (!h)
		return GH_ACL_GONE;
	a->key.set = set;
	a->key.list = list;
	a->key.zero = 0;
	a->rank = ~0U;
	a->action = h->action;
	if (h->stage && h->stage == a->stage)
		return GH_ACL_PASS; /* allowed by an earlier set of the stage */
	for (i = 0; i < GH_ACL_TUPLES; i++) {
		const struct gh_acl_tuple *t = &h->tuple[i];
		const __u32 *w = (const __u32 *)t;

		if (i >= h->tuples || t->best >= a->rank)
			break;
		if (gh_acl_probe(w[0], (w[1] & 0xffff) | i << 16)) {
			a->rule = 0; /* one that was found has not decided */
			return GH_ACL_BLIND;
		}
	}
	if (bpf_map_lookup_elem(&aclset, &k) != h) {
		a->rule = 0;
		return GH_ACL_GONE; /* rows of a set go after its head */
	}
	if (a->rule && a->action == GH_ACL_ALLOW)
		a->stage = h->stage;
	return a->action;
}

/* A rule decided. A packet more or less at the first use of a rule is fine. */
static __always_inline void gh_acl_count(__u32 rule, __u32 len)
{
	struct gh_acl_stats *st = bpf_map_lookup_elem(&aclstats, &rule), first = { .packets = 1, .bytes = len };

	if (st) {
		st->packets++;
		st->bytes += len;
	} else {
		bpf_map_update_elem(&aclstats, &rule, &first, BPF_NOEXIST);
	}
}

/* gh_acl_sets() asks one list of every set of a port: 0 when all let it pass. */
__noinline int gh_acl_sets(struct __sk_buff *skb, __u32 id, __u32 list)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *q = gh_port_get(id);
	struct gh_acl_ask *a;
	__u32 i, changed = 0;

	if (!s || !q || list > GH_ACL_IN_ORIGINAL)
		return GH_ACL_GONE;
	a = &s->acl;
	for (i = 0; i < GH_PORT_ACLS; i++)
		a->sets[i] = q->acl[i];
	a->stage = 0;
	a->classed = 0;
	for (i = 0; i < GH_PORT_ACLS; i++) {
		__u32 set = a->sets[i];
		int ret;

		if (!set)
			break;
		if (!(set & (1U << list)))
			continue;
		ret = gh_acl_search(set, list);
		if (a->rule) {
			gh_acl_count(a->rule, skb->len);
			s->w.rule = a->rule;
		}
		if (ret != GH_ACL_ALLOW && ret != GH_ACL_PASS)
			return ret;
	}
	for (i = 0; i < GH_PORT_ACLS; i++)
		changed |= a->sets[i] ^ GH_READ(q->acl[i]);
	return changed ? GH_ACL_GONE : 0;
}

static __always_inline __u8 gh_acl_kinds(const struct gh_pkt *p)
{
	__u8 fam = p->fam == 4 ? GH_ACL_V4 : GH_ACL_V6;

	switch (p->proto) {
	case IPPROTO_TCP:
		return fam | GH_ACL_TCP;
	case IPPROTO_UDP:
		return fam | GH_ACL_UDP;
	case IPPROTO_SCTP:
		return fam | GH_ACL_SCTP;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		return fam | GH_ACL_ICMP;
	}
	return fam | GH_ACL_OTHER;
}

/*
 * gh_acl_view() fills the question of a list. The source is who began the
 * conversation. What leaves is looked at before NAT, so its local side is the
 * original one in both views.
 */
static __always_inline void gh_acl_view(struct gh_acl_ask *a, const struct gh_pkt *p, const struct gh_walk *w,
					__u32 list)
{
	int in = list >= GH_ACL_IN, translated = list == GH_ACL_OUT || list == GH_ACL_IN;
	const struct gh_addr *src, *dst;
	__u16 sport, dport;

	if (w->reply && !w->aside) {
		src = list == GH_ACL_IN ? &p->dst : &w->ndst;
		sport = list == GH_ACL_IN ? p->dport_be : w->ndport_be;
		dst = translated ? &p->src : &w->nsrc;
		dport = translated ? p->sport_be : w->nsport_be;
	} else {
		src = list == GH_ACL_IN ? &w->nsrc : &p->src;
		sport = list == GH_ACL_IN ? w->nsport_be : p->sport_be;
		dst = translated ? &w->ndst : &p->dst;
		dport = translated ? w->ndport_be : p->dport_be;
	}
	gh_addr_set(&a->local, in ? dst : src);
	gh_addr_set(&a->remote, in ? src : dst);
	a->lport_be = in ? dport : sport;
	a->rport_be = in ? sport : dport;
}

static __always_inline int gh_acl_ask(struct __sk_buff *skb, struct gh_scratch *s, __u32 id, __u32 list)
{
	s->acl.kinds = gh_acl_kinds(&s->p);
	s->acl.blind = s->w.blind;
	gh_acl_view(&s->acl, &s->p, &s->w, list);
	return gh_acl_sets(skb, id, list);
}

/* The ACL layer of this number, L3, L5 or L8. */
__noinline int gh_layer_acl(struct __sk_buff *skb, __u32 layer)
{
	struct gh_scratch *s = gh_scratch_get();
	__u32 id, reason = GH_DROP_ACL_IN;
	const struct gh_port *q;
	int ret, back;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ACL_IN, GH_REJECT_NONE);
	/* An error about no flow ends anyway. */
	if (s->p.icmp_off && !s->w.keep)
		return 0;
	/* Only where its conversation came from is an answer one. */
	back = s->w.reply && !s->w.aside;
	if (layer == GH_LAYER_ACL_IN) {
		/* What reaches itself by a published port did not come from outside. */
		if (s->w.out_port == s->p.in_port)
			return 0;
		id = back ? s->p.in_port : s->w.out_port;
	} else {
		/* All uplinks are one, and so they are in the flows of their clients. */
		id = back ? s->w.okey_port : s->p.kind == GH_PORT_UPLINK ? GH_PORT_UPLINK_ANY : s->p.in_port;
	}
	s->w.judge = id;
	q = gh_port_get(id);
	if (!q || !q->acl[0])
		return 0;
	switch (layer) {
	case GH_LAYER_ACL_PRE:
		reason = GH_DROP_ACL_OUT_PRE;
		ret = gh_acl_ask(skb, s, id, GH_ACL_OUT_ORIGINAL);
		break;
	case GH_LAYER_ACL_OUT:
		reason = GH_DROP_ACL_OUT;
		ret = gh_acl_ask(skb, s, id, GH_ACL_OUT);
		break;
	default:
		layer = GH_LAYER_ACL_IN;
		ret = gh_acl_ask(skb, s, id, GH_ACL_IN);
		if (!ret)
			ret = gh_acl_ask(skb, s, id, GH_ACL_IN_ORIGINAL);
	}
	switch (ret) {
	case 0:
		return 0;
	case GH_ACL_BLOCK:
		return GH_NO(reason, layer, GH_REJECT_NONE);
	case GH_ACL_REJECT:
		return GH_NO(reason, layer, GH_REJECT_ADMIN);
	case GH_ACL_BLIND:
		return GH_NO(GH_DROP_FRAG_ORDER, layer, GH_REJECT_NONE);
	}
	return GH_NO(GH_DROP_INTERNAL, layer, GH_REJECT_NONE);
}

/* One list about the answers of the packet in hand, which is not translated. */
static __always_inline int gh_acl_answers(struct __sk_buff *skb, struct gh_scratch *s, __u32 id, __u32 list)
{
	struct gh_acl_ask *a = &s->acl;
	const struct gh_pkt *p = &s->p;
	int in = list >= GH_ACL_IN;

	a->kinds = gh_acl_kinds(p);
	a->blind = s->w.blind;
	gh_addr_set(&a->local, in ? &p->src : &p->dst);
	gh_addr_set(&a->remote, in ? &p->dst : &p->src);
	a->lport_be = in ? p->sport_be : p->dport_be;
	a->rport_be = in ? p->dport_be : p->sport_be;
	return gh_acl_sets(skb, id, list);
}

/*
 * gh_acl_back() is 0 when the rules of both ends let the answers of the packet in
 * hand pass as packets that nobody asked for: then it needs no flow.
 */
__noinline int gh_acl_back(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in, *out;
	__u16 rule;
	int ret = 0;

	if (!s)
		return GH_ACL_GONE;
	in = gh_port_get(s->p.in_port);
	out = gh_port_get(s->w.out_port);
	if (!in || !out)
		return GH_ACL_GONE;
	rule = s->w.rule;
	if (out->acl[0])
		ret = gh_acl_answers(skb, s, s->w.out_port, GH_ACL_OUT_ORIGINAL) ?:
			      gh_acl_answers(skb, s, s->w.out_port, GH_ACL_OUT);
	if (!ret && in->acl[0])
		ret = gh_acl_answers(skb, s, s->p.in_port, GH_ACL_IN) ?:
			      gh_acl_answers(skb, s, s->p.in_port, GH_ACL_IN_ORIGINAL);
	s->w.rule = rule;
	return ret;
}

#endif /* GH_ACL_H */
