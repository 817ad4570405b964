/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services for the host's own processes: a socket that asks for a service's address, or for a port
 * that it is published at, gets a backend, before there is a packet; what the backend says is told as
 * the service's. Streams and datagrams, connected or not.
 *
 * Judges nothing: the packets do that, on their way into the backend, as the outside's that they are,
 * and know the service by the socket (socket.h). Runs for every process of the machine, whose
 * sockets are in other namespaces than the mesh's host: to those nothing is done.
 */
#ifndef MESH_HOST_H
#define MESH_HOST_H

#include "lib/endpoint.h"
#include "lib/service.h"
#include "lib/socket.h"

/* What is to become of a socket's address. */
enum host_answer {
	HOST_AS_ASKED, /* it is no service's */
	HOST_BACKEND,
	HOST_REFUSED, /* a service's, and nobody is there to answer */
};

/* Is it a socket of the host's that may ask for services? Asked first, and of everybody's. */
HOT int host_is_ours(struct bpf_sock_addr *ctx, __u32 protocol)
{
	__u32 zero = 0;
	__u64 *netns;

	if (protocol != IPPROTO_TCP && protocol != IPPROTO_UDP)
		return 0;
	netns = mesh_host.lookup(&zero);
	return netns && *netns == bpf_get_netns_cookie(ctx);
}

/* A backend by the service's table, as `to` has it. 0: none that could take its place. */
HOT int host_select(const struct mesh_service *service, struct mesh_address *address, __be16 port,
		    __u32 protocol, __u64 cookie, struct mesh_socket *to)
{
	struct mesh_tuple t = {
		.destination = *address,
		.destination_port = port,
		.protocol = protocol,
	};
	struct mesh_function *backend;

	to->id = service_select_socket(service, &t, cookie);
	backend = to->id ? endpoint_get(to->id) : NULL;
	if (!backend || !endpoint_address(backend, address, &to->backend))
		return 0;
	to->backend_port = service_target_port(service, service_own_port(service, port));
	to->service = *address;
	to->service_port = port;
	to->ifindex = backend->ifindex;
	return 1;
}

HOT enum host_answer host_resolve(struct mesh_address *address, __be16 port, __u32 protocol,
				  __u64 cookie, struct mesh_socket *to)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_service *service =
		config ? service_lookup(config, address, port, protocol) : NULL;

	if (service)
		return host_select(service, address, port, protocol, cookie, to) ? HOST_BACKEND :
										   HOST_REFUSED;
	return endpoint_by_address(address) == MESH_SERVICE_ADDRESS ? HOST_REFUSED : HOST_AS_ASKED;
}

/* A stream has one peer, until it is connected anew. 0 if it cannot be remembered. */
HOT int host_keep_stream(struct bpf_sock *sk, const struct mesh_socket *to)
{
	struct mesh_socket *kept = mesh_socket.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (!kept)
		return 0;
	*kept = *to;
	return 1;
}

/*
 * A datagram socket has some, of which the oldest is forgotten. Two threads that send by one socket at
 * a time to services it did not know may take one entry: what has the port written last counts.
 */
HOT int host_keep_datagram(struct bpf_sock *sk, const struct mesh_socket *to)
{
	struct mesh_datagrams *all =
		mesh_datagrams.sk_storage_get(sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	struct mesh_socket *kept;

	if (!all)
		return 0;
	kept = socket_datagram(all, &to->backend, to->backend_port);
	if (!kept)
		kept = &all->of[all->next++ & (MESH_DATAGRAMS - 1)];
	*kept = *to;
	return 1;
}

/* Asked for itself, a backend is itself from then on. */
HOT void host_forget(struct bpf_sock *sk, const struct mesh_address *address, __be16 port,
		     __u32 protocol)
{
	struct mesh_datagrams *all;
	struct mesh_socket *kept;

	if (protocol == IPPROTO_TCP) {
		mesh_socket.sk_storage_delete(sk);
		return;
	}
	all = mesh_datagrams.sk_storage_get(sk, 0, 0);
	kept = all ? socket_datagram(all, address, port) : NULL;
	if (kept)
		kept->backend_port = 0;
}

/*
 * Is it where a datagram socket is connected to? What an IPv6 socket with a mapped peer sends comes by
 * once more as if it were sent there (udpv6_sendmsg() in linux/net/ipv6/udp.c).
 */
HOT int host_is_peer(const struct bpf_sock *sk, const struct mesh_address *address, __be16 port)
{
	return sk->state == BPF_TCP_ESTABLISHED && address_is4(address) &&
	       sk->dst_ip4 == address->word[3] && sk->dst_port == port;
}

/* What a socket is to do that asks for an address, with `to` where it gets a backend. */
HOT enum host_answer host_ask(struct bpf_sock_addr *ctx, struct mesh_address *address,
			      struct mesh_socket *to, int connects)
{
	__u32 protocol = ctx->protocol;
	__be16 port = ctx->user_port;
	struct bpf_sock *sk = ctx->sk;
	enum host_answer answer;

	if (!sk)
		return HOST_AS_ASKED;
	answer = host_resolve(address, port, protocol, bpf_get_socket_cookie(ctx), to);
	if (answer == HOST_AS_ASKED && (connects || !host_is_peer(sk, address, port)))
		host_forget(sk, address, port, protocol);
	if (answer != HOST_BACKEND)
		return answer;
	if (protocol == IPPROTO_TCP)
		return host_keep_stream(sk, to) ? answer : HOST_REFUSED;
	return host_keep_datagram(sk, to) ? answer : HOST_REFUSED;
}

/* What a socket that names this address as its peer's was told; or NULL. */
HOT struct mesh_socket *host_find(struct bpf_sock_addr *ctx, const struct mesh_address *address)
{
	__u32 protocol = ctx->protocol;
	__be16 port = ctx->user_port;
	struct bpf_sock *sk = ctx->sk;
	struct mesh_datagrams *all;
	struct mesh_socket *kept;

	if (!sk)
		return NULL;
	if (protocol == IPPROTO_UDP) {
		all = mesh_datagrams.sk_storage_get(sk, 0, 0);
		return all ? socket_datagram(all, address, port) : NULL;
	}
	kept = mesh_socket.sk_storage_get(sk, 0, 0);
	return kept && kept->backend_port == port && address_equal(&kept->backend, address) ? kept :
											      NULL;
}
#endif
