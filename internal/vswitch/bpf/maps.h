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
#define GH_PORT_ASKED GH_MAX_PORTS /* of no port */
#define GH_ZONE_HOST 0
#define GH_PORT_ACLS 8		/* vswitch.MaxPortACLs */
#define GH_MAX_TUNNELS 4	/* vswitch.MaxTunnels */
#define GH_SERVICE_VNI 0xffffff /* vswitch.ServiceVNI */

/* vswitch.PortKind; never renumbered. */
enum gh_port_kind {
	GH_PORT_NONE = 0,
	GH_PORT_CONTAINER = 1,
	GH_PORT_VM = 2,
	GH_PORT_HOST = 3,
	GH_PORT_UPLINK = 4,
	GH_PORT_TUNNEL = 5,
	GH_PORT_WIRE = 6, /* of no port: a packet from an uplink, for a network bound to it */
};

enum gh_port_flags {
	GH_PORT_UP = 1 << 0,
	GH_PORT_NO_PEER = 1 << 1, /* deliver by redirect, not redirect_peer (shaped, bridged inside) */
	GH_PORT_FORWARD = 1 << 2, /* a router: may send what others sent, and be a next hop */
	GH_PORT_ROUTES = 1 << 3,  /* has routes of its own, which come before the network's */
	GH_PORT_ANY_MAC = 1 << 4, /* source MACs are not checked */
	GH_PORT_ANY_IP = 1 << 5,  /* source addresses are not checked */
	GH_PORT_GUARD = 1 << 6,	  /* what its vNIC sends is metered (pps), shaped, or must be tagged */
	GH_PORT_WIRES = 1 << 6,	  /* of an uplink, which is no vNIC's: networks are bound to it */
	GH_PORT_COPY = 1 << 7, /* somebody captures here, or it is mirrored: snap, mirror */
};

/* vswitch.NetFlags */
enum gh_net_flags {
	GH_NET_SNAT = 1 << 0,
	GH_NET_HOSTNIC = 1 << 1,
	GH_NET_UPLINK = 1 << 2,
	GH_NET_FLOOD = 1 << 3,
	GH_NET_L2 = 1 << 4,	      /* frames go by destination MAC; MACs and TTL stay */
	GH_NET_MAC_REWRITE = 1 << 5, /* outside, one MAC, mostly the uplink's, stands for every endpoint's */
	GH_NET_NO_LOCAL = 1 << 6,    /* nothing is switched here: all goes by the uplink */
	GH_NET_ARP_PASS = 1 << 7,    /* ARP and ND are forwarded, not answered */
	GH_NET_DHCP = 1 << 8,	     /* the host hears at the vNICs who asks by DHCP */
	GH_NET_NO_HOST = 1 << 9,     /* the host behind the uplink is no member */
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
	__u16 natpool4;	   /* natpool index, 0 = none: of an uplink, or of this endpoint alone */
	__u16 natpool6;
	__u32 max_flows;   /* conversations it may begin, 0 = its share of a crowded table (quota.h) */
	__u16 mirror;	   /* port that gets copies of both directions; 0 = none */
	__u16 snap;	   /* bytes of a packet that captures want; 0 = nobody captures */
	__u32 acl[GH_PORT_ACLS]; /* numbers of ACL sets in their order; 0 ends them */
	__u32 vni;	   /* of the subnet of its first address: what its broadcasts bear */
	__u32 shaper;	   /* where what its vNIC sends goes first; the far end's ifport is this port. 0 = nowhere */
	__u32 pps;	   /* packets a second from its vNIC; 0 = any */
	__u16 class;	   /* GH_OP_PRIO of what it sends; 0 = none */
	__u16 vlan;	   /* tag of its frames at the device: it is one VLAN of a trunk; 0 = none */
	__u8 tagged;	   /* a trunk without a native VLAN: frames without a tag are refused */
	__u8 proxied;	   /* proxy has rows of it */
	__u8 host;	   /* its vNIC is in the host's own stack, where it may be others' gateway */
	__u8 nat_share;	   /* percent of the ports of each address outside that it may use; 0 = all */
	__u16 only;	   /* the one uplink it uses; 0 = any */
	__u8 pad[34];
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
	__u16 natpool4;	   /* natpool index of what leaves; 0 = the uplink's */
	__u16 natpool6;
	__u16 uplink;	   /* port of the uplink it is bound to; 0 = none */
	__u16 vlan;	   /* tag of its frames there; 0 = none */
	__u8 wire_mac[6];  /* GH_NET_MAC_REWRITE: the MAC that stands for endpoints there */
	struct gh_addr hairpin4; /* source an endpoint sees when it reaches itself by a published port */
	struct gh_addr hairpin6;
	struct gh_addr gw4; /* source of ICMP errors made here; zero: the address that was asked for */
	struct gh_addr gw6;
	__u8 router_mac[6]; /* source of what is routed into a tunnel: the distributed router's */
	__u8 pad2[2];
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
 * device named by gh_port.ifindex, and the far end of its shaper). The only
 * look-up that uses an ifindex.
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
 * Zone of a network: every endpoint address (its port, its MAC), endpoints of
 * other hosts (the tunnel port, their MAC, their tunnel end) and the gateway
 * addresses (the host port, the host vNIC's MAC, GH_ADDR_GATEWAY; port 0 where the
 * host has none); ARP and ND are answered from these rows. Zone 0: every address of the host, gateway
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
	__u16 vtep; /* behind that tunnel end; port is the tunnel's. 0: here */
	__u32 vni;  /* of the subnet it is in; 0 = none */
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 131072);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_addr_key);
	__type(value, struct gh_addr_val);
} addr SEC(".maps");

