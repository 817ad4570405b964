/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Judging flows at tc: programs behind mesh_slow_fn, reached by MESH_CALL_*. A file of their own,
 * so that the two are compiled side by side.
 */
#include "lib/judge.h"

int mesh_judge_fn(struct __sk_buff *ctx)
{
	return mesh_judge(ctx);
}

int mesh_policy_fn(struct __sk_buff *ctx)
{
	return mesh_decide(ctx);
}
