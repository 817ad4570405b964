/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * An event, from what is known of a packet to its reader, as far as the tenant that sent the packet
 * has room for it: what is not read of one tenant's events keeps out no other's. What lies unread is
 * known of all together alone, by two positions that only grow; so each tenant counts what it wrote
 * before a mark and behind it, and once the reader is at the mark there is nothing before it, and the
 * mark moves on to where the writers are. While the reader lags that is up to twice what it has.
 * Writes mesh_events, mesh_event_room.
 */
#ifndef MESH_TELL_H
#define MESH_TELL_H

#include "lib/context.h"
#include "lib/endpoint.h"
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

/* The part of the tenant that a packet is from. */
HOT struct mesh_event_room *event_room(const struct mesh_judgement *j)
{
	struct mesh_function *sender = endpoint_get(j->packet.sender);
	__u32 tenant = sender ? sender->tenant : 0;

	return mesh_event_room.lookup(&tenant);
}

/* Move the mark, if the reader is there; of several CPUs one does. Has it read all, nothing is left. */
HOT void event_room_move(struct mesh_event_room *room, __u64 read, __u64 written)
{
	__u64 mark = *(volatile __u64 *)&room->mark, behind;

	if (read < mark || __sync_val_compare_and_swap(&room->mark, mark, written) != mark)
		return;
	behind = *(volatile __u64 *)&room->behind;
	room->before = read >= room->last ? 0 : behind;
	behind = __sync_fetch_and_add(&room->behind, -behind);
	asm volatile("" ::"r"(behind));
}

/*
 * BPF_RB_CONS_POS or BPF_RB_PROD_POS, of mesh_events. BCC has no word for this helper: it writes
 * the name of another into the call.
 */
HOT __u64 event_position(__u64 which)
{
	__u64 (*bpf_ringbuf_output)(void *, void *, __u64, __u64) = (void *)BPF_FUNC_ringbuf_query;
	void *flags = (void *)which; /* it wants a pointer there */

	return mesh_events.ringbuf_output(flags, 0, 0);
}

/* 1 if so many bytes have room; they are counted then. */
HOT int event_room_take(struct mesh_event_room *room, __u32 bytes)
{
	__u64 read = event_position(BPF_RB_CONS_POS);
	__u64 written = event_position(BPF_RB_PROD_POS), used;

	event_room_move(room, read, written);
	used = __sync_fetch_and_add(&room->behind, bytes) + room->before + bytes;
	if (used <= room->own || (used <= room->maximum && written - read + bytes <= room->whole))
		return 1;
	used = __sync_fetch_and_add(&room->behind, -(__u64)bytes);
	asm volatile("" ::"r"(used));
	return 0;
}

/* What a record of the ring buffer takes: 8 bytes before it, and up to a multiple of 8 behind. */
HOT __u32 event_size(__u32 bytes)
{
	return (bytes + 15) & ~7;
}

/* The event of j->verdict.event and j->verdict.reason. */
HOT void event_send(CTX *ctx, const struct mesh_config *config, const struct mesh_judgement *j)
{
	struct mesh_event_room *room = event_room(j);
	struct mesh_event_buffer *buffer;
	__u32 zero = 0, captured;

	buffer = mesh_event_buf.lookup(&zero);
	if (!buffer || !room)
		return;
	event_describe(ctx, &buffer->event, j);
	buffer->event.kind = j->verdict.event;
	buffer->event.reason = j->verdict.audited ? MESH_POLICY : j->verdict.reason;
	captured = context_copy(ctx, buffer->data, config->snap);
	buffer->event.captured = captured;
	captured += sizeof(buffer->event);
	if (captured > sizeof(*buffer))
		return;
	if (event_room_take(room, event_size(captured)) &&
	    !mesh_events.ringbuf_output(buffer, captured, 0)) {
		room->last = event_position(BPF_RB_PROD_POS);
		return;
	}
	count_one(MESH_COUNT_EVENT_LOST);
	__sync_fetch_and_add(&room->lost, 1);
}
#endif
