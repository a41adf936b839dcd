/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Telling a sender why: the refused packet is rewritten whole, from a copy of
 * its head, into a TCP reset or an ICMP error and goes back where it came from.
 *
 * A packet with a partial checksum keeps that state; a local port's stack takes
 * it as verified, so the sums written here, which are complete, do no harm.
 */
#ifndef GH_REJECT_H
#define GH_REJECT_H

#include "reply.h"

#define GH_REJECT_RATE 10      /* ICMP errors a second and port */
#define GH_RST_RATE 100	       /* resets a second and port */
#define GH_REJECT_TTL_VALUE 64 /* hop limit of what is made here */

#define GH_ICMP_HOST_UNREACH 1	  /* codes of type 3 */
#define GH_ICMP_PORT_UNREACH 3
#define GH_ICMP_NET_PROHIBITED 9
#define GH_ICMP_PROHIBITED 13
#define GH_ICMP6_PROHIBITED 1	  /* codes of type 1 */
#define GH_ICMP6_ADDR 3
#define GH_ICMP6_PORT 4

struct gh_tcp_frame4 {
	__u16 align; /* so that what follows the 14 bytes of Ethernet is aligned */
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
};
struct gh_tcp_frame6 {
	__u16 align;
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct tcphdr tcp;
};

static __always_inline void gh_swap_macs(struct ethhdr *eth)
{
	__u8 tmp[ETH_ALEN];

	__builtin_memcpy(tmp, eth->h_dest, ETH_ALEN);
	__builtin_memcpy(eth->h_dest, eth->h_source, ETH_ALEN);
	__builtin_memcpy(eth->h_source, tmp, ETH_ALEN);
}

static __always_inline void gh_ip4(struct iphdr *ip, __u32 src, __u32 dst, __u8 proto, __u16 len)
{
	__s64 sum;

	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(len);
	ip->ttl = GH_REJECT_TTL_VALUE;
	ip->protocol = proto;
	ip->saddr = src;
	ip->daddr = dst;
	sum = bpf_csum_diff(NULL, 0, (void *)ip, sizeof(*ip), 0);
	ip->check = ~gh_fold16((__u32)sum);
}

/* gh_rst() makes tcp the answer RFC 9293 section 3.10.7.1 asks for; seg is its sequence length. */
static __always_inline void gh_rst(struct tcphdr *tcp, __u32 seg)
{
	__u16 sport = tcp->source;
	__u32 seq = tcp->ack_seq, ack = 0;
	__u8 had_ack = tcp->ack;

	if (!had_ack) {
		ack = bpf_htonl(bpf_ntohl(tcp->seq) + seg + tcp->syn + tcp->fin);
		seq = 0;
	}
	tcp->source = tcp->dest;
	tcp->dest = sport;
	tcp->seq = seq;
	tcp->ack_seq = ack;
	((__u8 *)tcp)[12] = sizeof(*tcp) / 4 << 4;
	((__u8 *)tcp)[13] = GH_TCP_RST | (had_ack ? 0 : GH_TCP_ACK);
	tcp->window = 0;
	tcp->check = 0;
	tcp->urg_ptr = 0;
}

static __always_inline int gh_reset(struct __sk_buff *skb, struct gh_scratch *s, int fam)
{
	struct gh_pkt *p = &s->p;
	struct tcphdr *tcp;
	__u32 doff, seg;
	__s64 sum;
	void *ip;

	if (p->h.opts || (p->h.tcp_flags & GH_TCP_RST) || p->h.frag)
		return -1;
	if (fam == 4) {
		struct gh_tcp_frame4 *f = (struct gh_tcp_frame4 *)s->buf;

		if (bpf_skb_load_bytes(skb, 0, &f->eth, sizeof(*f) - 2))
			return -1;
		gh_swap_macs(&f->eth);
		tcp = &f->tcp;
		ip = &f->ip;
	} else {
		struct gh_tcp_frame6 *f = (struct gh_tcp_frame6 *)s->buf;

		if (bpf_skb_load_bytes(skb, 0, &f->eth, sizeof(*f) - 2))
			return -1;
		gh_swap_macs(&f->eth);
		tcp = &f->tcp;
		ip = &f->ip;
	}
	doff = (((__u8 *)tcp)[12] >> 4) * 4;
	seg = p->h.ip_len - (fam == 4 ? sizeof(struct iphdr) : sizeof(struct ipv6hdr)) - doff;
	gh_rst(tcp, seg);
	sum = bpf_csum_diff(NULL, 0, (void *)tcp, sizeof(*tcp), bpf_htonl(IPPROTO_TCP + sizeof(*tcp)));
	if (fam == 4) {
		struct gh_tcp_frame4 *f = (struct gh_tcp_frame4 *)s->buf;

		gh_ip4(ip, gh_word(&p->dst, 3), gh_word(&p->src, 3), IPPROTO_TCP,
		       sizeof(struct iphdr) + sizeof(*tcp));
		sum = bpf_csum_diff(NULL, 0, (void *)&f->ip.saddr, 8, sum);
		tcp->check = ~gh_fold16((__u32)sum);
		if (bpf_skb_change_tail(skb, sizeof(*f) - 2, 0) ||
		    bpf_skb_store_bytes(skb, 0, &f->eth, sizeof(*f) - 2, 0))
			return -2;
	} else {
		struct gh_tcp_frame6 *f = (struct gh_tcp_frame6 *)s->buf;

		__builtin_memcpy(&f->ip.saddr, &p->dst, 16);
		__builtin_memcpy(&f->ip.daddr, &p->src, 16);
		f->ip.payload_len = bpf_htons(sizeof(*tcp));
		f->ip.hop_limit = GH_REJECT_TTL_VALUE;
		sum = bpf_csum_diff(NULL, 0, (void *)&f->ip.saddr, 32, sum);
		tcp->check = ~gh_fold16((__u32)sum);
		if (bpf_skb_change_tail(skb, sizeof(*f) - 2, 0) ||
		    bpf_skb_store_bytes(skb, 0, &f->eth, sizeof(*f) - 2, 0))
			return -2;
	}
	return 0;
}

