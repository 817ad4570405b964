/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way of a packet through what is injected: the chain of its sender, then that of its receiver,
 * then out; and before all of it by the rates of both (rate.h). It has been judged and rewritten by then, and is counted at the end. Behind each program
 * of somebody else's stands chain_end(), which does what the program asked for; where the packet is,
 * and what becomes of it, stands in its cb[]. The heads of both chains are read once, when it sets out:
 * no packet meets two generations of a chain.
 */
#ifndef MESH_CHAIN_H
#define MESH_CHAIN_H

#include "lib/cost.h"
#include "lib/csum.h"
#include "lib/endpoint.h"
#include "lib/flow.h"
#include "lib/meter.h"
#include "lib/plain.h"
#include "lib/state.h"
#include "lib/tell.h"
#include "lib/verdict.h"

/* verdict.action of a packet that is not out yet; no hook has such an answer. */
#define CHAIN_ACTION 0x100

HOT __u32 chain_head(__u32 function, __u32 direction)
{
	struct mesh_chain *chain = mesh_chain.lookup(&function);

	return chain ? chain->head[direction & 1] : 0;
}

#define CHAIN_WORD(ctx, word) CONTEXT_FIELD(ctx, cb[word])
#define CHAIN_RATE ((__u32)MESH_OUTPUT_RATE << MESH_IFINDEX_BITS)

/* A packet of this flow sets out; the flow has it, whatever becomes of it on the way. */
HOT void chain_begin(CTX *ctx, const struct mesh_config *config, struct mesh_flow *flow)
{
	__u32 sender = meter_function(config, flow->meter_tx);
	__u32 receiver = meter_function(config, flow->meter_rx);

	meter_flow(flow, context_packets(ctx), context_length(ctx));
	ctx->cb[MESH_CHAIN_NEXT] =
		chain_head(receiver, MESH_TO_FN) << 16 | chain_head(sender, MESH_FROM_FN);
	ctx->cb[MESH_CHAIN_OUTPUT] = flow->output | cost_sampled();
	ctx->cb[MESH_CHAIN_TX] = flow->meter_tx;
	ctx->cb[MESH_CHAIN_RX] = flow->meter_rx;
}

HOT int chain_out(CTX *ctx)
{
	__u32 output = CHAIN_WORD(ctx, MESH_CHAIN_OUTPUT);

	meter_ends(ctx, CHAIN_WORD(ctx, MESH_CHAIN_TX), CHAIN_WORD(ctx, MESH_CHAIN_RX));
	if (output >> MESH_IFINDEX_BITS & MESH_OUTPUT_STACK)
		return verdict_pass(ctx);
	return verdict_output(ctx, output);
}

/* Whose chain is it that runs? */
HOT __u32 chain_owner(CTX *ctx, const struct mesh_config *config, __u32 *direction)
{
	*direction = CHAIN_WORD(ctx, MESH_CHAIN_NEXT) & MESH_CHAIN_LAST ? MESH_TO_FN : MESH_FROM_FN;
	return meter_function(config, *direction == MESH_TO_FN ? CHAIN_WORD(ctx, MESH_CHAIN_RX) :
								 CHAIN_WORD(ctx, MESH_CHAIN_TX));
}

HOT int chain_drop(CTX *ctx, int reason)
{
	struct mesh_config *config = mesh_config_get();
	__u32 direction = MESH_FROM_FN, function = 0;

	if (config)
		function = chain_owner(ctx, config, &direction);
	return verdict_drop(ctx, function, direction, reason);
}

/*
 * Into the chain of one block by a tail call whose slot is a constant: a jump, four times as fast as
 * a number that goes through a retpoline. Without the assembly clang takes the number after all.
 */
HOT void chain_enter(CTX *ctx, __u64 head, __u32 block)
{
	__u64 slot = block << 4 | MESH_CHAIN_MAX;

	asm volatile("" : "+r"(head));
	if (head != (block << 4 | MESH_CHAIN_MAX))
		return;
	asm volatile("" : "+r"(slot));
	mesh_injected.call(ctx, slot);
}

