/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * ARP and ND. The switch answers for every address of the zone from the addr
 * map, so that endpoints neither see nor need each other's requests.
 */
#ifndef GH_REPLY_H
#define GH_REPLY_H

#include "tunnel.h"
#include "lb.h"
#include "parse.h"
#include "spoof.h"

struct gh_arp {
	struct ethhdr eth;
	__be16 hrd, pro;
	__u8 hln, pln;
	__be16 op;
	__u8 sha[ETH_ALEN];
	__u8 sip[4];
	__u8 tha[ETH_ALEN];
	__u8 tip[4];
} __attribute__((packed));

#define GH_ARP_REQUEST bpf_htons(1)
#define GH_ARP_REPLY bpf_htons(2)

/* Answered to the port it came from. */
static __always_inline int gh_answer(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_port *in)
{
	skb->mark = 0;
	gh_copy(skb, s->p.in_port, GH_COPY_ANSWER);
	if (in->kind == GH_PORT_TUNNEL && gh_encap(skb, s->p.tun, s->p.vtep))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	gh_note(skb, GH_RESULT_REPLY, GH_OUT_EGRESS, in->ifindex, 0, 0, GH_LAYER_L2, 0);
	return bpf_redirect(in->ifindex, 0);
}

/*
 * The link address of who leads to target: where a route leads to another host,
 * the router's, for those who take what is behind it for their own link's.
 */
static __always_inline const __u8 *gh_proxy_mac(const struct gh_scratch *s, const struct gh_port *in,
						const struct gh_addr *target)
{
	const struct gh_net *n = gh_net_get(s->p.net);
	struct gh_far f;

	if (!n || in->kind == GH_PORT_TUNNEL || !gh_far_find(in, s->p.in_port, s->p.zone, target, &f))
		return NULL;
	return n->router_mac;
}

/* A question nobody can answer: on to the other ports where the network floods. */
static __always_inline int gh_unanswered(struct __sk_buff *skb, struct gh_scratch *s)
{
	const struct gh_net *n = gh_net_get(s->p.net);

	if (n && (n->flags & GH_NET_FLOOD) && s->p.h.group)
		return gh_stage(skb, s, GH_STAGE_FLOOD);
	return gh_drop(skb, s, GH_DROP_UNKNOWN_DST, GH_LAYER_L2);
}

/* gh_arp_turn() makes a question its answer: tip is at mac. */
static __always_inline void gh_arp_turn(struct gh_arp *a, const __u8 *mac, __u32 sip4, __u32 tip4)
{
	a->op = GH_ARP_REPLY;
	__builtin_memcpy(a->eth.h_dest, a->eth.h_source, ETH_ALEN);
	__builtin_memcpy(a->eth.h_source, mac, ETH_ALEN);
	__builtin_memcpy(a->tha, a->sha, ETH_ALEN);
	__builtin_memcpy(a->tip, &sip4, 4);
	__builtin_memcpy(a->sha, mac, ETH_ALEN);
	__builtin_memcpy(a->sip, &tip4, 4);
}

static __always_inline int gh_arp_answer(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_addr sip __attribute__((aligned(8))), tip __attribute__((aligned(8)));
	const struct gh_addr_val *v;
	const struct gh_port *in;
	const __u8 *mac;
	struct gh_arp a;
	struct gh_pkt *p;
	__u32 sip4, tip4;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->p;
	in = gh_port_get(p->in_port);
	if (!in)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (bpf_skb_load_bytes(skb, 0, &a, sizeof(a)) || a.hrd != bpf_htons(1) || a.pro != bpf_htons(ETH_P_IP) ||
	    a.hln != ETH_ALEN || a.pln != 4)
		return gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_L2);
	__builtin_memcpy(&sip4, a.sip, 4);
	__builtin_memcpy(&tip4, a.tip, 4);
	gh_addr4(&sip, sip4);
	gh_addr4(&tip, tip4);
	if (gh_is_endpoint(p->kind)) {
		if (!gh_mac_eq(a.eth.h_source, in->mac))
			return gh_drop(skb, s, GH_DROP_SPOOF_MAC, GH_LAYER_SPOOF);
		if (!gh_mac_eq(a.sha, in->mac) || (sip4 && !gh_owns_ip(p->in_port, &sip)))
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	}
	/* Announcements and answers teach nobody anything: addresses are configured. */
	if (a.op != GH_ARP_REQUEST || sip4 == tip4)
		return gh_consumed(skb, GH_LAYER_L2);
	v = gh_addr_get(p->zone, &tip);
	mac = v ? v->mac : gh_proxy_mac(s, in, &tip);
	if (!mac)
		return gh_unanswered(skb, s);
	if (v && v->port == p->in_port)
		return gh_consumed(skb, GH_LAYER_L2); /* a probe for its own address: free */
	gh_arp_turn(&a, mac, sip4, tip4);
	if (bpf_skb_store_bytes(skb, 0, &a, sizeof(a), 0))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	return gh_answer(skb, s, in);
}