/*
 * How much of the packet an error quotes: its IP header and 8 bytes; of TCP the
 * whole header, as a tail under a partial checksum must not be cut off.
 */
#define GH_QUOTE4 28
#define GH_QUOTE4_TCP 40
#define GH_QUOTE6 48
#define GH_QUOTE6_TCP 60

struct gh_icmp_frame4 {
	__u16 align;
	struct ethhdr eth;
	struct iphdr ip;
	struct gh_icmp icmp;
	__u8 quote[GH_QUOTE4_TCP];
};
struct gh_icmp_frame6 {
	__u16 align;
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct gh_icmp icmp;
	__u8 quote[GH_QUOTE6_TCP];
};
_Static_assert(sizeof(struct gh_icmp_frame6) <= GH_BUF, "buf");

static __always_inline int gh_error4(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_net *n)
{
	struct gh_icmp_frame4 *f = (struct gh_icmp_frame4 *)s->buf;
	struct gh_pkt *p = &s->p;
	__u32 quote = GH_QUOTE4, src = gh_word(&p->dst, 3), total;
	__s64 sum;

	if (p->h.opts || p->h.frag == GH_FRAG_LATER)
		return -1;
	if (n && !gh_addr_zero(&n->gw4))
		src = gh_word(&n->gw4, 3);
	if (bpf_skb_load_bytes(skb, 0, &f->eth, sizeof(f->eth)))
		return -1;
	__builtin_memset(&f->icmp, 0, sizeof(f->icmp));
	if (p->proto == IPPROTO_TCP) {
		quote = GH_QUOTE4_TCP;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, f->quote, GH_QUOTE4_TCP))
			return -1;
	} else if (bpf_skb_load_bytes(skb, ETH_HLEN, f->quote, GH_QUOTE4)) {
		return -1;
	}
	gh_swap_macs(&f->eth);
	switch (s->reject) {
	case GH_REJECT_TOOBIG:
		f->icmp.type = GH_ICMP_UNREACH;
		f->icmp.code = GH_ICMP_FRAG_NEEDED;
		f->icmp.frag.mtu_be = bpf_htons(s->reject_mtu);
		break;
	case GH_REJECT_TTL:
		f->icmp.type = GH_ICMP_TIME;
		break;
	case GH_REJECT_HOST:
		f->icmp.type = GH_ICMP_UNREACH;
		f->icmp.code = GH_ICMP_HOST_UNREACH;
		break;
	case GH_REJECT_ROUTE:
		f->icmp.type = GH_ICMP_UNREACH;
		f->icmp.code = GH_ICMP_NET_PROHIBITED;
		break;
	case GH_REJECT_ADMIN:
		f->icmp.type = GH_ICMP_UNREACH;
		f->icmp.code = GH_ICMP_PROHIBITED;
		break;
	default:
		f->icmp.type = GH_ICMP_UNREACH;
		f->icmp.code = GH_ICMP_PORT_UNREACH;
	}
	sum = bpf_csum_diff(NULL, 0, (void *)f->quote, GH_QUOTE4, 0);
	if (quote == GH_QUOTE4_TCP)
		sum = bpf_csum_diff(NULL, 0, (void *)f->quote + GH_QUOTE4, GH_QUOTE4_TCP - GH_QUOTE4, sum);
	sum = bpf_csum_diff(NULL, 0, (void *)&f->icmp, sizeof(f->icmp), sum);
	f->icmp.check = ~gh_fold16((__u32)sum);
	total = sizeof(f->ip) + sizeof(f->icmp) + quote;
	gh_ip4(&f->ip, src, gh_word(&p->src, 3), IPPROTO_ICMP, total);
	if (bpf_skb_change_tail(skb, ETH_HLEN + total, 0))
		return -2;
	if (quote == GH_QUOTE4_TCP ? bpf_skb_store_bytes(skb, 0, &f->eth, sizeof(*f) - 2, 0) :
				     bpf_skb_store_bytes(skb, 0, &f->eth, sizeof(*f) - 2 - GH_QUOTE4_TCP + GH_QUOTE4, 0))
		return -2;
	return 0;
}

