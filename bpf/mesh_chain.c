/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What stands behind each injected program, and is no program of its own: its instructions are put
 * after those of the other (ebpfmesh/inject). Two are for those that may write, two for those of
 * tenants: from there mesh_chain_end, in a slot and without the barriers against speculation that
 * theirs have, does the rest.
 */
#include "lib/mesh.h"
#include "lib/write.h"

int mesh_chain_end(struct __sk_buff *ctx)
{
	return chain_end(ctx);
}

int mesh_chain_write(struct __sk_buff *ctx)
{
	write_asked(ctx);
	return chain_end(ctx);
}

int mesh_chain_leave(struct __sk_buff *ctx)
{
	return chain_leave(ctx);
}

int mesh_chain_leave_write(struct __sk_buff *ctx)
{
	write_asked(ctx);
	return chain_leave(ctx);
}
