//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * The programs. ep_in and uplink_in stand at devices; st_* are their tail-call
 * stages; sock_* stand at the root cgroup. README.md draws the way of a packet.
 */
#include "state.h"
#include "drop.h"
#include "fast.h"
#include "slow.h"
#include "icmp.h"
#include "reject.h"
#include "flood.h"
#include "announce.h"
#include "wire.h"
#include "sock.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Types of the contract that no map mentions, so that Go gets them too. */
struct gh_types {
	enum gh_drop_reason reason;
	enum gh_layer layer;
	enum gh_via via;
	enum gh_result_verdict result_verdict;
	enum gh_stage stage;
	enum gh_event_kind event_kind;
	enum gh_port_kind port_kind;
	enum gh_port_flags port_flags;
	enum gh_net_flags net_flags;
	enum gh_addr_flags addr_flags;
	enum gh_route_kind route_kind;
	enum gh_route_flags route_flags;
	enum gh_svc_flags svc_flags;
	enum gh_member_state member_state;
	enum gh_client client;
	enum gh_fkey_flags fkey_flags;
	enum gh_op op;
	enum gh_verdict verdict;
	enum gh_out_kind out_kind;
	enum gh_flow_state flow_state;
	enum gh_flow_end flow_end;
	enum gh_copy_what copy_what;
	enum gh_reap_at reap_at;
	enum gh_acl_list acl_list;
	enum gh_acl_action acl_action;
	enum gh_acl_flags acl_flags;
	enum gh_acl_kind acl_kind;
	struct gh_event event;
	struct gh_flow_event flow_event;
	struct gh_sample sample;
};
const volatile struct gh_types gh_types = {};

/* gh_switched() is the way of a frame of a port of the switch, by what is in it. */
static __always_inline int gh_switched(struct __sk_buff *skb, const struct gh_in *in, __u32 proto, __u32 group)
{
	struct gh_hdr none = { .group = group };
	struct gh_scratch *s;

	if (proto == bpf_htons(ETH_P_IP) && !group)
		return gh_enter4(skb, in, 0);
	if (proto == bpf_htons(ETH_P_IPV6))
		return gh_enter6(skb, in, 0, group);

	s = gh_scratch_get();
	if (!s)
		return TC_ACT_SHOT;
	if (proto == bpf_htons(ETH_P_IP)) {
		struct gh_fkey4 k __attribute__((aligned(8))) = {};
		struct gh_hdr h __attribute__((aligned(8))) = {};
		int next = gh_parse4(skb, &k, &h);

		if (unlikely(next < 0) && gh_scattered(skb))
			return gh_fetch(skb, in, 4, 1);
		gh_save4(&s->p, in, &k, &h);
		s->p.h.group = 1;
		if (next < 0)
			return gh_drop(skb, s, -next, GH_LAYER_PORT);
		return gh_stage(skb, s, GH_STAGE_FLOOD);
	}
	__builtin_memset(&s->p, 0, sizeof(s->p));
	gh_save_in(&s->p, in, &none, 0);
	if (proto == bpf_htons(ETH_P_ARP))
		return gh_stage(skb, s, GH_STAGE_ARP);
	return gh_drop(skb, s, proto ? GH_DROP_L2_PROTO : GH_DROP_PARSE, GH_LAYER_PORT);
}

/*
 * ep_in is the one filter of the shared ingress block: host sides of containers'
 * veths, taps, the switch sides of host vNICs, and tunnel devices. Closed by
 * default.
 */
