/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A taste of the mobile user plane: counts GTP-U packets by tunnel (3GPP TS 29.281). While `strict`
 * is 0 a tunnel is known from its first packet on; else only those count whose TEID the operator has
 * put into `tunnels` (host order), and the others' packets are dropped.
 */
#include "mesh_function.h"

#define PORT 2152
#define G_PDU 255

MESH_PARAMETER(u8, strict, 0, "1: drop packets of tunnels that are not in the map");
MESH_COUNTER(tunnelled, "packets of users");
MESH_COUNTER(signalling, "echoes, errors, end markers");
MESH_COUNTER(unknown, "packets of tunnels that are not in the map, or find no room there");
MESH_REASON(0, "the tunnel is not known");
MESH_REASON(1, "no GTP-U header");

struct gtp {
	u8 flags;
	u8 type;
	__be16 length;
	__be32 teid;
};

struct traffic {
	u64 packets;
	u64 bytes;
};

MESH_MAP(percpu_hash, tunnels, u32, struct traffic, 4096);

MESH_FUNCTION(p)
{
	struct traffic none = {}, *traffic;
	struct gtp gtp;
	u32 teid;

	if (p->protocol != IPPROTO_UDP || p->destination_port != PORT)
		return mesh_next();
	if (mesh_read(p, p->payload, &gtp, sizeof(gtp)) || (gtp.flags & 0xf0) != 0x30)
		return mesh_drop(1);
	if (gtp.type != G_PDU) {
		mesh_count(signalling);
		return mesh_next();
	}
	teid = bpf_ntohl(gtp.teid);
	traffic = tunnels.lookup(&teid);
	if (!traffic && !mesh_get(strict))
		traffic = tunnels.lookup_or_try_init(&teid, &none);
	if (!traffic) {
		mesh_count(unknown);
		return mesh_get(strict) ? mesh_drop(0) : mesh_next();
	}
	traffic->packets++;
	traffic->bytes += p->length;
	mesh_count(tunnelled);
	return mesh_next();
}
