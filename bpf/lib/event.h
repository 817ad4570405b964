/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events: what became of a packet, for whoever listens (`ebpfmesh events`, `capture`). Sent from the
 * slow path alone, by a program of its own; where every packet's verdict is wanted, the control
 * plane sends every packet there. What an event is made of is in tell.h.
 */
#ifndef MESH_EVENT_H
#define MESH_EVENT_H

#include "lib/mesh.h"
#include "lib/tell.h"

/* One event a packet, and the rarest thing there is to tell of it. */
HOT __u32 event_kind(const struct mesh_config *config, const struct mesh_judgement *j, int reason)
{
	if (reason || j->verdict.audited)
		return MESH_EVENT_DROP;
	return j->verdict.step && config->events & MESH_EVENT_FLOW ? MESH_EVENT_FLOW :
								     MESH_EVENT_VERDICT;
}

/* Send the event that mesh_slow() asks for, and go back there. */
HOT int mesh_event(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_judgement *j = mesh_scratch_get();

	if (!config || !j)
		return mesh_drop(ctx, MESH_FROM_FN, MESH_NO_PROGRAM);
	event_send(ctx, config, j);
	verdict_call(ctx, MESH_CALL_SLOW);
	mesh_slow_clear(j);
	return mesh_drop(ctx, j->packet.direction, MESH_NO_PROGRAM);
}
#endif
