/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * ARP and ND. The switch answers for every address of the zone from the addr
 * map, so that endpoints neither see nor need each other's requests. Where the
 * network says so (GH_NET_ARP_PASS) it only looks that nobody speaks for others.
 */
#ifndef GH_REPLY_H
#define GH_REPLY_H

#include "tunnel.h"
#include "lb.h"
#include "parse.h"
#include "spoof.h"

struct gh_arp {
	struct ethhdr eth;
	__be16 hrd, pro;
	__u8 hln, pln;
	__be16 op;
	__u8 sha[ETH_ALEN];
	__u8 sip[4];
	__u8 tha[ETH_ALEN];
	__u8 tip[4];
} __attribute__((packed));

#define GH_ARP_REQUEST bpf_htons(1)
#define GH_ARP_REPLY bpf_htons(2)

/*
 * The frame is the host's own, which the egress program of an uplink turned round:
 * what answers it goes into the host's stack there, as if the wire had brought it.
 */
static __always_inline int gh_turned(struct __sk_buff *skb, const struct gh_port *in)
{
	__u8 mac[ETH_ALEN];

	return in->kind == GH_PORT_UPLINK && (in->flags & GH_PORT_WIRES) &&
	       !bpf_skb_load_bytes(skb, ETH_ALEN, mac, ETH_ALEN) && gh_mac_eq(mac, in->mac);
}

/* Answered where it came from, with the tag that it still bears; asked is how long the question was. */
static __always_inline int gh_answer(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_port *in,
				     __u32 asked, int turned)
{
	skb->mark = 0;
	if (in->vlan && gh_tag(skb, in->vlan))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	gh_copy(skb, s->p.in_port, GH_COPY_ANSWER);
	if (in->kind == GH_PORT_TUNNEL && gh_encap(skb, s->p.tun, s->p.vtep))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	gh_count_from(s->p.in_port, asked);
	gh_count_to(s->p.in_port, skb->len);
	gh_note(skb, GH_RESULT_REPLY, turned ? GH_OUT_INGRESS : GH_OUT_EGRESS, in->ifindex, 0, 0, GH_LAYER_L2, 0);
	return bpf_redirect(in->ifindex, turned ? BPF_F_INGRESS : 0);
}

/* Is a answered for at an uplink, or to the endpoints of a zone? */
static __always_inline int gh_announced(__u16 uplink, __u16 zone, const struct gh_addr *a)
{
	struct gh_vip_key k __attribute__((aligned(8))) = { .uplink = uplink, .zone = zone };

	__builtin_memcpy(&k.addr, a, 16);
	return bpf_map_lookup_elem(&vip_l2, &k) != NULL;
}

/*
 * The link address of who leads to target: the gateway's where target is a
 * service's, and where a route leads to another host the router's, for those who
 * take what is behind it for their own link's.
 */
static __always_inline const __u8 *gh_proxy_mac(const struct gh_scratch *s, const struct gh_port *in,
						const struct gh_addr *target)
{
	const struct gh_net *n = gh_net_get(s->p.net);
	struct gh_far f;

	if (gh_is_endpoint(in->kind) && gh_announced(0, s->p.zone, target))
		return in->gw_mac;
	if (!n || in->kind == GH_PORT_TUNNEL || !gh_far_find(in, s->p.in_port, s->p.zone, target, &f))
		return NULL;
	return n->router_mac;
}

/*
 * gh_stands_for() fills the MAC of who stands for target, which nobody here has: who
 * leads there (gh_proxy_mac), or was told to the network (GH_ROUTE_ASKED). 0 = nobody.
 */
