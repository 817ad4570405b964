/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The mesh at tc, on the host-side interface of every function: mesh_from_fn at ingress carries
 * what the function sends, mesh_to_fn at egress judges what the host's stack sends to it. A packet
 * from function to function meets the first alone.
 */
#include "lib/mesh.h"

int mesh_from_fn(struct __sk_buff *ctx)
{
	return mesh_from_function(ctx);
}

int mesh_to_fn(struct __sk_buff *ctx)
{
	return mesh_to_function(ctx);
}
