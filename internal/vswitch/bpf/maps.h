/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Every map of the data plane beside its key and value. This file is the one
 * source of every layout: bpf2go generates the Go types from it.
 *
 * Two kinds of maps. State maps (flows, fragments, counters) are pinned by
 * layout version and survive daemon, program and configuration; configuration
 * maps belong to one generation and are written only by user space, each value
 * replaced whole. All padding is explicit and zero, in keys above all.
 *
 * Addresses in configuration maps are 16 bytes, IPv4 as v4-mapped
 * (::ffff:a.b.c.d), so that only the flow and fragment tables exist twice.
 * Multi-byte fields are host order unless their name ends in _be.
 *
 * "state:" or "configuration:" before a map says which kind it is; the lists in
 * layout.go must agree (a test compares them with the object).
 */
#ifndef GH_MAPS_H
#define GH_MAPS_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>

#define GH_MAX_PORTS 4096	/* vswitch.MaxPorts */
#define GH_MAX_NETS 1024
#define GH_PORT_UPLINK_ANY 0	/* vswitch.UplinkAny */
#define GH_ZONE_HOST 0

/* vswitch.PortKind; never renumbered. */
enum gh_port_kind {
	GH_PORT_NONE = 0,
	GH_PORT_CONTAINER = 1,
	GH_PORT_VM = 2,
	GH_PORT_HOST = 3,
	GH_PORT_UPLINK = 4,
	GH_PORT_TUNNEL = 5,
};

enum gh_port_flags {
	GH_PORT_UP = 1 << 0,
	GH_PORT_NO_PEER = 1 << 1, /* deliver by redirect, not redirect_peer (shaped, bridged inside) */
};

/* vswitch.NetFlags */
enum gh_net_flags {
	GH_NET_SNAT = 1 << 0,
	GH_NET_HOSTNIC = 1 << 1,
	GH_NET_UPLINK = 1 << 2,
	GH_NET_FLOOD = 1 << 3,
};

struct gh_addr {
	__u8 b[16];
};

/* ---- configuration ---------------------------------------------------- */

/* port: ARRAY by port id */
struct gh_port {
	__u32 ifindex;	   /* host-side device */
	__u32 nic_ifindex; /* GH_PORT_HOST: device in the host's stack to inject into */
	__u16 net;
	__u16 zone;
	__u8 kind;
	__u8 flags;
	__u16 mtu;	   /* largest IP packet towards the vNIC */
	__u8 mac[6];	   /* of the vNIC behind the port; uplink: its own */
	__u8 gw_mac[6];	   /* source MAC of what is delivered: the network's gateway */
	__u16 natpool4;	   /* uplink: natpool index, 0 = none */
	__u16 natpool6;
	__u32 max_flows;   /* 0 = no quota; counted by in port */
	__u8 pad[92];
};

/* configuration: index = port id. Slot 0 (GH_PORT_UPLINK_ANY) stays zero. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_PORTS);
	__type(key, __u32);
	__type(value, struct gh_port);
} port SEC(".maps");

/* net: ARRAY by network id */
struct gh_net {
	__u32 flags;
	__u16 zone;
	__u16 host_port;   /* 0 = none */
	__u16 mtu;
	__u16 pad0;
	__u32 pad1;
	struct gh_addr hairpin4; /* source an endpoint sees when it reaches itself by a published port */
	struct gh_addr hairpin6;
	struct gh_addr gw4; /* source of ICMP errors made here; zero: the address that was asked for */
	struct gh_addr gw6;
};

/* configuration: index = network id. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_NETS);
	__type(key, __u32);
	__type(value, struct gh_net);
} net SEC(".maps");

/*
 * configuration: ifindex -> port id, for endpoint, host and uplink ports (the
 * device named by gh_port.ifindex). The only look-up that uses an ifindex.
 */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8192);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, __u32);
} ifport SEC(".maps");

/* portip: HASH {port, addr} -> 1: sources a port may use (anti-spoofing) */
struct gh_portip_key {
	__u16 port;
	__u16 zero;
	struct gh_addr addr;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_portip_key);
	__type(value, __u8);
} portip SEC(".maps");

enum gh_addr_flags {
	GH_ADDR_GATEWAY = 1 << 0, /* the host vNIC's own address */
	GH_ADDR_HOST = 1 << 1,	  /* zone 0: an address of the host */
};

/*
 * addr: HASH {zone, addr} -> who holds it.
 * Zone of a network: every endpoint address (its port, its MAC) and the gateway
 * addresses (the host port, the host vNIC's MAC, GH_ADDR_GATEWAY); ARP and ND
 * are answered from these rows. Zone 0: every address of the host, gateway
 * addresses of all networks included (port 0, GH_ADDR_HOST).
 */
struct gh_addr_key {
	__u16 zone;
	__u16 zero;
	struct gh_addr addr;
};
struct gh_addr_val {
	__u16 port;
	__u8 flags;
	__u8 zero;
	__u8 mac[6];
	__u8 pad[2];
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_addr_key);
	__type(value, struct gh_addr_val);
} addr SEC(".maps");

/* route: LPM {zone, addr}. prefixlen counts the 32 bits of zone+zero first. */
enum gh_route_kind {
	GH_ROUTE_LOCAL = 1,  /* the network's own prefix: known addresses only */
	GH_ROUTE_UPLINK = 2, /* leave by the host's routing table */
	GH_ROUTE_REJECT = 3,
};
struct gh_route_key {
	__u32 prefixlen;
	__u16 zone;
	__u16 zero;
	struct gh_addr addr;
};
struct gh_route_val {
	__u16 kind;
	__u16 zero;
	__u32 nh; /* next hop object, for issue B's nh map; 0 now */
};

