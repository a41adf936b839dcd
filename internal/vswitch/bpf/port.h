/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* Ports, networks, epochs and port counters. */
#ifndef GH_PORT_H
#define GH_PORT_H

#include "pkt.h"

static __always_inline const struct gh_port *gh_port_get(__u32 id)
{
	return bpf_map_lookup_elem(&port, &id);
}

static __always_inline const struct gh_net *gh_net_get(__u32 id)
{
	return bpf_map_lookup_elem(&net, &id);
}

/* Port id of a device; 0 when it is none of ours. */
static __always_inline __u32 gh_port_of(__u32 ifindex)
{
	__u32 *id = bpf_map_lookup_elem(&ifport, &ifindex);

	return id ? *id : 0;
}

static __always_inline int gh_is_endpoint(__u8 kind)
{
	return kind == GH_PORT_CONTAINER || kind == GH_PORT_VM;
}

/* The network forwards by MAC. */
static __always_inline int gh_is_l2(__u32 id)
{
	const struct gh_net *n = gh_net_get(id);

	return n && (n->flags & GH_NET_L2);
}

static __always_inline int gh_mac_eq(const __u8 *a, const __u8 *b)
{
	return ((a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) | (a[4] ^ b[4]) |
		(a[5] ^ b[5])) == 0;
}

static __always_inline __u32 gh_fdb_get(__u16 zone, const __u8 *mac)
{
	struct gh_fdb_key k = { .zone = zone };
	__u32 *id;

	__builtin_memcpy(k.mac, mac, ETH_ALEN);
	id = bpf_map_lookup_elem(&fdb, &k);
	return id ? *id : 0;
}

static __always_inline __u32 gh_wireip_get(__u16 uplink, __u16 vlan, const struct gh_addr *a)
{
	struct gh_wireip_key k __attribute__((aligned(8))) = { .uplink = uplink, .vlan = vlan };
	__u32 *id;

	__builtin_memcpy(&k.addr, a, 16);
	id = bpf_map_lookup_elem(&wireip, &k);
	return id ? *id : 0;
}

static __always_inline __u32 gh_epoch_at(__u32 i)
{
	__u32 *e = bpf_map_lookup_elem(&epoch, &i);

	return e ? GH_READ(*e) : 0;
}

static __always_inline __u32 gh_epoch_net(__u32 id)
{
	return gh_epoch_at(GH_EPOCH_NET + (id & (GH_MAX_NETS - 1))) + gh_epoch_at(GH_EPOCH_GLOBAL);
}

/* A packet of the port went its way, or was for us. Of what is dropped gh_account() counts. */
static __always_inline void gh_count_from(__u32 port_id, __u32 len)
{
	struct gh_pstats *s = bpf_map_lookup_elem(&pstats, &port_id);

	if (s) {
		s->tx_packets++;
		s->tx_bytes += len;
	}
}

/* One leaves by the port: forwarded, a copy, or made by us. */
static __always_inline void gh_count_to(__u32 port_id, __u32 len)
{
	struct gh_pstats *s = bpf_map_lookup_elem(&pstats, &port_id);

	if (s) {
		s->rx_packets++;
		s->rx_bytes += len;
	}
}

/* The packet went in at one port and out at another. */
static __always_inline void gh_count(__u32 in_port, __u32 out_port, __u32 len)
{
	gh_count_from(in_port, len);
	gh_count_to(out_port, len);
}

/*
 * gh_rate_ok() admits n events a second. Two CPUs may both admit the last one:
 * a few more than n is fine.
 */
static __always_inline int gh_rate_ok(__u32 *second, __u32 *count, __u32 now_s, __u32 n)
{
	if (*second != now_s) {
		*second = now_s;
		*count = 0;
	}
	if (*count >= n)
		return 0;
	*count += 1;
	return 1;
}

#endif /* GH_PORT_H */
