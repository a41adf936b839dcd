/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * ICMP errors carry the head of the packet they complain about, as its sender
 * would not recognise it behind NAT or a published port. The error is taken for
 * what the flow's other direction would have said: the embedded tuple, turned
 * round, is walked like a packet of an existing flow, and its translation,
 * turned round again, is what the embedded packet looked like to its sender.
 * Any router may send an error; only the embedded tuple must match a flow.
 */
#ifndef GH_ICMP_H
#define GH_ICMP_H

#include "slow.h"

/* gh_embedded() fills p with the turned-round tuple of the embedded packet. */
static __always_inline int gh_embedded(struct __sk_buff *skb, struct gh_pkt *p, __u32 off, __u32 *ports_off, int fam)
{
	struct {
		__u16 a, b; /* ports; type, code and sum of ICMP */
		__u16 id, seq;
	} l4;
	__u32 l4off;

	if (fam == 4) {
		struct iphdr ip;

		if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) || ip.version != 4 || ip.ihl < 5)
			return -1;
		if (ip.frag_off & bpf_htons(GH_IP_OFFSET))
			return -1;
		gh_addr4(&p->src, ip.daddr);
		gh_addr4(&p->dst, ip.saddr);
		p->proto = ip.protocol;
		l4off = off + ip.ihl * 4;
	} else {
		struct ipv6hdr ip;

		if (bpf_skb_load_bytes(skb, off, &ip, sizeof(ip)) || ip.version != 6)
			return -1;
		__builtin_memcpy(&p->src, &ip.daddr, 16);
		__builtin_memcpy(&p->dst, &ip.saddr, 16);
		p->proto = ip.nexthdr;
		l4off = off + sizeof(ip);
	}
	p->sport_be = 0;
	p->dport_be = 0;
	p->kflags = 0;
	p->h.l4 = GH_L4_NONE;
	*ports_off = 0;
	if (bpf_skb_load_bytes(skb, l4off, &l4, sizeof(l4)))
		return -1;
	switch (p->proto) {
	case IPPROTO_TCP:
	case IPPROTO_UDP:
	case IPPROTO_SCTP:
		p->sport_be = l4.b;
		p->dport_be = l4.a;
		p->h.l4 = p->proto == IPPROTO_TCP ? GH_L4_TCP : p->proto == IPPROTO_UDP ? GH_L4_UDP : GH_L4_SCTP;
		*ports_off = l4off;
		break;
	case IPPROTO_ICMP:
	case IPPROTO_ICMPV6:
		p->sport_be = l4.id;
		p->h.l4 = p->proto == IPPROTO_ICMP ? GH_L4_ICMP : GH_L4_ICMP6;
		*ports_off = l4off;
		break;
	default:
		p->kflags = GH_FKEY_L3;
	}
	return 0;
}

/* Ports of the embedded packet: its source is our answer's destination. */
static __always_inline int gh_embedded_ports(struct __sk_buff *skb, const struct gh_pkt *p, const struct gh_walk *w,
					     __u32 icmp_off, __u32 off)
{
	__u32 sum = icmp_off + 2; /* checksum of ICMP and ICMPv6 */
	__u16 v;

	if (!off)
		return 0;
	if (gh_is_echo(p)) {
		v = w->nsport_be;
		if (v == p->sport_be)
			return 0;
		return bpf_skb_store_bytes(skb, off + 4, &v, 2, 0) ||
		       bpf_l4_csum_replace(skb, sum, p->sport_be, v, 2);
	}
	v = w->ndport_be;
	if (v != p->dport_be &&
	    (bpf_skb_store_bytes(skb, off, &v, 2, 0) || bpf_l4_csum_replace(skb, sum, p->dport_be, v, 2)))
		return -1;
	v = w->nsport_be;
	if (v != p->sport_be &&
	    (bpf_skb_store_bytes(skb, off + 2, &v, 2, 0) || bpf_l4_csum_replace(skb, sum, p->sport_be, v, 2)))
		return -1;
	return 0;
}

