/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events: what became of a packet, for whoever listens (`ebpfmesh events`, `capture`). Sent from the
 * slow path alone, by a program of its own; where every packet's verdict is wanted, the control
 * plane sends every packet there. Writes mesh_events.
 */
#ifndef MESH_EVENT_H
#define MESH_EVENT_H

#include "lib/mesh.h"

HOT void event_describe(CTX *ctx, struct mesh_event *e, const struct mesh_judgement *j)
{
	e->time = bpf_ktime_get_ns();
	e->ifindex = context_ifindex(ctx);
	e->sender = j->packet.sender;
	e->receiver = j->question.receiver;
	e->rule = j->verdict.rule;
	e->length = context_length(ctx);
	e->direction = j->packet.direction;
	e->audited = j->verdict.audited;
	e->service = j->question.service;
	e->rejected = j->verdict.rejected;
	e->tuple = j->packet.tuple;
}

/* One event a packet, and the rarest thing there is to tell of it. */
HOT __u32 event_kind(const struct mesh_config *config, const struct mesh_judgement *j, int reason)
{
	if (reason || j->verdict.audited)
		return MESH_EVENT_DROP;
	return j->verdict.step && config->events & MESH_EVENT_FLOW ? MESH_EVENT_FLOW :
								     MESH_EVENT_VERDICT;
}

/* The event of j->verdict.event and j->verdict.reason. */
HOT void event_send(CTX *ctx, const struct mesh_config *config, const struct mesh_judgement *j)
{
	struct mesh_event_buffer *buffer;
	__u32 zero = 0, captured;

	buffer = mesh_event_buf.lookup(&zero);
	if (!buffer)
		return;
	event_describe(ctx, &buffer->event, j);
	buffer->event.kind = j->verdict.event;
	buffer->event.reason = j->verdict.audited ? MESH_POLICY : j->verdict.reason;
	captured = context_copy(ctx, buffer->data, config->snap);
	buffer->event.captured = captured;
	captured += sizeof(buffer->event);
	if (captured > sizeof(*buffer))
		return;
	if (mesh_events.ringbuf_output(buffer, captured, 0))
		count_one(MESH_COUNT_EVENT_LOST);
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
