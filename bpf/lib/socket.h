/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services that a socket was connected to (mesh_sock.c, mesh_host.c): its packets go to the backend
 * itself, and only the socket still knows that a service is meant. Reads mesh_socket, mesh_datagrams.
 */
#ifndef MESH_SOCKET_H
#define MESH_SOCKET_H

#include "lib/address.h"

/* What a datagram socket was told of an address and port, or NULL. */
HOT struct mesh_socket *socket_datagram(struct mesh_datagrams *all,
					const struct mesh_address *backend, __be16 port)
{
#pragma unroll
	for (int i = 0; i < MESH_DATAGRAMS; i++) {
		if (all->of[i].backend_port == port && address_equal(&all->of[i].backend, backend))
			return &all->of[i];
	}
	return NULL;
}

/* What the packet's socket was told when it was connected to j->question.tuple's destination, or NULL. */
HOT struct mesh_socket *socket_find(CTX *ctx, const struct mesh_judgement *j)
{
	struct bpf_sock *sk = ctx->sk;
	struct mesh_datagrams *datagrams;
	struct mesh_socket *socket;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (j->question.tuple.protocol == IPPROTO_UDP) { /* those of functions are not looked at */
		if (!sk || j->packet.direction != MESH_TO_FN)
			return NULL;
		datagrams = mesh_datagrams.sk_storage_get(sk, 0, 0);
		return datagrams ? socket_datagram(datagrams, &j->question.tuple.destination,
						   j->question.tuple.destination_port) :
				   NULL;
	}
	socket = sk ? mesh_socket.sk_storage_get(sk, 0, 0) : NULL;
	if (socket && socket->backend_port == j->question.tuple.destination_port &&
	    address_equal(&socket->backend, &j->question.tuple.destination))
		return socket;
	return NULL;
}

HOT __u64 socket_cookie(CTX *ctx)
{
	return bpf_get_socket_cookie(ctx);
}
#endif
