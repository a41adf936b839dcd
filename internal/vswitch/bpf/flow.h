/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Flow entries. Both families have the same head and the same tracking part, so
 * that all code but key and address handling exists once.
 *
 * Two CPUs and one entry. The table recycles an element at once after a delete,
 * so a reader may hold an element that meanwhile belongs to another flow. tag
 * closes that hole: its upper half folds the key, its lower half is the
 * incarnation, and it is odd while the first line is being written. A reader
 * takes tag, copies the line, takes tag again; any difference is a miss. The
 * counters between are atomic adds with a result, which are full barriers on
 * every architecture. Counters and state of the second line may then land in
 * the wrong flow for some nanoseconds; that costs a packet's count or an early
 * expiry and never sends a packet astray.
 */
#ifndef GH_FLOW_H
#define GH_FLOW_H

#include "quota.h"

/* What both families begin with. */
struct gh_head {
	__u32 tag;
	__u16 ops;
	__u8 verdict;
	__u8 out_kind;
	__u32 out_ifindex;
	__u8 dmac[6], smac[6];
};

/* The first line: what a hit copies. */
struct gh_act4 {
	struct gh_head hd;
	__u32 nsrc_be, ndst_be;
	__u16 nsport_be, ndport_be;
	__u32 nh_be;
	__u16 out_mtu;
	__u16 out_port;
	__u32 e_in, e_out, e_net;
	__u32 tun;
	__u16 vtep;
	__u16 prio;
};
struct gh_act6 {
	struct gh_head hd;
	struct gh_addr nsrc, ndst, nh;
	__u16 nsport_be, ndport_be;
	__u16 out_mtu;
	__u16 out_port;
	__u32 e_in, e_out, e_net;
	__u32 tun;
	__u16 vtep;
	__u16 prio;
	__u32 pad0;
};

/* The second line, up to pair. */
struct gh_track {
	__u64 packets, bytes;
	__u32 last_s, born_s;
	__u8 tcp_own, tcp_peer;
	__u8 state;
	__u8 zero0;
	__u16 in_port;
	__u16 net;
	__u8 reply;
	__u8 nat;
	__u16 rule;
	__u32 svc, backend;
};

#define GH_TRACK4 64
#define GH_TRACK6 104
_Static_assert(sizeof(struct gh_act4) == GH_TRACK4, "flow4: first line");
_Static_assert(sizeof(struct gh_act6) == GH_TRACK6, "flow6: first line");
_Static_assert(__builtin_offsetof(struct gh_flow4, packets) == GH_TRACK4, "flow4: track");
_Static_assert(__builtin_offsetof(struct gh_flow6, packets) == GH_TRACK6, "flow6: track");
_Static_assert(__builtin_offsetof(struct gh_flow4, pair) ==
	       GH_TRACK4 + __builtin_offsetof(struct gh_track, backend) + 4, "flow4: pair");
_Static_assert(__builtin_offsetof(struct gh_flow6, pair) ==
	       GH_TRACK6 + __builtin_offsetof(struct gh_track, backend) + 4, "flow6: pair");
_Static_assert(sizeof(struct gh_flow4) == 128, "flow4");
_Static_assert(sizeof(struct gh_flow6) == 192, "flow6");

static __always_inline struct gh_track *gh_track(void *f, int fam)
{
	return f + (fam == 4 ? GH_TRACK4 : GH_TRACK6);
}

static __always_inline void *gh_pair(void *f, int fam)
{
	return f + (fam == 4 ? __builtin_offsetof(struct gh_flow4, pair) :
			       __builtin_offsetof(struct gh_flow6, pair));
}

static __always_inline __u16 gh_pair_zone(void *f, int fam)
{
	return fam == 4 ? ((struct gh_fkey4 *)gh_pair(f, 4))->zone : ((struct gh_fkey6 *)gh_pair(f, 6))->zone;
}