static __always_inline int gh_stands_for(const struct gh_scratch *s, const struct gh_port *in,
					 const struct gh_addr *target, __u8 *mac)
{
	struct gh_route_key k __attribute__((aligned(8))) = { .prefixlen = 160, .zone = s->p.zone,
							      .port = GH_PORT_ASKED };
	const __u8 *far = gh_proxy_mac(s, in, target);
	const struct gh_route_val *rt;

	if (far) {
		__builtin_memcpy(mac, far, ETH_ALEN);
		return 1;
	}
	__builtin_memcpy(&k.addr, target, 16);
	rt = bpf_map_lookup_elem(&route, &k);
	if (!rt)
		return 0;
	__builtin_memcpy(mac, &rt->flags, 2);
	__builtin_memcpy(mac + 2, &rt->nh, 4);
	return 1;
}

/*
 * A question from nobody's address is a probe (RFC 5227, RFC 4862 section 5.4):
 * its sender means to have the address it asks for. For another's it is refused
 * where others would hear it, as who is probing too would give the address up.
 */
static __always_inline int gh_probes(const struct gh_pkt *p, const struct gh_port *in, const struct gh_addr *target)
{
	return gh_is_endpoint(p->kind) && !gh_speaks_for(p->in_port, in, target);
}

/*
 * A question nobody can answer: on to the wire where the network is bound to
 * one, or to the other ports where it floods.
 */
static __always_inline int gh_unanswered(struct __sk_buff *skb, struct gh_scratch *s, const struct gh_net *n, int probes)
{
	if (probes)
		return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	if (n->uplink)
		return gh_stage(skb, s, GH_STAGE_CONTROL);
	if ((n->flags & GH_NET_FLOOD) && s->p.h.group)
		return gh_stage(skb, s, GH_STAGE_FLOOD);
	return gh_drop(skb, s, GH_DROP_UNKNOWN_DST, GH_LAYER_L2);
}

/*
 * gh_whose() fills the MAC that a port of n must address for target, which v
 * holds: 0 when nobody here has it. The host behind an uplink has the uplink's
 * MAC; where nothing is switched here, everybody has that which stands for them.
 */
static __always_inline int gh_whose(const struct gh_net *n, const struct gh_addr_val *v, const struct gh_addr *target,
				    __u8 *mac)
{
	const struct gh_port *q;

	if (v) {
		__builtin_memcpy(mac, n->uplink && (n->flags & GH_NET_NO_LOCAL) ? n->wire_mac : v->mac, ETH_ALEN);
		return 1;
	}
	q = gh_port_get(n->uplink);
	if (!n->uplink || !q || (n->flags & GH_NET_NO_HOST) || !gh_is_host(target))
		return 0;
	__builtin_memcpy(mac, q->mac, ETH_ALEN);
	return 1;
}

/* gh_arp_turn() makes a question its answer: tip is at mac. */
static __always_inline void gh_arp_turn(struct gh_arp *a, const __u8 *mac, __u32 sip4, __u32 tip4)
{
	a->op = GH_ARP_REPLY;
	__builtin_memcpy(a->eth.h_dest, a->eth.h_source, ETH_ALEN);
	__builtin_memcpy(a->eth.h_source, mac, ETH_ALEN);
	__builtin_memcpy(a->tha, a->sha, ETH_ALEN);
	__builtin_memcpy(a->tip, &sip4, 4);
	__builtin_memcpy(a->sha, mac, ETH_ALEN);
	__builtin_memcpy(a->sip, &tip4, 4);
}