SEC("tc")
int ep_in(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	const struct gh_port *pt;
	struct gh_scratch *s;
	__u32 reason, proto, group, layer = GH_LAYER_PORT;
	struct gh_in in;
	__u32 id;

	if ((void *)(eth + 1) > end) {
		proto = 0;
		group = 0;
	} else {
		proto = eth->h_proto;
		group = eth->h_dest[0] & 1;
	}
	id = gh_port_of(skb->ifindex);
	pt = gh_port_get(id);
	if (unlikely(!id || !pt || (pt->flags & (GH_PORT_UP | GH_PORT_COPY | GH_PORT_GUARD)) != GH_PORT_UP ||
		     pt->kind >= GH_PORT_UPLINK)) {
		int guard = gh_guard(skb);

		if (guard == GH_GUARD_SHAPED) /* it is seen, and copied, where it comes out */
			return TC_ACT_REDIRECT;
		gh_copy(skb, id, GH_COPY_SENT);
		if (guard == GH_GUARD_OVER) {
			reason = GH_DROP_METER;
			layer = GH_LAYER_METER;
			goto drop;
		}
		if (guard == GH_GUARD_UNTAGGED) {
			reason = GH_DROP_VLAN;
			goto drop;
		}
		if (id && pt && (pt->flags & GH_PORT_UP) && pt->kind == GH_PORT_TUNNEL) {
			s = gh_scratch_get();
			if (!s)
				return TC_ACT_SHOT;
			s->p.in_port = id;
			return gh_stage(skb, s, GH_STAGE_TUNNEL);
		}
		if (!id || !pt || !(pt->flags & GH_PORT_UP) || pt->kind >= GH_PORT_UPLINK) {
			reason = GH_DROP_PORT_DOWN;
			goto drop;
		}
	}
	if (unlikely(skb->vlan_present || gh_is_tag(proto))) {
		s = gh_scratch_get();
		if (!s)
			return TC_ACT_SHOT;
		s->p.in_port = id;
		return gh_stage(skb, s, GH_STAGE_TRUNK);
	}
	in.in_port = id;
	in.port = id;
	in.zone = pt->zone;
	in.net = pt->net;
	in.kind = pt->kind;
	in.tun = 0;
	in.vtep = 0;
	return gh_switched(skb, &in, proto, group);
drop:
	s = gh_scratch_get();
	if (!s)
		return TC_ACT_SHOT;
	s->p.in_port = pt ? id : 0;
	return gh_drop(skb, s, reason, layer);
}

/*
 * uplink_in stands at the host's other interfaces and takes only what is ours:
 * answers to NAT, published ports, and the errors and fragments of both.
 */
SEC("tc")
int uplink_in(struct __sk_buff *skb)
{
	const struct gh_port *pt;
	struct gh_in in = {};
	struct gh_scratch *s;
	__u32 id, plain;

	/* 0: frames for others, groups and VLANs of the host's. */
	plain = skb->pkt_type == PACKET_HOST && !skb->vlan_present ? skb->protocol : 0;
	id = gh_port_of(skb->ifindex);
	pt = gh_port_get(id);
	if (!id || !pt || pt->kind != GH_PORT_UPLINK || !(pt->flags & GH_PORT_UP))
		return gh_pass(skb);
	if (unlikely(pt->flags & (GH_PORT_WIRES | GH_PORT_COPY))) {
		gh_copy(skb, id, GH_COPY_SENT);
		if (pt->flags & GH_PORT_WIRES) {
			s = gh_scratch_get();
			if (!s)
				return TC_ACT_SHOT;
			return gh_stage(skb, s, gh_sorted(skb, s, id) ? GH_STAGE_WIRE : GH_STAGE_SORT);
		}
	}
	in.in_port = id;
	in.port = GH_PORT_UPLINK_ANY;
	in.zone = GH_ZONE_HOST;
	in.kind = GH_PORT_UPLINK;
	if (plain == bpf_htons(ETH_P_IP))
		return gh_enter4(skb, &in, 1);
	if (plain == bpf_htons(ETH_P_IPV6))
		return gh_enter6(skb, &in, 1, 0);
	return skb->vlan_present ? gh_pass(skb) : gh_question(skb, id);
}

/*
 * uplink_out stands behind the host's stack at uplinks that networks are bound
 * to, because what the host sends to an endpoint there would leave for good.
 */
SEC("tc")
int uplink_out(struct __sk_buff *skb)
{
	return gh_turn_round(skb);
}

SEC("tc")
int st_sort(struct __sk_buff *skb)
{
	return gh_sort(skb);
}

SEC("tc")
int st_wire(struct __sk_buff *skb)
{
	return gh_wire(skb);
}

SEC("tc")
int st_outside(struct __sk_buff *skb)
{
	return gh_outside(skb);
}

SEC("tc")
int st_control(struct __sk_buff *skb)
{
	return gh_control(skb);
}

SEC("tc")
int st_proxy(struct __sk_buff *skb)
{
	return gh_proxy(skb);
}

