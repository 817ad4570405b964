/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Shows one packet in `every`, by chance, to a reader in user space: when, how long, and its first
 * bytes. What finds no room in the ring is counted.
 */
#include "mesh_function.h"

#define BYTES 64

MESH_PARAMETER(u32, every, 1000, "packets of which one is shown; 0: none is");
MESH_COUNTER(sampled, "packets shown");
MESH_COUNTER(lost, "packets that found no room in the ring");

struct sample {
	u64 time; /* CLOCK_MONOTONIC, nanoseconds */
	u32 length;
	u32 captured;
	u8 bytes[BYTES];
};

MESH_RING(samples, 262144);

MESH_FUNCTION(p)
{
	struct sample sample = { .time = mesh_now(), .length = p->length };
	u32 every = mesh_get(every);

	if (!every || mesh_random() % every)
		return mesh_next();
	if (!mesh_read(p, 0, sample.bytes, BYTES))
		sample.captured = BYTES;
	else if (!mesh_read(p, 0, sample.bytes, BYTES / 2))
		sample.captured = BYTES / 2;
	if (samples.ringbuf_output(&sample, sizeof(sample), 0))
		mesh_count(lost);
	else
		mesh_count(sampled);
	return mesh_next();
}
