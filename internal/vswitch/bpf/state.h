/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * The maps that programs write: state, pinned by layout version, and what
 * belongs to one generation of programs. The rules of maps.h hold here too.
 */
#ifndef GH_STATE_H
#define GH_STATE_H

#include "maps.h"
#include "aclmaps.h"

/* epoch: ARRAY u32; [port id], [8192 + network id], [16383] = global */
#define GH_EPOCH_NET 8192
#define GH_EPOCH_GLOBAL 16383
#define GH_EPOCHS 16384

/*
 * state: flows remember the values they were built with, so a value may never
 * go back. User space only ever adds, after it wrote the configuration.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_EPOCHS);
	__type(key, __u32);
	__type(value, __u32);
} epoch SEC(".maps");

/* ---- state ------------------------------------------------------------- */

enum gh_fkey_flags {
	GH_FKEY_L3 = 1 << 0,	/* no ports (other protocol, or not known) */
	GH_FKEY_BLIND = 1 << 1, /* a later fragment whose ports nobody knows */
};
struct gh_fkey4 {
	__be32 src_be, dst_be;
	__be16 sport_be, dport_be; /* ICMP echo: id in sport_be, 0 in dport_be */
	__u16 port;		   /* ingress port id; uplinks: GH_PORT_UPLINK_ANY */
	__u16 zone;
	__u8 proto, flags;
	__u16 zero;
};
struct gh_fkey6 {
	struct gh_addr src, dst;
	__be16 sport_be, dport_be;
	__u16 port;
	__u16 zone;
	__u8 proto, flags;
	__u16 zero;
};

enum gh_op {
	GH_OP_NSRC = 1 << 0,
	GH_OP_NDST = 1 << 1,
	GH_OP_NSPORT = 1 << 2,
	GH_OP_NDPORT = 1 << 3,
	GH_OP_TTL = 1 << 4,
	GH_OP_MAC = 1 << 5,
	GH_OP_VLAN = 1 << 6, /* push the tag in tun */
	GH_OP_COPY = 1 << 7, /* somebody captures at the port it leaves by */
	GH_OP_PRIO = 1 << 8, /* skb->priority = class 1:prio */
	GH_OP_HOP = 1 << 9,  /* only of frames to dmac: others are walked again */
	GH_OP_DMAC = 1 << 10, /* one of the two MACs only */
	GH_OP_SMAC = 1 << 11,
	GH_OP_FROM = 1 << 12, /* only of frames from smac, which was checked */
};
enum gh_verdict {
	GH_VERDICT_FORWARD = 1,
};
enum gh_out_kind {
	GH_OUT_PEER = 1,    /* redirect_peer(out_ifindex) */
	GH_OUT_EGRESS = 2,  /* redirect(out_ifindex, 0) */
	GH_OUT_INGRESS = 3, /* redirect(out_ifindex, BPF_F_INGRESS): into the host's stack */
	GH_OUT_NEIGH = 4,   /* redirect_neigh(out_ifindex, next hop nh) */
	GH_OUT_TUNNEL = 5,  /* set_tunnel_key(VNI tun, remote vtep) and redirect(out_ifindex, 0) */
};
enum gh_flow_state { /* classes of vswitch.md 2.9 */
	GH_FLOW_SYN = 1,
	GH_FLOW_EST = 2,
	GH_FLOW_FIN = 3,
	GH_FLOW_TW = 4,
	GH_FLOW_RST = 5,
	GH_FLOW_UDP1 = 6,
	GH_FLOW_UDP2 = 7,
	GH_FLOW_ICMP = 8,
	GH_FLOW_OTHER = 9,
};

struct gh_flow4 {
	__u32 tag; /* incarnation; odd while being rewritten */
	__u16 ops;
	__u8 verdict;
	__u8 out_kind;
	__u32 out_ifindex;
	__u8 dmac[6], smac[6];
	__be32 nsrc_be, ndst_be;
	__be16 nsport_be, ndport_be;
	__be32 nh_be;
	__u16 out_mtu;
	__u16 out_port;
	__u32 e_in, e_out, e_net; /* epochs seen when built: in port, out port, network + global */
	__u32 tun;  /* GH_OUT_TUNNEL: VNI; GH_OP_VLAN: tag control information */
	__u16 vtep; /* GH_OUT_TUNNEL: index of the remote tunnel end */
	__u16 prio; /* GH_OP_PRIO */
	/* second cache line */
	__u64 packets, bytes;
	__u32 last_s, born_s;
	__u8 tcp_own, tcp_peer; /* OR of TCP flags seen in this / the other direction */
	__u8 state;
	__u8 zero0;
	__u16 in_port;
	__u16 net;
	__u8 reply;   /* 1 = this is the answering direction */
	__u8 nat;     /* 1 = holds a NAT binding */
	__u16 rule;   /* number of the ACL rule that let it in; 0 = none */
	__u32 svc, backend;
	struct gh_fkey4 pair; /* key of the other direction */
};
struct gh_flow6 {
	__u32 tag;
	__u16 ops;
	__u8 verdict;
	__u8 out_kind;
	__u32 out_ifindex;
	__u8 dmac[6], smac[6];
	struct gh_addr nsrc, ndst, nh;
	__be16 nsport_be, ndport_be;
	__u16 out_mtu;
	__u16 out_port;
	__u32 e_in, e_out, e_net;
	__u32 tun;
	__u16 vtep;
	__u16 prio;
	__u32 pad0;
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
	struct gh_fkey6 pair;
};

