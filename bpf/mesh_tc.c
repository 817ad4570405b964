/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The mesh at tc, on the host-side interface of every function: mesh_from_fn at ingress carries
 * what the function sends, mesh_to_fn at egress is for what the host's stack sends to it;
 * mesh_uplink_fn at ingress of an interface to the outside carries what comes from there. A packet
 * from function to function meets the first alone, and if it is not an established flow's the
 * others behind it, by MESH_CALL_*; the slow path among them is in mesh_slow.c.
 */
#include "lib/judge.h"
#include "lib/slow.h"
#include "lib/decide.h"
#include "lib/store.h"
#include "lib/rate.h"

int mesh_from_fn(struct __sk_buff *ctx)
{
	return mesh_from_function(ctx);
}

int mesh_judge_fn(struct __sk_buff *ctx)
{
	return mesh_judge(ctx);
}

int mesh_decide_fn(struct __sk_buff *ctx)
{
	return mesh_decide(ctx);
}

int mesh_store_fn(struct __sk_buff *ctx)
{
	return mesh_store(ctx);
}

int mesh_event_fn(struct __sk_buff *ctx)
{
	return mesh_event(ctx);
}

int mesh_rate_fn(struct __sk_buff *ctx)
{
	return mesh_rate_check(ctx);
}

int mesh_to_fn(struct __sk_buff *ctx)
{
	return mesh_to_function(ctx);
}

int mesh_uplink_fn(struct __sk_buff *ctx)
{
	return mesh_from_uplink(ctx);
}

int mesh_answer_fn(struct __sk_buff *ctx)
{
	return mesh_answer(ctx);
}