/* st_fetch makes headers linear and goes back to where the packet came from. */
SEC("tc")
int st_fetch(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	__u32 want = skb->len < GH_PULL_BYTES ? skb->len : GH_PULL_BYTES, group;
	struct gh_in in = {};

	if (!s)
		return TC_ACT_SHOT;
	gh_load_in(&in, &s->p);
	if (bpf_skb_pull_data(skb, want))
		return in.kind == GH_PORT_UPLINK ? gh_not_ours(skb, s, GH_DROP_PARSE, GH_LAYER_PORT) :
						   gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_PORT);
	if (in.kind == GH_PORT_UPLINK)
		return gh_stage(skb, s, s->p.tun ? GH_STAGE_RELAYED : GH_STAGE_OUTSIDE);
	if (in.kind == GH_PORT_WIRE)
		return gh_stage(skb, s, GH_STAGE_WIRE);
	if (in.kind == GH_PORT_TUNNEL)
		return gh_stage(skb, s, GH_STAGE_TUNNEL);
	group = s->p.h.group;
	return gh_switched(skb, &in, s->p.fam == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6), group);
}

SEC("tc")
int st_v4(struct __sk_buff *skb)
{
	return gh_slow(skb, 4);
}

SEC("tc")
int st_v6(struct __sk_buff *skb)
{
	return gh_slow(skb, 6);
}

SEC("tc")
int st_new4(struct __sk_buff *skb)
{
	return gh_new(skb, 4);
}

SEC("tc")
int st_new6(struct __sk_buff *skb)
{
	return gh_new(skb, 6);
}

SEC("tc")
int st_arp(struct __sk_buff *skb)
{
	return gh_arp_answer(skb);
}

SEC("tc")
int st_nd(struct __sk_buff *skb)
{
	return gh_nd_answer(skb);
}

SEC("tc")
int st_icmp(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return TC_ACT_SHOT;
	if (s->p.fam == 4)
		return gh_icmp_error(skb, s, 4);
	return gh_icmp_error(skb, s, 6);
}

SEC("tc")
int st_error4(struct __sk_buff *skb)
{
	return gh_icmp_send(skb, 4);
}

SEC("tc")
int st_error6(struct __sk_buff *skb)
{
	return gh_icmp_send(skb, 6);
}

/* gh_hit() is the hit path for a packet in scratch. */
static __always_inline int gh_hit(struct __sk_buff *skb, struct gh_scratch *s, int advance, int fam)
{
	struct gh_pkt *p = &s->p;
	void *f = gh_flow_get(&s->key, fam);
	__u32 mtu = 0;
	int end = GH_END_MISS;

	if (f && fam == 4) {
		end = gh_hit4(skb, f, &s->key.k4, &p->h, p->h.l4_off & GH_L4_MASK4, p->in_port, p->now_s, advance);
		mtu = ((struct gh_flow4 *)f)->out_mtu;
	} else if (f) {
		end = gh_hit6(skb, f, &s->key.k6, &p->h, p->h.l4_off & GH_L4_MASK6, p->in_port, p->now_s, advance);
		mtu = ((struct gh_flow6 *)f)->out_mtu;
	}
	if (end >= 0)
		return end;
	return gh_finish(skb, s, end, mtu, fam);
}

static __always_inline int gh_fragment(struct __sk_buff *skb, struct gh_scratch *s, int fam)
{
	struct gh_pkt *p = &s->p;

	if (p->h.frag == GH_FRAG_LATER && !gh_frag_find(p, fam)) {
		p->kflags |= GH_FKEY_L3;
		if (gh_proto_ports(p->proto)) {
			if (p->kind == GH_PORT_UPLINK)
				return gh_not_ours(skb, s, GH_DROP_FRAG_ORDER, GH_LAYER_PORT);
			p->kflags |= GH_FKEY_BLIND;
		}
	}
	gh_key_make(&s->key, fam, &p->src, &p->dst, p->sport_be, p->dport_be, p->port, p->zone, p->proto, p->kflags);
	if (p->h.frag == GH_FRAG_FIRST) {
		int known = gh_flow_get(&s->key, fam) != NULL;

		if (gh_frag_clash(p, fam)) {
			if (known || p->kind != GH_PORT_UPLINK)
				return gh_drop(skb, s, GH_DROP_FRAG_TABLE, GH_LAYER_PORT);
			/* Another datagram, of the host's perhaps: so are its fragments. */
			gh_frag_forget(p, fam);
		}
		/* Of the packets of an uplink only ours are remembered. */
		if (known)
			gh_frag_put(p, fam);
	}
	return gh_hit(skb, s, 0, fam);
}

