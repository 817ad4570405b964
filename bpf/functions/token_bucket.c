/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A token bucket for each flow: what is over its rate is dropped. The bucket is one number, the time
 * at which it will be full again (GCRA, ITU-T I.371), so that nothing has to refill it. Two CPUs that
 * take from one bucket at once may take one packet too many.
 */
#include "mesh_function.h"

MESH_PARAMETER(u64, rate, 1250000, "bytes a second of each flow; 0: no limit");
MESH_PARAMETER(u64, burst, 125000, "bytes that may come at once");
MESH_COUNTER(passed, "packets within the rate");
MESH_COUNTER(dropped, "packets over the rate");
MESH_REASON(0, "over the rate of its flow");

struct flow {
	struct mesh_address source;
	struct mesh_address destination;
	u16 source_port;
	u16 destination_port;
	u32 protocol;
};

MESH_MAP(lru_hash, buckets, struct flow, u64, 16384);

MESH_FUNCTION(p)
{
	struct flow flow = {
		.source = p->source,
		.destination = p->destination,
		.source_port = p->source_port,
		.destination_port = p->destination_port,
		.protocol = p->protocol,
	};
	u64 now = mesh_now(), rate = mesh_get(rate), cost, room, *bucket, full;

	if (!rate)
		return mesh_next();
	cost = p->length * 1000000000ULL / rate;
	room = mesh_get(burst) * 1000000000ULL / rate;
	bucket = buckets.lookup(&flow);
	full = bucket && *bucket > now ? *bucket : now;
	if (full + cost > now + room) {
		mesh_count(dropped);
		return mesh_drop(0);
	}
	full += cost;
	if (bucket)
		*bucket = full;
	else
		buckets.update(&flow, &full);
	mesh_count(passed);
	return mesh_next();
}
