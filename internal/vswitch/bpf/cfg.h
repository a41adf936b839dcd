/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* Constants set before load, and the clock. */
#ifndef GH_CFG_H
#define GH_CFG_H

#include "state.h"

/* Test mode: the verdict is also written to cb[] and the result map. */
const volatile __u32 unit = 0;

#define GH_NSEC 1000000000ULL

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)

#define GH_READ(x) (*(volatile typeof(x) *)&(x))
#define GH_WRITE(x, v) (*(volatile typeof(x) *)&(x) = (v))

static __always_inline const struct gh_cfg *gh_config(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&cfg, &zero);
}

static __always_inline __u64 gh_now_ns(void)
{
	__u64 now = bpf_ktime_get_coarse_ns();

	if (unit) {
		const struct gh_cfg *c = gh_config();

		if (c)
			now += c->clock_offset_ns;
	}
	return now;
}

/* Everything that expires is written in these: seconds of CLOCK_MONOTONIC. */
static __always_inline __u32 gh_now_s(void)
{
	return gh_now_ns() / GH_NSEC;
}

#endif /* GH_CFG_H */
