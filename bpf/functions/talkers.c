/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Counts packets and bytes by source, on each CPU by itself. The version before it counted packets
 * alone, `u64` by source: what it knew goes on, with as many bytes as the shortest packets would
 * have, and sources that sent one packet are forgotten.
 */
#include "mesh_function.h"

#define SHORTEST 60

MESH_COUNTER(unknown, "packets without a source");

struct talker {
	u64 packets;
	u64 bytes;
};

MESH_MAP(lru_percpu_hash, talkers, struct mesh_address, struct talker, 4096);

MESH_MIGRATE(talkers, u64, was, now)
{
	now->packets = *was;
	now->bytes = SHORTEST * now->packets;
	return *was > 1;
}

MESH_FUNCTION(p)
{
	struct talker *talker, first = { .packets = 1, .bytes = p->length };
	struct mesh_address source = p->source;

	if (!p->version) {
		mesh_count(unknown);
		return mesh_next();
	}
	talker = talkers.lookup(&source);
	if (talker) {
		talker->packets++;
		talker->bytes += p->length;
	} else {
		talkers.update(&source, &first);
	}
	return mesh_next();
}
