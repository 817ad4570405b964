/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services: which function answers for an address and port. The choice is Maglev's (Eisenbud et
 * al., NSDI 2016): the control plane fills a table, here it is one index. Reads mesh_service,
 * mesh_maglev.
 */
#ifndef MESH_SERVICE_H
#define MESH_SERVICE_H

#include "lib/address.h"

/* The leading `bits` of a port or another 16-bit number in network order, the others 0. */
HOT __be16 port_prefix(__be16 port, __u32 bits)
{
	return port & bpf_htons(0xffff << (16 - bits));
}

/* By its port; else by the ranges of ports there are, each a few prefixes, the narrowest first. */
HOT struct mesh_service *service_lookup(const struct mesh_config *config,
					const struct mesh_address *address, __be16 port,
					__u32 protocol)
{
	struct mesh_service_key key = { .address = *address, .port = port, .protocol = protocol };
	struct mesh_service *service;

	key.depth = 16;
	service = mesh_service.lookup(&key);
	if (service || !(config->service_depths & 0xffff))
		return service;
#pragma clang loop unroll(disable)
	for (__u32 depth = 15; depth < 16; depth--) {
		loop_head(depth);
		if (config->service_depths >> depth & 1) {
			key.port = port_prefix(port, depth);
			key.depth = depth;
			service = mesh_service.lookup(&key);
			if (service)
				return service;
		}
	}
	return NULL;
}

/* The service of an address, for packets of an uplink, 0: for those of functions; or NULL. */
HOT struct mesh_service *service_find(const struct mesh_config *config,
				      const struct mesh_address *address, __be16 port,
				      __u32 protocol, __u32 uplink)
{
	struct mesh_service *service = service_lookup(config, address, port, protocol);

	return service && service->uplink == uplink ? service : NULL;
}

HOT __be16 service_own_port(const struct mesh_service *service, __be16 port)
{
	return bpf_htons(bpf_ntohs(port) + service->own);
}

HOT __be16 service_target_port(const struct mesh_service *service, __be16 port)
{
	return bpf_htons(bpf_ntohs(port) + service->shift);
}

/*
 * Mix of the five-tuple, or with affinity of the source's address alone; the finaliser is that of
 * MurmurHash3 (public domain).
 */
HOT __u32 service_hash(const struct mesh_tuple *t, __u32 affinity)
{
	__u32 hash = 0;

	if (!affinity) {
		hash = ((__u32)t->source_port << 16 | t->destination_port) ^ t->protocol;
#pragma unroll
		for (int i = 0; i < 4; i++)
			hash = (hash ^ t->destination.word[i]) * 0x9e3779b1;
	}
#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = (hash ^ t->source.word[i]) * 0x9e3779b1;
	hash = (hash ^ hash >> 16) * 0x85ebca6b;
	hash = (hash ^ hash >> 13) * 0xc2b2ae35;
	return hash ^ hash >> 16;
}

/* Id of the function that a new flow goes to, 0 if the service has none. */
HOT __u32 service_select(const struct mesh_service *service, const struct mesh_tuple *t)
{
	struct mesh_maglev_row *row;
	__u32 slot, index;

	if (!service->size)
		return 0;
	slot = service_hash(t, service->flags & MESH_SVC_AFFINITY) % service->size;
	index = service->row + slot / MESH_MAGLEV_ROW;
	row = mesh_maglev.lookup(&index);
	return row ? row->function[slot % MESH_MAGLEV_ROW] : 0;
}

/*
 * The same for a socket, whose port is not known when it is connected: its cookie decides, or with
 * affinity the source's address, as in a packet.
 */
HOT __u32 service_select_socket(const struct mesh_service *service, struct mesh_tuple *t,
				__u64 cookie)
{
	t->source_port = 0;
	if (!(service->flags & MESH_SVC_AFFINITY)) {
		t->source.word[0] = cookie;
		t->source.word[1] = cookie >> 32;
	}
	return service_select(service, t);
}
#endif
