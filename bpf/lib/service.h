/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Services: which function answers for an address and port. The choice is Maglev's (Eisenbud et
 * al., NSDI 2016): the control plane fills a table, here it is one index. Reads mesh_service,
 * mesh_maglev.
 */
#ifndef MESH_SERVICE_H
#define MESH_SERVICE_H

#include "lib/address.h"

HOT struct mesh_service *service_find(const struct mesh_tuple *t)
{
	struct mesh_service_key key = {};

	key.address = t->destination;
	key.port = t->destination_port;
	key.protocol = t->protocol;
	return mesh_service.lookup(&key);
}

/* Mix of the five-tuple; the finaliser is that of MurmurHash3 (public domain). */
HOT __u32 service_hash(const struct mesh_tuple *t)
{
	__u32 hash = (__u32)t->source_port << 16 | t->destination_port;

#pragma unroll
	for (int i = 0; i < 4; i++)
		hash = (hash ^ t->source.word[i] ^ t->destination.word[i]) * 0x9e3779b1;
	hash ^= t->protocol;
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
	slot = service_hash(t) % service->size;
	index = service->row + slot / MESH_MAGLEV_ROW;
	row = mesh_maglev.lookup(&index);
	return row ? row->function[slot % MESH_MAGLEV_ROW] : 0;
}
#endif
