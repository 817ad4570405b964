/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands behind each injected program, and is no program of its own: its instructions are put
 * after those of the other (ebpfmesh/inject).
 */
#include "lib/mesh.h"

int mesh_chain_end(struct __sk_buff *ctx)
{
	return chain_end(ctx);
}
