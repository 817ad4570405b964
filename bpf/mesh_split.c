/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Which of two versions of an injected function a flow meets: 1 for its canary, 0 for the other. A flow
 * goes the same way as long as `share` stays, both directions alike; fragments of one datagram, of which
 * only the first has ports, go by addresses. What follows it is two tail calls, see compose.py.
 */
#include "mesh_function.h"

MESH_PARAMETER(u32, share, 0, "of 65536 flows that many meet the canary");
MESH_COUNTER(stable, "packets that met the one before");
MESH_COUNTER(canary, "packets that met the canary");

MESH_FUNCTION(p)
{
	u64 hash = p->protocol;
	u32 i, ports = 0;

	if (p->fragment == MESH_WHOLE)
		ports = (u32)p->source_port * p->destination_port + p->source_port +
			p->destination_port;
	hash = mesh_mix(hash, ports);
#pragma unroll
	for (i = 0; i < 4; i++)
		hash = mesh_mix(hash, (u64)(p->source.word[i] ^ p->destination.word[i]) << 32 |
					      (p->source.word[i] + p->destination.word[i]));
	if ((hash & 0xffff) < mesh_get(share)) {
		mesh_count(canary);
		return 1;
	}
	mesh_count(stable);
	return 0;
}
