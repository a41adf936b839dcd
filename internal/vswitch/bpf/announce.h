/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * ARP and ND at uplinks for addresses that this host announces: nobody holds
 * them, so the host's stack does not answer. The uplink needs no address itself.
 */
#ifndef GH_ANNOUNCE_H
#define GH_ANNOUNCE_H

#include "reply.h"

/* gh_vip_answer() is the vip stage. Of the packet only in_port is known. */
static __always_inline int gh_vip_answer(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_addr src __attribute__((aligned(8))), target __attribute__((aligned(8)));
	const struct gh_port *in;
	struct gh_nd_frame *f;
	__u32 asked;
	int turned;

	if (!s)
		return TC_ACT_SHOT;
	in = gh_port_get(s->p.in_port);
	if (!in)
		return gh_pass(skb);
	turned = gh_turned(skb, in);
	if (skb->protocol == bpf_htons(ETH_P_ARP)) {
		__u32 sip4, tip4;
		struct gh_arp a;

		if (bpf_skb_load_bytes(skb, 0, &a, sizeof(a)) || a.hrd != bpf_htons(1) ||
		    a.pro != bpf_htons(ETH_P_IP) || a.hln != ETH_ALEN || a.pln != 4 || a.op != GH_ARP_REQUEST)
			return gh_pass(skb);
		__builtin_memcpy(&sip4, a.sip, 4);
		__builtin_memcpy(&tip4, a.tip, 4);
		gh_addr4(&target, tip4);
		/* Who says that it has our address itself, is told by the daemon. */
		if (sip4 == tip4 || !gh_announced(s->p.in_port, 0, &target))
			return gh_pass(skb);
		gh_arp_turn(&a, in->mac, sip4, tip4);
		if (bpf_skb_store_bytes(skb, 0, &a, sizeof(a), 0))
			return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
		return gh_answer(skb, s, in, skb->len, turned);
	}
	f = (struct gh_nd_frame *)s->buf;
	/* RFC 4861 section 7.1: not from a neighbour unless the hop limit is whole. */
	if (bpf_skb_load_bytes(skb, 0, &f->eth, GH_ND_FRAME - 8) || f->ip.hop_limit != 255 ||
	    f->nd.type != GH_ND_NS)
		return gh_pass(skb);
	__builtin_memcpy(&src, &f->ip.saddr, 16);
	__builtin_memcpy(&target, f->nd.target, 16);
	if (!gh_announced(s->p.in_port, 0, &target))
		return gh_pass(skb);
	asked = skb->len;
	if (gh_advertise(skb, f, &src, &target, in->mac, 0))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	return gh_answer(skb, s, in, asked, turned);
}

#endif /* GH_ANNOUNCE_H */