/* One IPv4 address at off, and the header sum at sum_off. */
static __always_inline int gh_put_addr4(struct __sk_buff *skb, __u32 off, __u32 sum_off, __u32 from, __u32 to)
{
	if (from == to)
		return 0;
	return bpf_skb_store_bytes(skb, off, &to, 4, 0) || bpf_l3_csum_replace(skb, sum_off, from, to, 4);
}

static __always_inline int gh_translate4(struct __sk_buff *skb, const struct gh_pkt *p, const struct gh_walk *w,
					 const struct gh_addr *osrc, const struct gh_addr *odst,
					 const struct gh_addr *nsrc, __u32 emb)
{
	if (gh_put_addr4(skb, ETH_HLEN + 12, ETH_HLEN + 10, gh_word(osrc, 3), gh_word(nsrc, 3)) ||
	    gh_put_addr4(skb, ETH_HLEN + 16, ETH_HLEN + 10, gh_word(odst, 3), gh_word(&w->ndst, 3)))
		return -1;
	if (gh_put_addr4(skb, emb + 12, emb + 10, gh_word(&p->dst, 3), gh_word(&w->ndst, 3)) ||
	    gh_put_addr4(skb, emb + 16, emb + 10, gh_word(&p->src, 3), gh_word(&w->nsrc, 3)))
		return -1;
	if (w->routed) {
		__u16 from, to;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + 8, &from, 2))
			return -1;
		to = from - bpf_htons(0x0100); /* TTL is the first of the two bytes */
		if (bpf_skb_store_bytes(skb, ETH_HLEN + 8, &to, 2, 0) ||
		    bpf_l3_csum_replace(skb, ETH_HLEN + 10, from, to, 2))
			return -1;
	}
	return 0;
}

static __always_inline int gh_translate6(struct __sk_buff *skb, const struct gh_pkt *p, const struct gh_walk *w,
					 const struct gh_addr *osrc, const struct gh_addr *odst,
					 const struct gh_addr *nsrc, __u32 icmp_off, __u32 emb)
{
	__u32 sum = icmp_off + 2, d;

	if (bpf_skb_store_bytes(skb, ETH_HLEN + 8, nsrc, 16, 0) ||
	    bpf_skb_store_bytes(skb, ETH_HLEN + 24, &w->ndst, 16, 0))
		return -1;
	d = gh_fold32(gh_diff128(osrc, nsrc) + gh_diff128(odst, &w->ndst));
	if (bpf_l4_csum_replace(skb, sum, 0, d, BPF_F_PSEUDO_HDR | GH_F_IPV6) &&
	    bpf_l4_csum_replace(skb, sum, 0, d, BPF_F_PSEUDO_HDR))
		return -1;
	if (bpf_skb_store_bytes(skb, emb + 8, &w->ndst, 16, 0) || bpf_skb_store_bytes(skb, emb + 24, &w->nsrc, 16, 0))
		return -1;
	d = gh_fold32(gh_diff128(&p->dst, &w->ndst) + gh_diff128(&p->src, &w->nsrc));
	if (bpf_l4_csum_replace(skb, sum, 0, d, 0))
		return -1;
	if (w->routed) {
		__u8 hops;

		if (bpf_skb_load_bytes(skb, ETH_HLEN + 7, &hops, 1))
			return -1;
		hops--;
		if (bpf_skb_store_bytes(skb, ETH_HLEN + 7, &hops, 1, 0))
			return -1;
	}
	return 0;
}

