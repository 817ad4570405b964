/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Puts users' packets into QoS flows: the QFI in the PDU session container of GTP-U (3GPP TS 29.281,
 * 5.2.1; TS 38.415, 5.5.2) becomes the one that the operator has put into `flows` for their tunnel
 * (TEID → QFI, host order), else that of `other`. What has no container passes as it is.
 */
#include "mesh_function.h"

#define PORT 2152
#define G_PDU 255
#define EXTENSION 4 /* of the flags: `next` is one of those below */
#define CONTAINER 0x85
#define KEEP 64

MESH_PARAMETER(u8, other, 64, "QFI of tunnels that are not in the map, 0 to 63; 64: as it is");
MESH_COUNTER(changed, "packets that were put into another QoS flow");
MESH_COUNTER(bare, "packets of users without a PDU session container");

/* Up to the end of the shortest container, which comes first of the extension headers. */
struct gtp {
	u8 flags;
	u8 type;
	__be16 length;
	__be32 teid;
	__be16 sequence;
	u8 npdu;
	u8 next;
	u8 size;
	u8 kind;
	u8 qfi; /* below two flags */
	u8 pad;
};

MESH_MAP(hash, flows, u32, u8, 4096);

MESH_FUNCTION(p)
{
	struct gtp gtp = {};
	u8 *flow, qfi;
	u32 teid;

	if (p->protocol != IPPROTO_UDP || p->destination_port != PORT)
		return mesh_next();
	if (mesh_read(p, p->payload, &gtp, sizeof(gtp)) || (gtp.flags & 0xf0) != 0x30 ||
	    gtp.type != G_PDU)
		return mesh_next();
	if (!(gtp.flags & EXTENSION) || gtp.next != CONTAINER) {
		mesh_count(bare);
		return mesh_next();
	}
	teid = bpf_ntohl(gtp.teid);
	flow = flows.lookup(&teid);
	qfi = flow ? *flow : mesh_get(other);
	if (qfi >= KEEP || qfi == (gtp.qfi & 0x3f))
		return mesh_next();
	mesh_count(changed);
	return mesh_write(mesh_next(), __builtin_offsetof(struct gtp, qfi), (gtp.qfi & 0xc0) | qfi,
			  1);
}
