/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Services for the host's own processes: the address a socket asks for is
 * exchanged for a backend's before the kernel looks for a route, so that
 * 127.0.0.1 and ::1 work and no packet is translated. These run in process
 * context and may be preempted: no scratch here.
 *
 * A connected socket stays with its backend until it is closed, whatever becomes
 * of that: TCP hears of it by the network. UDP that was connected does not.
 */
#ifndef GH_SOCK_H
#define GH_SOCK_H

#include "lb.h"

#define GH_SOCK_ALLOW 1
#define GH_ECONNREFUSED 111

/* Sockets of other network namespaces are none of our business. */
static __always_inline int gh_our_netns(struct bpf_sock_addr *ctx)
{
	const struct gh_cfg *c = gh_config();

	return c && c->netns_cookie && bpf_get_netns_cookie(ctx) == c->netns_cookie;
}

static __always_inline int gh_loopback(struct gh_addr *a)
{
	const __u8 *b = a->b;

	if (gh_is_v4(a)) {
		/* 0.0.0.0 as a destination is this host */
		if (!gh_word(a, 3))
			gh_addr4(a, bpf_htonl(0x7f000001));
		return b[12] == 127;
	}
	if (gh_word(a, 0) || gh_word(a, 1) || gh_word(a, 2))
		return 0;
	if (!gh_word(a, 3))
		a->b[15] = 1;
	return gh_word(a, 3) == bpf_htonl(1);
}

enum gh_ask {
	GH_ASK_NOBODY = 0, /* not published: stays as it is */
	GH_ASK_BACKEND = 1,
	GH_ASK_REFUSED = 2,
	GH_ASK_DENIED = 3, /* the service keeps silent where it has nobody */
};

/*
 * gh_sock_ask() exchanges dst and port_be for a backend's and remembers what was
 * asked for. A socket that connects may get another backend each time; one that
 * only sends keeps its own while the service is the same.
 */
static __always_inline int gh_sock_ask(struct bpf_sock_addr *ctx, struct gh_addr *dst, __u16 *port_be, int connect)
{
	struct gh_affinity_key who __attribute__((aligned(8))) = { .kind = GH_CLIENT_NETNS };
	struct gh_sockrev_val was __attribute__((aligned(8))) = { .port_be = *port_be };
	struct gh_sockrev_key k __attribute__((aligned(8))) = {};
	const struct gh_svc_val *sv;
	const struct gh_member *mb;
	__u8 proto = ctx->protocol;
	int loop, host;
	__u32 hash, id;

	if (!*port_be || !gh_our_netns(ctx))
		return GH_ASK_NOBODY;
	gh_addr_set(&was.addr, dst);
	loop = gh_loopback(dst);
	host = loop || gh_is_host(dst);
	sv = gh_svc_find(dst, *port_be, GH_ZONE_HOST, proto, host, GH_SVC_HOST);
	if (!sv)
		return GH_ASK_NOBODY;
	k.cookie = bpf_get_socket_cookie(ctx);
	*(__u64 *)who.client.b = bpf_get_netns_cookie(ctx);
	who.svc = sv->id;
	hash = connect ? bpf_get_prandom_u32() : gh_mix(k.cookie, k.cookie >> 32);
	id = gh_pick(sv, &who, hash, gh_now_s(), 0);
	mb = gh_member_get(sv->id, id);
	if (!mb) { /* or the bank was replaced between the two */
		sv = gh_svc_find(dst, *port_be, GH_ZONE_HOST, proto, host, GH_SVC_HOST);
		if (!sv)
			return GH_ASK_NOBODY;
		mb = gh_member_get(sv->id, gh_pick(sv, &who, hash, gh_now_s(), 0));
	}
	if (connect)
		gh_svc_count(sv->id, !mb);
	if (!mb)
		return sv->flags & GH_SVC_DROP ? GH_ASK_DENIED : GH_ASK_REFUSED;
	gh_addr_set(dst, &mb->addr);
	*port_be = mb->port_be;
	gh_addr_set(&k.addr, dst);
	k.port_be = *port_be;
	bpf_map_update_elem(&sockrev, &k, &was, BPF_ANY);
	return GH_ASK_BACKEND;
}

/* What the system call makes of it: a denied one fails with EPERM. */
static __always_inline int gh_sock_verdict(int ask)
{
	if (ask == GH_ASK_REFUSED)
		bpf_set_retval(-GH_ECONNREFUSED);
	return ask != GH_ASK_REFUSED && ask != GH_ASK_DENIED;
}

