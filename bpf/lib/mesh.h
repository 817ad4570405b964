/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet's way, once for every hook. mesh_from_function() is the way of an established packet:
 * parse → find its flow → rewrite → count → leave. Whatever it does not know goes on to slow.h.
 * Includes the other files in the order a packet meets them.
 */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include "lib/headers.h"
#include "lib/state.h"
#include "lib/plain.h"
#include "lib/flow.h"
#include "lib/endpoint.h"
#include "lib/rewrite.h"
#include "lib/meter.h"
#include "lib/mtu.h"
#include "lib/verdict.h"
#include "lib/chain.h"

HOT int mesh_drop(CTX *ctx, __u8 direction, int reason)
{
	return verdict_drop(ctx, endpoint_by_ifindex(context_ifindex(ctx)), direction, reason);
}

HOT int mesh_deliver(CTX *ctx, const struct pkt *p, const struct mesh_flow *flow)
{
	__u32 ifindex = flow->output; /* MESH_OUTPUT_PEER is 0 */

	rewrite_packet(ctx, p, flow);
	return verdict_redirect(ctx, ifindex);
}

/* No packet is on the slow path: what was known of the last one is not for the next. */
HOT void mesh_slow_clear(struct mesh_judgement *j)
{
	j->verdict.step = 0;
	j->verdict.event = 0;
}

/*
 * The slow path learns from here which way the packet goes. What comes in by an uplink may be the host's:
 * where a program is missing its stack gets it, and mesh_to_fn behind that.
 */
HOT int mesh_go_slow(CTX *ctx, __u32 direction)
{
	struct mesh_judgement *j = mesh_scratch_get();

	if (j) {
		/* Before Linux 6.10 we may have interrupted a test run on the slow path. */
		mesh_slow_clear(j);
		j->packet.direction = direction;
		verdict_call(ctx, MESH_CALL_SLOW);
	}
	if (direction == MESH_FROM_UPLINK)
		return verdict_next(ctx);
	return mesh_drop(ctx, direction, MESH_NO_PROGRAM);
}

/*
 * One of an established flow that goes through what is injected or by a rate, past XDP at its
 * receiver, out of an uplink, or to the host's stack.
 */
HOT int mesh_deliver_other(CTX *ctx, const struct mesh_config *config, const struct pkt *p,
			   struct mesh_flow *flow, __u32 direction)
{
	__u32 output = flow->output;

	/* What a remote answers may never have met the slow path, where its MAC is learned (early.h). */
	if (direction == MESH_FROM_UPLINK && !mac_equal(p->eth->h_dest, flow->sender))
		__builtin_memcpy(flow->sender, p->eth->h_dest, sizeof(flow->sender));
	if (flow_is_to_peer(flow)) {
		if (unlikely(rewrite_check_ttl(p) || mtu_exceeded(ctx, flow)))
			return mesh_go_slow(ctx, direction);
		rewrite_packet(ctx, p, flow);
	}
	if (flow_is_chained(flow)) {
		chain_begin(ctx, config, flow);
		return chain_start(ctx);
	}
	meter_count(ctx, flow);
	return flow_is_to_peer(flow) ? verdict_output(ctx, output) : verdict_pass(ctx);
}

/* A packet that a function sends, or somebody outside. */
HOT int mesh_carry(CTX *ctx, __u32 direction)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_flow *flow;
	struct pkt p;

	if (!config || unlikely(!parse_plain(ctx, &p)))
		goto slow;
	flow = flow_find(&p, context_ifindex(ctx));
	if (unlikely(!flow || flow->epoch != config->epoch || !flow_is_fresh(flow)))
		goto slow;
	if (direction == MESH_FROM_FN && unlikely(!mac_equal(p.eth->h_source, flow->sender)))
		goto slow;
	if (unlikely(!flow_is_straight(flow)))
		return mesh_deliver_other(ctx, config, &p, flow, direction);
	if (unlikely(rewrite_check_ttl(&p)))
		goto slow;
	meter_count(ctx, flow);
	return mesh_deliver(ctx, &p, flow);
slow:
	return mesh_go_slow(ctx, direction);
}

HOT int mesh_from_function(CTX *ctx)
{
	return mesh_carry(ctx, MESH_FROM_FN);
}

/* A packet that comes in by an uplink; what is sent to many, or to another host, is not for us. */
HOT int mesh_from_uplink(CTX *ctx)
{
	if (CONTEXT_FIELD(ctx, pkt_type) != 0)
		return verdict_next(ctx);
	return mesh_carry(ctx, MESH_FROM_UPLINK);
}

/* A packet that the host's stack sends to a function. */
HOT int mesh_to_function(CTX *ctx)
{
	if (context_is_passed(ctx))
		return verdict_pass(ctx);
	return mesh_go_slow(ctx, MESH_TO_FN);
}
#endif
