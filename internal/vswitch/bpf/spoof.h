/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* L1: an endpoint speaks for itself only, and so does the host. */
#ifndef GH_SPOOF_H
#define GH_SPOOF_H

#include "lb.h"

#define GH_DHCP_SERVER bpf_htons(67)
#define GH_DHCP6_SERVER bpf_htons(547)
#define GH_DHCP_CLIENT bpf_htons(68)
#define GH_DHCP6_CLIENT bpf_htons(546)

static __always_inline int gh_owns_ip(__u16 port_id, const struct gh_addr *a)
{
	struct gh_portip_key k __attribute__((aligned(8))) = { .port = port_id };

	__builtin_memcpy(&k.addr, a, 16);
	return bpf_map_lookup_elem(&portip, &k) != NULL;
}

static __always_inline int gh_mac_eq(const __u8 *a, const __u8 *b)
{
	return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
		(a[5] ^ b[5])) == 0;
}

/* The frame's source MAC is the vNIC's. Reloads packet pointers. */
static __always_inline int gh_own_mac(struct __sk_buff *skb, const struct gh_port *in)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	return (void *)(eth + 1) <= end && gh_mac_eq(eth->h_source, in->mac);
}

/*
 * gh_spoof() returns 0 or a drop reason. The host speaks for its own addresses
 * only: what it would merely forward, from a machine that routes to it or from
 * another tool's containers, reaches endpoints by published ports or not at all,
 * unless the port is a router's (GH_PORT_FORWARD).
 * Ports of other kinds are trusted.
 */
static __always_inline int gh_spoof(struct __sk_buff *skb, const struct gh_pkt *p, const struct gh_port *in)
{
	if (p->kind == GH_PORT_HOST)
		return gh_is_host(&p->src) || (in->flags & GH_PORT_FORWARD) ? 0 : GH_DROP_SPOOF_IP;
	if (!gh_is_endpoint(p->kind))
		return 0;
	if (!gh_own_mac(skb, in))
		return GH_DROP_SPOOF_MAC;
	if (!(in->flags & GH_PORT_FORWARD) && !gh_owns_ip(p->in_port, &p->src))
		return GH_DROP_SPOOF_IP;
	if (p->h.l4 == GH_L4_UDP && p->sport_be == (p->fam == 4 ? GH_DHCP_SERVER : GH_DHCP6_SERVER))
		return GH_DROP_DHCP_GUARD;
	if (p->proto == IPPROTO_ICMP && p->h.icmp_type == GH_ICMP_REDIRECT)
		return GH_DROP_RA_GUARD;
	return 0;
}

#endif /* GH_SPOOF_H */
