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

static __always_inline __u32 gh_src_hash(const struct gh_pkt *p)
{
	return gh_mix(gh_mix(gh_mix(gh_mix(0, gh_word(&p->src, 0)), gh_word(&p->src, 1)), gh_word(&p->src, 2)),
		      gh_word(&p->src, 3));
}

/* gh_pool_share() leaves an endpoint its share of the ports in w: a run of them that its address chooses. */
static __always_inline void gh_pool_share(const struct gh_pkt *p, struct gh_walk *w)
{
	const struct gh_port *in = gh_port_get(p->in_port);
	__u32 all = (__u32)w->nat_hi - w->nat_lo + 1, some;

	if (!in || !gh_is_endpoint(p->kind) || !in->nat_share || w->nat_hi < w->nat_lo)
		return;
	some = all * in->nat_share / 100;
	if (!some)
		some = 1;
	if (some >= all)
		return;
	w->nat_lo += gh_src_hash(p) % (all - some + 1);
	w->nat_hi = w->nat_lo + some - 1;
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
	__u32 count, i;

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
	return gh_pool_at(pool + gh_src_hash(p) % count);
}

#endif /* GH_POOL_H */