/* BPF has no fence; an atomic add that returns its operand is one. */
static __always_inline void gh_fence(struct gh_track *t)
{
	__u64 v = 0;

	asm volatile("" : "+r"(v)); /* or clang would see that nothing is added */
	v = __sync_fetch_and_add(&t->packets, v);
	asm volatile("" : : "r"(v));
}

/* ---- keys ---------------------------------------------------------------- */

static __always_inline void gh_key_make(union gh_key *k, int fam, const struct gh_addr *src,
					const struct gh_addr *dst, __u16 sport_be, __u16 dport_be,
					__u16 port, __u16 zone, __u8 proto, __u8 flags)
{
	if (fam == 4) {
		k->k4.src_be = gh_word(src, 3);
		k->k4.dst_be = gh_word(dst, 3);
		k->k4.sport_be = sport_be;
		k->k4.dport_be = dport_be;
		k->k4.port = port;
		k->k4.zone = zone;
		k->k4.proto = proto;
		k->k4.flags = flags;
		k->k4.zero = 0;
	} else {
		gh_addr_set(&k->k6.src, src);
		gh_addr_set(&k->k6.dst, dst);
		k->k6.sport_be = sport_be;
		k->k6.dport_be = dport_be;
		k->k6.port = port;
		k->k6.zone = zone;
		k->k6.proto = proto;
		k->k6.flags = flags;
		k->k6.zero = 0;
	}
}

/* Written out: clang 14 leaves such loops rolled, five or eleven words long. */
static __always_inline int gh_key_eq(const void *a, const void *b, int fam)
{
	const __u32 *x = a, *y = b;
	__u32 d;

	d = (x[0] ^ y[0]) | (x[1] ^ y[1]) | (x[2] ^ y[2]) | (x[3] ^ y[3]) | (x[4] ^ y[4]);
	if (fam == 6)
		d |= (x[5] ^ y[5]) | (x[6] ^ y[6]) | (x[7] ^ y[7]) | (x[8] ^ y[8]) | (x[9] ^ y[9]) |
		     (x[10] ^ y[10]);
	return !d;
}

static __always_inline void gh_key_copy(void *to, const void *from, int fam)
{
	__u32 *x = to;
	const __u32 *y = from;

	x[0] = y[0];
	x[1] = y[1];
	x[2] = y[2];
	x[3] = y[3];
	x[4] = y[4];
	if (fam == 6) {
		x[5] = y[5];
		x[6] = y[6];
		x[7] = y[7];
		x[8] = y[8];
		x[9] = y[9];
		x[10] = y[10];
	}
}

static __always_inline __u32 gh_turn(__u32 x, __u32 w)
{
	return ((x << 5) | (x >> 27)) ^ w;
}

/* The half of tag that says whose entry this is. */
static __always_inline __u32 gh_fold(const void *key, int fam)
{
	const __u32 *w = key;
	__u32 x;

	x = gh_turn(gh_turn(gh_turn(gh_turn(w[0], w[1]), w[2]), w[3]), w[4]);
	if (fam == 6)
		x = gh_turn(gh_turn(gh_turn(gh_turn(gh_turn(gh_turn(x, w[5]), w[6]), w[7]), w[8]), w[9]), w[10]);
	x *= 0x9e3779b1U;
	return x & 0xffff0000U;
}

static __always_inline void *gh_table(int fam)
{
	return fam == 4 ? (void *)&flow4 : (void *)&flow6;
}

static __always_inline void *gh_flow_get(const void *key, int fam)
{
	return bpf_map_lookup_elem(gh_table(fam), key);
}

/* ---- time ---------------------------------------------------------------- */

/* Seconds of silence in both directions after which a flow does not exist. */
const volatile __u16 gh_timeouts[16] = {
	[0] = 600,
	[GH_FLOW_SYN] = 30,
	[GH_FLOW_EST] = 7440,
	[GH_FLOW_FIN] = 300,
	[GH_FLOW_TW] = 120,
	[GH_FLOW_RST] = 10,
	[GH_FLOW_UDP1] = 30,
	[GH_FLOW_UDP2] = 180,
	[GH_FLOW_ICMP] = 30,
	[GH_FLOW_OTHER] = 600,
};