/* gh_icmp_error() is the icmp stage: find out which flow the error is about. */
static __always_inline int gh_icmp_error(struct __sk_buff *skb, struct gh_scratch *s, int fam)
{
	struct gh_pkt *p = &s->p;
	const struct gh_port *in = gh_port_get(p->in_port);
	__u32 icmp_off = p->h.l4_off & (fam == 4 ? GH_L4_MASK4 : GH_L4_MASK6), ports_off;
	int bad, not_own;

	if (!in)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_PORT);
	bad = gh_spoof(skb, p, in, 0);
	/* A backend may tell from where it was asked (GH_SVC_PRESERVE): the walk looks. */
	not_own = bad == GH_DROP_SPOOF_IP && gh_is_endpoint(p->kind);
	if (not_own)
		bad = gh_spoof(skb, p, in, 1);
	if (bad)
		return gh_drop(skb, s, bad, GH_LAYER_SPOOF);
	gh_addr_set(&p->osrc, &p->src);
	gh_addr_set(&p->odst, &p->dst);
	p->h.tcp_flags = 0;
	p->h.icmp_type = 0;
	if (gh_embedded(skb, p, icmp_off + 8, &ports_off, fam) || !gh_addr_eq(&p->dst, &p->odst))
		goto unknown;
	if (not_own && !gh_addr_eq(&p->src, &p->osrc))
		goto unknown;
	p->icmp_off = icmp_off;
	p->ports_off = ports_off;
	gh_key_make(&s->key, fam, &p->src, &p->dst, p->sport_be, p->dport_be, p->port, p->zone, p->proto, p->kflags);
	if (!gh_flow_get(&s->key, fam)) {
		if (p->kind == GH_PORT_UPLINK && !p->tun)
			gh_narrower(skb, icmp_off);
		goto unknown;
	}
	return gh_stage(skb, s, fam == 4 ? GH_STAGE_V4 : GH_STAGE_V6);
unknown:
	if (not_own)
		return gh_drop(skb, s, GH_DROP_SPOOF_IP, GH_LAYER_SPOOF);
	if (p->kind == GH_PORT_UPLINK)
		return gh_not_ours(skb, s, GH_DROP_ICMP_NOFLOW, GH_LAYER_FLOW);
	return gh_drop(skb, s, GH_DROP_ICMP_NOFLOW, GH_LAYER_FLOW);
}

/* gh_icmp_send() is stages error4 and error6: translate by the walked flow and send. */
static __always_inline int gh_icmp_send(struct __sk_buff *skb, int fam)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_addr nsrc __attribute__((aligned(8)));
	__u32 icmp_off, ports_off;
	struct gh_head *hd;
	struct gh_walk *w;
	struct gh_pkt *p;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->p;
	w = &s->w;
	hd = (struct gh_head *)&s->val;
	icmp_off = p->icmp_off & (fam == 4 ? GH_L4_MASK4 : GH_L4_MASK6);
	ports_off = p->ports_off & GH_L4_MASK6;
	/* Who complains. The far end is shown as the sender knows it; so is an
	 * endpoint that would otherwise be shown outside as what it is. */
	if (gh_addr_eq(&p->osrc, &p->src) || (gh_is_endpoint(p->kind) && !gh_addr_eq(&w->nsrc, &p->src)))
		gh_addr_set(&nsrc, &w->nsrc);
	else
		gh_addr_set(&nsrc, &p->osrc);
	if (gh_embedded_ports(skb, p, w, icmp_off, ports_off))
		goto broken;
	if (fam == 4 ? gh_translate4(skb, p, w, &p->osrc, &p->odst, &nsrc, icmp_off + 8) :
		       gh_translate6(skb, p, w, &p->osrc, &p->odst, &nsrc, icmp_off, icmp_off + 8))
		goto broken;
	gh_line(&s->val, p, w, fam);
	if ((hd->ops & (GH_OP_MAC | GH_OP_DMAC)) && bpf_skb_store_bytes(skb, 0, hd->dmac, ETH_ALEN, 0))
		goto broken;
	if ((hd->ops & (GH_OP_MAC | GH_OP_SMAC)) && bpf_skb_store_bytes(skb, ETH_ALEN, hd->smac, ETH_ALEN, 0))
		goto broken;
	if ((hd->ops & GH_OP_VLAN) && gh_tag(skb, w->tun))
		goto broken;
	gh_arrives(skb, hd->ops, w->prio, w->out_port);
	if (w->out_kind == GH_OUT_TUNNEL && gh_encap(skb, w->tun, w->vtep))
		goto broken;
	gh_note(skb, GH_RESULT_FORWARD, w->out_kind, w->out_ifindex, w->out_port, 0, GH_LAYER_FLOW, GH_VIA_HIT);
	return gh_leave(skb, fam);
broken:
	return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
}

#endif /* GH_ICMP_H */
