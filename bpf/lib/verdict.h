/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way out. The only file that returns TC_ACT_* or XDP_*; a dropped packet is counted here and
 * nowhere else, a forwarded one is in the meter by now.
 */
#ifndef MESH_VERDICT_H
#define MESH_VERDICT_H

#include "lib/meter.h"

/* Of a packet that is counted already. */
HOT int verdict_dropped(CTX *ctx)
{
#ifdef MESH_XDP
	return XDP_DROP;
#else
	return TC_ACT_SHOT;
#endif
}

HOT int verdict_drop(CTX *ctx, __u32 function, __u8 direction, __u8 reason)
{
	drop_count(ctx, function, direction, reason, 0);
	return verdict_dropped(ctx);
}

#ifdef MESH_XDP
/* Of a frame of so many bytes, at an uplink. */
HOT int verdict_drop_early(CTX *ctx, __u32 reason, __u32 bytes)
{
	struct mesh_drop *drop = mesh_xdp_drops.lookup(&reason);

	if (drop) {
		drop->packets++;
		drop->bytes += bytes;
	}
	return verdict_dropped(ctx);
}
#endif

/* On to where the packet was going without us: the host's stack, or the function below it. */
HOT int verdict_pass(CTX *ctx)
{
#ifdef MESH_XDP
	return XDP_PASS;
#else
	return TC_ACT_OK;
#endif
}

/* Into the function behind a host-side veth. */
HOT int verdict_redirect(CTX *ctx, __u32 ifindex)
{
#ifdef MESH_XDP
	return bpf_redirect(ifindex, 0);
#else
	/*
	 * The type stays what eth_type_trans() (linux/net/ethernet/eth.c) made of the old MAC,
	 * and the receiver trusts it.
	 */
	if (unlikely(CONTEXT_FIELD(ctx, pkt_type) != 0))
		bpf_skb_change_type(ctx, 0);
	return bpf_redirect_peer(ifindex, 0);
#endif
}

#ifdef MESH_XDP

/* Out of an uplink, with its MACs; back by the one it came in by is half the way. */
HOT int verdict_onward(CTX *ctx, __u32 ifindex)
{
	return ifindex == context_ifindex(ctx) ? XDP_TX : bpf_redirect(ifindex, 0);
}

#else

/* The host's own, at an uplink: on to whatever else is attached there, and its stack. */
HOT int verdict_next(CTX *ctx)
{
	return TC_ACT_UNSPEC;
}

/* BCC 0.26 declares it without its third argument. */
static long (*redirect_neigh)(__u32 ifindex, void *next_hop, int size,
			      __u64 flags) = (void *)BPF_FUNC_redirect_neigh;

/* Out of an interface of the host's, to whom its routes say; the MACs are the kernel's to find. */
HOT int verdict_neighbour(CTX *ctx, __u32 ifindex)
{
	return redirect_neigh(ifindex, NULL, 0, 0);
}

/*
 * As mesh_flow.output has it, chains or not: into a function, past XDP at its own interface if it
 * has that, which bpf_redirect_peer() would not meet. mesh_to_fn, which then does, knows it by a mark
 * that no function can set. On its way out the kernel cuts what is GSO and completes checksums, as that
 * interface has neither offload. Out of an uplink they go as they are.
 */
HOT int verdict_output(CTX *ctx, __u32 output)
{
	__u32 ifindex = output & ((1 << MESH_IFINDEX_BITS) - 1);

	if (unlikely(output >> MESH_IFINDEX_BITS & MESH_OUTPUT_EGRESS)) {
		ctx->mark = MESH_PASSED;
		return bpf_redirect(ifindex, 0);
	}
	if (unlikely(output >> MESH_IFINDEX_BITS & MESH_OUTPUT_NEIGHBOUR))
		return verdict_neighbour(ctx, ifindex);
	return verdict_redirect(ctx, ifindex);
}

/*
 * Back to where the packet came from: into the function, or to the host's stack as if the function
 * had sent it. There it meets mesh_from_fn, and is known by a mark that no function can set.
 */
HOT int verdict_answer(CTX *ctx, __u32 direction, __u32 output)
{
	if (direction == MESH_TO_FN) {
		ctx->mark = MESH_ANSWER;
		return bpf_redirect(context_ifindex(ctx), BPF_F_INGRESS);
	}
	if (direction == MESH_FROM_UPLINK)
		return verdict_neighbour(ctx, context_ifindex(ctx));
	return verdict_output(ctx, output);
}

/* On to another program, MESH_CALL_*; returns only if that is not there. */
HOT void verdict_call(CTX *ctx, __u32 slot)
{
	mesh_tc_calls.call(ctx, slot);
}

/* The answer to a question (MESH_DRY_RUN): what would be done, in the context; nothing is done. */
HOT int verdict_dry(CTX *ctx, const struct mesh_judgement *j, __u32 reason)
{
	ctx->cb[MESH_DRY_REASON] = reason;
	ctx->cb[MESH_DRY_RULE] = j->verdict.rule;
	ctx->cb[MESH_DRY_RECEIVER] = j->question.receiver;
	ctx->cb[MESH_DRY_SERVICE] = j->question.service |
				    (j->verdict.audited ? MESH_DRY_AUDITED : 0) |
				    (j->verdict.rejected ? MESH_DRY_REJECTED : 0);
	ctx->cb[MESH_DRY_PORT] = bpf_ntohs(j->question.target_port);
	return reason ? TC_ACT_SHOT : TC_ACT_OK;
}

#endif
#endif