/* route: LPM {zone, port, addr}. prefixlen counts the 32 bits of zone and port first. */
enum gh_route_kind {
	GH_ROUTE_LOCAL = 1,  /* the network's own prefix: known addresses only */
	GH_ROUTE_UPLINK = 2, /* leave by the host's routing table */
	GH_ROUTE_REJECT = 3,
	GH_ROUTE_HOST = 4,   /* into the host's stack by the network's host port */
	GH_ROUTE_VIA = 5,    /* by the router at nh.via, an address of the zone */
	GH_ROUTE_TUNNEL = 6, /* to the tunnel end and router MAC of nh */
	GH_ROUTE_ASKED = 7,  /* of port GH_PORT_ASKED: flags and nh are the MAC that ARP and ND are answered with */
};
struct gh_route_key {
	__u32 prefixlen;
	__u16 zone;
	__u16 port; /* whose route this is; 0 = the network's; GH_PORT_ASKED: see GH_ROUTE_ASKED */
	struct gh_addr addr;
};
enum gh_route_flags {
	GH_ROUTE_NAT = 1 << 0, /* GH_ROUTE_UPLINK: shows an address of a pool instead of its own */
};
struct gh_route_val {
	__u16 kind;
	__u16 flags;
	__u32 nh; /* index of the next hop, or with GH_ROUTE_NAT of the pool; 0 = none of its own */
};

/* configuration. A v4 prefix of n bits has prefixlen 32 + 96 + n. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_route_key);
	__type(value, struct gh_route_val);
} route SEC(".maps");

/* nh: ARRAY, next hops of routes */
#define GH_MAX_NH 4096 /* vswitch.MaxNextHops + 1 */

struct gh_nh {
	struct gh_addr via; /* GH_ROUTE_VIA */
	__u32 vni;	    /* GH_ROUTE_TUNNEL, like what follows */
	__u16 vtep;
	__u16 port;	    /* of the tunnel */
	__u8 mac[6];	    /* inner destination: the router there */
	__u8 zero[2];
};

/* configuration: 0 is never used */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_NH);
	__type(key, __u32);
	__type(value, struct gh_nh);
} nh SEC(".maps");

/* vtep: ARRAY, tunnel ends of other hosts, IPv4 and IPv6 alike */
#define GH_MAX_VTEPS 4096 /* vswitch.MaxVTEPs + 1 */

struct gh_vtep {
	struct gh_addr addr;
	struct gh_addr local; /* outer source; zero address = the kernel's choice */
	__u16 mtu; /* largest inner IP packet the uplinks have room for; 0 = no such entry */
	__u16 zero[3];
};