/* Neighbour messages, RFC 4861 section 4. */
struct gh_nd {
	__u8 type, code;
	__u16 check;
	__be32 flags;
	__u8 target[16];
	__u8 opt_type, opt_len; /* one link-layer address option */
	__u8 opt_mac[ETH_ALEN];
};
struct gh_nd_frame {
	__u16 align; /* so that what follows the 14 bytes of Ethernet is aligned */
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct gh_nd nd;
};
#define GH_ND_FRAME (sizeof(struct gh_nd_frame) - 2)

#define GH_ND_OPT_SLLA 1
#define GH_ND_OPT_TLLA 2
#define GH_NA_ROUTER bpf_htonl(0x80000000)
#define GH_NA_SOLICITED bpf_htonl(0x40000000)
#define GH_NA_OVERRIDE bpf_htonl(0x20000000)

static __always_inline int gh_link_local(const struct gh_addr *a)
{
	return a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

/*
 * gh_csum6() is the checksum of an ICMPv6 message of len bytes (a multiple of
 * four) at msg, whose checksum field is zero.
 */
static __always_inline __u16 gh_csum6(void *src, void *dst, void *msg, __u32 len)
{
	__s64 sum;

	sum = bpf_csum_diff(NULL, 0, src, 16, bpf_htonl(len));
	sum = bpf_csum_diff(NULL, 0, dst, 16, sum);
	sum = bpf_csum_diff(NULL, 0, msg, len, sum);
	return ~gh_fold16((__u64)(__u32)sum + bpf_htonl(IPPROTO_ICMPV6));
}

/*
 * gh_advertise() makes the solicitation in f, and the packet, an advertisement
 * of its target at mac.
 */
static __always_inline int gh_advertise(struct __sk_buff *skb, struct gh_nd_frame *f, const struct gh_addr *src,
					const struct gh_addr *target, const __u8 *mac, int router)
{
	struct gh_nd *nd = &f->nd;
	int dad = gh_addr_zero(src);

	if (dad) { /* RFC 4861 section 7.2.4: to all nodes, not solicited */
		__builtin_memset(&f->ip.daddr, 0, 16);
		f->ip.daddr.s6_addr[0] = 0xff;
		f->ip.daddr.s6_addr[1] = 0x02;
		f->ip.daddr.s6_addr[15] = 1;
		f->eth.h_dest[0] = 0x33;
		f->eth.h_dest[1] = 0x33;
		f->eth.h_dest[2] = 0;
		f->eth.h_dest[3] = 0;
		f->eth.h_dest[4] = 0;
		f->eth.h_dest[5] = 1;
	} else {
		__builtin_memcpy(&f->ip.daddr, src, 16);
		__builtin_memcpy(f->eth.h_dest, f->eth.h_source, ETH_ALEN);
	}
	__builtin_memcpy(f->eth.h_source, mac, ETH_ALEN);
	__builtin_memcpy(&f->ip.saddr, target, 16);
	f->ip.payload_len = bpf_htons(sizeof(*nd));
	f->ip.hop_limit = 255;
	nd->type = GH_ND_NA;
	nd->code = 0;
	nd->check = 0;
	nd->flags = (dad ? 0 : GH_NA_SOLICITED) | GH_NA_OVERRIDE | (router ? GH_NA_ROUTER : 0);
	nd->opt_type = GH_ND_OPT_TLLA;
	nd->opt_len = 1;
	__builtin_memcpy(nd->opt_mac, mac, ETH_ALEN);
	nd->check = gh_csum6(&f->ip.saddr, &f->ip.daddr, nd, sizeof(*nd));
	return bpf_skb_change_tail(skb, GH_ND_FRAME, 0) || bpf_skb_store_bytes(skb, 0, &f->eth, GH_ND_FRAME, 0);
}

/* An advertisement of an address, or with a link-layer address, that is not its sender's. */
static __always_inline int gh_nd_lies(struct __sk_buff *skb, const struct gh_pkt *p, const struct gh_port *in, __u32 off)
{
	struct gh_addr target __attribute__((aligned(8)));
	__u8 opt[2], mac[ETH_ALEN];

	if (bpf_skb_load_bytes(skb, off + 8, &target, 16))
		return 1;
	if (!gh_link_local(&target) && !gh_owns_ip(p->in_port, &target))
		return 1;
	if (bpf_skb_load_bytes(skb, off + 24, opt, sizeof(opt)) || opt[0] != GH_ND_OPT_TLLA)
		return 0;
	return bpf_skb_load_bytes(skb, off + 26, mac, sizeof(mac)) || !gh_mac_eq(mac, in->mac);
}

static __always_inline int gh_nd_answer(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_addr target __attribute__((aligned(8)));
	const struct gh_addr_val *v;
	const struct gh_port *in;
	const __u8 *link;
	struct gh_nd_frame *f;
	struct gh_pkt *p;
	struct gh_nd *nd;
	__u8 first[2];
	__u32 off;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->p;
	in = gh_port_get(p->in_port);
	if (!in)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	off = p->h.l4_off & GH_L4_MASK6;
	if (gh_is_endpoint(p->kind)) {
		if (!gh_own_mac(skb, in))
			return gh_drop(skb, s, GH_DROP_SPOOF_MAC, GH_LAYER_SPOOF);
		if (p->h.icmp_type == GH_ND_RA || p->h.icmp_type == GH_ND_REDIRECT)
			return gh_drop(skb, s, GH_DROP_RA_GUARD, GH_LAYER_SPOOF);
		if (!gh_addr_zero(&p->src) && !gh_link_local(&p->src) && !gh_owns_ip(p->in_port, &p->src))
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	}
	/* RFC 4861 section 7.1: not from a neighbour unless the hop limit is whole. */
	if (p->h.ttl != 255 || p->h.opts)
		return gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_L2);
	if (p->h.icmp_type == GH_ND_NA && gh_is_endpoint(p->kind) && gh_nd_lies(skb, p, in, off))
		return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	if (p->h.icmp_type != GH_ND_NS)
		return gh_consumed(skb, GH_LAYER_L2);
	f = (struct gh_nd_frame *)s->buf;
	nd = &f->nd;
	if (bpf_skb_load_bytes(skb, 0, &f->eth, GH_ND_FRAME - 8))
		return gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_L2);
	/* A sender that names a link-layer address must name its own. */
	if (gh_is_endpoint(p->kind) && !bpf_skb_load_bytes(skb, off + 24, first, 2) && first[0] == GH_ND_OPT_SLLA) {
		__u8 mac[ETH_ALEN];

		if (bpf_skb_load_bytes(skb, off + 26, mac, sizeof(mac)) || !gh_mac_eq(mac, in->mac))
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	}
	__builtin_memcpy(&target, nd->target, 16);
	v = gh_addr_get(p->zone, &target);
	link = v ? v->mac : gh_proxy_mac(s, in, &target);
	if (!link) {
		/* Duplicate address detection of a link-local address: nobody objects. */
		if (gh_link_local(&target))
			return gh_consumed(skb, GH_LAYER_L2);
		return gh_unanswered(skb, s);
	}
	if (v && v->port == p->in_port)
		return gh_consumed(skb, GH_LAYER_L2); /* DAD for its own address: free */

	if (gh_advertise(skb, f, &p->src, &target, link, v ? v->flags & GH_ADDR_GATEWAY : 0))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	return gh_answer(skb, s, in);
}

#endif /* GH_REPLY_H */
