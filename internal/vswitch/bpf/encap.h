/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * In and out of tunnels. One device a UDP port carries every VNI to every host:
 * programs tell it where a frame goes, and it tells them whence one came.
 */
#ifndef GH_ENCAP_H
#define GH_ENCAP_H

#include "flow.h"

/* struct bpf_tunnel_key, whose unions would stay unwritten in part. */
struct gh_tunnel_key {
	__u32 vni;
	__u32 remote[4]; /* IPv4: the first, in host order */
	__u8 tos, ttl;
	__u16 ext;
	__u32 label;
	__u32 local[4]; /* zero: the kernel chooses */
};
_Static_assert(sizeof(struct gh_tunnel_key) == sizeof(struct bpf_tunnel_key), "key");

#define GH_OUTER_TTL 64
#define GH_IP_DF 0x4000

static __always_inline const struct gh_vtep *gh_vtep_get(__u32 id)
{
	return bpf_map_lookup_elem(&vtep, &id);
}

#define GH_MIN_MTU6 1280 /* what IPv6 may count on, RFC 8200 section 5 */

/*
 * Whether the packet inside may be cut holds for its shell: routers between then
 * tell us what fits, instead of cutting. But what IPv6 may count on has to pass,
 * cut outside if need be (RFC 2473 section 7.1). Over IPv4; IPv6 never cuts.
 */
static __always_inline __u64 gh_outer_df(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct iphdr *ip = data + ETH_HLEN;
	__u32 len;

	/* Of what is cut into segments each counts, with headers of IPv6 and TCP. */
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		len = skb->gso_size ? skb->gso_size + 60 : skb->len - ETH_HLEN;
		return len > GH_MIN_MTU6 ? BPF_F_DONT_FRAGMENT : 0;
	}
	if (skb->protocol != bpf_htons(ETH_P_IP) || (void *)(ip + 1) > end)
		return 0;
	return ip->frag_off & bpf_htons(GH_IP_DF) ? BPF_F_DONT_FRAGMENT : 0;
}

/*
 * gh_encap() tells the tunnel device where to. Over IPv4 the outer UDP checksum
 * stays zero (RFC 7348 section 5); over IPv6 receivers may insist on one.
 */
__noinline int gh_encap(struct __sk_buff *skb, __u32 vni, __u32 id)
{
	const struct gh_vtep *v = gh_vtep_get(id);
	struct gh_tunnel_key k = { .vni = vni, .ttl = GH_OUTER_TTL };
	__u64 flags = BPF_F_TUNINFO_IPV6;

	if (!v || !v->mtu)
		return -1;
	if (gh_is_v4(&v->addr)) {
		k.remote[0] = bpf_ntohl(gh_word(&v->addr, 3));
		k.local[0] = bpf_ntohl(gh_word(&v->local, 3));
		flags = BPF_F_ZERO_CSUM_TX | gh_outer_df(skb);
	} else {
		__builtin_memcpy(k.remote, &v->addr, 16);
		__builtin_memcpy(k.local, &v->local, 16);
	}
	if (unit) {
		__u32 zero = 0;
		struct gh_result *r = bpf_map_lookup_elem(&result, &zero);

		if (r) {
			r->tun = vni;
			r->vtep = id;
		}
	}
	return bpf_skb_set_tunnel_key(skb, (struct bpf_tunnel_key *)&k, sizeof(k), flags);
}

static __always_inline const struct gh_peer_val *gh_peer_get(__u32 vni, __u16 port, __u16 port_be,
							      const struct gh_addr *a)
{
	struct gh_peer_key k __attribute__((aligned(8))) = { .vni = vni, .port = port, .port_be = port_be };

	gh_addr_set(&k.addr, a);
	return bpf_map_lookup_elem(&peer, &k);
}

/* A datagram of the uplink for one of our tunnels: the host takes off its shell. */
static __always_inline int gh_outer(const struct gh_hdr *h, __u16 dport_be)
{
	const struct gh_cfg *c;

	if (h->l4 != GH_L4_UDP)
		return 0;
	c = gh_config();
	if (!c || !c->tunnel_be[0])
		return 0;
	return dport_be == c->tunnel_be[0] || (c->tunnel_be[1] && dport_be == c->tunnel_be[1]) ||
	       (c->tunnel_be[2] && dport_be == c->tunnel_be[2]) || (c->tunnel_be[3] && dport_be == c->tunnel_be[3]);
}

#endif /* GH_ENCAP_H */
