/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * L2 and L10: what is limited. Bits a second are limited by queues (TBF): towards
 * a vNIC on its own host side, which GH_PORT_NO_PEER makes packets pass, and from
 * it on a pair of devices: what comes by the port's device goes into one end, and
 * the pipeline takes it up at the other. Packets a second are counted here.
 */
#ifndef GH_QOS_H
#define GH_QOS_H

#include "event.h"

/* How far ahead of its rate a port may be: the burst of an idle one. */
#define GH_METER_BURST_NS (GH_NSEC / 10)

enum gh_guard {
	GH_GUARD_PASS = 0,
	GH_GUARD_SHAPED = 1, /* redirected into the shaper */
	GH_GUARD_OVER = 2,   /* more packets than it may */
	GH_GUARD_UNTAGGED = 3,
};

/*
 * gh_meter() admits a packet of a port with a rate. next is when the bucket is
 * level again; two CPUs that write it at once admit a packet too many.
 */
static __always_inline int gh_meter(struct gh_rate *r, __u32 pps)
{
	__u64 now = gh_now_ns(), next = GH_READ(r->meter_ns);

	if (next < now || next - now > GH_NSEC) /* or of another clock */
		next = now;
	if (next - now > GH_METER_BURST_NS)
		return 0;
	GH_WRITE(r->meter_ns, next + GH_NSEC / pps);
	return 1;
}

/* Global, so that the hit path pays a branch for it and the verifier one walk. */
__noinline int gh_guard(struct __sk_buff *skb)
{
	__u32 id = gh_port_of(skb->ifindex);
	const struct gh_port *pt = gh_port_get(id);
	struct gh_rate *r = bpf_map_lookup_elem(&rate, &id);

	/* A closed port is closed here too. What comes from the shaper has been here before. */
	if (!pt || !r || (pt->flags & (GH_PORT_UP | GH_PORT_GUARD)) != (GH_PORT_UP | GH_PORT_GUARD))
		return GH_GUARD_PASS;
	if (pt->tagged && (!skb->vlan_present || !(skb->vlan_tci & GH_VID)))
		return GH_GUARD_UNTAGGED;
	if (skb->ifindex != pt->ifindex)
		return GH_GUARD_PASS;
	if (pt->pps && !gh_meter(r, pt->pps))
		return GH_GUARD_OVER;
	if (!pt->shaper)
		return GH_GUARD_PASS;
	gh_note(skb, GH_RESULT_FORWARD, GH_OUT_EGRESS, pt->shaper, id, 0, GH_LAYER_METER, 0);
	bpf_redirect(pt->shaper, 0);
	return GH_GUARD_SHAPED;
}

#endif /* GH_QOS_H */
