/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Marks packets by policy: the class of a destination port is in a map, which the operator fills
 * (port → DSCP, host order); what is in no class gets that of `other`.
 */
#include "mesh_function.h"

MESH_PARAMETER(u8, other, 0, "DSCP of ports that are not in the map, 0 to 63");
MESH_COUNTER(marked, "packets of a port in the map");

MESH_MAP(hash, classes, u16, u8, 256);

MESH_FUNCTION(p)
{
	u16 port = p->destination_port;
	u8 *class = classes.lookup(&port);

	if (!p->version)
		return mesh_next();
	if (!class)
		return mesh_next_dscp(mesh_get(other));
	mesh_count(marked);
	return mesh_next_dscp(*class);
}