static __always_inline int gh_arp_answer(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_addr sip __attribute__((aligned(8))), tip __attribute__((aligned(8)));
	const struct gh_addr_val *v;
	const struct gh_port *in;
	struct gh_arp a;
	struct gh_pkt *p;
	const struct gh_net *n;
	__u32 sip4, tip4;
	__u8 mac[ETH_ALEN];
	int probes;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->p;
	in = gh_port_get(p->in_port);
	n = gh_net_get(p->net);
	if (!in || !n)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (bpf_skb_load_bytes(skb, 0, &a, sizeof(a)) || a.hrd != bpf_htons(1) || a.pro != bpf_htons(ETH_P_IP) ||
	    a.hln != ETH_ALEN || a.pln != 4)
		return gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_L2);
	__builtin_memcpy(&sip4, a.sip, 4);
	__builtin_memcpy(&tip4, a.tip, 4);
	gh_addr4(&sip, sip4);
	gh_addr4(&tip, tip4);
	if (gh_is_endpoint(p->kind)) {
		if (!gh_port_mac(p->in_port, in, a.eth.h_source))
			return gh_drop(skb, s, GH_DROP_SPOOF_MAC, GH_LAYER_SPOOF);
		if (!gh_port_mac(p->in_port, in, a.sha) ||
		    (sip4 && !(in->flags & GH_PORT_ANY_IP) && !gh_owns_ip(p->in_port, &sip)))
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	}
	probes = !sip4 && gh_probes(p, in, &tip);
	v = gh_addr_get(p->zone, &tip);
	if (n->flags & GH_NET_ARP_PASS) {
		if (probes)
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
		if (a.op != GH_ARP_REQUEST || !sip4 || sip4 == tip4 || gh_whose(n, v, &tip, mac) ||
		    !gh_stands_for(s, in, &tip, mac))
			return gh_stage(skb, s, GH_STAGE_CONTROL);
	} else {
		/* Announcements and answers teach nobody anything: addresses are configured. */
		if (a.op != GH_ARP_REQUEST || sip4 == tip4)
			return gh_consumed(skb, p->in_port, GH_LAYER_L2);
		if (v && v->port == p->in_port)
			return gh_consumed(skb, p->in_port, GH_LAYER_L2); /* a probe for its own address: free */
		if (!gh_whose(n, v, &tip, mac) && !gh_stands_for(s, in, &tip, mac))
			return gh_unanswered(skb, s, n, probes);
	}
	gh_arp_turn(&a, mac, sip4, tip4);
	if (bpf_skb_store_bytes(skb, 0, &a, sizeof(a), 0))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	return gh_answer(skb, s, in, skb->len, 0);
}

/* Neighbour messages, RFC 4861 section 4. */
struct gh_nd {
	__u8 type, code;
	__u16 check;
	__be32 flags;
	__u8 target[16];
	__u8 opt_type, opt_len; /* one link-layer address option */
	__u8 opt_mac[ETH_ALEN];
};
struct gh_nd_frame {
	__u16 align; /* so that what follows the 14 bytes of Ethernet is aligned */
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct gh_nd nd;
};
#define GH_ND_FRAME (sizeof(struct gh_nd_frame) - 2)

#define GH_ND_OPT_SLLA 1
#define GH_ND_OPT_TLLA 2
#define GH_NA_ROUTER bpf_htonl(0x80000000)
#define GH_NA_SOLICITED bpf_htonl(0x40000000)
#define GH_NA_OVERRIDE bpf_htonl(0x20000000)

/*
 * gh_csum6() is the checksum of an ICMPv6 message of len bytes (a multiple of
 * four) at msg, whose checksum field is zero.
 */
static __always_inline __u16 gh_csum6(void *src, void *dst, void *msg, __u32 len)
{
	__s64 sum;

	sum = bpf_csum_diff(NULL, 0, src, 16, bpf_htonl(len));
	sum = bpf_csum_diff(NULL, 0, dst, 16, sum);
	sum = bpf_csum_diff(NULL, 0, msg, len, sum);
	return ~gh_fold16((__u64)(__u32)sum + bpf_htonl(IPPROTO_ICMPV6));
}

/*
 * gh_advertise() makes the solicitation in f, and the packet, an advertisement
 * of its target at mac.
 */
