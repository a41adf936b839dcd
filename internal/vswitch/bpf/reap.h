/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * The reaper. Dead flows do not exist for a packet, but they take room, which the
 * sweeper in user space frees. When there is none, births do it: every
 * conversation is put into a queue, and each birth, or attempt at one, looks at
 * the two oldest. The dead are removed, the living go to the end. While a sweeper
 * says that it is there, a birth only writes its key.
 *
 * The queue is a hint: a key in it may be of a flow that is gone, or twice, or
 * half another's while two CPUs are a whole round apart. What is removed is
 * decided by the flow that is found, by the rules of gh_dead().
 */
#ifndef GH_REAP_H
#define GH_REAP_H

#include "flow.h"

#define GH_REAP_LOOKS 2
#define GH_REAP_PATIENCE 10 /* seconds without a word from a sweeper, which speaks every two */

static __always_inline __u32 *gh_reap_get(__u32 at)
{
	return bpf_map_lookup_elem(&reap, &at);
}

static __always_inline void *gh_queue_at(__u32 position, int fam)
{
	__u32 i = position & ((fam == 4 ? GH_QUEUE4 : GH_QUEUE6) - 1);

	return fam == 4 ? bpf_map_lookup_elem(&queue4, &i) : bpf_map_lookup_elem(&queue6, &i);
}

static __always_inline void gh_enqueue(const void *key, int fam)
{
	__u32 *head = gh_reap_get(fam == 4 ? GH_REAP_HEAD4 : GH_REAP_HEAD6);
	void *slot;

	if (!head)
		return;
	slot = gh_queue_at(__sync_fetch_and_add(head, 1), fam);
	if (slot)
		gh_key_copy(slot, key, fam);
}

/* gh_reap_oldest() takes the oldest key out, into scratch, and looks whether it is of the dead. */
static __always_inline void gh_reap_oldest(struct gh_scratch *s, int fam)
{
	__u32 *head = gh_reap_get(fam == 4 ? GH_REAP_HEAD4 : GH_REAP_HEAD6);
	__u32 *tail = gh_reap_get(fam == 4 ? GH_REAP_TAIL4 : GH_REAP_TAIL6);
	__u32 t, n;
	void *f;

	if (!head || !tail)
		return;
	t = GH_READ(*tail);
	n = GH_READ(*head) - t;
	if (!n)
		return;
	if (n > (fam == 4 ? GH_QUEUE4 : GH_QUEUE6)) { /* the oldest have been written over */
		__sync_val_compare_and_swap(tail, t, t + n - (fam == 4 ? GH_QUEUE4 : GH_QUEUE6));
		return;
	}
	if (__sync_val_compare_and_swap(tail, t, t + 1) != t)
		return; /* another CPU is at it */
	f = gh_queue_at(t, fam);
	if (!f)
		return;
	gh_key_copy(&s->key, f, fam);
	f = gh_flow_get(&s->key, fam);
	if (!f)
		return; /* gone */
	if (gh_dead(f, &s->key, fam, s->p.now_s))
		gh_unlink(f, &s->key, &s->rkey, fam);
	else
		gh_enqueue(&s->key, fam);
}

/* gh_birth() is called for each conversation that is made; born = there was room. */
static __always_inline int gh_birth(int born, int fam)
{
	struct gh_scratch *s = gh_scratch_get();
	__u32 *beat = gh_reap_get(GH_REAP_BEAT);
	int i;

	if (!s || !beat)
		return 0;
	if (born)
		gh_enqueue(&s->key, fam);
	if (likely((__s32)(s->p.now_s - GH_READ(*beat)) <= GH_REAP_PATIENCE))
		return 0;
	/* What was made of the answer is in the table, or is not going to be. */
	gh_key_copy(&s->rval, &s->key, fam);
	for (i = 0; i < GH_REAP_LOOKS; i++)
		gh_reap_oldest(s, fam);
	gh_key_copy(&s->key, &s->rval, fam);
	return 0;
}

/* Global, so that the verifier walks them once. */
__noinline int gh_birth4(__u32 born)
{
	return gh_birth(born, 4);
}

__noinline int gh_birth6(__u32 born)
{
	return gh_birth(born, 6);
}

static __always_inline void gh_born(int born, int fam)
{
	if (fam == 4)
		gh_birth4(born);
	else
		gh_birth6(born);
}

#endif /* GH_REAP_H */