static __always_inline __u32 gh_timeout(__u8 state, int fam)
{
	if (unlikely(state == GH_FLOW_SYN) && gh_crowded(fam))
		return GH_CROWDED_SYN_S;
	return gh_timeouts[state & 15];
}

/* Another CPU may have stored a later second than ours: signed. */
static __always_inline int gh_idle(const struct gh_track *t, __u32 now_s, int fam)
{
	return (__s32)(now_s - GH_READ(t->last_s)) > (__s32)gh_timeout(t->state, fam);
}

/* gh_dead() is true when both halves are idle. */
static __always_inline int gh_dead(void *f, const void *key, int fam, __u32 now_s)
{
	void *r;

	if (!gh_idle(gh_track(f, fam), now_s, fam))
		return 0;
	r = gh_flow_get(gh_pair(f, fam), fam);
	if (!r || !gh_key_eq(gh_pair(r, fam), key, fam))
		return 1;
	return gh_idle(gh_track(r, fam), now_s, fam);
}

static __always_inline void gh_touch(struct gh_track *t, __u32 now_s)
{
	if (t->last_s != now_s) /* once a second: keeps the line shared between CPUs */
		t->last_s = now_s;
}

static __always_inline int gh_tcp_change(__u8 flags)
{
	return flags & (GH_TCP_SYN | GH_TCP_FIN | GH_TCP_RST);
}

static __always_inline int gh_changes_state(const struct gh_track *t, const struct gh_hdr *h)
{
	return gh_tcp_change(h->tcp_flags) || (t->state == GH_FLOW_UDP1 && t->reply);
}

/* ---- making and removing --------------------------------------------------- */

/*
 * gh_unlink() removes both halves. key is the one f was found by. The asking half
 * is what counts: of two CPUs at it only the one that deletes it takes it off.
 */
static __always_inline void gh_unlink(void *f, union gh_key *key, union gh_key *tmp, int fam)
{
	struct gh_track *t = gh_track(f, fam);
	__s32 own = t->reply ? -1 : t->in_port, other, counted = -1;
	int ret;
	void *r;

	gh_key_copy(tmp, gh_pair(f, fam), fam);
	r = gh_flow_get(tmp, fam);
	if (r && gh_key_eq(gh_pair(r, fam), key, fam)) {
		t = gh_track(r, fam);
		other = t->reply ? -1 : t->in_port;
		ret = bpf_map_delete_elem(gh_table(fam), tmp);
		if (!ret)
			counted = other;
	}
	ret = bpf_map_delete_elem(gh_table(fam), key);
	if (!ret && own >= 0)
		counted = own;
	if (counted >= 0)
		gh_quota(counted, -1, fam);
}

int gh_notice_end(void);

/* gh_end_by_packet() removes the conversation of s.key because of the packet in hand, and reports it. */
static __always_inline void gh_end_by_packet(struct gh_scratch *s, void *f, int fam)
{
	gh_notice_end();
	gh_unlink(f, &s->key, &s->rkey, fam);
}

/* A tag for a line that is being written: odd. */
static __always_inline __u32 gh_tag_new(const void *key, int fam)
{
	/* A microsecond is less than an element needs to die and live again. */
	return gh_fold(key, fam) | ((__u32)(bpf_ktime_get_ns() >> 10) & 0x7ffe) << 1 | 1;
}

/* gh_settle() makes a freshly inserted entry readable. */
static __always_inline void gh_settle(const void *key, __u32 odd, int fam)
{
	struct gh_head *hd = gh_flow_get(key, fam);

	if (hd)
		__sync_val_compare_and_swap(&hd->tag, odd, odd + 1);
}

#endif /* GH_FLOW_H */