/* configuration: 0 is never used */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, GH_MAX_VTEPS);
	__type(key, __u32);
	__type(value, struct gh_vtep);
} vtep SEC(".maps");

/*
 * peer: HASH {vni, tunnel port, addr} -> whose VNI this is: outer sources that are
 * listened to. An all-zero address is the VNI itself. VNI 0 with a UDP port in
 * port_be stands for a tunnel end of ours as such: what nobody may reach there in
 * the host's name. GH_SERVICE_VNI is of no network: it bears what clients outside
 * sent to a service at another host, for a backend here (GH_SVC_DSR).
 */
struct gh_peer_key {
	__u32 vni;
	__u16 port;
	__u16 port_be;
	struct gh_addr addr;
};
struct gh_peer_val {
	__u16 net;
	__u16 zone;
	__u16 vtep;
	__u16 port; /* of VNI 0: the tunnel's */
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_peer_key);
	__type(value, struct gh_peer_val);
} peer SEC(".maps");

/*
 * svc: HASH, a frontend -> its service. The zone is that of the one network
 * which sees it, or 0: then flags say who does. An all-zero vip is "any address
 * of the host" (only tried when addr says GH_ADDR_HOST).
 */
enum gh_svc_flags {
	GH_SVC_NETWORKS = 1 << 0, /* endpoints of every network see it */
	GH_SVC_HOST = 1 << 1,	  /* processes of the host */
	GH_SVC_OUTSIDE = 1 << 2,  /* whoever comes by an uplink */
	GH_SVC_DROP = 1 << 3,	  /* without a backend: silence, not a refusal */
	GH_SVC_LOCAL = 1 << 4,	  /* outside clients get backends of this host only */
	GH_SVC_DSR = 1 << 5,	  /* what outside clients send to backends elsewhere stays as it is */
	GH_SVC_BY_CLIENT = 1 << 6, /* the hash is of the client's address alone */
	GH_SVC_LOCAL_IN = 1 << 7, /* all other clients get backends of this host only */
	GH_SVC_PRESERVE = 1 << 8, /* the backend gets what it was sent, translated nowhere */
	GH_SVC_SNAT = 1 << 9, /* the backend sees the network's own address, not the client's */
};
struct gh_svc_key {
	struct gh_addr vip; /* any-v4: ::ffff:0.0.0.0, any-v6: :: */
	__u16 port_be;
	__u16 zone;
	__u8 proto;
	__u8 zero[3];
};
struct gh_svc_val {
	__u32 id;
	__u32 affinity_s;  /* 0 = none */
	__u16 count;	   /* slots in the bank; 0 = nobody takes new conversations */
	__u16 bank;
	__u16 out_count;   /* the same for clients outside */
	__u16 out_bank;
	__u16 flags;
	__u16 zero;
	struct gh_addr source; /* of outside clients, as backends of overlays on other hosts see them */
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_svc_key);
	__type(value, struct gh_svc_val);
} svc SEC(".maps");

/*
 * proxy: LPM {port, proto, family, addr} -> the service that what the port sends there is
 * given to, whatever its destination port and before any frontend; id 0 = none.
 */
struct gh_proxy_key {
	__u32 prefixlen; /* counts the 32 bits before the address */
	__u16 port;
	__u8 proto;
	__u8 fam; /* 4 or 6: ::/0 is not about IPv4 */
	struct gh_addr addr;
};

/* configuration. A v4 prefix of n bits has prefixlen 32 + 96 + n. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_proxy_key);
	__type(value, struct gh_svc_val);
} proxy SEC(".maps");

/*
 * slot: {svc, bank, i} -> id of a member. A bank is written whole before a row of
 * svc names it and removed after the last one does not, so a reader sees the old
 * list or the new one. Its number folds its content: another list, another bank.
 */
struct gh_slot_key {
	__u32 svc;
	__u16 bank;
	__u16 i;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 524288); /* vswitch.MaxSlots, twice: both banks of everything */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_slot_key);
	__type(value, __u32);
} slot SEC(".maps");

