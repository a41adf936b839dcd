/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Copies of packets for those who watch a port (GH_PORT_COPY): whole packets into
 * a perf buffer for captures, clones to another port for mirrors. What a port
 * sends is copied as it came, before any layer; what it gets as it arrives, after
 * rewriting. An uplink sends what the wire brings, whoever takes it. Nobody watching costs a test of bits that are loaded anyway.
 */
#ifndef GH_COPY_H
#define GH_COPY_H

#include "port.h"

/* Third argument of gh_copy(): what happened, and of drops why and where. */
#define GH_COPY(what, reason, layer) ((what) | (reason) << 8 | (layer) << 16)
/*
 * Its Ethernet header will be made by redirect_neigh. Until then it bears the
 * sender's; a copy shows the uplink's MAC, and none where the next hop's will be.
 */
#define GH_COPY_NEIGH (1U << 24)

_Static_assert(GH_OP_COPY == (int)GH_PORT_COPY, "a port's flag becomes a flow's op as it is");

static __always_inline void gh_sample_out(struct __sk_buff *skb, __u32 id, __u32 what, __u32 snap)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_sample m = {};
	__u64 len;

	if (!s)
		return;
	m.time_ns = bpf_ktime_get_ns();
	m.len = skb->len;
	m.port = id;
	m.what = what;
	m.reason = what >> 8;
	m.layer = what >> 16;
	if (skb->vlan_present)
		m.vlan = skb->vlan_tci | GH_SAMPLE_TAGGED;
	len = skb->len < snap ? skb->len : snap;
	if (m.what == GH_COPY_SENT)
		s->seen_ns = m.time_ns;
	if (m.what == GH_COPY_DROPPED) { /* its bytes were shown when it was sent */
		m.of_ns = s->seen_ns;
		len = 0;
	}
	bpf_perf_event_output(skb, &samples, BPF_F_CURRENT_CPU | len << 32, &m, sizeof(m));
}

static __always_inline void gh_bare(struct __sk_buff *skb, const struct gh_port *pt)
{
	__u8 macs[2 * ETH_ALEN] = {};

	__builtin_memcpy(macs + ETH_ALEN, pt->mac, ETH_ALEN);
	bpf_skb_store_bytes(skb, 0, macs, sizeof(macs), 0);
}

static __always_inline void gh_mirror(struct __sk_buff *skb, __u32 id)
{
	const struct gh_port *to = gh_port_get(id);
	struct gh_result *r;
	__u32 zero = 0, len = skb->len;

	if (!to || !(to->flags & GH_PORT_UP) || bpf_clone_redirect(skb, to->ifindex, 0))
		return;
	gh_count_to(id, len);
	if (unit) {
		r = bpf_map_lookup_elem(&result, &zero);
		if (r)
			r->copied++;
	}
}

/*
 * gh_copy() copies the packet if somebody watches port id. A global function,
 * which no caller's packet pointer survives; of scratch it uses seen_ns alone, so
 * a flooded copy may call it too. Mirrors do not get what was only dropped.
 */
__noinline int gh_copy(struct __sk_buff *skb, __u32 id, __u32 what)
{
	const struct gh_port *pt = gh_port_get(id);
	__u32 to;

	if (!pt || !(pt->flags & GH_PORT_COPY))
		return 0;
	to = pt->mirror;
	if (what & GH_COPY_NEIGH)
		gh_bare(skb, pt);
	if (pt->snap)
		gh_sample_out(skb, id, what, pt->snap);
	if (to && (what & 0xff) <= GH_COPY_ANSWER)
		gh_mirror(skb, to);
	return 0;
}

/* skb->priority that a classful qdisc of handle 1: takes for its class 1:n. */
#define GH_CLASS(n) (1U << 16 | (n))

/* gh_arrives() is what every packet passes that is about to be sent to port id. */
static __always_inline void gh_arrives(struct __sk_buff *skb, __u16 ops, __u16 prio, __u32 id)
{
	if (likely(!(ops & (GH_OP_COPY | GH_OP_PRIO))))
		return;
	if (ops & GH_OP_COPY)
		gh_copy(skb, id, ops & (GH_OP_MAC | GH_OP_HOP | GH_OP_DMAC) ? GH_COPY_DELIVERED :
									     GH_COPY_DELIVERED | GH_COPY_NEIGH);
	if (ops & GH_OP_PRIO)
		skb->priority = GH_CLASS(prio);
}

#endif /* GH_COPY_H */
