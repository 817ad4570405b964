/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path at tc, behind the programs of mesh_tc.c, which it goes on to by MESH_CALL_*. A file
 * of its own, since it is as much as all the others: the two are compiled side by side.
 */
#include "lib/slow.h"

int mesh_slow_fn(struct __sk_buff *ctx)
{
	return mesh_slow(ctx);
}
