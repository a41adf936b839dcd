/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Rewriting a packet as a flow says and sending it. IP headers are written
 * through packet pointers and their sum is corrected by hand; L4 sums are left
 * to bpf_l4_csum_replace(), which alone knows what a partial or complete sum on
 * the packet means.
 */
#ifndef GH_APPLY_H
#define GH_APPLY_H

#include "flow.h"
#include "qos.h"

/* Since 6.16 and in stable kernels; refused, the call changes nothing. */
#define GH_F_IPV6 (1ULL << 7)

#define GH_OPS_L3 (GH_OP_NSRC | GH_OP_NDST | GH_OP_TTL)
#define GH_OPS_ADDR (GH_OP_NSRC | GH_OP_NDST)
#define GH_OPS_PORT (GH_OP_NSPORT | GH_OP_NDPORT)
#define GH_OPS_NAT (GH_OPS_ADDR | GH_OPS_PORT)
#define GH_OPS_FRAME (GH_OP_HOP | GH_OP_FROM | GH_OP_DMAC | GH_OP_SMAC | GH_OP_VLAN) /* see gh_frame() */

/* One's complement difference of a word, to be added up and folded. */
static __always_inline __u64 gh_diff(__u32 from, __u32 to)
{
	return (__u64)(__u32)~from + to;
}

static __always_inline __u32 gh_fold32(__u64 s)
{
	s = (s & 0xffffffffU) + (s >> 32);
	s = (s & 0xffffffffU) + (s >> 32);
	return s;
}

static __always_inline __u16 gh_fold16(__u64 s)
{
	__u32 x = gh_fold32(s);

	x = (x & 0xffff) + (x >> 16);
	x = (x & 0xffff) + (x >> 16);
	return x;
}

/* New value of an Internet checksum field whose data changed by s. */
static __always_inline __u16 gh_csum_add(__u16 check, __u64 s)
{
	return ~gh_fold16((__u64)(__u16)~check + s);
}

static __always_inline __u32 gh_csum_off(__u8 l4)
{
	switch (l4) {
	case GH_L4_TCP:
		return 16;
	case GH_L4_UDP:
		return 6;
	default:
		return 2;
	}
}

/*
 * gh_l4_sums() corrects the L4 checksum by the differences of addresses (in the
 * pseudo header) and ports.
 */
static __always_inline int gh_l4_sums(struct __sk_buff *skb, __u32 l4_off, __u8 l4, __u32 addrs, __u32 ports,
				      int fam)
{
	__u32 off = l4_off + gh_csum_off(l4);
	__u64 flags = l4 == GH_L4_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	if (addrs && l4 != GH_L4_ICMP) {
		__u64 f = flags | BPF_F_PSEUDO_HDR;

		if (fam == 6) {
			if (bpf_l4_csum_replace(skb, off, 0, addrs, f | GH_F_IPV6) &&
			    bpf_l4_csum_replace(skb, off, 0, addrs, f))
				return -GH_DROP_INTERNAL;
		} else if (bpf_l4_csum_replace(skb, off, 0, addrs, f)) {
			return -GH_DROP_INTERNAL;
		}
	}
	if (ports && bpf_l4_csum_replace(skb, off, 0, ports, flags))
		return -GH_DROP_INTERNAL;
	return 0;
}

/* gh_ports() rewrites ports or id in place; data was just loaded. Returns the difference. */
static __always_inline int gh_ports(void *l4p, void *end, __u8 l4, __u16 ops, __u16 nsport_be, __u16 ndport_be,
				    __u32 *diff)
{
	__u16 *p = l4p;

	*diff = 0;
	if (l4p + 8 > end)
		return -GH_DROP_INTERNAL;
	if (l4 == GH_L4_ICMP || l4 == GH_L4_ICMP6) {
		if (ops & GH_OP_NSPORT) { /* the id, fifth and sixth byte */
			*diff = gh_fold32(gh_diff(p[2], nsport_be));
			p[2] = nsport_be;
		}
	} else {
		__u64 s = 0;

		if (ops & GH_OP_NSPORT) {
			s += gh_diff(p[0], nsport_be);
			p[0] = nsport_be;
		}
		if (ops & GH_OP_NDPORT) {
			s += gh_diff(p[1], ndport_be);
			p[1] = ndport_be;
		}
		*diff = gh_fold32(s);
	}
	return 0;
}

