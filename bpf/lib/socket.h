/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services that a socket was connected to (mesh_sock.c): its packets go to the backend itself, and
 * only the socket still knows that a service is meant. Reads mesh_socket.
 */
#ifndef MESH_SOCKET_H
#define MESH_SOCKET_H

#include "lib/address.h"

/* What the packet's socket was told when it was connected to j->question.tuple's destination, or NULL. */
HOT struct mesh_socket *socket_find(CTX *ctx, const struct mesh_judgement *j)
{
#ifndef MESH_XDP
	struct bpf_sock *sk = ctx->sk;
	struct mesh_socket *socket;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	socket = sk ? mesh_socket.sk_storage_get(sk, 0, 0) : NULL;
	if (socket && socket->backend_port == j->question.tuple.destination_port &&
	    address_equal(&socket->backend, &j->question.tuple.destination))
		return socket;
#endif
	return NULL;
}

HOT __u64 socket_cookie(CTX *ctx)
{
#ifdef MESH_XDP
	return 0;
#else
	return bpf_get_socket_cookie(ctx);
#endif
}
#endif
