/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Who may have how much of the flow tables. As long as there is room a port may
 * have as many flows as its own quota says. In a crowded table, one that is more
 * than four fifths full, a port that has its share gets no more, so that the last
 * fifth is left to those that have little; and half-open connections, which is
 * what a flood is made of, are given up sooner.
 */
#ifndef GH_QUOTA_H
#define GH_QUOTA_H

#include "event.h"

/* Conversations that flow4 and flow6 have room for: half their entries. */
const volatile __u32 gh_pairs[2] = { 131072, 32768 };

static __always_inline __u32 gh_room(int fam)
{
	return fam == 6 ? gh_pairs[1] : gh_pairs[0];
}

#define GH_SHARE 16	  /* a port's share of a crowded table: this part */
#define GH_SHARE_UPLINK 2 /* of all uplinks together */
#define GH_CROWDED_SYN_S 8

static __always_inline void gh_tally(__u32 *n, __s32 d)
{
	if (n)
		__sync_fetch_and_add(n, d);
}

/*
 * A count is below zero when the sweeper has corrected it while some that it did
 * not see any more were about to be taken away, until it comes again.
 */
static __always_inline __u32 gh_tallied(const __u32 *n)
{
	__u32 v = n ? GH_READ(*n) : 0;

	return (__s32)v < 0 ? 0 : v;
}

static __always_inline void gh_quota(__u32 port_id, __s32 d, int fam)
{
	__u32 i = fam == 6;

	gh_tally(bpf_map_lookup_elem(&pflows, &port_id), d);
	gh_tally(bpf_map_lookup_elem(&fill, &i), d);
}

static __always_inline int gh_crowded(int fam)
{
	__u32 i = fam == 6, *n = bpf_map_lookup_elem(&fill, &i);

	return gh_tallied(n) > gh_room(fam) / 5 * 4;
}

/* True when port_id may not begin another conversation. */
static __always_inline int gh_over_quota(__u32 port_id, __u32 max_flows, int fam)
{
	__u32 used = gh_tallied(bpf_map_lookup_elem(&pflows, &port_id));

	if (max_flows && used >= max_flows)
		return 1;
	return gh_crowded(fam) && used >= gh_room(fam) / (port_id ? GH_SHARE : GH_SHARE_UPLINK);
}

#endif /* GH_QUOTA_H */
