/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What is counted: every packet that passes in mesh_meter, every one that does not in mesh_drops.
 * Both are per CPU, so no update is atomic. A mesh that counts its flows counts those that pass in
 * the flow's entry, too, which all CPUs have together. Bytes are those of the frame, a GSO packet
 * counts as the segments it leaves in.
 */
#ifndef MESH_METER_H
#define MESH_METER_H

#include "lib/context.h"

/* What counting costs is measured without it: ebpfmesh/bench/paths/this_build.py. */
#ifndef MESH_UNMETERED
#define MESH_UNMETERED 0
#endif

/* Function 0 stands for the outside and has slots like any other. */
HOT __u32 meter_slot(const struct mesh_config *config, __u32 function, __u32 peer_tenant)
{
	return function * config->tenants + peer_tenant;
}

/* Division by a number that is known before (Granlund and Montgomery, PLDI 1994). */
HOT __u32 meter_function(const struct mesh_config *config, __u32 slot)
{
	return (__u64)slot * config->inverse >> config->shift;
}

/* `flow` is in its map; MESH_FLOW_ENTRY tells what is behind it. */
HOT void meter_flow(struct mesh_flow *flow, __u64 packets, __u64 bytes)
{
#ifdef MESH_COUNT_FLOWS
	struct mesh_flow_counts *counts = &((MESH_FLOW_ENTRY *)flow)->counts;

	__sync_fetch_and_add(&counts->packets, packets);
	__sync_fetch_and_add(&counts->bytes, bytes);
#endif
}

/* Of the sender and of the receiver. */
HOT void meter_ends(CTX *ctx, __u32 slot, __u32 peer)
{
	__u64 packets = context_packets(ctx), bytes = context_length(ctx);
	struct mesh_meter *meter;

	if (MESH_UNMETERED)
		return;
	meter = mesh_meter.lookup(&slot);
	if (meter) {
		meter->tx_packets += packets;
		meter->tx_bytes += bytes;
	}
	meter = mesh_meter.lookup(&peer);
	if (meter) {
		meter->rx_packets += packets;
		meter->rx_bytes += bytes;
	}
}

HOT void meter_count(CTX *ctx, struct mesh_flow *flow)
{
	if (MESH_UNMETERED)
		return;
	meter_flow(flow, context_packets(ctx), context_length(ctx));
	meter_ends(ctx, flow->meter_tx, flow->meter_rx);
}

/* enum mesh_count. */
HOT void count_one(__u32 what)
{
	struct mesh_count_value *count = mesh_counts.lookup(&what);

	if (count)
		count->value++;
}

HOT void drop_count(CTX *ctx, __u32 function, __u8 direction, __u8 reason, __u8 audited)
{
	struct mesh_drop_key key = {
		.function = function,
		.reason = reason,
		.direction = direction,
		.audited = audited,
	};
	struct mesh_drop none = {}, *drop;

	drop = mesh_drops.lookup_or_try_init(&key, &none);
	if (drop) {
		drop->packets += context_packets(ctx);
		drop->bytes += context_length(ctx);
	}
}
#endif
