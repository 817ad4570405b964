/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, once. The control plane creates and pins them before a program is compiled
 * (ebpfmesh/kernel/maps.py) with the sizes named here; BCC then opens the pins, so the entries
 * given to it do not matter.
 *
 * MESH_MAP(type, name, key, value, entries): entries is a number, or the name of the limit in
 * mesh.toml that sets it.
 */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include "include/mesh_abi.h"

#ifndef MESH_MAP
#define MESH_MAP(type, name, key, value, entries) \
	BPF_TABLE_PINNED(type, key, value, name, 1, MESH_PINS "/" #name)
#endif

/* What changes for all packets at once. Written last by every change; read by every packet. */
MESH_MAP("array", mesh_config, __u32, struct mesh_config, 1);

/* Host-side interface → function. Written by attach and detach; read when a flow is judged. */
MESH_MAP("hash", mesh_iface, __u32, __u32, functions);

/* Id → function. Written by attach and detach; read when a flow is judged. */
MESH_MAP("array", mesh_function, __u32, struct mesh_function, functions);

/*
 * Address → function, or MESH_SERVICE_ADDRESS. Written by attach, detach, service add/del; read when
 * a flow is judged.
 */
MESH_MAP("hash", mesh_address, struct mesh_address, __u32, addresses);

/* Address, port, protocol → service. Written by service add/del; read when a flow is judged. */
MESH_MAP("hash", mesh_service, struct mesh_service_key, struct mesh_service, services);

/* Rows of the Maglev tables. A new table is written beside the old; mesh_service flips to it. */
MESH_MAP("array", mesh_maglev, __u32, struct mesh_maglev_row, maglev_rows);

/* Rules. Written by policy add/del; read when a flow is judged. */
MESH_MAP("hash", mesh_policy, struct mesh_policy_key, struct mesh_policy, rules);

/* Judged flows, two entries each. Written when a flow is judged; read by every packet. */
MESH_MAP("lru_hash", mesh_flow4, struct mesh_flow4_key, struct mesh_flow, flows);
MESH_MAP("lru_hash", mesh_flow6, struct mesh_flow6_key, struct mesh_flow, flows);

/*
 * The flow being judged, from the first line of judge_flow() to its last. On the stack the verifier
 * would follow every value it can have: 550 000 instructions instead of 66 000.
 */
MESH_MAP("percpu_array", mesh_scratch, __u32, struct mesh_judgement, 1);

/* Packets and bytes by function and peer tenant. Written by every packet; read by `show meters`. */
MESH_MAP("percpu_array", mesh_meter, __u32, struct mesh_meter, meters);

/* Drops by function and reason. Written by a dropped packet; read by `show drops`. */
MESH_MAP("percpu_hash", mesh_drops, struct mesh_drop_key, struct mesh_drop, drops);

#endif