SEC("tc")
int st_frag(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return TC_ACT_SHOT;
	if (s->p.fam == 4)
		return gh_fragment(skb, s, 4);
	return gh_fragment(skb, s, 6);
}

/*
 * gh_advance() moves both halves of a conversation to the state that this packet
 * brings. Two CPUs may do it at once for the two directions; flags are only ever
 * added, so the last writer has seen at least its own, and a state that is one
 * step behind only changes a timeout until the next packet that says so.
 */
static __always_inline int gh_advance(struct __sk_buff *skb, struct gh_scratch *s, int fam)
{
	struct gh_pkt *p = &s->p;
	struct gh_track *t, *rt = NULL;
	void *f, *r;
	__u8 state;

	gh_key_make(&s->key, fam, &p->src, &p->dst, p->sport_be, p->dport_be, p->port, p->zone, p->proto, p->kflags);
	f = gh_flow_get(&s->key, fam);
	if (!f)
		return gh_stage(skb, s, fam == 4 ? GH_STAGE_V4 : GH_STAGE_V6);
	t = gh_track(f, fam);
	r = gh_flow_get(gh_pair(f, fam), fam);
	if (r && gh_key_eq(gh_pair(r, fam), &s->key, fam))
		rt = gh_track(r, fam);
	state = t->state;
	if (p->proto == IPPROTO_UDP) {
		state = GH_FLOW_UDP2;
	} else if (p->proto == IPPROTO_TCP) {
		__u8 flags = p->h.tcp_flags, own, peer;

		if (gh_reopened(t, flags)) {
			gh_end_by_packet(s, f, fam);
			return gh_stage(skb, s, fam == 4 ? GH_STAGE_V4 : GH_STAGE_V6);
		}
		own = t->tcp_own | flags;
		peer = t->tcp_peer;
		t->tcp_own = own;
		if (rt) {
			peer |= rt->tcp_own;
			rt->tcp_peer |= flags;
		}
		if (flags & GH_TCP_RST)
			state = GH_FLOW_RST;
		else if (state != GH_FLOW_RST && (own & peer & GH_TCP_FIN))
			state = GH_FLOW_TW;
		else if (state != GH_FLOW_RST && ((own | peer) & GH_TCP_FIN))
			state = GH_FLOW_FIN;
		else if (state == GH_FLOW_SYN && (own & peer & GH_TCP_SYN))
			state = GH_FLOW_EST;
	}
	t->state = state;
	if (rt)
		rt->state = state;
	return gh_hit(skb, s, 1, fam);
}

SEC("tc")
int st_state(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return TC_ACT_SHOT;
	if (s->p.fam == 4)
		return gh_advance(skb, s, 4);
	return gh_advance(skb, s, 6);
}

/*
 * st_tunnel takes frames out of a tunnel. It is a stage of ep_in and no entry of
 * its own: so tunnels change programs with all other ports, in one replacement.
 */
SEC("tc")
int st_tunnel(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	__u32 proto = 0, group = 0, bad;
	struct gh_in in = {};
	struct ethhdr *eth;
	void *data, *end;

	if (!s)
		return TC_ACT_SHOT;
	bad = skb->vlan_present ? GH_DROP_VLAN : gh_decap(skb);
	gh_load_in(&in, &s->p);
	in.port = in.in_port;
	in.kind = GH_PORT_TUNNEL;
	if (bad)
		return gh_drop(skb, s, bad, bad == GH_DROP_VLAN ? GH_LAYER_PORT : GH_LAYER_SPOOF);
	if (!in.net)
		return gh_stage(skb, s, GH_STAGE_RELAYED);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	eth = data;
	if ((void *)(eth + 1) <= end) {
		proto = eth->h_proto;
		group = eth->h_dest[0] & 1;
	}
	return gh_switched(skb, &in, proto, group);
}

/*
 * st_relayed takes what a client outside sent to a service at another host, which
 * has chosen a backend here (DSR), as if it had come in by an uplink here. So it
 * is translated here, and answered by this host's own routing table.
 */
