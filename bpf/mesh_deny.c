/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * XDP at an uplink, in front of mesh_uplink_fn: what is denied ends here, before there is an skb; all
 * else goes on as it came. At a veth attached only while something is denied.
 */
#define MESH_XDP
#include "lib/headers.h"
#include "lib/deny.h"
#include "lib/verdict.h"

int mesh_deny_xdp(struct xdp_md *ctx)
{
	__u32 length = 0, reason = deny_check(ctx, &length);

	return reason ? verdict_drop_early(ctx, reason, length) : verdict_pass(ctx);
}
