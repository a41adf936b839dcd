//go:build ignore
/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

#include "maps.h"
#include "drop.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Test mode: the verdict is also written to cb[] and the result map. */
const volatile __u32 unit = 0;

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
	enum gh_svc_scope svc_scope;
	enum gh_fkey_flags fkey_flags;
	enum gh_op op;
	enum gh_verdict verdict;
	enum gh_out_kind out_kind;
	enum gh_flow_state flow_state;
	struct gh_event event;
};
const volatile struct gh_types gh_types = {};

#define STUB(name) SEC("tc") int name(struct __sk_buff *skb) { return unit ? -1 : -1; }
STUB(ep_in) STUB(uplink_in)
STUB(st_v4) STUB(st_v6) STUB(st_arp) STUB(st_nd) STUB(st_icmp) STUB(st_frag) STUB(st_flood) STUB(st_reject) STUB(st_state)

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, GH_STAGES);
	__uint(key_size, sizeof(__u32));
	__array(values, int(void *));
} stages SEC(".maps") = {
	.values = {
		[GH_STAGE_V4] = (void *)&st_v4,
		[GH_STAGE_V6] = (void *)&st_v6,
		[GH_STAGE_ARP] = (void *)&st_arp,
		[GH_STAGE_ND] = (void *)&st_nd,
		[GH_STAGE_ICMP] = (void *)&st_icmp,
		[GH_STAGE_FRAG] = (void *)&st_frag,
		[GH_STAGE_FLOOD] = (void *)&st_flood,
		[GH_STAGE_REJECT] = (void *)&st_reject,
		[GH_STAGE_STATE] = (void *)&st_state,
	},
};
#define SSTUB(name, sec) SEC("cgroup/" sec) int name(struct bpf_sock_addr *ctx) { return 1; }
SSTUB(sock_connect4, "connect4") SSTUB(sock_connect6, "connect6")
SSTUB(sock_sendmsg4, "sendmsg4") SSTUB(sock_sendmsg6, "sendmsg6")
SSTUB(sock_recvmsg4, "recvmsg4") SSTUB(sock_recvmsg6, "recvmsg6")
SSTUB(sock_getpeername4, "getpeername4") SSTUB(sock_getpeername6, "getpeername6")