SEC("tc")
int st_relayed(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct gh_scratch *s = gh_scratch_get();
	struct ethhdr *eth = data;
	struct gh_in in = {};

	if (!s)
		return TC_ACT_SHOT;
	gh_load_in(&in, &s->p);
	in.port = GH_PORT_UPLINK_ANY;
	in.kind = GH_PORT_UPLINK;
	if ((void *)(eth + 1) <= end && !(eth->h_dest[0] & 1)) {
		if (eth->h_proto == bpf_htons(ETH_P_IP))
			return gh_enter4(skb, &in, 0);
		if (eth->h_proto == bpf_htons(ETH_P_IPV6))
			return gh_enter6(skb, &in, 0, 0);
	}
	return gh_drop(skb, s, GH_DROP_L2_PROTO, GH_LAYER_PORT);
}

/*
 * st_trunk is the way in of frames with a tag: of a VLAN that the port's vNIC may
 * speak in, as a port of its own, or of none (priority only), as if it had no tag.
 */
SEC("tc")
int st_trunk(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *pt;
	__u32 id, proto, group;
	struct gh_in in = {};
	struct ethhdr *eth;
	void *data, *end;

	if (!s)
		return TC_ACT_SHOT;
	id = s->p.in_port;
	if (!gh_priority_only(skb)) {
		id = gh_trunk(skb, id);
		if (!id)
			return gh_drop(skb, s, GH_DROP_VLAN, GH_LAYER_PORT);
		s->p.in_port = id;
		gh_copy(skb, id, GH_COPY_SENT);
	}
	pt = gh_port_get(id);
	if (!pt || !(pt->flags & GH_PORT_UP) || pt->kind >= GH_PORT_UPLINK)
		return gh_drop(skb, s, GH_DROP_PORT_DOWN, GH_LAYER_PORT);
	data = (void *)(long)skb->data;
	end = (void *)(long)skb->data_end;
	eth = data;
	if ((void *)(eth + 1) > end)
		return gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_PORT);
	proto = eth->h_proto;
	group = eth->h_dest[0] & 1;
	in.in_port = id;
	in.port = id;
	in.zone = pt->zone;
	in.net = pt->net;
	in.kind = pt->kind;
	return gh_switched(skb, &in, proto, group);
}

SEC("tc")
int st_vip(struct __sk_buff *skb)
{
	return gh_vip_answer(skb);
}

SEC("tc")
int st_flood(struct __sk_buff *skb)
{
	return gh_flood(skb);
}

SEC("tc")
int st_reject(struct __sk_buff *skb)
{
	return gh_reject(skb);
}

SEC("tc")
int st_drop(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();

	if (!s)
		return TC_ACT_SHOT;
	gh_account(skb, s);
	gh_note(skb, GH_RESULT_DROP, 0, 0, 0, s->reason, s->layer, 0);
	return TC_ACT_SHOT;
}

SEC("cgroup/connect4")
int sock_connect4(struct bpf_sock_addr *ctx)
{
	return gh_sock_ask4(ctx, 1);
}

SEC("cgroup/connect6")
int sock_connect6(struct bpf_sock_addr *ctx)
{
	return gh_sock_ask6(ctx, 1);
}

SEC("cgroup/sendmsg4")
int sock_sendmsg4(struct bpf_sock_addr *ctx)
{
	return gh_sock_ask4(ctx, 0);
}

SEC("cgroup/sendmsg6")
int sock_sendmsg6(struct bpf_sock_addr *ctx)
{
	return gh_sock_ask6(ctx, 0);
}

SEC("cgroup/recvmsg4")
int sock_recvmsg4(struct bpf_sock_addr *ctx)
{
	return gh_sock_show4(ctx);
}

SEC("cgroup/recvmsg6")
int sock_recvmsg6(struct bpf_sock_addr *ctx)
{
	return gh_sock_show6(ctx);
}

SEC("cgroup/getpeername4")
int sock_getpeername4(struct bpf_sock_addr *ctx)
{
	return gh_sock_show4(ctx);
}

SEC("cgroup/getpeername6")
int sock_getpeername6(struct bpf_sock_addr *ctx)
{
	return gh_sock_show6(ctx);
}

SEC("cgroup/sock_release")
int sock_release(struct bpf_sock *ctx)
{
	gh_sock_gone(ctx);
	return GH_SOCK_ALLOW;
}
