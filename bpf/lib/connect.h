/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services at the socket: a stream that asks for a service's address is connected to a backend of
 * it, before there is a packet, if policy lets it. What the socket was told is kept with it in
 * mesh_socket, by which the packets are judged as going to the service (socket.h).
 *
 * Decides nothing that a packet is dropped for: what is not allowed, or cannot be done here, is left
 * to the packets, which then carry the service's address. So are datagrams: of one socket they may
 * go to a service and to its backend itself, and their packets must tell which.
 */
#ifndef MESH_CONNECT_H
#define MESH_CONNECT_H

#include "lib/decide.h"

/* Who wants to go where. */
struct connect {
	__u32 own; /* id of the function */
	__u64 cookie;
	struct mesh_address address;
	__be16 port;
};

/* A backend by the service's table, as `to` has it. 0: none that could take its place. */
HOT int connect_select(const struct mesh_service *service, const struct connect *from,
		       struct mesh_socket *to)
{
	struct mesh_function *function = endpoint_get(from->own), *backend;
	struct mesh_tuple t = {
		.destination = from->address,
		.destination_port = from->port,
		.protocol = IPPROTO_TCP,
	};

	if (!function)
		return 0;
	endpoint_address(function, &from->address, &t.source);
	to->id = service_select_socket(service, &t, from->cookie);
	backend = to->id && to->id != from->own ? endpoint_get(to->id) : NULL;
	if (!backend || !endpoint_address(backend, &from->address, &to->backend))
		return 0;
	to->backend_port = service_target_port(service, from->port);
	to->service = from->address;
	to->service_port = from->port;
	to->ifindex = backend->ifindex;
	return 1;
}

/* The question that the flow's first packet would ask; MESH_OK or a reason. */
HOT int connect_judge(const struct mesh_config *config, struct mesh_judgement *j,
		      const struct connect *from, const struct mesh_socket *to, __u32 service)
{
	struct parties who = { endpoint_get(from->own), endpoint_get(to->id) };

	if (!who.opener || !who.receiver)
		return MESH_NO_FUNCTION;
	j->question.tuple.destination = from->address;
	j->question.tuple.protocol = IPPROTO_TCP;
	j->question.opener = from->own;
	j->question.receiver = to->id;
	j->question.target_port = to->backend_port;
	j->question.service = service;
	j->question.service_port = j->question.asked_port = from->port;
	judge_question(j, &who);
	return decide_policy(config, j, &who);
}

/* May it? Who is interrupted in here lets nobody else in: they leave it to the packets. */
HOT int connect_allowed(const struct mesh_config *config, const struct connect *from,
			const struct mesh_socket *to, __u32 service)
{
	__u32 zero = 0;
	struct mesh_asked *asked = mesh_asked.lookup(&zero);
	int reason = MESH_POLICY;

	if (!asked)
		return 0;
	__sync_fetch_and_add(&asked->users, 1);
	if (*(volatile __u32 *)&asked->users == 1)
		reason = connect_judge(config, &asked->judgement, from, to, service);
	__sync_fetch_and_add(&asked->users, -1);
	return !reason;
}

/*
 * 1 if the socket should be connected to the backend that `to` then has. `netns` is the cookie of
 * its namespace: only in that of a function do its packets reach us with the socket they came from,
 * and as that function's.
 */
HOT int connect_resolve(struct connect *from, struct mesh_socket *to, __u64 netns)
{
	struct mesh_service *service;
	struct mesh_config *config = mesh_config_get();
	__u32 *own = mesh_netns.lookup(&netns);

	if (!own || !config)
		return 0;
	from->own = *own;
	service = service_find(config, &from->address, from->port, IPPROTO_TCP, 0);
	return service && connect_select(service, from, to) &&
	       connect_allowed(config, from, to, service->id);
}
#endif