static __always_inline int gh_error6(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_net *n)
{
	struct gh_icmp_frame6 *f = (struct gh_icmp_frame6 *)s->buf;
	struct gh_pkt *p = &s->p;
	__u32 quote = GH_QUOTE6, total;
	__s64 sum;

	if (p->h.frag == GH_FRAG_LATER)
		return -1;
	if (bpf_skb_load_bytes(skb, 0, &f->eth, sizeof(f->eth)))
		return -1;
	__builtin_memset(&f->ip, 0, sizeof(f->ip));
	__builtin_memset(&f->icmp, 0, sizeof(f->icmp));
	if (p->proto == IPPROTO_TCP && !p->h.opts) {
		quote = GH_QUOTE6_TCP;
		if (bpf_skb_load_bytes(skb, ETH_HLEN, f->quote, GH_QUOTE6_TCP))
			return -1;
	} else if (bpf_skb_load_bytes(skb, ETH_HLEN, f->quote, GH_QUOTE6)) {
		return -1;
	}
	gh_swap_macs(&f->eth);
	switch (s->reject) {
	case GH_REJECT_TOOBIG:
		f->icmp.type = GH_ICMP6_TOOBIG;
		f->icmp.mtu_be = bpf_htonl(s->reject_mtu);
		break;
	case GH_REJECT_TTL:
		f->icmp.type = GH_ICMP6_TIME;
		break;
	case GH_REJECT_HOST:
		f->icmp.type = GH_ICMP6_UNREACH;
		f->icmp.code = GH_ICMP6_ADDR;
		break;
	case GH_REJECT_ROUTE:
	case GH_REJECT_ADMIN:
		f->icmp.type = GH_ICMP6_UNREACH;
		f->icmp.code = GH_ICMP6_PROHIBITED;
		break;
	default:
		f->icmp.type = GH_ICMP6_UNREACH;
		f->icmp.code = GH_ICMP6_PORT;
	}
	total = sizeof(f->icmp) + quote;
	f->ip.version = 6;
	f->ip.payload_len = bpf_htons(total);
	f->ip.nexthdr = IPPROTO_ICMPV6;
	f->ip.hop_limit = GH_REJECT_TTL_VALUE;
	if (n && !gh_addr_zero(&n->gw6))
		__builtin_memcpy(&f->ip.saddr, &n->gw6, 16);
	else
		__builtin_memcpy(&f->ip.saddr, &p->dst, 16);
	__builtin_memcpy(&f->ip.daddr, &p->src, 16);
	sum = bpf_csum_diff(NULL, 0, (void *)f->quote, GH_QUOTE6, bpf_htonl(IPPROTO_ICMPV6 + total));
	if (quote == GH_QUOTE6_TCP)
		sum = bpf_csum_diff(NULL, 0, (void *)f->quote + GH_QUOTE6, GH_QUOTE6_TCP - GH_QUOTE6, sum);
	sum = bpf_csum_diff(NULL, 0, (void *)&f->icmp, sizeof(f->icmp), sum);
	sum = bpf_csum_diff(NULL, 0, (void *)&f->ip.saddr, 32, sum);
	f->icmp.check = ~gh_fold16((__u32)sum);
	if (bpf_skb_change_tail(skb, ETH_HLEN + sizeof(f->ip) + total, 0))
		return -2;
	if (quote == GH_QUOTE6_TCP ? bpf_skb_store_bytes(skb, 0, &f->eth, sizeof(*f) - 2, 0) :
				     bpf_skb_store_bytes(skb, 0, &f->eth, sizeof(*f) - 2 - GH_QUOTE6_TCP + GH_QUOTE6, 0))
		return -2;
	return 0;
}