/* configuration. A v4 prefix of n bits has prefixlen 32 + 96 + n. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_route_key);
	__type(value, struct gh_route_val);
} route SEC(".maps");

/*
 * svc: HASH. A published port is a service with one backend. An all-zero vip
 * is "any address of the host" (only tried when addr says GH_ADDR_HOST).
 */
enum gh_svc_scope {
	GH_SCOPE_ANY = 0,  /* outside, endpoints, host processes */
	GH_SCOPE_HOST = 1, /* host processes only: published on loopback */
};
struct gh_svc_key {
	struct gh_addr vip; /* any-v4: ::ffff:0.0.0.0, any-v6: :: */
	__u16 port_be;
	__u16 zone;
	__u8 proto;
	__u8 scope;
	__u16 zero;
};
struct gh_svc_val {
	__u32 id;
	__u16 count; /* backends in the bank */
	__u8 bank;
	__u8 flags;
	__u32 affinity_s;
	__u32 zero;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_svc_key);
	__type(value, struct gh_svc_val);
} svc SEC(".maps");

struct gh_slot_key {
	__u32 svc;
	__u16 bank;
	__u16 i;
};

/* configuration: value = backend id */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_slot_key);
	__type(value, __u32);
} slot SEC(".maps");

struct gh_backend {
	struct gh_addr addr;
	__u16 port_be;
	__u16 port; /* switch port */
	__u16 zone;
	__u8 state; /* 0 absent, 1 active */
	__u8 zero;
};

/* configuration: index = backend id; 0 is never used */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct gh_backend);
} backend SEC(".maps");

/* natpool: ARRAY */
struct gh_natpool {
	struct gh_addr addr;
	__u16 lo, hi; /* host order, inclusive */
	__u32 flags;
};

/* configuration: index = pool id; 0 is never used */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, struct gh_natpool);
} natpool SEC(".maps");

/* portbusy: HASH {natpool addr, port, proto} -> 1: never chosen for NAT */
struct gh_busy_key {
	struct gh_addr addr;
	__u16 port_be;
	__u8 proto;
	__u8 zero;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_busy_key);
	__type(value, __u8);
} portbusy SEC(".maps");

/* flood: HASH {net, i} -> port id, i = 0..count-1; floodn: ARRAY net -> count */
struct gh_flood_key {
	__u16 net;
	__u16 i;
};

/* configuration: every port of the network, host port included */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_flood_key);
	__type(value, __u32);
} flood SEC(".maps");

/* configuration: index = network id, value = members in flood */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_NETS);
	__type(key, __u32);
	__type(value, __u32);
} floodn SEC(".maps");

/* cfg: ARRAY of one */
struct gh_cfg {
	__u64 clock_offset_ns; /* added to every clock read; tests only */
	__u64 netns_cookie;    /* socket hooks act in this namespace only */
	__u32 anchor_ifindex;  /* input device of FIB look-ups */
	__u32 event_rate;      /* drop events a second, reason, port and CPU; 0 = off */
	__u64 pad[4];
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gh_cfg);
} cfg SEC(".maps");

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
	GH_FKEY_L3 = 1 << 0, /* no ports known (fragment, other protocol) */
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
};
enum gh_verdict {
	GH_VERDICT_FORWARD = 1,
	GH_VERDICT_DROP = 2,
};
enum gh_out_kind {
	GH_OUT_PEER = 1,    /* redirect_peer(out_ifindex) */
	GH_OUT_EGRESS = 2,  /* redirect(out_ifindex, 0) */
	GH_OUT_INGRESS = 3, /* redirect(out_ifindex, BPF_F_INGRESS): into the host's stack */
	GH_OUT_NEIGH = 4,   /* redirect_neigh(out_ifindex, next hop nh) */
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
	GH_FLOW_DROP = 10,
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
	__u32 pad0[2];
	/* second cache line */
	__u64 packets, bytes;
	__u32 last_s, born_s;
	__u8 tcp_own, tcp_peer; /* OR of TCP flags seen in this / the other direction */
	__u8 state;
	__u8 reason;  /* of a cached drop */
	__u16 in_port;
	__u16 net;
	__u8 reply;   /* 1 = this is the answering direction */
	__u8 nat;     /* 1 = holds a NAT binding */
	__u16 pad1;
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
	__u32 pad0;
	__u64 packets, bytes;
	__u32 last_s, born_s;
	__u8 tcp_own, tcp_peer;
	__u8 state;
	__u8 reason;
	__u16 in_port;
	__u16 net;
	__u8 reply;
	__u8 nat;
	__u16 pad1;
	__u32 svc, backend;
	struct gh_fkey6 pair;
	__u32 pad2[2];
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
 * state: index = port id, flows that entered by it (forward halves). The
 * programs add and subtract; the sweeper stores the true number at each pass.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_PORTS);
	__type(key, __u32);
	__type(value, __u32);
} pflows SEC(".maps");

/* frag4 / frag6: LRU, ports of the first fragment */
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

/* pstats: PERCPU_ARRAY by port. Seen from the vNIC: rx = towards it. */
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

/* state */
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

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
	GH_STAGES = 16,
};

/* rate: index = port id; how many answers of our own in the current second */
struct gh_rate {
	__u32 reject_s, reject_n; /* ICMP errors and RST */
	__u32 flood_s, flood_n;	  /* broadcast and multicast frames */
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_PORTS);
	__type(key, __u32);
	__type(value, struct gh_rate);
} rate SEC(".maps");

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
	__u16 pad[3];
};
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gh_result);
} result SEC(".maps");

#endif /* GH_MAPS_H */
