/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services at the socket: where one asks for a service's address it is given a backend's, before
 * there is a packet, and whatever it is told afterwards names the service again. Writes mesh_socket,
 * by which the packets are judged as going to the service (socket.h).
 *
 * Decides nothing that a packet is dropped for: what cannot be done here is left to the packets,
 * which then carry the service's address.
 */
#ifndef MESH_CONNECT_H
#define MESH_CONNECT_H

#include "lib/endpoint.h"
#include "lib/flow.h"
#include "lib/service.h"

/* The key under which a datagram's service leads to its backend, not the backend to its service. */
HOT struct mesh_socket_key connect_sent(const struct mesh_socket_key *service)
{
	struct mesh_socket_key key = *service;

	key.sent = 1;
	return key;
}

/*
 * The backend that datagrams of this socket went to, as long as it lives and the time of a flow is
 * not over: as if the socket's packets had found their flow entry. 0: none. `peer`, where there is
 * one, becomes the backend.
 */
HOT __u32 connect_kept(const struct mesh_config *config, struct mesh_socket_key *peer)
{
	struct mesh_socket_key key = connect_sent(peer);
	struct mesh_socket *sent = mesh_socket.lookup(&key), *record;
	struct mesh_function *backend;
	__u32 id;

	if (!sent)
		return 0;
	id = sent->backend;
	key.address = sent->address;
	key.port = sent->port;
	key.sent = 0;
	backend = endpoint_get(id);
	record = mesh_socket.lookup(&key);
	if (!backend || !record || record->port != peer->port ||
	    !address_equal(&record->address, &peer->address) ||
	    backend->ifindex != record->ifindex ||
	    flow_clock() - record->seen > config->timeouts[MESH_TIMEOUT_UDP])
		return 0;
	*peer = key;
	return id;
}

/*
 * A backend by the service's table. A source port is not known yet: the socket itself decides, or
 * with affinity the function's address, as in a packet. 0: none that could take its place.
 */
HOT __u32 connect_select(const struct mesh_service *service, struct mesh_socket_key *peer,
			 __u32 own)
{
	struct mesh_function *function = endpoint_get(own), *backend;
	struct mesh_tuple t = {
		.destination = peer->address,
		.destination_port = peer->port,
		.protocol = peer->protocol,
	};
	struct mesh_address address;
	__u32 id;

	if (!function)
		return 0;
	endpoint_address(function, &peer->address, &t.source);
	if (!(service->flags & MESH_SVC_AFFINITY)) {
		t.source.word[0] = peer->cookie;
		t.source.word[1] = peer->cookie >> 32;
	}
	id = service_select(service, &t);
	backend = id && id != own ? endpoint_get(id) : NULL;
	if (!backend || !endpoint_address(backend, &peer->address, &address))
		return 0;
	peer->address = address;
	peer->port = service_target_port(service, peer->port);
	return id;
}

/* 1 if it is there. As flow_store_whole() does: what nobody looks up goes first. */
HOT int connect_store(struct mesh_socket_key *key, struct mesh_socket *record)
{
	return !mesh_socket.update(key, record) && mesh_socket.lookup(key);
}

HOT int connect_record(const struct mesh_socket_key *service, const struct mesh_socket_key *peer,
		       __u32 id, __u32 backend)
{
	struct mesh_function *function = endpoint_get(backend);
	struct mesh_socket record = {
		.address = service->address,
		.port = service->port,
		.service = id,
		.backend = backend,
		.ifindex = function ? function->ifindex : 0,
		.seen = flow_clock(),
	};
	struct mesh_socket_key key = *peer;

	if (!connect_store(&key, &record))
		return 0;
	if (peer->protocol != IPPROTO_UDP)
		return 1;
	key = connect_sent(service);
	record.address = peer->address;
	record.port = peer->port;
	return connect_store(&key, &record);
}

/*
 * `peer` is where a socket wants to go: 1 if it is now the backend of the service it was. `netns`
 * is the cookie of its namespace: only in that of a function do its packets reach us with the
 * socket they came from, and as that function's.
 */
HOT int connect_resolve(struct mesh_socket_key *peer, __u64 netns)
{
	struct mesh_socket_key service_key = *peer;
	struct mesh_service *service;
	struct mesh_config *config;
	__u32 zero = 0, *own, id;

	own = mesh_netns.lookup(&netns);
	config = mesh_config.lookup(&zero);
	if (!own || !config)
		return 0;
	service = service_find(config, &peer->address, peer->port, peer->protocol);
	if (!service)
		return 0;
	id = peer->protocol == IPPROTO_UDP ? connect_kept(config, peer) : 0;
	if (!id)
		id = connect_select(service, peer, *own);
	return id && connect_record(&service_key, peer, service->id, id);
}

/* A socket that is connected anew means `peer` itself, though it was the backend of a service. */
HOT void connect_forget(struct mesh_socket_key *peer)
{
	if (mesh_socket.lookup(peer))
		mesh_socket.delete(peer);
}

/* `peer` is whom a socket hears or names: 1 if it is now the service whose backend it was. */
HOT int connect_restore(struct mesh_socket_key *peer)
{
	struct mesh_socket *record = mesh_socket.lookup(peer);

	if (!record)
		return 0;
	record->seen = flow_clock();
	peer->address = record->address;
	peer->port = record->port;
	return 1;
}
#endif