static __always_inline void gh_macs(void *data, const struct gh_head *hd)
{
	struct ethhdr *eth = data;

	if (!(hd->ops & GH_OP_MAC))
		return;
	__builtin_memcpy(eth->h_dest, hd->dmac, ETH_ALEN);
	__builtin_memcpy(eth->h_source, hd->smac, ETH_ALEN);
}

/* gh_tag() gives the frame a tag, beside its bytes. */
static __always_inline int gh_tag(struct __sk_buff *skb, __u16 tci)
{
	if (unit) {
		__u32 zero = 0;
		struct gh_result *r = bpf_map_lookup_elem(&result, &zero);

		if (r)
			r->tag = tci;
	}
	return bpf_skb_vlan_push(skb, bpf_htons(ETH_P_8021Q), tci);
}

/*
 * gh_frame() is for flows that were switched by MAC, or lead to a trunk: this frame goes the same
 * way only if it has the same next hop, and an endpoint's only if it bears the
 * same source, which others will see. Then it gets the MAC and the tag it needs.
 * Not 0: to be walked again.
 * Global, as the entry programs' stacks are full.
 */
__noinline int gh_frame(struct __sk_buff *skb, const struct gh_head *hd, __u32 tun)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if (!hd)
		return -1;
	if ((void *)(eth + 1) > end || ((hd->ops & GH_OP_HOP) && !gh_mac_eq(eth->h_dest, hd->dmac)) ||
	    ((hd->ops & GH_OP_FROM) && !gh_mac_eq(eth->h_source, hd->smac)))
		return -1;
	if (hd->ops & GH_OP_DMAC)
		__builtin_memcpy(eth->h_dest, hd->dmac, ETH_ALEN);
	if (hd->ops & GH_OP_SMAC)
		__builtin_memcpy(eth->h_source, hd->smac, ETH_ALEN);
	return (hd->ops & GH_OP_VLAN) && gh_tag(skb, tun) ? -1 : 0;
}

static __always_inline int gh_rewrite4(struct __sk_buff *skb, __u32 l4_off, __u8 l4, __u8 frag,
				       const struct gh_act4 *a)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	__u16 ops = a->hd.ops;
	__u64 l3 = 0;
	__u32 addrs = 0, ports = 0;

	if ((void *)(ip + 1) > end)
		return -GH_DROP_INTERNAL;
	gh_macs(data, &a->hd);
	if (!(ops & (GH_OPS_L3 | GH_OPS_PORT)))
		return 0;
	if (ops & GH_OPS_ADDR) {
		if (ops & GH_OP_NSRC) {
			l3 += gh_diff(ip->saddr, a->nsrc_be);
			ip->saddr = a->nsrc_be;
		}
		if (ops & GH_OP_NDST) {
			l3 += gh_diff(ip->daddr, a->ndst_be);
			ip->daddr = a->ndst_be;
		}
		addrs = gh_fold32(l3);
	}
	if (ops & GH_OP_TTL) {
		__u16 *w = (__u16 *)&ip->ttl, was = *w;

		ip->ttl--;
		l3 += gh_diff(was, *w);
	}
	ip->check = gh_csum_add(ip->check, l3);
	if (!(ops & GH_OPS_NAT) || frag == GH_FRAG_LATER || l4 == GH_L4_NONE || l4 == GH_L4_SCTP)
		return 0;
	if ((ops & GH_OPS_PORT) && gh_ports(data + l4_off, end, l4, ops, a->nsport_be, a->ndport_be, &ports))
		return -GH_DROP_INTERNAL;
	return gh_l4_sums(skb, l4_off, l4, addrs, ports, 4);
}

static __always_inline __u64 gh_diff128(const void *from, const struct gh_addr *to)
{
	const __u32 *f = from, *t = (const __u32 *)to->b;

	return gh_diff(f[0], t[0]) + gh_diff(f[1], t[1]) + gh_diff(f[2], t[2]) + gh_diff(f[3], t[3]);
}

