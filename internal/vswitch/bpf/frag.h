/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* What keys of fragmented packets have besides addresses: learned from the first fragment, asked by later ones. */
#ifndef GH_FRAG_H
#define GH_FRAG_H

#include "pkt.h"

#define GH_FRAG_S 30 /* reassembly time, as ip(6)frag_time of the kernel: 30 and 60 s */

struct gh_frag_any {
	union {
		struct gh_frag4_key k4;
		struct gh_frag6_key k6;
		__u64 words[6];
	};
};

static __always_inline void gh_frag_key(struct gh_frag_any *k, const struct gh_pkt *p, int fam)
{
	__builtin_memset(k, 0, sizeof(*k));
	if (fam == 4) {
		k->k4.src_be = gh_word(&p->src, 3);
		k->k4.dst_be = gh_word(&p->dst, 3);
		k->k4.id_be = p->h.frag_id;
		k->k4.port = p->port;
		k->k4.zone = p->zone;
		k->k4.proto = p->proto;
	} else {
		gh_addr_set(&k->k6.src, &p->src);
		gh_addr_set(&k->k6.dst, &p->dst);
		k->k6.id_be = p->h.frag_id;
		k->k6.port = p->port;
		k->k6.zone = p->zone;
		k->k6.proto = p->proto;
	}
}

/*
 * Identifiers come round; a sender that is fast enough to use one again sooner
 * has more than 30 000 fragmented packets a second in flight to one address.
 */
#define GH_FRAG_REUSE_S 1

/*
 * gh_frag_clash() is true for a first fragment that bears other ports than the
 * one before it of the same datagram: later fragments would go by ports that
 * were never looked at together with them.
 */
static __always_inline int gh_frag_clash(const struct gh_pkt *p, int fam)
{
	struct gh_frag_val *v;
	struct gh_frag_any k;

	gh_frag_key(&k, p, fam);
	v = fam == 4 ? bpf_map_lookup_elem(&frag4, &k.k4) : bpf_map_lookup_elem(&frag6, &k.k6);
	return v && (__s32)(p->now_s - v->last_s) <= GH_FRAG_REUSE_S &&
	       (v->sport_be != p->sport_be || v->dport_be != p->dport_be || v->kflags != p->kflags);
}

static __always_inline void gh_frag_forget(const struct gh_pkt *p, int fam)
{
	struct gh_frag_any k;

	gh_frag_key(&k, p, fam);
	if (fam == 4)
		bpf_map_delete_elem(&frag4, &k.k4);
	else
		bpf_map_delete_elem(&frag6, &k.k6);
}

static __always_inline void gh_frag_put(const struct gh_pkt *p, int fam)
{
	struct gh_frag_val v = { .sport_be = p->sport_be, .dport_be = p->dport_be, .last_s = p->now_s,
				 .kflags = p->kflags };
	struct gh_frag_any k;

	gh_frag_key(&k, p, fam);
	if (fam == 4)
		bpf_map_update_elem(&frag4, &k.k4, &v, BPF_ANY);
	else
		bpf_map_update_elem(&frag6, &k.k6, &v, BPF_ANY);
}

/* gh_frag_find() fills the ports and flags of a later fragment; 0 when the first was not seen. */
static __always_inline int gh_frag_find(struct gh_pkt *p, int fam)
{
	struct gh_frag_val *v;
	struct gh_frag_any k;

	gh_frag_key(&k, p, fam);
	v = fam == 4 ? bpf_map_lookup_elem(&frag4, &k.k4) : bpf_map_lookup_elem(&frag6, &k.k6);
	if (!v || (__s32)(p->now_s - v->last_s) > GH_FRAG_S)
		return 0;
	p->sport_be = v->sport_be;
	p->dport_be = v->dport_be;
	p->kflags = v->kflags;
	p->h.l4 = GH_L4_NONE;
	return 1;
}

#endif /* GH_FRAG_H */
