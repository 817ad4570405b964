/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Whether a packet fits an uplink, by the MTU that it has now. The redirect to a neighbour does not
 * ask, and what is too long is lost in the driver without a word; so who sent it is told (answer.h),
 * of IPv4 also where it might be cut: nothing is, and who hears of it cuts by himself.
 */
#ifndef MESH_MTU_H
#define MESH_MTU_H

#include "lib/flow.h"

/* Every link carries so much (RFC 791: 576 bytes), and an Ethernet header before it. */
#define MTU_SMALL 590

/* BCC 0.26 does not declare it. */
static int (*check_mtu)(void *ctx, __u32 ifindex, __u32 *mtu, __s32 difference,
			__u64 flags) = (void *)BPF_FUNC_check_mtu;

/* The MTU that a packet, or a segment of one with GSO, is longer than; 0 if it is not. */
HOT __u32 mtu_exceeded(CTX *ctx, const struct mesh_flow *flow)
{
	__u32 mtu = 0;

	if (!flow_is_to_uplink(flow) || context_length(ctx) <= MTU_SMALL)
		return 0;
	return check_mtu(ctx, flow_ifindex(flow), &mtu, 0, BPF_MTU_CHK_SEGS) > 0 ? mtu : 0;
}
#endif