static __always_inline int gh_rewrite6(struct __sk_buff *skb, __u32 l4_off, __u8 l4, __u8 frag,
				       const struct gh_act6 *a)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + ETH_HLEN;
	__u16 ops = a->hd.ops;
	__u32 addrs = 0, ports = 0;
	__u64 s = 0;

	if ((void *)(ip + 1) > end)
		return -GH_DROP_INTERNAL;
	gh_macs(data, &a->hd);
	if (!(ops & (GH_OPS_L3 | GH_OPS_PORT)))
		return 0;
	if (ops & GH_OP_NSRC) {
		s += gh_diff128(&ip->saddr, &a->nsrc);
		__builtin_memcpy(&ip->saddr, &a->nsrc, 16);
	}
	if (ops & GH_OP_NDST) {
		s += gh_diff128(&ip->daddr, &a->ndst);
		__builtin_memcpy(&ip->daddr, &a->ndst, 16);
	}
	if (ops & GH_OP_TTL)
		ip->hop_limit--;
	if (s)
		addrs = gh_fold32(s);
	if (!(ops & GH_OPS_NAT) || frag == GH_FRAG_LATER || l4 == GH_L4_NONE || l4 == GH_L4_SCTP)
		return 0;
	if ((ops & GH_OPS_PORT) && gh_ports(data + l4_off, end, l4, ops, a->nsport_be, a->ndport_be, &ports))
		return -GH_DROP_INTERNAL;
	return gh_l4_sums(skb, l4_off, l4, addrs, ports, 6);
}

/*
 * gh_send() hands the finished packet to its port. redirect_peer would carry
 * mark and priority into the container, and before 6.15 the packet type; a mark
 * of the container must not steer the host's routing either.
 */
static __always_inline int gh_send(struct __sk_buff *skb, const struct gh_head *hd, __u32 nh4_be,
				   const struct gh_addr *nh6)
{
	skb->mark = 0;
	switch (hd->out_kind) {
	case GH_OUT_PEER:
		skb->priority = 0;
		if (skb->pkt_type != PACKET_HOST)
			bpf_skb_change_type(skb, PACKET_HOST);
		return bpf_redirect_peer(hd->out_ifindex, 0);
	case GH_OUT_TUNNEL: /* gh_encap() has told the device where to */
	case GH_OUT_EGRESS:
		return bpf_redirect(hd->out_ifindex, 0);
	case GH_OUT_INGRESS:
		skb->priority = 0;
		return bpf_redirect(hd->out_ifindex, BPF_F_INGRESS);
	case GH_OUT_NEIGH: {
		struct bpf_redir_neigh nh = {};

		if (unit) {
			__u32 zero = 0;
			struct gh_result *r = bpf_map_lookup_elem(&result, &zero);

			if (r && nh6)
				gh_addr_set(&r->nh, nh6);
			else if (r)
				gh_addr4(&r->nh, nh4_be);
		}
		/* No next hop: of another family. The kernel looks it up itself. */
		if (nh6 ? gh_addr_zero(nh6) : !nh4_be)
			return bpf_redirect_neigh(hd->out_ifindex, NULL, 0, 0);
		if (nh6) {
			nh.nh_family = GH_AF_INET6;
			__builtin_memcpy(nh.ipv6_nh, nh6, 16);
		} else {
			nh.nh_family = GH_AF_INET;
			nh.ipv4_nh = nh4_be;
		}
		return bpf_redirect_neigh(hd->out_ifindex, &nh, sizeof(nh), 0);
	}
	}
	return TC_ACT_SHOT;
}

/* gh_toobig() compares the packet, or each segment it will be cut into, with mtu. */
static __always_inline int gh_toobig(struct __sk_buff *skb, const struct gh_hdr *h, __u32 mtu)
{
	if (likely(skb->len <= mtu + ETH_HLEN) || !mtu)
		return 0;
	if (skb->gso_size) {
		__u32 l4 = 8;
		__u8 doff;

		if (h->l4 == GH_L4_TCP) {
			if (bpf_skb_load_bytes(skb, h->l4_off + 12, &doff, 1))
				return 0;
			l4 = (doff >> 4) * 4;
		}
		return skb->gso_size + (h->l4_off - ETH_HLEN) + l4 > mtu;
	}
	return h->ip_len > mtu;
}

#endif /* GH_APPLY_H */