static __always_inline int gh_advertise(struct __sk_buff *skb, struct gh_nd_frame *f, const struct gh_addr *src,
					const struct gh_addr *target, const __u8 *mac, int router)
{
	struct gh_nd *nd = &f->nd;
	int dad = gh_addr_zero(src);

	if (dad) { /* RFC 4861 section 7.2.4: to all nodes, not solicited */
		__builtin_memset(&f->ip.daddr, 0, 16);
		f->ip.daddr.s6_addr[0] = 0xff;
		f->ip.daddr.s6_addr[1] = 0x02;
		f->ip.daddr.s6_addr[15] = 1;
		f->eth.h_dest[0] = 0x33;
		f->eth.h_dest[1] = 0x33;
		f->eth.h_dest[2] = 0;
		f->eth.h_dest[3] = 0;
		f->eth.h_dest[4] = 0;
		f->eth.h_dest[5] = 1;
	} else {
		__builtin_memcpy(&f->ip.daddr, src, 16);
		__builtin_memcpy(f->eth.h_dest, f->eth.h_source, ETH_ALEN);
	}
	__builtin_memcpy(f->eth.h_source, mac, ETH_ALEN);
	__builtin_memcpy(&f->ip.saddr, target, 16);
	f->ip.payload_len = bpf_htons(sizeof(*nd));
	f->ip.hop_limit = 255;
	nd->type = GH_ND_NA;
	nd->code = 0;
	nd->check = 0;
	nd->flags = (dad ? 0 : GH_NA_SOLICITED) | GH_NA_OVERRIDE | (router ? GH_NA_ROUTER : 0);
	nd->opt_type = GH_ND_OPT_TLLA;
	nd->opt_len = 1;
	__builtin_memcpy(nd->opt_mac, mac, ETH_ALEN);
	nd->check = gh_csum6(&f->ip.saddr, &f->ip.daddr, nd, sizeof(*nd));
	return bpf_skb_change_tail(skb, GH_ND_FRAME, 0) || bpf_skb_store_bytes(skb, 0, &f->eth, GH_ND_FRAME, 0);
}

#define GH_ND_OPTS 4 /* options of a neighbour message that are walked */

/*
 * gh_nd_options() looks at every link-layer address that the message in scratch
 * names: 0, or why it is refused. Of an endpoint they must be its own. as is a
 * network whose MAC outside is to stand for them, or 0.
 */
__noinline int gh_nd_options(struct __sk_buff *skb, __u32 as)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in;
	const struct gh_net *n;
	__u32 off, o, end;
	int i;

	if (!s)
		return GH_DROP_INTERNAL;
	in = gh_port_get(s->p.in_port);
	n = gh_net_get(as);
	if (!in || !n)
		return GH_DROP_INTERNAL;
	off = s->p.h.l4_off & GH_L4_MASK6;
	end = ETH_HLEN + s->p.h.ip_len;
	o = off + (s->p.h.icmp_type == GH_ND_RS ? 8 : 24);
	for (i = 0; i < GH_ND_OPTS; i++) {
		struct {
			__u8 type, len;
			__u8 mac[ETH_ALEN];
		} opt, was;

		o &= GH_L4_MASK6;
		if (o >= end)
			return 0;
		if (bpf_skb_load_bytes(skb, o, &opt, sizeof(opt)) || !opt.len)
			return GH_DROP_PARSE;
		if (opt.type == GH_ND_OPT_SLLA || opt.type == GH_ND_OPT_TLLA) {
			if (gh_is_endpoint(in->kind) && !gh_port_mac(s->p.in_port, in, opt.mac))
				return GH_DROP_SPOOF_ARP;
			if (as) {
				was = opt;
				__builtin_memcpy(opt.mac, n->wire_mac, ETH_ALEN);
				if (bpf_skb_store_bytes(skb, o, &opt, sizeof(opt), 0) ||
				    bpf_l4_csum_replace(skb, off + 2, 0,
							bpf_csum_diff((void *)&was, sizeof(was), (void *)&opt,
								      sizeof(opt), 0), 0))
					return GH_DROP_INTERNAL;
			}
		}
		o += opt.len * 8;
	}
	return o >= end ? 0 : GH_DROP_PARSE;
}

