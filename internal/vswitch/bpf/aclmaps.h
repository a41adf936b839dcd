/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Maps of ACL sets. A set has up to four lists, one for each direction and view,
 * and each list is searched by tuples (acl.h). A set is known by a number that
 * follows from its rules: other rules are another number, whose rows are written
 * whole before a port refers to it.
 */
#ifndef GH_ACLMAPS_H
#define GH_ACLMAPS_H

#include "maps.h"

/* The number's lowest bits say which lists have anything to decide. */
enum gh_acl_list {
	GH_ACL_OUT_ORIGINAL = 0, /* what the endpoint sends, as it sends it */
	GH_ACL_OUT = 1,		 /* what it sends, to the backend that was chosen */
	GH_ACL_IN = 2,		 /* what it gets, as it gets it */
	GH_ACL_IN_ORIGINAL = 3,	 /* what it gets, as it was sent */
};

/* vswitch.ACLAction */
enum gh_acl_action {
	GH_ACL_ALLOW = 0,
	GH_ACL_BLOCK = 1,
	GH_ACL_REJECT = 2,
	GH_ACL_PASS = 3,
};

enum gh_acl_flags {
	GH_ACL_CLASS = 1 << 0, /* the remote address by its class, not by its bits */
	GH_ACL_PROTO = 1 << 1, /* one protocol, not any */
};

/* What a tuple has rules for: a packet of another kind need not ask it. */
enum gh_acl_kind {
	GH_ACL_V4 = 1 << 0,
	GH_ACL_V6 = 1 << 1,
	GH_ACL_OTHER = 1 << 2,
	GH_ACL_TCP = 1 << 3,
	GH_ACL_UDP = 1 << 4,
	GH_ACL_SCTP = 1 << 5,
	GH_ACL_ICMP = 1 << 6, /* of either family */
};
#define GH_ACL_FAMS (GH_ACL_V4 | GH_ACL_V6)

#define GH_ACL_TUPLES 128 /* vswitch.MaxACLTuples */

struct gh_acl_tuple {
	__u8 remote_bits, local_bits; /* of 128, IPv4 v4-mapped */
	__u8 rport_bits, lport_bits;  /* of 16 */
	__u8 flags;
	__u8 kinds;
	__u16 zero;
	__u32 best; /* lowest rank of its rules; tuples are in this order */
};
struct gh_acl_set_key {
	__u32 set;
	__u32 list;
};
struct gh_acl_set {
	__u8 tuples;
	__u8 action; /* of what no rule matches */
	__u8 stage;
	__u8 zero0;
	__u32 zero1;
	struct gh_acl_tuple tuple[GH_ACL_TUPLES];
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_acl_set_key);
	__type(value, struct gh_acl_set);
} aclset SEC(".maps");

struct gh_acl_key {
	struct gh_addr remote, local; /* cut to the tuple's bits; of a class: its number first */
	__u32 set;
	__u16 rport_be, lport_be;
	__u8 proto; /* 0 = any */
	__u8 list;
	__u8 tuple;
	__u8 zero;
};
struct gh_acl_rule {
	__u32 rank; /* place in the order of evaluation */
	__u16 rule; /* vswitch.RuleID */
	__u8 action;
	__u8 zero;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_acl_key);
	__type(value, struct gh_acl_rule);
} aclrule SEC(".maps");

/* aclclass: LPM address -> which address sets it is in, as a number; 0 = none */
struct gh_acl_class_key {
	__u32 prefixlen;
	struct gh_addr addr;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 524288);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_acl_class_key);
	__type(value, __u32);
} aclclass SEC(".maps");

struct gh_acl_stats {
	__u64 packets, bytes;
};

/* state: by vswitch.RuleID, packets that a rule decided in a walk of the layers */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32);
	__type(value, struct gh_acl_stats);
} aclstats SEC(".maps");

#endif /* GH_ACLMAPS_H */
