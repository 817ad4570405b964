/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands behind each injected program, and is no program of its own: its instructions are put
 * after those of the other (ebpfmesh/inject). mesh_chain_write is for those that may write.
 */
#include "lib/mesh.h"
#include "lib/write.h"

int mesh_chain_end(struct __sk_buff *ctx)
{
	return chain_end(ctx);
}

int mesh_chain_write(struct __sk_buff *ctx)
{
	return write_end(ctx);
}
