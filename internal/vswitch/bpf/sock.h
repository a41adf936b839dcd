/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Copyright The gatehouse authors */

/*
 * Published ports for the host's own processes: the address a socket asks for
 * is exchanged for the backend's before the kernel looks for a route, so that
 * 127.0.0.1 and ::1 work and no packet is translated. These run in process
 * context and may be preempted: no scratch here.
 */
#ifndef GH_SOCK_H
#define GH_SOCK_H

#include "lb.h"

#define GH_SOCK_ALLOW 1

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

/*
 * gh_sock_ask() exchanges dst and port_be for a backend's and remembers what was
 * asked for. Returns 0 when the address is not published.
 */
static __always_inline int gh_sock_ask(struct bpf_sock_addr *ctx, struct gh_addr *dst, __u16 *port_be)
{
	struct gh_sockrev_val was __attribute__((aligned(8))) = { .port_be = *port_be };
	struct gh_sockrev_key k __attribute__((aligned(8))) = {};
	const struct gh_svc_val *sv;
	const struct gh_backend *b;
	__u8 proto = ctx->protocol;
	int loop;

	if (!*port_be || !gh_our_netns(ctx))
		return 0;
	gh_addr_set(&was.addr, dst);
	loop = gh_loopback(dst);
	if (!loop && !gh_is_host(dst))
		return 0;
	sv = gh_svc_get(dst, *port_be, GH_ZONE_HOST, proto, GH_SCOPE_ANY);
	if (!sv && loop)
		sv = gh_svc_get(dst, *port_be, GH_ZONE_HOST, proto, GH_SCOPE_HOST);
	if (!sv)
		sv = gh_svc_any(dst, *port_be, proto);
	if (!sv)
		return 0;
	b = gh_backend_get(gh_backend_pick(sv, bpf_get_prandom_u32()));
	if (!gh_backend_ok(b) || gh_is_v4(&b->addr) != gh_is_v4(dst))
		return 0;
	gh_addr_set(dst, &b->addr);
	*port_be = b->port_be;
	k.cookie = bpf_get_socket_cookie(ctx);
	gh_addr_set(&k.addr, dst);
	k.port_be = *port_be;
	bpf_map_update_elem(&sockrev, &k, &was, BPF_ANY);
	return 1;
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

static __always_inline int gh_sock_ask4(struct bpf_sock_addr *ctx)
{
	struct gh_addr a __attribute__((aligned(8)));
	__u16 port_be = ctx->user_port;

	gh_addr4(&a, ctx->user_ip4);
	if (gh_sock_ask(ctx, &a, &port_be)) {
		ctx->user_ip4 = gh_word(&a, 3);
		ctx->user_port = port_be;
	}
	return GH_SOCK_ALLOW;
}

static __always_inline int gh_sock_ask6(struct bpf_sock_addr *ctx)
{
	struct gh_addr a __attribute__((aligned(8)));
	__u16 port_be = ctx->user_port;

	gh_sock_get6(ctx, &a);
	if (gh_sock_ask(ctx, &a, &port_be))
		gh_sock_set6(ctx, &a, port_be);
	return GH_SOCK_ALLOW;
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

#endif /* GH_SOCK_H */
