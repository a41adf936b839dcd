/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* From bytes to a flow key. A parser returns an enum gh_next or -(drop reason). */
#ifndef GH_PARSE_H
#define GH_PARSE_H

#include "pkt.h"

enum gh_next {
	GH_NEXT_FLOW = 0, /* the key is whole: look for its flow */
	GH_NEXT_FRAG = 1,
	GH_NEXT_ERROR = 2, /* ICMP error */
	GH_NEXT_ND = 3,
};

#define GH_IP_MF 0x2000
#define GH_IP_OFFSET 0x1fff
#define GH_EXT_MAX 4	  /* IPv6 extension headers that are walked */
#define GH_PULL_BYTES 256 /* linear bytes asked for when headers are not linear */

#define GH_ND_RS 133
#define GH_ND_RA 134
#define GH_ND_NS 135
#define GH_ND_NA 136
#define GH_ND_REDIRECT 137

/* Keys of this protocol may have more than addresses: only its first fragment tells. */
static __always_inline int gh_proto_ports(__u8 proto)
{
	return proto == IPPROTO_TCP || proto == IPPROTO_UDP || proto == IPPROTO_SCTP || proto == IPPROTO_ICMP ||
	       proto == IPPROTO_ICMPV6;
}

/*
 * gh_parse_l4() fills ports, id and flags. l4 points at the header, of which
 * the caller knows nothing yet. Short means -GH_DROP_PARSE.
 */
static __always_inline int gh_parse_l4(void *l4, void *end, __u8 proto, __u16 *sport, __u16 *dport,
				       __u8 *kflags, struct gh_hdr *h)
{
	if (proto == IPPROTO_TCP) {
		struct tcphdr *tcp = l4;

		if ((void *)(tcp + 1) > end)
			return -GH_DROP_PARSE;
		*sport = tcp->source;
		*dport = tcp->dest;
		h->l4 = GH_L4_TCP;
		h->tcp_flags = ((__u8 *)l4)[13];
		return GH_NEXT_FLOW;
	}
	if (proto == IPPROTO_UDP) {
		struct udphdr *udp = l4;

		if ((void *)(udp + 1) > end)
			return -GH_DROP_PARSE;
		*sport = udp->source;
		*dport = udp->dest;
		h->l4 = GH_L4_UDP;
		return GH_NEXT_FLOW;
	}
	if (proto == IPPROTO_ICMP || proto == IPPROTO_ICMPV6) {
		struct gh_icmp *icmp = l4;

		if ((void *)(icmp + 1) > end)
			return -GH_DROP_PARSE;
		h->icmp_type = icmp->type;
		if (proto == IPPROTO_ICMP) {
			if (icmp->type == GH_ICMP_UNREACH || icmp->type == GH_ICMP_QUENCH ||
			    icmp->type == GH_ICMP_TIME || icmp->type == GH_ICMP_PARAM)
				return GH_NEXT_ERROR;
			if (icmp->type == GH_ICMP_ECHO || icmp->type == GH_ICMP_ECHOREPLY ||
			    icmp->type == GH_ICMP_TIMESTAMP || icmp->type == GH_ICMP_TIMESTAMPREPLY) {
				*sport = icmp->echo.id;
				h->l4 = GH_L4_ICMP;
				return GH_NEXT_FLOW;
			}
		} else {
			if (icmp->type >= GH_ICMP6_UNREACH && icmp->type <= GH_ICMP6_PARAM)
				return GH_NEXT_ERROR;
			if (icmp->type >= GH_ND_RS && icmp->type <= GH_ND_REDIRECT)
				return GH_NEXT_ND;
			/* Whatever it is, its checksum covers the addresses. */
			h->l4 = GH_L4_ICMP6;
			if (icmp->type == GH_ICMP6_ECHO || icmp->type == GH_ICMP6_ECHOREPLY) {
				*sport = icmp->echo.id;
				return GH_NEXT_FLOW;
			}
		}
	} else if (proto == IPPROTO_SCTP) {
		struct udphdr *sctp = l4; /* the ports stand at the same place */

		if ((void *)(sctp + 1) > end)
			return -GH_DROP_PARSE;
		*sport = sctp->source;
		*dport = sctp->dest;
		h->l4 = GH_L4_SCTP;
		return GH_NEXT_FLOW;
	}
	*kflags |= GH_FKEY_L3;
	return GH_NEXT_FLOW;
}

/* RFC 3128: a fragment that begins in the middle of a TCP header would rewrite its flags. */
static __always_inline int gh_overlaps(__u32 offset8, __u8 proto)
{
	return proto == IPPROTO_TCP && offset8 < sizeof(struct tcphdr) / 8 + 1;
}

