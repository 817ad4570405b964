/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * XDP in front of tc, in a mesh with functions that have their packets by XDP: at its uplinks, with a deny
 * list or without, and at the host side of functions that send by XDP. At uplinks malformed IP headers
 * end here, too, as in mesh_deny.c.
 */
#define MESH_XDP
#include "lib/early.h"
#include "lib/deny.h"

/* The deny list comes first, also for flows that were established before. */
int mesh_both_xdp(struct xdp_md *ctx)
{
	__u32 length = 0, reason = deny_check(ctx, &length);

	return reason ? verdict_drop_early(ctx, reason, length) :
			early_carry(ctx, MESH_FROM_UPLINK);
}

/* Nothing is denied: only what is not carried is asked whether it is malformed. */
int mesh_carry_xdp(struct xdp_md *ctx)
{
	int verdict = early_carry(ctx, MESH_FROM_UPLINK);
	__u32 length = 0, reason;

	if (verdict != verdict_pass(ctx))
		return verdict;
	reason = deny_check(ctx, &length);
	return reason ? verdict_drop_early(ctx, reason, length) : verdict;
}

int mesh_fn_xdp(struct xdp_md *ctx)
{
	return early_carry(ctx, MESH_FROM_FN);
}
