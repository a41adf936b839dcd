/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * ACLs of frames to groups. They make no flow, so each is asked about: at its
 * sender, and at every receiver before it gets its copy.
 */
#ifndef GH_GROUP_H
#define GH_GROUP_H

#include "acl.h"
#include "fast.h"
#include "parse.h"
#include "spoof.h"

/*
 * gh_group_read() reads what rules ask about from a frame that a wire brought to a
 * group: 0 for what no port may get, because nobody could judge it. What is a
 * neighbour's must have come from one (RFC 4861 section 7.1).
 */
__noinline int gh_group_read(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	__u32 want = skb->len < GH_PULL_BYTES ? skb->len : GH_PULL_BYTES;
	struct gh_hdr h __attribute__((aligned(8))) = {};
	struct gh_in in = {};
	int next;

	if (!s || (gh_scattered(skb) && bpf_skb_pull_data(skb, want)))
		return 0;
	in.in_port = s->p.in_port;
	in.port = s->p.port;
	in.zone = s->p.zone;
	in.net = s->p.net;
	in.kind = s->p.kind;
	h.group = 1;
	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		struct gh_fkey4 k __attribute__((aligned(8))) = {};

		next = gh_parse4(skb, &k, &h);
		gh_save4(&s->p, &in, &k, &h);
		return next >= 0;
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		struct gh_fkey6 k __attribute__((aligned(8))) = {};

		next = gh_parse6(skb, &k, &h);
		gh_save6(&s->p, &in, &k, &h);
		return next >= 0 && (next != GH_NEXT_ND || (h.ttl == 255 && !h.opts));
	}
	return skb->protocol == bpf_htons(ETH_P_ARP);
}

/* Not asked about: ARP, neighbour discovery, and DHCP between clients and servers. */
static __always_inline int gh_group_asked(const struct gh_pkt *p)
{
	__u16 client = p->fam == 4 ? GH_DHCP_CLIENT : GH_DHCP6_CLIENT;
	__u16 server = p->fam == 4 ? GH_DHCP_SERVER : GH_DHCP6_SERVER;

	if (!p->fam || (p->proto == IPPROTO_ICMPV6 && p->h.icmp_type >= GH_ND_RS && p->h.icmp_type <= GH_ND_REDIRECT))
		return 0;
	if (p->h.l4 != GH_L4_UDP)
		return 1;
	return !(p->sport_be == client && p->dport_be == server) && !(p->sport_be == server && p->dport_be == client);
}

/* gh_group_out() asks the sender's rules: 0 or GH_NO(). */
__noinline int gh_group_out(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	int ret;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ACL_OUT, GH_REJECT_NONE);
	gh_walk_reset(&s->w, &s->p);
	s->w.out_port = 0;
	s->w.blind = s->p.h.frag == GH_FRAG_LATER;
	ret = gh_layer_acl(skb, GH_LAYER_ACL_PRE);
	return ret ? ret : gh_layer_acl(skb, GH_LAYER_ACL_OUT);
}

/* gh_group_in() asks those of one receiver: 0 when it may have its copy. */
__noinline int gh_group_in(struct __sk_buff *skb, __u32 id)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return 1;
	s->w.out_port = id;
	return gh_layer_acl(skb, GH_LAYER_ACL_IN);
}

#endif /* GH_GROUP_H */
