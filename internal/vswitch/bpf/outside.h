/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Nobody outside speaks for an endpoint that is here: what endpoints say to each
 * other is switched here, and does not come from a wire. Two exceptions: networks
 * that switch nothing (GH_NET_NO_LOCAL), and a router outside between two subnets
 * of a network that forwards by MAC.
 */
#ifndef GH_OUTSIDE_H
#define GH_OUTSIDE_H

#include "parse.h"
#include "route.h"

#define GH_ARP_SIP (ETH_HLEN + 14)
#define GH_ND_TARGET (ETH_HLEN + sizeof(struct ipv6hdr) + 8)

/*
 * The link-local address that follows from the vNIC's MAC (RFC 4291 appendix A):
 * the one such address a port has without being told.
 */
static __always_inline int gh_eui64(const struct gh_addr *a, const __u8 *mac)
{
	return a->b[0] == 0xfe && a->b[1] == 0x80 &&
	       !(a->b[2] | a->b[3] | a->b[4] | a->b[5] | a->b[6] | a->b[7]) && a->b[8] == (mac[0] ^ 2) &&
	       a->b[9] == mac[1] && a->b[10] == mac[2] && a->b[11] == 0xff && a->b[12] == 0xfe &&
	       a->b[13] == mac[3] && a->b[14] == mac[4] && a->b[15] == mac[5];
}

/* An endpoint of this host, or of an overlay's other hosts, has the address in zone. */
static __always_inline int gh_endpoint_has(__u16 zone, const struct gh_addr *a)
{
	__u8 mac[ETH_ALEN] = { a->b[8] ^ 2, a->b[9], a->b[10], a->b[13], a->b[14], a->b[15] };
	const struct gh_addr_val *v = gh_addr_get(zone, a);
	__u32 id = v ? v->port : gh_eui64(a, mac) ? gh_fdb_get(zone, mac) : 0;
	const struct gh_port *q = gh_port_get(id);

	return q && (gh_is_endpoint(q->kind) || q->kind == GH_PORT_TUNNEL);
}

/* The prefix of the network that a is in; NULL when it is in none. */
static __always_inline const struct gh_route_val *gh_subnet_of(__u16 zone, const struct gh_addr *a)
{
	struct gh_route_key k __attribute__((aligned(8))) = { .prefixlen = 160, .zone = zone };
	const struct gh_route_val *rt;

	__builtin_memcpy(&k.addr, a, 16);
	rt = bpf_map_lookup_elem(&route, &k);
	return rt && rt->kind == GH_ROUTE_LOCAL ? rt : NULL;
}

/*
 * gh_impostor() is 1 when the packet in hand, which came from outside for an
 * endpoint of this network, bears the source of another one here. translated: its
 * destination is what a service put in its place.
 */
__noinline int gh_impostor(__u32 zone, __u32 netid, __u32 translated)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_net *n = gh_net_get(netid);
	const struct gh_route_val *from, *to;

	if (!s || !n || (n->flags & GH_NET_NO_LOCAL) || !gh_endpoint_has(zone, &s->p.src))
		return 0;
	if (!(n->flags & GH_NET_L2))
		return 1;
	from = gh_subnet_of(zone, &s->p.src);
	to = translated ? gh_subnet_of(zone, &s->w.ndst) : gh_subnet_of(zone, &s->p.dst);
	return !from || !to || from == to;
}

/*
 * gh_usurps() is 1 when an ARP packet or a neighbour's message from outside speaks
 * for an endpoint of this network. A question speaks for its sender only.
 */
__noinline int gh_usurps(struct __sk_buff *skb, __u32 zone, __u32 netid)
{
	const struct gh_net *n = gh_net_get(netid);
	struct gh_addr a __attribute__((aligned(8)));
	__u32 v4;
	__u8 type;

	if (!n || (n->flags & GH_NET_NO_LOCAL))
		return 0;
	if (skb->protocol == bpf_htons(ETH_P_ARP)) {
		if (bpf_skb_load_bytes(skb, GH_ARP_SIP, &v4, 4))
			return 0;
		gh_addr4(&a, v4);
		return gh_endpoint_has(zone, &a);
	}
	if (bpf_skb_load_bytes(skb, ETH_HLEN + __builtin_offsetof(struct ipv6hdr, saddr), &a, 16))
		return 0;
	if (gh_endpoint_has(zone, &a))
		return 1;
	if (bpf_skb_load_bytes(skb, ETH_HLEN + sizeof(struct ipv6hdr), &type, 1) ||
	    (type != GH_ND_NA && type != GH_ND_REDIRECT) || bpf_skb_load_bytes(skb, GH_ND_TARGET, &a, 16))
		return 0;
	return gh_endpoint_has(zone, &a);
}

#endif /* GH_OUTSIDE_H */
