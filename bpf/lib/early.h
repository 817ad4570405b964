/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * XDP in front of tc. Packets of established flows whose receiver has its packets by XDP are sent there
 * at once, without an skb; every other one goes on as it came, and what is at tc there judges it. So
 * nothing is decided here: an entry of a flow is what tc made of its first packet, and a packet that
 * is not carried has met nothing yet.
 */
#ifndef MESH_EARLY_H
#define MESH_EARLY_H

#include "lib/headers.h"
#include "lib/mtu.h"
#include "lib/onward.h"
#include "lib/plain.h"
#include "lib/rewrite.h"
#include "lib/state.h"
#include "lib/verdict.h"

/*
 * Would a redirect lose it? The kernel drops what is longer than the receiver's interface allows, or in
 * fragments that its driver has no place for (bq_enqueue() in linux/kernel/bpf/devmap.c), and nobody
 * would know. A small frame is not asked about the MTU, which costs as much as a look-up.
 */
HOT int early_may_redirect(CTX *ctx, __u32 ifindex)
{
	__u32 mtu = 0, length = context_length(ctx);

	if (unlikely(context_whole_length(ctx) != length))
		return 0;
	return length <= MTU_SMALL || !check_mtu(ctx, ifindex, &mtu, 0, 0);
}

/*
 * A frame of a sender on this machine may have left its checksum to offload, which ends with the skb:
 * the field then is the pseudo-header's sum. One in 65 536 others looks so too, and tc carries it.
 */
HOT int early_may_be_partial(const struct pkt *p)
{
	__sum16 *check = rewrite_checksum_at(p);

	return check && *check == rewrite_pseudo_sum(p);
}

/*
 * Is it from whom, and to whom, the flow's first packet was? What a function sends has its MAC. What comes
 * in by an uplink has that interface's, where tc sees only what is for it (pkt_type); so does an entry,
 * from its first packet there.
 */
HOT int early_is_of(const struct pkt *p, const struct mesh_flow *flow, __u32 direction)
{
	return mac_equal(direction == MESH_FROM_FN ? p->eth->h_source : p->eth->h_dest,
			 flow->sender);
}

/* Does it go to somebody who gets frames by XDP, and nowhere else before? */
HOT int early_is_ours(const struct mesh_flow *flow)
{
	__u32 kind = flow_output_kind(flow);

	return kind == MESH_OUTPUT_EGRESS || kind == MESH_OUTPUT_NEIGHBOUR;
}

HOT int early_carry(CTX *ctx, __u32 direction)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_flow *flow;
	__u32 ifindex;
	struct pkt p;

	if (!config || !parse_plain(ctx, &p))
		return verdict_pass(ctx);
	flow = flow_find(&p, context_ifindex(ctx));
	if (!flow || flow->epoch != config->epoch || !early_is_ours(flow))
		return verdict_pass(ctx);
	if (!early_is_of(&p, flow, direction) || rewrite_check_ttl(&p) || early_may_be_partial(&p))
		return verdict_pass(ctx);
	if (flow_is_to_uplink(flow))
		return onward_carry(ctx, &p, flow);
	if (!early_may_redirect(ctx, flow_ifindex(flow)) || !flow_is_fresh(flow))
		return verdict_pass(ctx);
	meter_count(ctx, flow);
	ifindex = flow_ifindex(flow);
	rewrite_packet(ctx, &p, flow);
	return verdict_redirect(ctx, ifindex);
}
#endif
