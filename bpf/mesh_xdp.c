/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The mesh at XDP: the same way of a packet, before there is an skb. For packet functions, whose
 * peers send no offloaded TCP (XDP on a veth turns TSO off and cannot complete a
 * partial checksum).
 */
#define MESH_XDP
#include "lib/slow.h"
#include "lib/judge.h"
#include "lib/decide.h"
#include "lib/store.h"

int mesh_xdp_fn(struct xdp_md *ctx)
{
	return mesh_from_function(ctx);
}

int mesh_xdp_slow(struct xdp_md *ctx)
{
	return mesh_slow(ctx);
}

int mesh_xdp_judge(struct xdp_md *ctx)
{
	return mesh_judge(ctx);
}

int mesh_xdp_decide(struct xdp_md *ctx)
{
	return mesh_decide(ctx);
}

int mesh_xdp_store(struct xdp_md *ctx)
{
	return mesh_store(ctx);
}

int mesh_xdp_event(struct xdp_md *ctx)
{
	return mesh_event(ctx);
}

int mesh_xdp_answer(struct xdp_md *ctx)
{
	return mesh_answer(ctx);
}
