/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A verdict becomes two flow entries, one for each way; and those of a TCP flow that has become an
 * established one become the fast path's. A program of its own, behind judge.h or slow.h, which goes
 * back to mesh_slow(). Writes mesh_flow4, mesh_flow6, with a slot from room.h.
 */
#ifndef MESH_STORE_H
#define MESH_STORE_H

#include "lib/mesh.h"
#include "lib/csum.h"
#include "lib/judge.h"
#include "lib/room.h"
#include "lib/track.h"

/* Both entries, that of the opener's way first: struct mesh_entries, where they count. */
struct store {
	struct mesh_flow6_key key[2];
	MESH_FLOW_ENTRY entry[2];
};

/* Where they are put together, with nothing in it; the stack has no room for two that count. */
HOT struct store *store_place(void)
{
	__u32 zero = 0;
	struct store *s = (struct store *)mesh_entries.lookup(&zero);

	if (s)
		__builtin_memset(s, 0, sizeof(*s));
	return s;
}

/* Every entry begins with it. */
HOT struct mesh_flow *store_flow(MESH_FLOW_ENTRY *entry)
{
	return (struct mesh_flow *)entry;
}

/* A flow that is judged again counts on; what another CPU counts in the old entry now is lost. */
HOT void store_counts(MESH_FLOW_ENTRY *entry, const struct mesh_flow *known)
{
#ifdef MESH_COUNT_FLOWS
	if (known)
		entry->counts = ((const MESH_FLOW_ENTRY *)known)->counts;
	else
		entry->counts.made = entry->flow.seen;
#endif
}

/* Where packets for a function go; those for the outside to where it spoke from, by MACs of the host. */
HOT __u32 store_output(const struct mesh_judgement *j, const struct mesh_function *receiver)
{
	if (receiver->ifindex)
		return endpoint_output(receiver);
	if (j->question.uplink)
		return MESH_OUTPUT_NEIGHBOUR << MESH_IFINDEX_BITS | j->question.uplink;
	return MESH_OUTPUT_STACK << MESH_IFINDEX_BITS;
}

HOT void store_ethernet(const struct mesh_judgement *j, struct mesh_flow *flow,
			const struct mesh_function *receiver, const struct mesh_function *sender)
{
	flow->output = store_output(j, receiver);
	__builtin_memcpy(flow->ethernet, receiver->mac, 6);
	__builtin_memcpy((void *)flow->ethernet + 6, receiver->gateway, 6);
	__builtin_memcpy(flow->sender, sender->mac, 6);
}

/* Is something injected at either end? */
HOT void store_chain(struct mesh_flow *flow, __u32 sender, __u32 receiver)
{
	if (chain_head(sender, MESH_FROM_FN) || chain_head(receiver, MESH_TO_FN))
		flow->output |= MESH_OUTPUT_CHAIN << MESH_IFINDEX_BITS;
}

/* Has either end a rate for this way? */
HOT void store_rate(struct mesh_flow *flow, const struct mesh_function *sender,
		    const struct mesh_function *receiver)
{
	if (sender->flags & MESH_FN_RATE_SEND || receiver->flags & MESH_FN_RATE_RECEIVE)
		flow->output |= MESH_OUTPUT_RATE << MESH_IFINDEX_BITS;
}

/* What takes the place of the service's address: the receiver's, or what stands for both sides. */
HOT void store_new_address(const struct mesh_config *config, const struct mesh_judgement *j,
			   struct mesh_address *address)
{
	*address = j->question.target;
	if (!(j->question.flags & MESH_FLOW_HAIRPIN))
		return;
	if (address_is4(&j->question.target))
		address_set4(address, config->hairpin4);
	else
		address_set6(address, config->hairpin6);
}

/* The entry of the opener's way. */
HOT void store_forward(const struct mesh_config *config, const struct mesh_judgement *j,
		       const struct parties *who, struct mesh_flow *flow)
{
	/* What is audited is judged again with every packet. */
	flow->epoch = j->verdict.audited ? ~config->judged : config->judged;
	flow->meter_tx = meter_slot(config, j->question.opener, who->receiver->tenant);
	flow->meter_rx = meter_slot(config, j->question.receiver, who->opener->tenant);
	flow->flags = j->question.flags;
	flow->address = j->question.service_address;
	flow->port = j->question.asked_port;
	flow->backend = j->question.backend;
	flow->service = j->question.service;
	flow->seen = flow_clock();
	if (j->question.flags & MESH_FLOW_NAT_DST) {
		store_new_address(config, j, &flow->address);
		flow->port = j->question.target_port;
		flow->checksum =
			csum_difference(j->question.tuple.destination.word, flow->address.word, 4);
	}
	store_ethernet(j, flow, who->receiver, who->opener);
	store_chain(flow, j->question.opener, j->question.receiver);
	store_rate(flow, who->opener, who->receiver);
}

/* The entry of the answers, which `flow` is a copy of the other for. */
HOT void store_reply(const struct mesh_judgement *j, const struct parties *who,
		     struct mesh_flow *flow)
{
	__u32 meter = flow->meter_tx;

	flow->meter_tx = flow->meter_rx;
	flow->meter_rx = meter;
	flow->flags |= MESH_FLOW_REPLY;
	if (flow->flags & MESH_FLOW_NAT_DST) {
		flow->flags ^= MESH_FLOW_NAT_DST | MESH_FLOW_NAT_SRC;
		flow->address = j->question.tuple.destination;
		flow->port = j->question.tuple.destination_port;
		flow->checksum = ~flow->checksum;
	}
	store_ethernet(j, flow, who->opener, who->receiver);
	store_chain(flow, j->question.receiver, j->question.opener);
	store_rate(flow, who->receiver, who->opener);
}

