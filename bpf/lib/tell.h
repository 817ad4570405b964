/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* An event, from what is known of a packet to its reader. Writes mesh_events. */
#ifndef MESH_TELL_H
#define MESH_TELL_H

#include "lib/context.h"
#include "lib/meter.h"

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
	e->program = 0;
	e->cost = 0;
	e->limit = 0;
	e->lasted = 0;
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
#endif
