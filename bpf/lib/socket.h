/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services that a socket was connected to (mesh_sock.c): its packets go to the backend itself, and
 * only the socket still knows that a service is meant. Reads mesh_socket.
 */
#ifndef MESH_SOCKET_H
#define MESH_SOCKET_H

#include "lib/address.h"

/*
 * 1 with the service's address and port in `j` if there is one, and for a new flow with the
 * backend it has.
 */
HOT int socket_find(CTX *ctx, struct mesh_judgement *j)
{
#ifndef MESH_XDP
	struct mesh_socket_key key = {
		.address = j->tuple.destination,
		.port = j->tuple.destination_port,
		.protocol = j->tuple.protocol,
	};
	struct mesh_socket *socket;

	key.cookie = bpf_get_socket_cookie(ctx);
	socket = key.cookie ? mesh_socket.lookup(&key) : NULL;
	if (!socket)
		return 0;
	j->service_address = socket->address;
	j->service_port = socket->port;
	if (j->backend)
		return 1;
	j->flags |= MESH_FLOW_SOCKET;
	j->backend = socket->backend;
	j->backend_ifindex = socket->ifindex;
	return 1;
#else
	return 0;
#endif
}
#endif
