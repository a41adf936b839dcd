/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* L1: an endpoint speaks for itself only, and so does the host; nobody on a wire for an endpoint. */
#ifndef GH_SPOOF_H
#define GH_SPOOF_H

#include "outside.h"

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

/* A MAC that the port may speak with: the vNIC's, or one that was given to it. */
static __always_inline int gh_port_mac(__u32 port_id, const struct gh_port *in, const __u8 *mac)
{
	return gh_mac_eq(mac, in->mac) || (in->flags & GH_PORT_ANY_MAC) || gh_fdb_get(in->zone, mac) == port_id;
}

/* The frame's source MAC is the port's. Reloads packet pointers. */
static __always_inline int gh_own_mac(struct __sk_buff *skb, __u32 port_id, const struct gh_port *in)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	__u8 mac[ETH_ALEN];

	if ((void *)(eth + 1) > end)
		return 0;
	__builtin_memcpy(mac, eth->h_source, ETH_ALEN);
	return gh_port_mac(port_id, in, mac);
}

static __always_inline int gh_link_local(const struct gh_addr *a)
{
	return a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

/* An address that the port may speak with where frames go by MAC. */
static __always_inline int gh_speaks_for(__u32 port_id, const struct gh_port *in, const struct gh_addr *a)
{
	return (in->flags & GH_PORT_ANY_IP) || gh_eui64(a, in->mac) || gh_owns_ip(port_id, a);
}

/*
 * gh_spoof() returns 0 or a drop reason. answers: the packet is of a conversation
 * that the port was given under the address it now speaks with (GH_SVC_PRESERVE).
 * The host speaks for its own addresses
 * only: what it would merely forward, from a machine that routes to it or from
 * another tool's containers, reaches endpoints by published ports or not at all,
 * unless the port is a router's (GH_PORT_FORWARD).
 * Ports of other kinds are trusted.
 */
static __always_inline int gh_spoof(struct __sk_buff *skb, const struct gh_pkt *p, const struct gh_port *in, int answers)
{
	if (p->kind == GH_PORT_HOST)
		return gh_is_host(&p->src) || (in->flags & GH_PORT_FORWARD) ? 0 : GH_DROP_SPOOF_IP;
	if (p->kind == GH_PORT_WIRE)
		return gh_impostor(p->zone, p->net, 0) ? GH_DROP_SPOOF_IP : 0;
	if (!gh_is_endpoint(p->kind))
		return 0;
	if (!gh_own_mac(skb, p->in_port, in))
		return GH_DROP_SPOOF_MAC;
	if (!answers && !(in->flags & (GH_PORT_FORWARD | GH_PORT_ANY_IP)) && !gh_owns_ip(p->in_port, &p->src) &&
	    !(gh_eui64(&p->src, in->mac) && gh_is_l2(p->net)))
		return GH_DROP_SPOOF_IP;
	if (p->h.l4 == GH_L4_UDP && p->sport_be == (p->fam == 4 ? GH_DHCP_SERVER : GH_DHCP6_SERVER))
		return GH_DROP_DHCP_GUARD;
	if (p->proto == IPPROTO_ICMP && p->h.icmp_type == GH_ICMP_REDIRECT)
		return GH_DROP_RA_GUARD;
	return 0;
}

#endif /* GH_SPOOF_H */
