/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * What L4 is made of: who publishes an address, and which backend a new
 * conversation gets. Also for the socket hooks, so nothing here needs scratch.
 */
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
							    __u8 proto)
{
	struct gh_svc_key k __attribute__((aligned(8))) = { .port_be = port_be, .zone = zone, .proto = proto };

	gh_addr_set(&k.vip, vip);
	return bpf_map_lookup_elem(&svc, &k);
}

/* The row for any address of a's family. */
static __always_inline const struct gh_svc_val *gh_svc_any(const struct gh_addr *a, __u16 port_be, __u8 proto)
{
	struct gh_addr any __attribute__((aligned(8))) = {};

	if (gh_is_v4(a))
		gh_addr4(&any, 0);
	return gh_svc_get(&any, port_be, GH_ZONE_HOST, proto);
}

/*
 * gh_svc_find() is the row that publishes vip:port in zone, or everywhere for one
 * of see (enum gh_svc_flags). host: vip is an address of the host.
 */
static __always_inline const struct gh_svc_val *gh_svc_find(const struct gh_addr *vip, __u16 port_be, __u16 zone,
							     __u8 proto, int host, __u16 see)
{
	const struct gh_svc_val *sv = NULL;

	if (!port_be)
		return NULL;
	if (zone)
		sv = gh_svc_get(vip, port_be, zone, proto);
	if (sv)
		return sv;
	sv = gh_svc_get(vip, port_be, GH_ZONE_HOST, proto);
	if (!sv && host)
		sv = gh_svc_any(vip, port_be, proto);
	return sv && (sv->flags & see) ? sv : NULL;
}

static __always_inline const struct gh_member *gh_member_get(__u32 svc_id, __u32 id)
{
	struct gh_member_key k = { .svc = svc_id, .id = id };

	return bpf_map_lookup_elem(&member, &k);
}

static __always_inline __u32 gh_slot_get(__u32 svc_id, __u16 bank, __u16 i)
{
	struct gh_slot_key k = { .svc = svc_id, .bank = bank, .i = i };
	__u32 *id = bpf_map_lookup_elem(&slot, &k);

	return id ? *id : 0;
}

/* May a new conversation go to mb? outside: of a client there. */
static __always_inline int gh_member_open(const struct gh_member *mb, __u16 flags, int outside)
{
	return mb && mb->state == GH_MEMBER_ACTIVE &&
	       (mb->port || !(flags & (outside ? GH_SVC_LOCAL : GH_SVC_LOCAL_IN)));
}

/*
 * gh_pick() returns the id of the backend for a new conversation, 0 for none:
 * the one the client had last, if that still takes any; else by hash. sv is a
 * copy of a row, whose bank may be gone by now.
 */
static __always_inline __u32 gh_pick(const struct gh_svc_val *sv, const struct gh_affinity_key *who, __u32 hash,
				     __u32 now_s, int outside)
{
	struct gh_affinity_val *a = NULL, is = { .last_s = now_s };
	__u32 count = outside ? sv->out_count : sv->count;

	if (sv->affinity_s) {
		a = bpf_map_lookup_elem(&affinity, who);
		/* Signed: another CPU may have stored a later second. */
		if (a && (__s32)(now_s - a->last_s) <= (__s32)sv->affinity_s &&
		    gh_member_open(gh_member_get(sv->id, a->backend), sv->flags, outside)) {
			if (a->last_s != now_s)
				a->last_s = now_s;
			return a->backend;
		}
	}
	if (!count)
		return 0;
	is.backend = gh_slot_get(sv->id, outside ? sv->out_bank : sv->bank, hash % count);
	if (is.backend && sv->affinity_s)
		bpf_map_update_elem(&affinity, who, &is, BPF_ANY);
	return is.backend;
}

static __always_inline void gh_svc_count(__u32 id, int refused)
{
	struct gh_svcstat *st = bpf_map_lookup_elem(&svcstat, &id), none = {};

	if (!st) {
		bpf_map_update_elem(&svcstat, &id, &none, BPF_NOEXIST);
		st = bpf_map_lookup_elem(&svcstat, &id);
		if (!st)
			return;
	}
	if (refused)
		st->refused++;
	else
		st->fresh++;
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