/* gh_sock_show() exchanges a backend's address for what the socket asked for. */
static __always_inline int gh_sock_show(struct bpf_sock_addr *ctx, struct gh_addr *src, __u16 *port_be)
{
	struct gh_sockrev_key k __attribute__((aligned(8))) = {};
	struct gh_sockrev_val *was;

	if (!gh_our_netns(ctx))
		return 0;
	k.cookie = bpf_get_socket_cookie(ctx);
	gh_addr_set(&k.addr, src);
	k.port_be = *port_be;
	was = bpf_map_lookup_elem(&sockrev, &k);
	if (!was)
		return 0;
	gh_addr_set(src, &was->addr);
	*port_be = was->port_be;
	return 1;
}

static __always_inline void gh_sock_get6(struct bpf_sock_addr *ctx, struct gh_addr *a)
{
	__u32 *w = (__u32 *)a->b;

	w[0] = ctx->user_ip6[0];
	w[1] = ctx->user_ip6[1];
	w[2] = ctx->user_ip6[2];
	w[3] = ctx->user_ip6[3];
}

static __always_inline void gh_sock_set6(struct bpf_sock_addr *ctx, const struct gh_addr *a, __u16 port_be)
{
	ctx->user_ip6[0] = gh_word(a, 0);
	ctx->user_ip6[1] = gh_word(a, 1);
	ctx->user_ip6[2] = gh_word(a, 2);
	ctx->user_ip6[3] = gh_word(a, 3);
	ctx->user_port = port_be;
}

static __always_inline int gh_sock_ask4(struct bpf_sock_addr *ctx, int connect)
{
	struct gh_addr a __attribute__((aligned(8)));
	__u16 port_be = ctx->user_port;
	int ask;

	gh_addr4(&a, ctx->user_ip4);
	ask = gh_sock_ask(ctx, &a, &port_be, connect);
	if (ask == GH_ASK_BACKEND) {
		ctx->user_ip4 = gh_word(&a, 3);
		ctx->user_port = port_be;
	}
	return gh_sock_verdict(ask);
}

static __always_inline int gh_sock_ask6(struct bpf_sock_addr *ctx, int connect)
{
	struct gh_addr a __attribute__((aligned(8)));
	__u16 port_be = ctx->user_port;
	int ask;

	gh_sock_get6(ctx, &a);
	ask = gh_sock_ask(ctx, &a, &port_be, connect);
	if (ask == GH_ASK_BACKEND)
		gh_sock_set6(ctx, &a, port_be);
	return gh_sock_verdict(ask);
}

static __always_inline int gh_sock_show4(struct bpf_sock_addr *ctx)
{
	struct gh_addr a __attribute__((aligned(8)));
	__u16 port_be = ctx->user_port;

	gh_addr4(&a, ctx->user_ip4);
	if (gh_sock_show(ctx, &a, &port_be)) {
		ctx->user_ip4 = gh_word(&a, 3);
		ctx->user_port = port_be;
	}
	return GH_SOCK_ALLOW;
}

static __always_inline int gh_sock_show6(struct bpf_sock_addr *ctx)
{
	struct gh_addr a __attribute__((aligned(8)));
	__u16 port_be = ctx->user_port;

	gh_sock_get6(ctx, &a);
	if (gh_sock_show(ctx, &a, &port_be))
		gh_sock_set6(ctx, &a, port_be);
	return GH_SOCK_ALLOW;
}

/*
 * gh_sock_gone() forgets what a closed socket asked for when it connected. Of one
 * that only sent, the table forgets the oldest by itself.
 */
static __always_inline void gh_sock_gone(struct bpf_sock *ctx)
{
	struct gh_sockrev_key k __attribute__((aligned(8))) = {};
	__u32 *w = (__u32 *)k.addr.b;

	if (!ctx->dst_port)
		return;
	k.cookie = bpf_get_socket_cookie(ctx);
	k.port_be = ctx->dst_port;
	if (ctx->family == GH_AF_INET) {
		gh_addr4(&k.addr, ctx->dst_ip4);
	} else {
		w[0] = ctx->dst_ip6[0];
		w[1] = ctx->dst_ip6[1];
		w[2] = ctx->dst_ip6[2];
		w[3] = ctx->dst_ip6[3];
	}
	bpf_map_delete_elem(&sockrev, &k);
}

#endif /* GH_SOCK_H */
