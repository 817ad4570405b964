/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a flow to the outside meets behind mesh_decide_fn, in the place of mesh_store_fn, where uplinks
 * masquerade. A file of its own, loaded with the first of them.
 */
#include "lib/out.h"

int mesh_out_fn(struct __sk_buff *ctx)
{
	return mesh_out(ctx);
}
