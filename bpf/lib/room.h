/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Room: who may have an entry, and who has to go for it. Every flow has a slot, which names its two
 * entries, in the region of its opener's tenant or in the one that all share; so has every
 * fragmented datagram. A new one takes a slot that is free, or whose flow's time is over; or one of
 * its own tenant's: if a connection there has closed, else of those looked at the one that was silent
 * longest (as Redis does). Nothing of another tenant's goes before its time.
 *
 * The rule by which entries and slots agree: who puts an entry into a map holds a slot that names
 * it, until it is there; who takes a slot first deletes what it names. An entry that has become
 * established since has a slot for that, so one of a half-open flow leaves it alone, and the other
 * way round. Hence there is never an entry without a slot, and the maps are never full.
 *
 * Reads and writes mesh_slot, mesh_room; deletes from mesh_flow4, mesh_flow6, mesh_fragment.
 */
#ifndef MESH_ROOM_H
#define MESH_ROOM_H

#include "lib/flow.h"

/*
 * How many slots are looked at, and how many of them are where the last one was given away. Each costs
 * some cache misses, so while so many more searches found nothing free than did, fewer are made.
 */
#define ROOM_LOOKS 16
#define ROOM_SWEEPS 4
#define ROOM_SEARCHES 16
#define ROOM_LOOKS_FULL 2

/* Older than any flow: one that has closed, and where what the slot names is no flow any more. */
#define ROOM_CLOSED 0x80000000
#define ROOM_OVER (ROOM_CLOSED | 3) /* for two ticks: nothing of it is on its way any more */
#define ROOM_FREE 0xffffffff

HOT struct mesh_slot *room_slot(__u32 number)
{
	return mesh_slot.lookup(&number);
}

HOT struct mesh_room *room_of(__u32 kind, __u32 tenant)
{
	__u32 index = tenant * MESH_ROOMS + kind;

	return mesh_room.lookup(&index);
}

/* The first word of a slot, to be changed at once. */
union room_word {
	__u64 word;
	struct {
		__u32 users;
		__u16 tenant;
		__u16 turn;
	};
};
_Static_assert(sizeof(union room_word) == __builtin_offsetof(struct mesh_slot, key), "layout");

/*
 * Add users; the word as it was. All that was written before is seen before, and nothing after is
 * done before, on machines that order neither (arm64) too: an atomic operation that returns what was
 * there is a full barrier (linux/Documentation/bpf/standardization/instruction-set.rst, and
 * linux/arch/arm64/net/bpf_jit_comp.c), one that does not orders nothing. For this instruction set
 * clang has only that of 64 bits, and only if what it returns is used.
 */
HOT union room_word room_add(struct mesh_slot *slot, int users)
{
	union room_word more = { .users = 1 }, old;

	old.word = __sync_fetch_and_add((__u64 *)slot, users * more.word);
	asm volatile("" ::"r"(old.word));
	return old;
}

/* 1 if the slot is ours alone, and still what it was when it had this turn. */
HOT int room_lock(struct mesh_slot *slot, __u16 turn)
{
	union room_word old = room_add(slot, 1);

	if (!old.users && old.turn == turn)
		return 1;
	room_add(slot, -1);
	return 0;
}

HOT void room_unlock(struct mesh_slot *slot)
{
	room_add(slot, -1);
}

/*
 * How long the flow of a slot has been silent, and a tick. Both of its sides: either may speak; the
 * other one is only looked at if that would make it older than what is known.
 */
HOT __u32 room_age(const struct mesh_config *config, struct mesh_slot *slot, __u32 half, __u32 now,
		   __u32 known)
{
	struct mesh_flow *flow = slot->tenant ? flow_get(&slot->key[0]) : NULL;
	__u32 silent, timeout, closed;

	if (!flow || flow_is_half(flow) != half)
		return ROOM_FREE;
	timeout = flow_timeout(config, flow, slot->key[0].origin & 0xff);
	closed = flow->flags & MESH_FLOW_CLOSING ? ROOM_CLOSED : 0;
	silent = now - flow->seen;
	if (silent >= known) {
		flow = flow_get(&slot->key[1]);
		if (flow && now - flow->seen < silent)
			silent = now - flow->seen;
	}
	return silent > timeout ? ROOM_FREE : closed | (silent + 1);
}

/*
 * Is the entry of answers that a slot names another flow's by now? The port of one that was over may be
 * given away (out.h), and the slot still names it.
 */