/* The keys of both, from the flow as its opener sent it. */
HOT void store_keys(const struct mesh_judgement *j, const struct parties *who, struct store *s)
{
	struct mesh_tuple answer = j->question.tuple;

	flow_key(&s->key[0], &answer, who->opener->ifindex ?: j->question.uplink);
	answer.destination = j->question.target;
	answer.destination_port = j->question.target_port;
	if (j->question.flags & MESH_FLOW_HAIRPIN)
		answer.source = store_flow(&s->entry[0])->address;
	tuple_reverse(&answer);
	flow_key(&s->key[1], &answer, who->receiver->ifindex);
}

/* How far an entry had got, above 16 bits that say there is one. */
HOT __u32 store_kept(struct mesh_flow6_key *key, MESH_FLOW_ENTRY *entry)
{
	struct mesh_flow *flow = flow_get(key);

	store_counts(entry, flow);
	return flow ? (flow->flags & TRACK_FLAGS) << 16 | 1 : 0;
}

/* A flow that is judged again is as far as it was; a new one of TCP is half open. */
HOT void store_progress(const struct mesh_judgement *j, struct store *s)
{
	__u32 kept = j->packet.known ? store_kept(&s->key[0], &s->entry[0]) : 0;
	__u32 answers = j->packet.known ? store_kept(&s->key[1], &s->entry[1]) : 0;
	__u32 half = j->question.tuple.protocol == IPPROTO_TCP ? MESH_FLOW_HALF : 0;

	if (kept | answers)
		half = (kept | answers) >> 16 & MESH_FLOW_HALF;
	store_flow(&s->entry[0])->flags |= kept >> 16 | half;
	store_flow(&s->entry[1])->flags |= answers >> 16 | half;
	if (!half)
		return;
	store_flow(&s->entry[0])->epoch |= MESH_EPOCH_SLOW;
	store_flow(&s->entry[1])->epoch |= MESH_EPOCH_SLOW;
}

/* Put both entries, with a slot of a tenant for them. MESH_OK or a reason. */
HOT int store_put(const struct mesh_config *config, struct store *s, __u32 tenant)
{
	__u32 half = flow_is_half(store_flow(&s->entry[0]));
	struct mesh_slot *slot =
		room_take(config, half, tenant, flow_clock(), bpf_get_prandom_u32());
	int failed;

	if (!slot)
		return MESH_FLOW_FULL;
	slot->key[0] = s->key[0];
	slot->key[1] = s->key[1];
	failed = flow_put(&s->key[0], &s->entry[0]) | flow_put(&s->key[1], &s->entry[1]);
	room_unlock(slot);
	count_one(half ? MESH_COUNT_HALF_MADE : MESH_COUNT_FLOW_MADE);
	return failed ? MESH_FLOW_FULL : MESH_OK;
}

/* Of a flow that was judged. One that is established keeps its slot, if it still has it. */
HOT int store_judged(const struct mesh_config *config, const struct mesh_judgement *j)
{
	struct parties who = { endpoint_get(j->question.opener),
			       endpoint_get(j->question.receiver) };
	struct store *s = store_place();

	if (!who.opener || !who.receiver)
		return MESH_NO_FUNCTION;
	if (!s)
		return MESH_FLOW_FULL;
	store_forward(config, j, &who, store_flow(&s->entry[0]));
	store_counts(&s->entry[0], NULL);
	s->entry[1] = s->entry[0];
	store_reply(j, &who, store_flow(&s->entry[1]));
	store_keys(j, &who, s);
	store_progress(j, s);
	if (j->packet.known && !flow_is_half(store_flow(&s->entry[0])) &&
	    !flow_renew(&s->key[0], &s->entry[0]) && !flow_renew(&s->key[1], &s->entry[1]))
		return MESH_OK;
	return store_put(config, s, who.opener->tenant);
}

/* Of a flow that is established with this packet of its opener's. If it cannot be, it stays. */
HOT void store_established(const struct mesh_config *config, const struct mesh_judgement *j)
{
	struct mesh_function *opener = endpoint_get(j->packet.sender);
	struct store *s = store_place();
	struct track track;

	track_find(&track, &j->packet.tuple, j->packet.ifindex);
	if (!s || !opener || !track.flow || !track.peer)
		return;
	s->entry[0] = *(MESH_FLOW_ENTRY *)track.flow;
	s->entry[1] = *(MESH_FLOW_ENTRY *)track.peer;
	flow_key(&s->key[0], &j->packet.tuple, j->packet.ifindex);
	flow_key(&s->key[1], &track.answer, flow_ifindex(store_flow(&s->entry[0])));
	store_flow(&s->entry[0])->flags &= ~MESH_FLOW_HALF;
	store_flow(&s->entry[1])->flags &= ~MESH_FLOW_HALF;
	if (flow_judged(store_flow(&s->entry[0])) == config->judged)
		store_flow(&s->entry[0])->epoch = store_flow(&s->entry[1])->epoch = config->judged;
	store_put(config, s, opener->tenant);
}

HOT int mesh_store(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_judgement *j = mesh_scratch_get();

	if (!config || !j)
		return mesh_drop(ctx, MESH_FROM_FN, MESH_NO_PROGRAM);
	if (j->verdict.step != MESH_ESTABLISHED)
		return judge_return(ctx, j, store_judged(config, j));
	store_established(config, j);
	mesh_slow_clear(j);
	return chain_or(ctx, j->verdict.action);
}
#endif
