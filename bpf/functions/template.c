/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What this function is for, in a sentence. (A template that works: it drops what is too long.)
 *
 *     p->length, p->version, p->source, p->destination, p->dscp, p->ecn, p->ttl   of every packet
 *     p->protocol, p->source_port, p->destination_port, p->tcp_flags, p->icmp_type, p->fragment
 *     p->payload, p->payload_length        where the data is; mesh_read(p, p->payload, &x, sizeof(x))
 *
 * What does not fit the packet is 0. All of it: struct mesh_view in bpf/include/mesh_view.h.
 */
#include "mesh_function.h"

/* Changed while packets flow; read below by mesh_get(limit). The text is what is shown. */
MESH_PARAMETER(u32, limit, 1500, "longest frame that passes, in bytes");

/* Shown with the function. */
MESH_COUNTER(seen, "packets that came by");

/* What it remembers: MESH_MAP(hash, flows, u32, struct flow, 1024). After a swap the next version goes
 * on with it. If the value is another then, MESH_MIGRATE(flows, struct flow_v1, old, new) { … } says
 * how an old one becomes a new one (talkers.c has one), and a rollback returns to the old map as it
 * was. Without it another layout is refused.
 */

/* Why it drops: mesh_drop(0). Up to 16. */
MESH_REASON(0, "longer than its limit");

/* Once for each packet. It answers with a verdict:
 *
 *     mesh_next()          on its way                  mesh_set_dscp(verdict, 46)  and so marked
 *     mesh_drop(0)         gone, for reason 0          mesh_mark_ce(verdict)       and so marked
 *     mesh_redirect(0)     to MESH_TARGET(0, "name")
 *     mesh_write(verdict, 4, 0x0a0b, 2)    and 0a 0b put into the fifth and sixth byte of its payload
 */
MESH_FUNCTION(p)
{
	mesh_count(seen);
	if (p->length > mesh_get(limit))
		return mesh_drop(0);
	return mesh_next();
}
