/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * ACLs of frames to groups. They make no flow, so each is asked about: at its
 * sender, and at every receiver before it gets its copy.
 */
#ifndef GH_GROUP_H
#define GH_GROUP_H

#include "acl.h"
#include "parse.h"
#include "spoof.h"

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
