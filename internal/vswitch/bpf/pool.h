/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* L7: which pool, and which of its addresses, an endpoint is shown with outside. */
#ifndef GH_POOL_H
#define GH_POOL_H

#include "port.h"

/* The route's pool, else the endpoint's own, else its network's, else the uplink's; 0 = none. */
static __always_inline __u32 gh_pool_of(const struct gh_pkt *p, const struct gh_walk *w, const struct gh_net *n)
{
	const struct gh_port *in = gh_port_get(p->in_port), *out = gh_port_get(w->out_port);
	__u32 pool = w->pool;

	if (!pool && in && gh_is_endpoint(p->kind))
		pool = p->fam == 4 ? in->natpool4 : in->natpool6;
	if (!pool)
		pool = p->fam == 4 ? n->natpool4 : n->natpool6;
	if (!pool && out)
		pool = p->fam == 4 ? out->natpool4 : out->natpool6;
	return pool;
}

static __always_inline const struct gh_natpool *gh_pool_at(__u32 i)
{
	const struct gh_natpool *np = i ? bpf_map_lookup_elem(&natpool, &i) : NULL;

	return np && np->hi ? np : NULL;
}

/*
 * gh_pool_pick() returns the entry of the pool for this packet, NULL if the pool
 * is empty. An endpoint always has the same address while the pool is the same;
 * a conversation keeps its own as long as that is in the pool at all.
 */
static __always_inline const struct gh_natpool *gh_pool_pick(const struct gh_pkt *p, const struct gh_walk *w, __u32 pool)
{
	const struct gh_natpool *first = gh_pool_at(pool), *np;
	__u32 hash, count, i;

	if (!first)
		return NULL;
	count = first->count;
	if (count <= 1)
		return first;
	if (count > GH_POOL_ADDRS)
		count = GH_POOL_ADDRS;
	if (w->keep) {
		for (i = 0; i < GH_POOL_ADDRS; i++) {
			np = i < count ? gh_pool_at(pool + i) : NULL;
			if (np && gh_addr_eq(&np->addr, &w->nsrc))
				return np;
		}
	}
	hash = gh_mix(gh_mix(gh_mix(gh_mix(0, gh_word(&p->src, 0)), gh_word(&p->src, 1)), gh_word(&p->src, 2)),
		      gh_word(&p->src, 3));
	return gh_pool_at(pool + hash % count);
}

#endif /* GH_POOL_H */