/*
 * member: {svc, id} -> a backend of that service. Whether a conversation may stay
 * is whether its pair is here, and not whether somebody still has the address.
 */
enum gh_member_state {
	GH_MEMBER_ACTIVE = 1,
	GH_MEMBER_DRAINING = 2, /* keeps its TCP connections, gets nothing new */
};
struct gh_member_key {
	__u32 svc;
	__u32 id;
};
struct gh_member {
	struct gh_addr addr;
	__u16 port_be;
	__u16 port; /* switch port; 0 = not on this host, L6 finds the way */
	__u8 state;
	__u8 zero;
	__u16 net;  /* of port, or the overlay by which it is reached; 0 = by the host's routing table */
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 262144); /* vswitch.MaxBackends */
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_member_key);
	__type(value, struct gh_member);
} member SEC(".maps");

/*
 * vip_l2: HASH {uplink, zone, addr} -> 1: addresses that nobody holds but that are
 * answered for by ARP and ND. At an uplink (zone 0), with its MAC: of services, of
 * NAT pools. To the endpoints of a network (uplink 0), with its gateway's: of
 * services inside its subnets.
 */
struct gh_vip_key {
	__u16 uplink; /* port id */
	__u16 zone;
	struct gh_addr addr;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_vip_key);
	__type(value, __u8);
} vip_l2 SEC(".maps");

/* natpool: ARRAY. A pool is a run of entries, one an address. */
#define GH_POOL_ADDRS 8	/* vswitch.MaxNATAddrs */

struct gh_natpool {
	struct gh_addr addr;
	__u16 lo, hi; /* host order, inclusive */
	__u16 count;  /* first entry of a pool: its addresses, at most GH_POOL_ADDRS */
	__u16 zero;
};

/* configuration: index = first entry of the pool; 0 is never used */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4096);
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

/*
 * flood: HASH {net, i} -> port id, i = 0..count-1; floodn: ARRAY net -> count. Of
 * a tunnel's members, which come last, the upper half is the index of the vtep.
 */
struct gh_flood_key {
	__u16 net;
	__u16 i;
};

/* configuration: every port of the network, host port included, then its tunnel ends */
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

/*
 * fdb: HASH {zone, mac} -> port id. Zone of a network that forwards by MAC: every
 * port's MACs, and the MAC of the uplink it is bound to, which is the host. Of
 * other zones: MACs that a port may use besides its own.
 */
struct gh_fdb_key {
	__u16 zone;
	__u8 mac[6];
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_fdb_key);
	__type(value, __u32);
} fdb SEC(".maps");

/*
 * segment: HASH {port, vlan} -> whose frames with that tag are: at an uplink the
 * network whose MACs are seen there as they are, at a trunk the port of that VLAN.
 */
struct gh_segment_key {
	__u16 at;   /* port id */
	__u16 vlan; /* 0 = untagged, or tagged with priority only */
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, GH_MAX_NETS + GH_MAX_PORTS);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_segment_key);
	__type(value, __u32);
} segment SEC(".maps");

/* wireip: HASH {uplink, vlan, addr} -> port that the host's MAC stands for there */
struct gh_wireip_key {
	__u16 uplink;
	__u16 vlan;
	struct gh_addr addr;
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct gh_wireip_key);
	__type(value, __u32);
} wireip SEC(".maps");

/* cfg: ARRAY of one */
struct gh_cfg {
	__u64 clock_offset_ns; /* added to every clock read; tests only */
	__u64 netns_cookie;    /* socket hooks act in this namespace only */
	__u32 anchor_ifindex;  /* input device of FIB look-ups */
	__u32 event_rate;      /* drop events a second, reason, port and CPU; 0 = off */
	__u32 flow_rate;       /* flow events a second and port; 0 = nobody watches */
	__u32 pad0;
	__u16 tunnel_be[GH_MAX_TUNNELS]; /* UDP ports of our tunnels: never flows of the uplinks */
	__u64 pad[2];
};

/* configuration */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct gh_cfg);
} cfg SEC(".maps");

#endif /* GH_MAPS_H */
