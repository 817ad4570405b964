/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The mesh at sockets, attached to the cgroup above those of its functions: connect and sendmsg of
 * a service meet a backend, recvmsg and getpeername tell the service. The packets in between have
 * nothing to translate. A connection is never refused here; every program returns 1.
 */
#include "lib/mesh.h"
#include "lib/connect.h"

/* An IPv6 socket with a mapped address makes IPv4 packets; the maps have them just so. */
HOT int sock_key(struct bpf_sock_addr *ctx, struct mesh_socket_key *key)
{
	__u32 protocol = ctx->protocol;

	key->protocol = protocol;
	key->port = ctx->user_port;
	key->cookie = bpf_get_socket_cookie(ctx);
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP; /* MPTCP has another 8 bits up */
}

HOT int sock_key4(struct bpf_sock_addr *ctx, struct mesh_socket_key *key)
{
	address_set4(&key->address, ctx->user_ip4);
	return sock_key(ctx, key);
}

HOT int sock_key6(struct bpf_sock_addr *ctx, struct mesh_socket_key *key)
{
	key->address.word[0] = ctx->user_ip6[0];
	key->address.word[1] = ctx->user_ip6[1];
	key->address.word[2] = ctx->user_ip6[2];
	key->address.word[3] = ctx->user_ip6[3];
	return sock_key(ctx, key);
}

HOT void sock_set4(struct bpf_sock_addr *ctx, const struct mesh_socket_key *key)
{
	ctx->user_ip4 = key->address.word[3];
	ctx->user_port = key->port;
}

HOT void sock_set6(struct bpf_sock_addr *ctx, const struct mesh_socket_key *key)
{
	ctx->user_ip6[0] = key->address.word[0];
	ctx->user_ip6[1] = key->address.word[1];
	ctx->user_ip6[2] = key->address.word[2];
	ctx->user_ip6[3] = key->address.word[3];
	ctx->user_port = key->port;
}

/* A datagram on its way to the address its socket is connected to may come by here as well. */
HOT int sock_resolve4(struct bpf_sock_addr *ctx, int connect)
{
	struct mesh_socket_key key = {};

	if (!sock_key4(ctx, &key))
		return 1;
	if (connect_resolve(&key, bpf_get_netns_cookie(ctx)))
		sock_set4(ctx, &key);
	else if (connect)
		connect_forget(&key);
	return 1;
}

HOT int sock_resolve6(struct bpf_sock_addr *ctx, int connect)
{
	struct mesh_socket_key key = {};

	if (!sock_key6(ctx, &key))
		return 1;
	if (connect_resolve(&key, bpf_get_netns_cookie(ctx)))
		sock_set6(ctx, &key);
	else if (connect)
		connect_forget(&key);
	return 1;
}

HOT int sock_restore4(struct bpf_sock_addr *ctx)
{
	struct mesh_socket_key key = {};

	if (sock_key4(ctx, &key) && connect_restore(&key))
		sock_set4(ctx, &key);
	return 1;
}

HOT int sock_restore6(struct bpf_sock_addr *ctx)
{
	struct mesh_socket_key key = {};

	if (sock_key6(ctx, &key) && connect_restore(&key))
		sock_set6(ctx, &key);
	return 1;
}

int mesh_connect4(struct bpf_sock_addr *ctx)
{
	return sock_resolve4(ctx, 1);
}

int mesh_connect6(struct bpf_sock_addr *ctx)
{
	return sock_resolve6(ctx, 1);
}

int mesh_sendmsg4(struct bpf_sock_addr *ctx)
{
	return sock_resolve4(ctx, 0);
}

int mesh_sendmsg6(struct bpf_sock_addr *ctx)
{
	return sock_resolve6(ctx, 0);
}

int mesh_recvmsg4(struct bpf_sock_addr *ctx)
{
	return sock_restore4(ctx);
}

int mesh_recvmsg6(struct bpf_sock_addr *ctx)
{
	return sock_restore6(ctx);
}

int mesh_peername4(struct bpf_sock_addr *ctx)
{
	return sock_restore4(ctx);
}

int mesh_peername6(struct bpf_sock_addr *ctx)
{
	return sock_restore6(ctx);
}