/* By the rates, if the packet is to; or to the next program, of this chain or the receiver's, or out. */
HOT int chain_go(CTX *ctx, __u32 rated)
{
	__u32 next = CHAIN_WORD(ctx, MESH_CHAIN_NEXT), slot;

	if (rated) {
		verdict_call(ctx, MESH_CALL_RATE);
		goto missing;
	}
	if (!(next & MESH_CHAIN_MAX)) {
		if (!(next >> 16 & MESH_CHAIN_MAX))
			return chain_out(ctx);
		next = next >> 16 | MESH_CHAIN_LAST;
	}
	ctx->cb[MESH_CHAIN_NEXT] = next - 1;
	slot = next & 0xffff;
	chain_enter(ctx, slot, 1);
	chain_enter(ctx, slot, 2);
	chain_enter(ctx, slot, 3);
	chain_enter(ctx, slot, 4);
	chain_enter(ctx, slot, 5);
	chain_enter(ctx, slot, 6);
	chain_enter(ctx, slot, 7);
	chain_enter(ctx, slot, 8);
	mesh_injected.call(ctx, slot);
missing:
	return chain_drop(ctx, MESH_NO_PROGRAM);
}

HOT int chain_step(CTX *ctx)
{
	return chain_go(ctx, 0);
}

/* A packet sets out. */
HOT int chain_start(CTX *ctx)
{
	return chain_go(ctx, CHAIN_WORD(ctx, MESH_CHAIN_OUTPUT) & CHAIN_RATE);
}

/* The action of a packet that has been looked after; it sets out if that is what is left to do. */
HOT int chain_or(CTX *ctx, __u32 action)
{
	return action == CHAIN_ACTION ? chain_start(ctx) : action;
}

/*
 * An event of a packet that was dropped on its way, if somebody listens; where it is seen is its sender's
 * interface. mesh_scratch is nobody's by now. Addresses are those it would have arrived with.
 */
HOT void chain_tell(CTX *ctx, const struct mesh_config *config, __u8 reason)
{
	struct mesh_judgement *j = mesh_scratch_get();
	struct pkt p;

	if (!(config->events & MESH_EVENT_DROP) || !j)
		return;
	j->packet.sender = meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_TX));
	j->packet.direction = j->packet.sender ? MESH_FROM_FN : MESH_TO_FN;
	j->question.receiver = meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_RX));
	j->question.service = 0;
	j->verdict.rule = 0;
	j->verdict.audited = 0;
	j->verdict.rejected = 0;
	j->verdict.reason = reason;
	j->verdict.event = MESH_EVENT_DROP;
	__builtin_memset(&j->packet.tuple, 0, sizeof(j->packet.tuple));
	if (parse_plain(ctx, &p))
		tuple_of(&j->packet.tuple, &p);
	event_send(ctx, config, j);
	j->verdict.event = 0;
}

HOT void chain_count(CTX *ctx, struct mesh_refused *row)
{
	if (!row)
		return;
	row->times++;
	row->packets += context_packets(ctx);
	row->bytes += context_length(ctx);
}

/* Count what a program dropped, by its own reason too. */
HOT int chain_refuse(CTX *ctx, __u32 verdict)
{
	struct mesh_injected_key key = {
		.program = verdict >> 16,
		.index = (verdict & MESH_VERDICT_INDEX) >> 2,
	};
	struct mesh_config *config = mesh_config_get();
	struct mesh_refused none = {};

	if (config)
		chain_tell(ctx, config, MESH_INJECTED);
	chain_count(ctx, mesh_refused.lookup_or_try_init(&key, &none));
	return chain_drop(ctx, MESH_INJECTED);
}

/* To another function instead, of the program's tenant, by its rate and through its chain. */
HOT int chain_redirect(CTX *ctx, __u32 verdict)
{
	struct mesh_injected_key key = {
		.program = verdict >> 16,
		.index = (verdict & MESH_VERDICT_INDEX) >> 2,
	};
	struct mesh_config *config = mesh_config_get();
	__u32 *target = mesh_target.lookup(&key);
	struct mesh_function *fn = target ? endpoint_get(*target) : NULL;
	struct ethhdr *eth = context_data(ctx);
	__u32 peer_tenant, rate;

	/* What the host sends has no other way in than its own (bpf_redirect_peer at ingress). */
	if (!config || !fn || (void *)(eth + 1) > context_end(ctx) ||
	    meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_TX)) == 0)
		return chain_refuse(ctx, verdict);
	__builtin_memcpy(eth->h_dest, fn->mac, sizeof(eth->h_dest));
	__builtin_memcpy(eth->h_source, fn->gateway, sizeof(eth->h_source));
	peer_tenant = CHAIN_WORD(ctx, MESH_CHAIN_RX) -
		      meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_RX)) * config->tenants;
	ctx->cb[MESH_CHAIN_RX] = meter_slot(config, *target, peer_tenant);
	rate = fn->flags & MESH_FN_RATE_RECEIVE ? CHAIN_RATE : 0;
	ctx->cb[MESH_CHAIN_OUTPUT] =
		endpoint_output(fn) | rate | (CHAIN_WORD(ctx, MESH_CHAIN_OUTPUT) & COST_SAMPLED);
	ctx->cb[MESH_CHAIN_NEXT] = MESH_CHAIN_LAST | chain_head(*target, MESH_TO_FN);
	return chain_start(ctx);
}