HOT int room_is_anothers(const struct mesh_slot *slot, const struct mesh_flow *answers)
{
	return flow_is_masqueraded(answers) && (answers->port != slot->key[0].source_port ||
						answers->address.word[3] != slot->key[0].source[3]);
}

/* Delete what a slot names. It is ours. */
HOT void room_clear(struct mesh_slot *slot, __u32 half)
{
	struct mesh_flow *flow;

	if (!slot->tenant)
		return;
	flow = flow_get(&slot->key[0]);
	if (flow && flow_is_half(flow) == half)
		flow_delete(&slot->key[0]);
	flow = flow_get(&slot->key[1]);
	if (flow && flow_is_half(flow) == half && !room_is_anothers(slot, flow))
		flow_delete(&slot->key[1]);
}

/* The number of the slot to be looked at: first some where the hand is, then some anywhere. */
HOT __u32 room_next(struct mesh_region *region, __u32 look, __u32 random)
{
	__u32 at = look < ROOM_SWEEPS ? region->hand++ : random * (look | 1) >> 7;

	return region->count ? region->first + at % region->count : ~0;
}

/* The best slot of those looked at. */
struct room_choice {
	__u32 number;
	__u32 age; /* 0: there is none */
	__u16 turn;
};

HOT void room_look(const struct mesh_config *config, struct room_choice *best, __u32 number,
		   __u32 half, __u32 tenant, __u32 now)
{
	struct mesh_slot *slot = room_slot(number);
	__u16 turn;
	__u32 age;

	if (!slot || *(volatile __u32 *)&slot->users)
		return;
	turn = *(volatile __u16 *)&slot->turn;
	age = room_age(config, slot, half, now, best->age);
	if (age <= best->age || (age != ROOM_FREE && slot->tenant != tenant + 1))
		return;
	best->number = number;
	best->age = age;
	best->turn = turn;
}

/* The slot of a choice, if it is still what was chosen, and ours from now on. */
HOT struct mesh_slot *room_have(struct room_choice *choice)
{
	struct mesh_slot *slot = choice->age ? room_slot(choice->number) : NULL;

	choice->age = 0;
	return slot && room_lock(slot, choice->turn) ? slot : NULL;
}

/* A slot for a flow of this tenant, ours and empty; or NULL. */
HOT struct mesh_slot *room_take(const struct mesh_config *config, __u32 half, __u32 tenant,
				__u32 now, __u32 random)
{
	struct mesh_room *room = room_of(half ? MESH_ROOM_HALF : MESH_ROOM_FLOW, tenant);
	struct room_choice best = {};
	struct mesh_slot *slot = NULL;
	__u32 looks;
	__u64 lived;

	if (!room)
		return NULL;
	looks = room->full < ROOM_SEARCHES ? ROOM_LOOKS : ROOM_LOOKS_FULL;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < ROOM_LOOKS && i < looks && !slot; i++) {
		loop_head(i);
		room_look(config, &best, room_next(i & 1 ? &room->common : &room->own, i, random),
			  half, tenant, now);
		if (best.age >= ROOM_OVER)
			slot = room_have(&best);
	}
	if (slot) {
		room->full -= room->full > 0;
	} else {
		room->full += room->full < 2 * ROOM_SEARCHES;
		lived = best.age < ROOM_CLOSED;
		slot = room_have(&best);
		if (!slot)
			return NULL;
		__sync_fetch_and_add(&room->evicted, lived);
	}
	room_clear(slot, half);
	slot->tenant = tenant + 1;
	slot->turn++;
	return slot;
}

/*
 * A slot for a fragmented datagram, ours and empty; or NULL. What was there is the oldest, and what
 * is a second old has most likely arrived.
 */
HOT struct mesh_slot *room_take_fragment(__u32 tenant, __u32 now)
{
	struct mesh_room *room = room_of(MESH_ROOM_FRAGMENT, tenant);
	struct mesh_fragment *fragment;
	struct mesh_slot *slot;

	slot = room ? room_slot(room_next(&room->own, 0, 0)) : NULL;
	if (!slot || !room_lock(slot, *(volatile __u16 *)&slot->turn))
		return NULL;
	fragment = slot->tenant ? mesh_fragment.lookup((void *)&slot->key[0]) : NULL;
	if (fragment) {
		if (now - fragment->seen <= 1)
			__sync_fetch_and_add(&room->evicted, 1);
		mesh_fragment.delete((void *)&slot->key[0]);
	}
	slot->tenant = tenant + 1;
	slot->turn++;
	return slot;
}
#endif