/*
 * state: both directions of every conversation. Written by the programs; the
 * sweeper in user space deletes pairs of which both halves are idle longer than
 * the time of their state.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__type(key, struct gh_fkey4);
	__type(value, struct gh_flow4);
} flow4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__type(key, struct gh_fkey6);
	__type(value, struct gh_flow6);
} flow6 SEC(".maps");

/*
 * state: index = port id, flows that entered by it (forward halves); 0 = those
 * of all uplinks. The programs add and subtract; the sweeper stores the true number at each pass.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_PORTS);
	__type(key, __u32);
	__type(value, __u32);
} pflows SEC(".maps");

/*
 * state: [0] conversations in flow4, [1] in flow6. Kept like pflows. Above four
 * fifths of gh_pairs a table is crowded (quota.h).
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u32);
} fill SEC(".maps");

/*
 * reap: where the queues of conversations begin and end, and when somebody last
 * swept. Positions only grow; a queue's slot is the position modulo its size.
 */
enum gh_reap_at {
	GH_REAP_HEAD4 = 0, /* next to be written; programs add */
	GH_REAP_TAIL4 = 1, /* oldest; the sweeper sets it, or, without one, programs add */
	GH_REAP_HEAD6 = 2,
	GH_REAP_TAIL6 = 3,
	GH_REAP_BEAT = 4,  /* second of CLOCK_MONOTONIC in which a sweeper last said that it is there */
	GH_REAP_ATS = 8,
};

/* state: index = enum gh_reap_at */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_REAP_ATS);
	__type(key, __u32);
	__type(value, __u32);
} reap SEC(".maps");

/* Powers of two, at least twice as many as conversations fit into the flow tables. */
#define GH_QUEUE4 262144
#define GH_QUEUE6 65536

/* state: keys of conversations in the order of their birth; see reap.h */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_QUEUE4);
	__type(key, __u32);
	__type(value, struct gh_fkey4);
} queue4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_QUEUE6);
	__type(key, __u32);
	__type(value, struct gh_fkey6);
} queue6 SEC(".maps");

/* frag4 / frag6: LRU, ports of the first fragment, and its enum gh_fkey_flags */
struct gh_frag4_key {
	__be32 src_be, dst_be;
	__u16 id_be;
	__u16 port;
	__u16 zone;
	__u8 proto, zero;
};
struct gh_frag6_key {
	struct gh_addr src, dst;
	__be32 id_be;
	__u16 port;
	__u16 zone;
	__u8 proto, zero[3];
};
struct gh_frag_val {
	__be16 sport_be, dport_be;
	__u32 last_s;
	__u8 kflags;
	__u8 zero[3];
};

/* state */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct gh_frag4_key);
	__type(value, struct gh_frag_val);
} frag4 SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct gh_frag6_key);
	__type(value, struct gh_frag_val);
} frag6 SEC(".maps");

/*
 * pstats: PERCPU_ARRAY by port. Seen from the vNIC: tx = what it sent, rx = what
 * it gets, copies and what we make included. What it sent is one of tx_packets and
 * tx_drops, which is the sum of its rows in drops. Uplinks: what was left to the
 * host is neither. rx_drops are those that its own rules kept from it, which
 * are among the tx_drops of who sent them.
 */
struct gh_pstats {
	__u64 rx_packets, rx_bytes;
	__u64 tx_packets, tx_bytes;
	__u64 rx_drops, tx_drops;
};

/* state */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, GH_MAX_PORTS);
	__type(key, __u32);
	__type(value, struct gh_pstats);
} pstats SEC(".maps");

