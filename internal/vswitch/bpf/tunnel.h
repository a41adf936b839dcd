/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * What is on other hosts. A sender routes: a frame bears the VNI of its
 * destination's subnet and the MAC of its destination, or what the route to it
 * says. A receiver looks at the outer source and the inner addresses only.
 */
#ifndef GH_TUNNEL_H
#define GH_TUNNEL_H

#include "encap.h"
#include "route.h"

#define GH_OVERHEAD4 50 /* Ethernet 14, VXLAN 8, UDP 8, IPv4 20 */
#define GH_OVERHEAD6 70

/*
 * gh_decap() fills scratch with where a tunnel's frame belongs, or says why
 * nowhere. Global: the entries behind it are walked once, not once a family.
 */
__noinline int gh_decap(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_peer_val *v;
	struct gh_tunnel_key *k;
	struct gh_addr *from;
	struct gh_pkt *p;

	if (!s)
		return GH_DROP_INTERNAL;
	p = &s->p;
	/* Not on the stack: Linux 6.1 counts 544 bytes of it with the caller's. */
	_Static_assert(sizeof(*k) <= 64 && sizeof(*from) <= GH_BUF - 64, "both in buf");
	k = (struct gh_tunnel_key *)s->buf;
	from = (struct gh_addr *)(s->buf + 64);
	if (!bpf_skb_get_tunnel_key(skb, (struct bpf_tunnel_key *)k, sizeof(*k), 0))
		gh_addr4(from, bpf_htonl(k->remote[0]));
	else if (!bpf_skb_get_tunnel_key(skb, (struct bpf_tunnel_key *)k, sizeof(*k), BPF_F_TUNINFO_IPV6))
		__builtin_memcpy(from, k->remote, 16);
	else
		return GH_DROP_TUN_PEER;
	if (!k->vni) /* whose rows are about something else */
		return GH_DROP_TUN_VNI;
	v = gh_peer_get(k->vni, p->in_port, 0, from);
	if (!v) {
		__builtin_memset(from, 0, sizeof(*from));
		return gh_peer_get(k->vni, p->in_port, 0, from) ? GH_DROP_TUN_PEER : GH_DROP_TUN_VNI;
	}
	p->zone = v->zone;
	p->net = v->net;
	p->vtep = v->vtep;
	p->tun = k->vni;
	return 0;
}

/* Where an address on another host is reached. */
struct gh_far {
	__u32 vni;
	__u16 vtep, port;
	__u8 mac[ETH_ALEN];
	__u8 plain; /* a known endpoint, by no router */
};

static __always_inline int gh_far_find(const struct gh_port *in, __u16 id, __u16 zone, const struct gh_addr *dst,
				       struct gh_far *f)
{
	const struct gh_addr_val *av = gh_addr_get(zone, dst);
	const struct gh_route_val *rt;
	const struct gh_nh *h;

	f->plain = 1;
	if (!av) {
		f->plain = 0;
		rt = gh_route_get(in, id, zone, dst);
		h = rt ? gh_nh_get(rt->nh) : NULL;
		if (!rt || !h)
			return 0;
		if (rt->kind == GH_ROUTE_TUNNEL) {
			f->vni = h->vni;
			f->vtep = h->vtep;
			f->port = h->port;
			__builtin_memcpy(f->mac, h->mac, ETH_ALEN);
			return 1;
		}
		if (rt->kind != GH_ROUTE_VIA)
			return 0;
		av = gh_addr_get(zone, &h->via);
	}
	if (!av || !av->vtep)
		return 0;
	f->vni = av->vni;
	f->vtep = av->vtep;
	f->port = av->port;
	__builtin_memcpy(f->mac, av->mac, ETH_ALEN);
	return 1;
}

/*
 * L1 for tunnels: the inner source is somebody that this tunnel leads to. A host
 * that moves an endpoint tells everybody, so not the outer source's own only.
 */
__noinline int gh_far_source(void)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_port *in = s ? gh_port_get(s->p.in_port) : NULL;
	struct gh_far f;

	if (!in)
		return 0;
	return gh_far_find(in, 0, s->p.zone, &s->p.src, &f) && f.port == s->p.in_port;
}

/*
 * What the way to the other end has room for: less than the uplinks have where a
 * route or a router on the way says so.
 */