static __always_inline int gh_nd_answer(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	struct gh_addr target __attribute__((aligned(8)));
	const struct gh_addr_val *v;
	const struct gh_port *in;
	const struct gh_net *n;
	struct gh_nd_frame *f;
	__u8 mac[ETH_ALEN];
	struct gh_pkt *p;
	__u32 asked;
	int bad, probes;

	if (!s)
		return TC_ACT_SHOT;
	p = &s->p;
	in = gh_port_get(p->in_port);
	n = gh_net_get(p->net);
	if (!in || !n)
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	if (gh_is_endpoint(p->kind)) {
		if (!gh_own_mac(skb, p->in_port, in))
			return gh_drop(skb, s, GH_DROP_SPOOF_MAC, GH_LAYER_SPOOF);
		if (p->h.icmp_type == GH_ND_RA || p->h.icmp_type == GH_ND_REDIRECT)
			return gh_drop(skb, s, GH_DROP_RA_GUARD, GH_LAYER_SPOOF);
		if (!gh_addr_zero(&p->src) && !gh_speaks_for(p->in_port, in, &p->src) &&
		    ((n->flags & GH_NET_L2) || !gh_link_local(&p->src)))
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	}
	/* RFC 4861 section 7.1: not from a neighbour unless the hop limit is whole. */
	if (p->h.ttl != 255 || p->h.opts)
		return gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_L2);
	if (p->h.icmp_type != GH_ND_NS && p->h.icmp_type != GH_ND_NA && !(n->flags & GH_NET_ARP_PASS))
		return gh_consumed(skb, p->in_port, GH_LAYER_L2);
	f = (struct gh_nd_frame *)s->buf;
	__builtin_memset(&target, 0, sizeof(target));
	if (p->h.icmp_type == GH_ND_NS || p->h.icmp_type == GH_ND_NA) {
		if (bpf_skb_load_bytes(skb, 0, &f->eth, GH_ND_FRAME - 8))
			return gh_drop(skb, s, GH_DROP_PARSE, GH_LAYER_L2);
		__builtin_memcpy(&target, f->nd.target, 16);
	}
	if (gh_is_endpoint(p->kind)) {
		bad = gh_nd_options(skb, 0);
		if (bad)
			return gh_drop(skb, s, bad, bad == GH_DROP_SPOOF_ARP ? GH_LAYER_SPOOF : GH_LAYER_L2);
		if (p->h.icmp_type == GH_ND_NA && !gh_speaks_for(p->in_port, in, &target) &&
		    ((n->flags & GH_NET_L2) || !gh_link_local(&target)))
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
	}
	probes = p->h.icmp_type == GH_ND_NS && gh_addr_zero(&p->src) && gh_probes(p, in, &target);
	v = gh_addr_get(p->zone, &target);
	if (n->flags & GH_NET_ARP_PASS) {
		if (probes)
			return gh_drop(skb, s, GH_DROP_SPOOF_ARP, GH_LAYER_SPOOF);
		if (p->h.icmp_type != GH_ND_NS || gh_addr_zero(&p->src) || gh_whose(n, v, &target, mac) ||
		    !gh_stands_for(s, in, &target, mac))
			return gh_stage(skb, s, GH_STAGE_CONTROL);
	} else {
		if (p->h.icmp_type == GH_ND_NA)
			return gh_consumed(skb, p->in_port, GH_LAYER_L2);
		if (v && v->port == p->in_port)
			return gh_consumed(skb, p->in_port, GH_LAYER_L2); /* DAD for its own address: free */
		if (!gh_whose(n, v, &target, mac) && !gh_stands_for(s, in, &target, mac)) {
			/* Duplicate address detection of a link-local address: nobody objects. */
			if (gh_link_local(&target) && (!n->uplink || gh_addr_zero(&p->src)))
				return gh_consumed(skb, p->in_port, GH_LAYER_L2);
			return gh_unanswered(skb, s, n, probes);
		}
	}
	asked = skb->len;
	if (gh_advertise(skb, f, &p->src, &target, mac, v && (v->flags & GH_ADDR_GATEWAY)))
		return gh_drop(skb, s, GH_DROP_INTERNAL, GH_LAYER_L2);
	return gh_answer(skb, s, in, asked, 0);
}

#endif /* GH_REPLY_H */