/* Sources nobody may be answered at: multicast, broadcast, unspecified, loopback. */
static __always_inline int gh_unanswerable(const struct gh_pkt *p)
{
	if (p->h.group || gh_addr_zero(&p->src))
		return 1;
	if (p->fam == 4) {
		__u32 a = bpf_ntohl(gh_word(&p->src, 3));

		return a >> 28 >= 0xe || !(a >> 24) || a >> 24 == 127;
	}
	return p->src.b[0] == 0xff;
}

/*
 * gh_answer_outside() sends an answer of ours to what another host has relayed:
 * who asked is outside, and the tunnel leads to that host only.
 */
__noinline int gh_answer_outside(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_head *hd;
	struct gh_walk *w;
	struct gh_pkt *p;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->p;
	w = &s->w;
	hd = (struct gh_head *)&s->val;
	if (p->fam == 4 ? gh_to_uplink(skb, p, w, &p->dst, &p->src, 4) : gh_to_uplink(skb, p, w, &p->dst, &p->src, 6))
		return TC_ACT_SHOT;
	hd->out_kind = w->out_kind;
	hd->out_ifindex = w->out_ifindex;
	gh_copy(skb, w->out_port, GH_COPY(GH_COPY_ANSWER, s->reason, s->layer) | GH_COPY_NEIGH);
	gh_count_to(w->out_port, skb->len);
	gh_note(skb, GH_RESULT_REPLY, w->out_kind, w->out_ifindex, w->out_port, s->reason, s->layer, 0);
	if (p->fam == 4)
		return gh_send(skb, hd, gh_word(&w->nh, 3), NULL);
	return gh_send(skb, hd, 0, &w->nh);
}

static __always_inline int gh_reject(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in;
	const struct gh_net *n;
	struct gh_rate *r;
	__u32 in_port;
	int rst, ret, wire, turned;
	__u16 tag;

	if (!s)
		return TC_ACT_SHOT;
	in_port = s->p.in_port;
	gh_account(skb, s);
	gh_note(skb, GH_RESULT_DROP, 0, 0, 0, s->reason, s->layer, 0);
	in = gh_port_get(in_port);
	n = gh_net_get(s->p.net);
	r = bpf_map_lookup_elem(&rate, &in_port);
	if (!in || !n || !r || gh_unanswerable(&s->p))
		return TC_ACT_SHOT;
	rst = s->p.proto == IPPROTO_TCP &&
	      (s->reject == GH_REJECT_PORT || s->reject == GH_REJECT_STATE || s->reject == GH_REJECT_ADMIN);
	if (s->reject == GH_REJECT_STATE && !rst)
		return TC_ACT_SHOT;
	if (rst ? !gh_rate_ok(&r->reset_s, &r->reset_n, gh_now_s(), GH_RST_RATE) :
		  !gh_rate_ok(&r->error_s, &r->error_n, gh_now_s(), GH_REJECT_RATE))
		return TC_ACT_SHOT;
	wire = s->p.kind == GH_PORT_WIRE;
	/* Where nothing is switched here, endpoints are heard by the uplink's MAC, too. */
	turned = wire && !(n->flags & GH_NET_NO_LOCAL) && gh_turned(skb, in);
	/* Endpoints hear it from their gateway. The host, which is the gateway, and
	 * the outside, which does not know it, from whom they asked. */
	if (!gh_is_endpoint(s->p.kind))
		n = NULL;
	if (rst)
		ret = s->p.fam == 4 ? gh_reset(skb, s, 4) : gh_reset(skb, s, 6);
	else
		ret = s->p.fam == 4 ? gh_error4(skb, s, n) : gh_error6(skb, s, n);
	if (ret)
		return TC_ACT_SHOT;
	skb->mark = 0;
	tag = wire ? s->p.vlan : in->vlan;
	if (tag && gh_tag(skb, tag)) /* it was taken off */
		return TC_ACT_SHOT;
	gh_copy(skb, in_port, GH_COPY(GH_COPY_ANSWER, s->reason, s->layer));
	if (s->p.kind == GH_PORT_UPLINK && s->p.tun)
		return gh_answer_outside(skb);
	if (in->kind == GH_PORT_TUNNEL && gh_encap(skb, s->p.tun, s->p.vtep))
		return TC_ACT_SHOT;
	gh_count_to(in_port, skb->len);
	gh_note(skb, GH_RESULT_REPLY, turned ? GH_OUT_INGRESS : GH_OUT_EGRESS, in->ifindex, in_port, s->reason, s->layer, 0);
	return bpf_redirect(in->ifindex, turned ? BPF_F_INGRESS : 0);
}

#endif /* GH_REJECT_H */
