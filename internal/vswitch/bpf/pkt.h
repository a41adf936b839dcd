/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * What is known about the packet in hand. Entry programs keep it on the stack;
 * a stage that is tail-called finds it in the scratch of its CPU. Nothing may
 * run between the two: no program of ours is attached to the egress of a switch
 * port, so a clone cannot come back into us on the same CPU.
 */
#ifndef GH_PKT_H
#define GH_PKT_H

#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/in.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <linux/pkt_cls.h>
#include <linux/if_packet.h>
#include <bpf/bpf_endian.h>

#include "cfg.h"
#include "drop.h"

#define GH_AF_INET 2
#define GH_AF_INET6 10

/* Widest headers in front of L4: what offsets read back from scratch are masked with. */
#define GH_L4_MASK4 0x7f
#define GH_L4_MASK6 0x3fff

enum gh_l4 {
	GH_L4_NONE = 0,	 /* no ports that we know of */
	GH_L4_TCP = 1,
	GH_L4_UDP = 2,
	GH_L4_ICMP = 3,	 /* echo and the like: an id */
	GH_L4_ICMP6 = 4,
	GH_L4_SCTP = 5,	 /* ports, but the checksum is out of reach */
};

enum gh_frag {
	GH_FRAG_NONE = 0,
	GH_FRAG_FIRST = 1,
	GH_FRAG_LATER = 2,
};

#define GH_VID 0xfff /* the VLAN in a tag */

#define GH_TCP_FIN 0x01
#define GH_TCP_SYN 0x02
#define GH_TCP_RST 0x04
#define GH_TCP_ACK 0x10

/* RFC 792 and RFC 4443; linux/icmp.h would pull in libc. */
struct gh_icmp {
	__u8 type, code;
	__u16 check;
	union {
		struct {
			__be16 id, seq;
		} echo;
		struct {
			__u16 unused, mtu_be;
		} frag;
		__be32 mtu_be; /* ICMPv6 */
	};
};

#define GH_ICMP_ECHOREPLY 0
#define GH_ICMP_UNREACH 3
#define GH_ICMP_FRAG_NEEDED 4
#define GH_ICMP_QUENCH 4
#define GH_ICMP_REDIRECT 5
#define GH_ICMP_ECHO 8
#define GH_ICMP_TIME 11
#define GH_ICMP_PARAM 12
#define GH_ICMP_TIMESTAMP 13
#define GH_ICMP_TIMESTAMPREPLY 14
#define GH_ICMP6_UNREACH 1
#define GH_ICMP6_TOOBIG 2
#define GH_ICMP6_TIME 3
#define GH_ICMP6_PARAM 4
#define GH_ICMP6_ECHO 128
#define GH_ICMP6_ECHOREPLY 129

/* The parser's findings besides the key. */
struct gh_hdr {
	__u32 frag_id; /* wire order, of the fragment */
	__u16 l4_off;  /* from the start of the frame */
	__u16 zero;
	__u32 ip_len;  /* bytes from the IP header on */
	__u8 l4;       /* enum gh_l4 */
	__u8 frag;     /* enum gh_frag */
	__u8 tcp_flags;
	__u8 ttl;
	__u8 icmp_type;
	__u8 tos;
	__u8 group;    /* destination MAC is broadcast or multicast */
	__u8 opts;     /* IPv4 options or IPv6 extension headers */
};

struct gh_pkt {
	struct gh_addr src, dst; /* v4-mapped when fam is 4 */
	struct gh_hdr h;
	__u16 sport_be, dport_be;
	__u16 port;    /* as in flow keys: GH_PORT_UPLINK_ANY for all uplinks */
	__u16 in_port; /* the port itself */
	__u16 zone;
	__u16 net;
	__u8 proto;
	__u8 kflags;   /* enum gh_fkey_flags */
	__u8 kind;     /* enum gh_port_kind of in_port */
	__u8 fam;      /* 4 or 6 */
	__u32 now_s;
	/* While an ICMP error is translated, the tuple above is the embedded
	 * packet's, turned round, and these are the error's own. */
	struct gh_addr osrc, odst;
	__u16 icmp_off;	 /* 0: not an error */
	__u16 ports_off; /* of the embedded ports or id; 0: none */
	__u32 tun;	 /* GH_PORT_TUNNEL: the VNI it came with */
	__u16 vtep;	 /* and the tunnel end it came from */
	__u16 vlan;	 /* GH_PORT_WIRE: the tag it came with */
	__u8 l2;	 /* its network forwards by MAC */
	__u8 unknown;	 /* its flow was looked for: there is none */
	__u8 zero[2];
};

enum gh_how {
	GH_TO_NOBODY = 0, /* not decided yet */
	GH_TO_PORT = 1,
	GH_TO_UPLINK = 2,
	GH_TO_WIRE = 3,	 /* by the uplink its network is bound to, as a frame */
	GH_TO_STACK = 4, /* to the host, as if it had come by that uplink */
	GH_TO_ROUTER = 5, /* where the host would send it on to, by that uplink */
};

