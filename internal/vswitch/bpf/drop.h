/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/* Why a packet was dropped and where. */
#ifndef GH_DROP_H
#define GH_DROP_H

/* Never renumbered: counters of an older program may still stand in drops. */
enum gh_drop_reason {
	GH_DROP_PARSE = 1,	  /* cut short or not what its header says */
	GH_DROP_L2_PROTO = 2,	  /* neither IPv4, IPv6 nor ARP */
	GH_DROP_PORT_DOWN = 3,	  /* unknown device, or port not up */
	GH_DROP_VLAN = 4,	  /* tagged frame from an access port */
	GH_DROP_SPOOF_MAC = 5,
	GH_DROP_SPOOF_IP = 6,
	GH_DROP_SPOOF_ARP = 7,	  /* ARP or ND that speaks for somebody else */
	GH_DROP_DHCP_GUARD = 8,	  /* DHCP server behind an endpoint */
	GH_DROP_RA_GUARD = 9,	  /* router advertisement or redirect from an endpoint */
	GH_DROP_METER = 10,
	GH_DROP_ACL_OUT_PRE = 11,
	GH_DROP_ACL_OUT = 12,
	GH_DROP_ACL_IN = 13,
	GH_DROP_NO_BACKEND = 14,  /* published, but nobody behind it */
	GH_DROP_NO_ROUTE = 15,	  /* destination is not reachable from this network */
	GH_DROP_NO_NEIGH = 16,
	GH_DROP_UNKNOWN_DST = 17, /* in the network's prefix, but nobody has it */
	GH_DROP_TTL = 18,
	GH_DROP_MTU = 19,
	GH_DROP_FRAG_ORDER = 20,  /* later fragment before the first, and ports are needed */
	GH_DROP_FRAG_TINY = 21,	  /* first fragment without its ports, or a later one that reaches into them */
	GH_DROP_FRAG_TABLE = 22,  /* another first fragment of the same datagram, with other ports */
	GH_DROP_FLOW_FULL = 23,
	GH_DROP_PORT_QUOTA = 24,  /* port.max_flows, or its share of a crowded table, reached */
	GH_DROP_NAT_PORTS = 25,	  /* no free port after all tries */
	GH_DROP_NAT_PROTO = 26,	  /* protocol whose ports cannot be rewritten */
	GH_DROP_NOSTATE = 27,	  /* middle of a conversation nobody knows */
	GH_DROP_ICMP_NOFLOW = 28, /* ICMP error about no flow of ours */
	GH_DROP_ICMP_RATE = 29,
	GH_DROP_TUN_PEER = 30,
	GH_DROP_TUN_VNI = 31,
	GH_DROP_EXT_HDR = 32,	  /* more IPv6 extension headers than we walk */
	GH_DROP_CSUM = 33,
	GH_DROP_LOOP = 34,
	GH_DROP_TAIL_CALL = 35,	  /* stage missing: prog array empty */
	GH_DROP_INTERNAL = 36,	  /* helper refused, map row inconsistent */
	GH_DROP_MAX = 37,
};

/* Layers of vswitch.md 2.6; stable ids. */
enum gh_layer {
	GH_LAYER_PORT = 0,
	GH_LAYER_SPOOF = 1,
	GH_LAYER_METER = 2,
	GH_LAYER_ACL_PRE = 3,
	GH_LAYER_LB = 4,
	GH_LAYER_ACL_OUT = 5,
	GH_LAYER_ROUTE = 6,
	GH_LAYER_NAT = 7,
	GH_LAYER_ACL_IN = 8,
	GH_LAYER_L2 = 9,
	GH_LAYER_QOS = 10,
	GH_LAYER_FLOW = 11, /* on a cached flow, no layer was walked */
};

#define GH_LAYERS_ACL (1U << GH_LAYER_ACL_PRE | 1U << GH_LAYER_ACL_OUT | 1U << GH_LAYER_ACL_IN)

/* gh_result.flow */
enum gh_via {
	GH_VIA_NONE = 0,   /* no flow was used or made */
	GH_VIA_HIT = 1,
	GH_VIA_NEW = 2,
	GH_VIA_REVALIDATED = 3,
	GH_VIA_STATELESS = 4, /* table full, forwarded without a flow */
};

#endif /* GH_DROP_H */