static __always_inline int gh_parse4(struct __sk_buff *skb, struct gh_fkey4 *k, struct gh_hdr *h)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	__u32 ihl, frag;
	int ret;

	if ((void *)(ip + 1) > end || ip->version != 4)
		return -GH_DROP_PARSE;
	ihl = ip->ihl * 4;
	if (ihl < sizeof(*ip))
		return -GH_DROP_PARSE;
	h->ip_len = bpf_ntohs(ip->tot_len);
	if (!h->ip_len) /* longer than 64 KiB: only as a GSO packet of this host */
		h->ip_len = skb->len - ETH_HLEN;
	if (h->ip_len < ihl || h->ip_len > skb->len - ETH_HLEN)
		return -GH_DROP_PARSE;
	h->l4_off = ETH_HLEN + ihl;
	h->opts = ihl != sizeof(*ip);
	h->ttl = ip->ttl;
	h->tos = ip->tos;
	k->src_be = ip->saddr;
	k->dst_be = ip->daddr;
	k->proto = ip->protocol;
	frag = bpf_ntohs(ip->frag_off);
	if (unlikely(frag & (GH_IP_MF | GH_IP_OFFSET))) {
		h->frag_id = ip->id;
		h->frag = frag & GH_IP_OFFSET ? GH_FRAG_LATER : GH_FRAG_FIRST;
		if (h->frag == GH_FRAG_LATER)
			return gh_overlaps(frag & GH_IP_OFFSET, k->proto) ? -GH_DROP_FRAG_TINY : GH_NEXT_FRAG;
	}
	if (k->proto == IPPROTO_ICMPV6)
		return -GH_DROP_PARSE;
	ret = gh_parse_l4((void *)ip + ihl, end, k->proto, &k->sport_be, &k->dport_be, &k->flags, h);
	if (unlikely(h->frag)) {
		if (ret == -GH_DROP_PARSE)
			return -GH_DROP_FRAG_TINY;
		if (ret == GH_NEXT_FLOW)
			return GH_NEXT_FRAG;
	}
	return ret;
}

/* gh_ext() walks extension headers; returns the protocol behind them or -reason. */
static __always_inline int gh_ext(struct __sk_buff *skb, __u32 *off, __u8 next, struct gh_hdr *h)
{
	struct {
		__u8 next, len;
		__be16 frag_off;
		__be32 id;
	} e;
	int i;

	for (i = 0; i < GH_EXT_MAX; i++) {
		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT)
			return next;
		if (bpf_skb_load_bytes(skb, *off, &e, sizeof(e)))
			return -GH_DROP_PARSE;
		h->opts = 1;
		if (next == IPPROTO_FRAGMENT) {
			__u32 f = bpf_ntohs(e.frag_off);

			*off += 8;
			if (f & 0xfff9) { /* offset or more; neither: an atomic fragment */
				h->frag_id = e.id;
				h->frag = f & 0xfff8 ? GH_FRAG_LATER : GH_FRAG_FIRST;
				if (h->frag == GH_FRAG_LATER)
					return gh_overlaps(f >> 3, e.next) ? -GH_DROP_FRAG_TINY : e.next;
			}
		} else {
			*off += (e.len + 1) * 8;
		}
		next = e.next;
	}
	if (next == IPPROTO_HOPOPTS || next == IPPROTO_ROUTING || next == IPPROTO_DSTOPTS ||
	    next == IPPROTO_FRAGMENT)
		return -GH_DROP_EXT_HDR;
	return next;
}

static __always_inline int gh_parse6(struct __sk_buff *skb, struct gh_fkey6 *k, struct gh_hdr *h)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ipv6hdr *ip = data + ETH_HLEN;
	__u32 off = ETH_HLEN + sizeof(*ip);
	int ret, proto;

	if ((void *)(ip + 1) > end || ip->version != 6)
		return -GH_DROP_PARSE;
	h->ip_len = bpf_ntohs(ip->payload_len) + sizeof(*ip);
	if (h->ip_len == sizeof(*ip) && ip->nexthdr != IPPROTO_NONE)
		h->ip_len = skb->len - ETH_HLEN;
	if (h->ip_len > skb->len - ETH_HLEN)
		return -GH_DROP_PARSE;
	h->ttl = ip->hop_limit;
	h->tos = (bpf_ntohs(*(__be16 *)ip) >> 4) & 0xff;
	__builtin_memcpy(&k->src, &ip->saddr, 16);
	__builtin_memcpy(&k->dst, &ip->daddr, 16);
	proto = ip->nexthdr;
	if (unlikely(proto != IPPROTO_TCP && proto != IPPROTO_UDP && proto != IPPROTO_ICMPV6)) {
		proto = gh_ext(skb, &off, proto, h);
		if (proto < 0)
			return proto;
		if (off > skb->len) /* the last one would end behind the packet */
			return -GH_DROP_PARSE;
		/* gh_ext() may not move the packet, but the pointers are cheap */
		data = (void *)(long)skb->data;
		end = (void *)(long)skb->data_end;
	}
	k->proto = proto;
	off &= GH_L4_MASK6;
	h->l4_off = off;
	if (h->frag == GH_FRAG_LATER)
		return GH_NEXT_FRAG;
	if (proto == IPPROTO_ICMP)
		return -GH_DROP_PARSE;
	ret = gh_parse_l4(data + off, end, k->proto, &k->sport_be, &k->dport_be, &k->flags, h);
	if (unlikely(h->frag)) {
		if (ret == -GH_DROP_PARSE)
			return -GH_DROP_FRAG_TINY;
		if (ret == GH_NEXT_FLOW)
			return GH_NEXT_FRAG;
		if (ret == GH_NEXT_ND) /* RFC 6980: never fragmented */
			return -GH_DROP_PARSE;
	}
	return ret;
}

/* Headers may lie beyond what is linear. Of a packet that was fetched they do not. */
static __always_inline int gh_scattered(struct __sk_buff *skb)
{
	__u32 linear = (long)skb->data_end - (long)skb->data;

	return linear < skb->len && linear < GH_PULL_BYTES;
}

/* ARP, or neighbour discovery without extension headers, as it must be. */
static __always_inline int gh_is_control(struct __sk_buff *skb)
{
	__u8 proto, type;

	if (skb->protocol == bpf_htons(ETH_P_ARP))
		return 1;
	return skb->protocol == bpf_htons(ETH_P_IPV6) &&
	       !bpf_skb_load_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, nexthdr), &proto, 1) &&
	       proto == IPPROTO_ICMPV6 && !bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &type, 1) &&
	       type >= GH_ND_RS && type <= GH_ND_REDIRECT;
}

#endif /* GH_PARSE_H */