/* The decision while the pipeline makes it. */
struct gh_walk {
	struct gh_addr nsrc, ndst, nh; /* translated tuple, next hop */
	__u16 nsport_be, ndport_be;
	__u16 out_port;
	__u16 okey_port; /* port and zone in the key of the answer */
	__u16 ozone;
	__u16 net;
	__u16 mtu;
	__u16 nat_lo, nat_hi; /* where a source port may be looked for */
	__u16 first_be;	      /* source port to try first */
	__u32 out_ifindex;
	__u32 svc, backend;
	__u32 e_in, e_out, e_net;
	__u32 tun;	      /* as in the flow entry, like vtep, prio and rule */
	__u16 vtep, prio, rule;
	__u16 frame;	      /* ops of a packet that was switched by MAC; 0: it was routed */
	__u32 tag;	      /* of the entry that is revalidated */
	__u8 dmac[6], smac[6];
	__u8 out_kind;
	__u8 routed;	/* a hop for the TTL */
	__u8 reply;
	__u8 keep;	/* an existing entry is revalidated */
	__u8 snat;	/* enum gh_snat */
	__u8 pool_busy; /* look ports up in portbusy */
	__u8 state;
	__u8 via;	/* enum gh_via */
	__u16 target;	/* port it goes to */
	__u32 pool;	/* that the route names; 0 = none */
	__u16 judge;	/* port whose ACLs were asked last */
	__u16 dst_port; /* that has the packet's own destination, once looked up; 0 = none */
	__u8 dst_known;
	__u8 how;	/* enum gh_how */
	__u8 host;	/* the destination is an address of the host */
	__u8 blind;	/* a later fragment whose ports nobody knows */
	__u8 nat;	/* the route says: not with its own source */
	__u8 aside;	/* an answer that goes elsewhere than its conversation came from */
	__u8 held;	/* the entry is a NAT binding in TIME_WAIT */
	__u8 copy;	/* what follows from the port it goes to: GH_OP_COPY (somebody watches), GH_OP_VLAN */
	__u8 dsr;	/* to a backend's host as it is; nh is the backend until the way is known */
};

enum gh_reject {
	GH_REJECT_NONE = 0,
	GH_REJECT_PORT = 1,	/* RST, or port unreachable */
	GH_REJECT_ROUTE = 2,	/* network unreachable, administratively */
	GH_REJECT_HOST = 3,
	GH_REJECT_TOOBIG = 4,
	GH_REJECT_TTL = 5,
	GH_REJECT_STATE = 6,	/* RST only: nobody knows this conversation */
	GH_REJECT_ADMIN = 7,	/* RST, or administratively prohibited */
};

#define GH_BUF 192

union gh_key {
	struct gh_fkey4 k4;
	struct gh_fkey6 k6;
	__u64 words[6];
};

/* What a list of rules is asked, and the best it has answered so far. */
struct gh_acl_ask {
	struct gh_addr remote, local;
	struct gh_acl_key key;
	__u32 sets[GH_PORT_ACLS]; /* of the port, as they were at the start */
	__u32 class;
	__u32 rank;
	__u16 rport_be, lport_be;
	__u16 rule; /* 0: none matched */
	__u8 action;
	__u8 stage;   /* that a rule has allowed */
	__u8 kinds;   /* enum gh_acl_kind of the packet */
	__u8 blind;
	__u8 classed; /* class is known */
	__u8 zero;
};

struct gh_scratch {
	struct gh_pkt p;
	struct gh_walk w;
	struct gh_svc_val sv; /* the service that publishes its destination */
	struct gh_acl_ask acl;
	union gh_key key;  /* of the packet */
	union gh_key rkey; /* of the answer */
	union {
		struct gh_flow4 v4;
		struct gh_flow6 v6;
	} val, rval;
	__u32 reason;
	__u32 layer;
	__u32 reject;	   /* enum gh_reject */
	__u32 reject_mtu;
	__u64 seen_ns;	   /* when a capture was shown the packet */
	__u8 buf[GH_BUF];
};

/* one packet at a time on one CPU */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gh_scratch);
} scratch SEC(".maps");

static __always_inline struct gh_scratch *gh_scratch_get(void)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&scratch, &zero);
}

/* ---- addresses ----------------------------------------------------------- */

static __always_inline __u32 gh_word(const struct gh_addr *a, int i)
{
	return ((const __u32 *)a->b)[i];
}

static __always_inline void gh_addr4(struct gh_addr *a, __u32 v4_be)
{
	__u32 *w = (__u32 *)a->b;

	w[0] = 0;
	w[1] = 0;
	w[2] = bpf_htonl(0xffff);
	w[3] = v4_be;
}

static __always_inline int gh_addr_eq(const struct gh_addr *a, const struct gh_addr *b)
{
	const __u64 *x = (const __u64 *)a->b, *y = (const __u64 *)b->b;

	return x[0] == y[0] && x[1] == y[1];
}

static __always_inline int gh_addr_zero(const struct gh_addr *a)
{
	const __u64 *x = (const __u64 *)a->b;

	return !(x[0] | x[1]);
}

static __always_inline void gh_addr_set(struct gh_addr *a, const struct gh_addr *b)
{
	__u64 *x = (__u64 *)a->b;
	const __u64 *y = (const __u64 *)b->b;

	x[0] = y[0];
	x[1] = y[1];
}

static __always_inline int gh_is_v4(const struct gh_addr *a)
{
	return !gh_word(a, 0) && !gh_word(a, 1) && gh_word(a, 2) == bpf_htonl(0xffff);
}

static __always_inline __u32 gh_mix(__u32 h, __u32 v)
{
	h = (h ^ v) * 0x9e3779b1U; /* 2^32 / golden ratio */
	return h ^ (h >> 15);
}

#endif /* GH_PKT_H */