/* drops: PERCPU_HASH {reason, layer, port} -> packets, bytes */
struct gh_drop_key {
	__u16 port;
	__u8 reason;
	__u8 layer;
};
struct gh_drop_val {
	__u64 packets, bytes;
	__u32 ev_s, ev_n;     /* second of the last event and how many in it */
	__u32 suppressed;     /* events held back since the last one */
	__u32 zero;
};

/* state: every dropped packet is counted here, once. Port 0 = unknown device. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct gh_drop_key);
	__type(value, struct gh_drop_val);
} drops SEC(".maps");

#define GH_EVENT_BYTES 96
enum gh_event_kind {
	GH_EVENT_DROP = 1,
	GH_EVENT_FLOW_NEW = 2, /* struct gh_flow_event */
	GH_EVENT_FLOW_END = 3,
};
struct gh_event {
	__u64 time_ns;	  /* CLOCK_MONOTONIC, coarse */
	__u32 ifindex;
	__u32 len;	  /* of the packet */
	__u32 suppressed; /* events of this kind, reason and port held back before this one */
	__u16 port;
	__u8 kind;
	__u8 reason;
	__u8 layer;
	__u8 caplen;	  /* bytes of data that are filled */
	__u8 pad[6];
	__u8 data[GH_EVENT_BYTES];
};

/* Why a conversation ended. What is idle is removed by the sweeper, mostly. */
enum gh_flow_end {
	GH_FLOW_END_IDLE = 1,
	GH_FLOW_END_REOPENED = 2, /* a SYN began another one with its tuple */
	GH_FLOW_END_CHANGED = 3,  /* what it was made with is not legal any more */
};
/* A conversation, as its asking direction arrives and leaves. */
struct gh_flow_event {
	struct {
		__u64 time_ns;
		__u32 ifindex, len; /* unused */
		__u32 suppressed;
		__u16 port;	    /* it entered by */
		__u8 kind;
		__u8 pad[9];
	} head; /* as of gh_event */
	struct gh_addr src, dst, nsrc, ndst;
	__be16 sport_be, dport_be, nsport_be, ndport_be;
	__u64 packets, bytes;
	__u64 rpackets, rbytes; /* of the answers */
	__u32 svc, backend;
	__u32 born_s, last_s;
	__u16 out_port;
	__u16 net;
	__u16 rule;
	__u8 proto;
	__u8 state; /* enum gh_flow_state */
	__u8 why;   /* enum gh_flow_end */
	__u8 pad[7];
};

/* state */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

/*
 * affinity: LRU {client, svc, zone} -> the backend it had last. A client is an
 * address in its zone or, of processes, a network namespace by its cookie.
 */
enum gh_client {
	GH_CLIENT_ADDR = 0,
	GH_CLIENT_NETNS = 1,
};
struct gh_affinity_key {
	struct gh_addr client;
	__u32 svc;
	__u16 zone;
	__u16 kind; /* enum gh_client */
};
struct gh_affinity_val {
	__u32 backend; /* id of a member; only a hint, it may be gone */
	__u32 last_s;
};

/* state */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct gh_affinity_key);
	__type(value, struct gh_affinity_val);
} affinity SEC(".maps");

/* svcstat: PERCPU_HASH svc id -> what it did */
struct gh_svcstat {
	__u64 fresh;	/* conversations given to a backend */
	__u64 refused;	/* for want of one */
};

/* state: rows are made by the first conversation, removed by user space with the service. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct gh_svcstat);
} svcstat SEC(".maps");

/* sockrev: LRU {cookie, backend} -> what the process asked for (UDP, getpeername) */
struct gh_sockrev_key {
	__u64 cookie;
	struct gh_addr addr;
	__u16 port_be;
	__u16 zero0;
	__u32 zero1;
};
struct gh_sockrev_val {
	struct gh_addr addr;
	__u16 port_be;
	__u16 zero0;
	__u32 zero1;
};

/* state */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct gh_sockrev_key);
	__type(value, struct gh_sockrev_val);
} sockrev SEC(".maps");

/* ---- of one generation of programs -------------------------------------- */

