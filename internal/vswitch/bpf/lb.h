/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* L4: published ports and services. */
#ifndef GH_LB_H
#define GH_LB_H

#include "port.h"

static __always_inline const struct gh_addr_val *gh_addr_get(__u16 zone, const struct gh_addr *a)
{
	struct gh_addr_key k __attribute__((aligned(8))) = { .zone = zone };

	__builtin_memcpy(&k.addr, a, 16);
	return bpf_map_lookup_elem(&addr, &k);
}

/* An address of the host itself, which "any host address" rows stand for. */
static __always_inline int gh_is_host(const struct gh_addr *a)
{
	const struct gh_addr_val *v = gh_addr_get(GH_ZONE_HOST, a);

	return v && (v->flags & GH_ADDR_HOST);
}

static __always_inline const struct gh_svc_val *gh_svc_get(const struct gh_addr *vip, __u16 port_be, __u16 zone,
							    __u8 proto, __u8 scope)
{
	struct gh_svc_key k __attribute__((aligned(8))) = {
		.port_be = port_be, .zone = zone, .proto = proto, .scope = scope,
	};

	gh_addr_set(&k.vip, vip);
	return bpf_map_lookup_elem(&svc, &k);
}

/* The row for any address of a's family. */
static __always_inline const struct gh_svc_val *gh_svc_any(const struct gh_addr *a, __u16 port_be, __u8 proto)
{
	struct gh_addr any __attribute__((aligned(8))) = {};

	if (gh_is_v4(a))
		gh_addr4(&any, 0);
	return gh_svc_get(&any, port_be, GH_ZONE_HOST, proto, GH_SCOPE_ANY);
}

static __always_inline const struct gh_backend *gh_backend_get(__u32 id)
{
	return bpf_map_lookup_elem(&backend, &id);
}

static __always_inline int gh_backend_ok(const struct gh_backend *b)
{
	return b && b->state == 1;
}

/* gh_backend_pick() returns the id of one backend by hash; 0 is none. */
static __always_inline __u32 gh_backend_pick(const struct gh_svc_val *sv, __u32 hash)
{
	struct gh_slot_key k = { .svc = sv->id, .bank = sv->bank };
	__u32 *id;

	if (!sv->count)
		return 0;
	k.i = hash % sv->count;
	id = bpf_map_lookup_elem(&slot, &k);
	return id ? *id : 0;
}

static __always_inline __u32 gh_tuple_hash(const struct gh_pkt *p)
{
	__u32 h = gh_mix(p->proto, (__u32)p->sport_be << 16 | p->dport_be);
	int i;

#pragma unroll
	for (i = 0; i < 4; i++) {
		h = gh_mix(h, gh_word(&p->src, i));
		h = gh_mix(h, gh_word(&p->dst, i));
	}
	return h;
}

#endif /* GH_LB_H */
