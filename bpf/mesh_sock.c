/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The mesh at sockets, attached to the cgroup above those of its functions: a stream that asks for a
 * service meets a backend, and its getpeername() tells the service. The packets in between have
 * nothing to translate. A connection is never refused here; every program returns 1.
 */
#include "lib/mesh.h"
#include "lib/connect.h"

/* MPTCP has another 8 bits up. */
HOT int sock_is_stream(struct bpf_sock_addr *ctx)
{
	__u32 protocol = ctx->protocol;

	return protocol == IPPROTO_TCP;
}

/* An IPv6 socket with a mapped address makes IPv4 packets; the maps have them just so. */
HOT void sock_get6(struct bpf_sock_addr *ctx, struct mesh_address *address)
{
	address->word[0] = ctx->user_ip6[0];
	address->word[1] = ctx->user_ip6[1];
	address->word[2] = ctx->user_ip6[2];
	address->word[3] = ctx->user_ip6[3];
}

HOT void sock_set6(struct bpf_sock_addr *ctx, const struct mesh_address *address)
{
	ctx->user_ip6[0] = address->word[0];
	ctx->user_ip6[1] = address->word[1];
	ctx->user_ip6[2] = address->word[2];
	ctx->user_ip6[3] = address->word[3];
}

/* 1 if the socket goes to the backend that `to` has, and remembers the service. */
HOT int sock_connect(struct bpf_sock_addr *ctx, struct connect *from, struct mesh_socket *to)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_socket *kept;

	if (!sk)
		return 0;
	from->port = ctx->user_port;
	from->cookie = bpf_get_socket_cookie(ctx);
	if (!connect_resolve(from, to, bpf_get_netns_cookie(ctx))) {
		/* Connected anew it means whom it names, though that was a service's backend. */
		mesh_socket.sk_storage_delete(sk);
		return 0;
	}
	kept = mesh_socket.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!kept)
		return 0;
	*kept = *to;
	return 1;
}

/* What a socket that names this address as its peer was told; or NULL. */
HOT struct mesh_socket *sock_find(struct bpf_sock_addr *ctx, const struct mesh_address *address)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_socket *kept = sk ? mesh_socket.sk_storage_get(sk, 0, 0) : NULL;

	if (!kept || kept->backend_port != (__be16)ctx->user_port)
		return NULL;
	return address_equal(&kept->backend, address) ? kept : NULL;
}

int mesh_connect4(struct bpf_sock_addr *ctx)
{
	struct mesh_socket to = {};
	struct connect from = {};

	if (!sock_is_stream(ctx))
		return 1;
	address_set4(&from.address, ctx->user_ip4);
	if (sock_connect(ctx, &from, &to)) {
		ctx->user_ip4 = to.backend.word[3];
		ctx->user_port = to.backend_port;
	}
	return 1;
}

int mesh_connect6(struct bpf_sock_addr *ctx)
{
	struct mesh_socket to = {};
	struct connect from = {};

	if (!sock_is_stream(ctx))
		return 1;
	sock_get6(ctx, &from.address);
	if (sock_connect(ctx, &from, &to)) {
		sock_set6(ctx, &to.backend);
		ctx->user_port = to.backend_port;
	}
	return 1;
}

int mesh_peername4(struct bpf_sock_addr *ctx)
{
	struct mesh_socket *kept;
	struct mesh_address peer;

	if (!sock_is_stream(ctx))
		return 1;
	address_set4(&peer, ctx->user_ip4);
	kept = sock_find(ctx, &peer);
	if (kept) {
		ctx->user_ip4 = kept->service.word[3];
		ctx->user_port = kept->service_port;
	}
	return 1;
}

int mesh_peername6(struct bpf_sock_addr *ctx)
{
	struct mesh_socket *kept;
	struct mesh_address peer;

	if (!sock_is_stream(ctx))
		return 1;
	sock_get6(ctx, &peer);
	kept = sock_find(ctx, &peer);
	if (kept) {
		sock_set6(ctx, &kept->service);
		ctx->user_port = kept->service_port;
	}
	return 1;
}