/* The byte of IPv4 and IPv6 that has DSCP and ECN, as a program wants it. */
HOT __u8 chain_class(__u8 old, __u32 verdict)
{
	__u8 dscp =
		verdict & MESH_VERDICT_SET_DSCP ? (verdict & MESH_VERDICT_DSCP) >> 4 : old & 0xfc;
	__u8 ecn = old & 3;

	return dscp | (verdict & MESH_VERDICT_SET_CE && ecn ? 3 : ecn);
}

HOT void chain_edit(CTX *ctx, __u32 verdict)
{
	struct ethhdr *eth = context_data(ctx);
	struct iphdr *ip = (void *)(eth + 1);
	__u16 *first = (void *)ip, old;

	if ((void *)(ip + 1) > context_end(ctx))
		return;
	old = *first;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		ip->tos = chain_class(ip->tos, verdict);
		ip->check = csum_apply(ip->check, (__u32)*first + (__u16)~old);
	} else if (eth->h_proto == bpf_htons(ETH_P_IPV6)) {
		*first = (old & bpf_htons(0xf00f)) |
			 bpf_htons(chain_class(bpf_ntohs(old) >> 4, verdict) << 4);
	}
}

/* A circuit breaker has opened. */
HOT void chain_tell_breaker(CTX *ctx, const struct mesh_cost *cost,
			    const struct mesh_breaker *breaker, __u32 program)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_event event = {};
	__u32 direction;

	if (!config || !(config->events & MESH_EVENT_BREAKER))
		return;
	chain_owner(ctx, config, &direction);
	event.direction = direction;
	event.sender = meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_TX));
	event.receiver = meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_RX));
	event.program = program;
	cost_tell(ctx, cost, breaker, &event);
}

/* What a program took for a packet that is sampled. */
HOT void chain_sample(CTX *ctx, __u32 program)
{
	__u64 start = cost_start(), now = bpf_ktime_get_ns(), ns = now - start;
	struct mesh_breaker *breaker = cost_breaker(program);
	struct mesh_cost *cost = mesh_cost.lookup(&program);

	if (!start || !cost || !breaker || !breaker->limit)
		return;
	cost_add(cost, breaker, ns > breaker->clock ? ns - breaker->clock : 0);
	if (!cost_judge(cost, now) || breaker->open)
		return;
	breaker->open = 1;
	chain_tell_breaker(ctx, cost, breaker, program);
}

/* Behind an injected program; its verdict and its id are in cb[]. */
HOT int chain_end(CTX *ctx)
{
	__u32 verdict = CHAIN_WORD(ctx, MESH_CHAIN_VERDICT);
	__u32 action = verdict & MESH_VERDICT_ACTION;

	if (unlikely(CHAIN_WORD(ctx, MESH_CHAIN_OUTPUT) & COST_SAMPLED))
		chain_sample(ctx, verdict >> 16);
	if (verdict & (MESH_VERDICT_SET_DSCP | MESH_VERDICT_SET_CE))
		chain_edit(ctx, verdict);
	if (action == MESH_ACT_NEXT)
		return chain_step(ctx);
	if (action == MESH_ACT_REDIRECT)
		return chain_redirect(ctx, verdict);
	return chain_refuse(ctx, verdict);
}

/* Behind an injected program of a tenant: chain_end() in a program of its own, by a constant slot. */
HOT int chain_leave(CTX *ctx)
{
	__u64 slot = MESH_CHAIN_END;

	asm volatile("" : "+r"(slot));
	mesh_injected.call(ctx, slot);
	return chain_drop(ctx, MESH_NO_PROGRAM);
}

#endif