/* Tail-call stages; filled at load from the object. Pin it (h1 of the design). */
enum gh_stage {
	GH_STAGE_V4 = 0,     /* IPv4 without a valid flow: the pipeline */
	GH_STAGE_V6 = 1,
	GH_STAGE_ARP = 2,
	GH_STAGE_ND = 3,
	GH_STAGE_ICMP = 4,   /* ICMP and ICMPv6 errors */
	GH_STAGE_FRAG = 5,
	GH_STAGE_FLOOD = 6,
	GH_STAGE_REJECT = 7, /* TCP RST, ICMP unreachable, too big, time exceeded */
	GH_STAGE_STATE = 8,  /* TCP SYN/FIN/RST on a flow, first UDP answer */
	GH_STAGE_DROP = 9,   /* the one place that counts a drop and reports it */
	GH_STAGE_NEW4 = 10,  /* the pipeline's second half: a new conversation's entries */
	GH_STAGE_NEW6 = 11,
	GH_STAGE_ERROR4 = 12, /* an ICMP error whose flow has been walked */
	GH_STAGE_ERROR6 = 13,
	GH_STAGE_TUNNEL = 14, /* a frame that came out of a tunnel */
	GH_STAGE_VIP = 15, /* ARP and ND at an uplink, perhaps for an announced address */
	GH_STAGE_SORT = 16,    /* from an uplink that networks are bound to */
	GH_STAGE_WIRE = 17,    /* and for a port of theirs */
	GH_STAGE_CONTROL = 18, /* ARP and ND, forwarded by MAC */
	GH_STAGE_PROXY = 19,   /* ARP and ND at a wire, for addresses behind the host's MAC */
	GH_STAGE_OUTSIDE = 20, /* there, but as at any uplink */
	GH_STAGE_FETCH = 21,   /* IP whose headers are not linear */
	GH_STAGE_RELAYED = 22, /* from outside, by a tunnel (GH_SERVICE_VNI) */
	GH_STAGE_TRUNK = 23,   /* a frame with a tag from a vNIC */
	GH_STAGES = 32,
};

/* rate: index = port id; how many answers of our own in the current second */
struct gh_rate {
	__u32 error_s, error_n;	  /* ICMP errors */
	__u32 reset_s, reset_n;
	__u32 flood_s, flood_n;	  /* broadcast and multicast frames */
	__u32 flow_s, flow_n;	  /* flow events */
	__u32 flow_held;	  /* flow events suppressed since the last one */
	__u32 zero;
	__u64 meter_ns;		  /* when the bucket of port.pps is level again */
	__u32 narrow_s, narrow_n; /* errors that made a tunnel's flows ask for its MTU */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_PORTS);
	__type(key, __u32);
	__type(value, struct gh_rate);
} rate SEC(".maps");

/* samples: what captures see. A record is a gh_sample, then bytes of the packet. */
enum gh_copy_what {
	GH_COPY_SENT = 1,      /* by the vNIC, as it came */
	GH_COPY_DELIVERED = 2, /* to the vNIC, as it arrives */
	GH_COPY_ANSWER = 3,    /* delivered, but made by the switch: ARP, ND, RST, ICMP error */
	GH_COPY_DROPPED = 4,   /* no bytes: what became of the sent packet of time of_ns */
	GH_COPY_REFUSED = 5,   /* would have been delivered, but was dropped */
};
#define GH_SAMPLE_TAGGED 0x10000
struct gh_sample {
	__u64 time_ns; /* CLOCK_MONOTONIC */
	__u64 of_ns;
	__u32 len;     /* of the packet */
	__u32 vlan;    /* GH_SAMPLE_TAGGED and the tag that is not among the bytes */
	__u16 port;
	__u8 what;
	__u8 reason, layer;
	__u8 pad[3];
};
struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} samples SEC(".maps");

/* result: written when the constant unit is set: what TEST_RUN cannot show. */
enum gh_result_verdict {
	GH_RESULT_FORWARD = 1,	/* redirected: out_kind, out_ifindex */
	GH_RESULT_DROP = 2,	/* reason, layer */
	GH_RESULT_NEXT = 3,	/* not ours: left to the host */
	GH_RESULT_REPLY = 4,	/* answered to the port it came from (ARP, ND, reject) */
	GH_RESULT_CONSUMED = 5, /* control or flooded frame, handled, not counted as a drop */
};
struct gh_result {
	__u32 verdict;
	__u32 out_kind;
	__u32 out_ifindex;
	__u32 out_port;
	__u32 reason; /* enum gh_drop_reason; a reply by the reject stage keeps why */
	__u32 layer;  /* enum gh_layer */
	__u32 flow;   /* enum gh_via */
	__u32 copies; /* of a flooded frame */
	struct gh_addr nh; /* next hop of GH_OUT_NEIGH */
	__u16 in_port;
	__u16 copied;	   /* clones made for mirrors */
	__u16 vtep;	   /* GH_OUT_TUNNEL, and answers into tunnels */
	__u16 tag;	   /* pushed on the way out */
	__u32 tun;	   /* its VNI */
	__u32 pad;
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gh_result);
} result SEC(".maps");

#endif /* GH_STATE_H */