static __always_inline __u16 gh_far_mtu(struct __sk_buff *skb, const struct gh_vtep *v)
{
	struct bpf_fib_lookup fib = {};
	const struct gh_cfg *c = gh_config();
	__u32 overhead = GH_OVERHEAD6;

	if (!c)
		return v->mtu;
	fib.ifindex = c->anchor_ifindex;
	fib.l4_protocol = IPPROTO_UDP;
	fib.tot_len = 1;
	if (gh_is_v4(&v->addr)) {
		fib.family = GH_AF_INET;
		fib.ipv4_dst = gh_word(&v->addr, 3);
		overhead = GH_OVERHEAD4;
	} else {
		fib.family = GH_AF_INET6;
		__builtin_memcpy(fib.ipv6_dst, &v->addr, 16);
	}
	if (!gh_fib(skb, &fib))
		return v->mtu;
	if (fib.mtu_result > 1 + overhead && fib.mtu_result - overhead < v->mtu)
		return fib.mtu_result - overhead;
	return v->mtu;
}

#define GH_NARROW_RATE 8 /* a second and tunnel */

/*
 * gh_narrower() is 1 when the packet in hand, an ICMP error at an uplink whose
 * embedded tuple is turned round, says that a shell of ours was too big for the
 * way to the tunnel's other end. The host's stack gets it next and notes how much
 * fits; what goes by the tunnel asks again with its next packet. Should another
 * CPU ask before that is noted, the next one too big brings another error.
 */
__noinline int gh_narrower(struct __sk_buff *skb, __u32 icmp_off)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_peer_val *v;
	struct gh_rate *r;
	__u8 what[2];
	__u32 id, *e;

	if (!s || s->p.proto != IPPROTO_UDP)
		return 0;
	v = gh_peer_get(0, 0, s->p.sport_be, &s->p.src);
	if (!v || bpf_skb_load_bytes(skb, icmp_off, what, sizeof(what)))
		return 0;
	if (s->p.fam == 4 ? what[0] != GH_ICMP_UNREACH || what[1] != GH_ICMP_FRAG_NEEDED : what[0] != GH_ICMP6_TOOBIG)
		return 0;
	id = v->port;
	r = bpf_map_lookup_elem(&rate, &id);
	e = bpf_map_lookup_elem(&epoch, &id);
	if (r && e && gh_rate_ok(&r->narrow_s, &r->narrow_n, s->p.now_s, GH_NARROW_RATE))
		__sync_fetch_and_add(e, 1);
	return 1;
}

/* L9 for tunnels: the outer destination, the inner MACs, and how much fits. */
__noinline int gh_layer_tunnel(struct __sk_buff *skb)
{
	struct gh_scratch *s = gh_scratch_get();
	const struct gh_addr_val *own;
	const struct gh_vtep *v;
	const struct gh_port *in;
	const struct gh_net *n;
	struct gh_far f = {};
	struct gh_pkt *p;
	struct gh_walk *w;

	if (!s)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	p = &s->p;
	w = &s->w;
	in = gh_port_get(p->in_port);
	n = gh_net_get(w->net);
	if (!in || !n)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	if (!w->reply) /* a kept conversation may have gone elsewhere before */
		w->ozone = n->zone;
	if (!gh_far_find(in, p->in_port, w->ozone, w->dsr ? &w->nh : &w->ndst, &f) || f.port != w->out_port)
		return GH_NO(GH_DROP_UNKNOWN_DST, GH_LAYER_ROUTE, GH_REJECT_HOST);
	v = gh_vtep_get(f.vtep);
	if (!v || !v->mtu)
		return GH_NO(GH_DROP_INTERNAL, GH_LAYER_ROUTE, GH_REJECT_NONE);
	own = f.plain && p->zone == w->ozone ? gh_addr_get(p->zone, &p->src) : NULL;
	if (own && !own->vtep && own->vni == f.vni) {
		__builtin_memcpy(w->smac, own->mac, ETH_ALEN);
	} else {
		__builtin_memcpy(w->smac, n->router_mac, ETH_ALEN);
		w->routed = 1;
	}
	__builtin_memcpy(w->dmac, f.mac, ETH_ALEN);
	w->tun = w->dsr ? GH_SERVICE_VNI : f.vni;
	w->vtep = f.vtep;
	w->mtu = gh_far_mtu(skb, v);
	if (p->fam == 6 && w->mtu < GH_MIN_MTU6)
		w->mtu = GH_MIN_MTU6;
	return 0;
}

#endif /* GH_TUNNEL_H */
