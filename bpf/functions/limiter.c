/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Limits the TCP connections that a source has open at once. A SYN opens one, FIN and RST of either
 * kind close it. What died without a word counts until its source has been silent for `idle` seconds.
 * Connections that were there before are let alone.
 */
#include "mesh_function.h"

#define SYN 0x02
#define FIN_RST 0x05
#define ACK 0x10

MESH_PARAMETER(u32, limit, 100, "connections of a source at once");
MESH_PARAMETER(u32, idle, 300, "seconds of silence after which a source begins anew");
MESH_COUNTER(opened, "connections that were let in");
MESH_COUNTER(refused, "connections beyond the limit");
MESH_REASON(0, "its source has too many connections");

struct connection {
	struct mesh_address source;
	struct mesh_address destination;
	u16 source_port;
	u16 destination_port;
};

struct source {
	u32 open;
	u32 seen; /* second of its last packet */
};

MESH_MAP(lru_hash, connections, struct connection, u32, 16384);
MESH_MAP(lru_hash, sources, struct mesh_address, struct source, 4096);

MESH_FUNCTION(p)
{
	struct connection key = {
		.source = p->source,
		.destination = p->destination,
		.source_port = p->source_port,
		.destination_port = p->destination_port,
	};
	u32 now = mesh_now() / 1000000000, *known;
	struct source none = {}, *source;

	if (p->protocol != IPPROTO_TCP || p->fragment == MESH_LATER_FRAGMENT)
		return mesh_next();
	source = sources.lookup_or_try_init(&key.source, &none);
	if (!source)
		return mesh_next();
	if (now - source->seen > mesh_get(idle))
		source->open = 0;
	source->seen = now;
	known = connections.lookup(&key);
	if (known && p->tcp_flags & FIN_RST) {
		connections.delete(&key);
		if (source->open)
			__sync_fetch_and_add(&source->open, -1);
	}
	if (known || (p->tcp_flags & (SYN | ACK)) != SYN)
		return mesh_next();
	if (source->open >= mesh_get(limit)) {
		mesh_count(refused);
		return mesh_drop(0);
	}
	__sync_fetch_and_add(&source->open, 1);
	connections.update(&key, &now);
	mesh_count(opened);
	return mesh_next();
}
