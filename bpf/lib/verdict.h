/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The way out. The only file that returns TC_ACT_* or XDP_*; a dropped packet is counted here and
 * nowhere else, a forwarded one is in the meter by now.
 */
#ifndef MESH_VERDICT_H
#define MESH_VERDICT_H

#include "lib/meter.h"

HOT int verdict_drop(CTX *ctx, __u32 function, __u8 direction, __u8 reason)
{
	drop_count(ctx, function, direction, reason, 0);
#ifdef MESH_XDP
	return XDP_DROP;
#else
	return TC_ACT_SHOT;
#endif
}

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
	/* The type stays what eth_type_trans() made of the old MAC, and the receiver trusts it. */
	if (unlikely(CONTEXT_FIELD(ctx, pkt_type) != 0))
		bpf_skb_change_type(ctx, 0);
	return bpf_redirect_peer(ifindex, 0);
#endif
}
#endif
