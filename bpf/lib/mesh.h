/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The packet's way, once for every hook: parse → find the flow, or judge it → rewrite → count →
 * leave. Includes the other files in the order a packet meets them.
 */
#ifndef MESH_MESH_H
#define MESH_MESH_H

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/icmpv6.h>
#include <uapi/linux/pkt_cls.h>

#include "include/mesh_maps.h"
#include "lib/context.h"
#include "lib/parse.h"
#include "lib/endpoint.h"
#include "lib/neighbour.h"
#include "lib/flow.h"
#include "lib/judge.h"
#include "lib/rewrite.h"
#include "lib/meter.h"
#include "lib/verdict.h"

HOT struct mesh_config *mesh_config_get(void)
{
	__u32 zero = 0;

	return mesh_config.lookup(&zero);
}

/* First packet of a flow from a function, or first after a change. MESH_OK or a reason. */
HOT int mesh_judge_from(CTX *ctx, const struct pkt *p, const struct mesh_config *config,
			const struct mesh_flow *stale)
{
	__u32 sender = endpoint_by_ifindex(context_ifindex(ctx));
	struct mesh_function *fn = endpoint_get(sender);
	int reason;

	if (!sender || !fn)
		return MESH_NO_FUNCTION;
	reason = endpoint_check_sender(fn, p);
	return reason ? reason : judge_flow(ctx, p, config, stale, sender);
}

/* From the host's stack: the outside sends, and may not use a function's address for it. */
HOT int mesh_judge_to(CTX *ctx, const struct pkt *p, const struct mesh_config *config,
		      const struct mesh_flow *stale)
{
	struct mesh_tuple t;

	tuple_of(&t, p);
	if (endpoint_by_address(&t.source))
		return MESH_SPOOF_IP;
	if (endpoint_by_address(&t.destination) != endpoint_by_ifindex(context_ifindex(ctx)))
		return MESH_NOT_HERE;
	return judge_flow(ctx, p, config, stale, 0);
}

/* ARP, neighbour discovery and all that is not IP, from a function. */
HOT int mesh_check_other(CTX *ctx, const struct pkt *p)
{
	__u32 sender = endpoint_by_ifindex(context_ifindex(ctx));
	struct mesh_function *fn = endpoint_get(sender);

	if (!sender || !fn)
		return MESH_NO_FUNCTION;
	if (p->kind == PKT_ARP)
		return neighbour_check_arp(fn, p);
	if (p->kind == PKT_ND)
		return neighbour_check_nd(fn, p);
	return MESH_PROTOCOL;
}

HOT int mesh_drop(CTX *ctx, __u8 direction, int reason)
{
	return verdict_drop(ctx, endpoint_by_ifindex(context_ifindex(ctx)), direction, reason);
}

HOT int mesh_forward(CTX *ctx, const struct pkt *p, const struct mesh_flow *flow)
{
	__u32 ifindex = flow->ifindex;

	if (unlikely(!mac_equal(p->eth->h_source, flow->sender)))
		return mesh_drop(ctx, MESH_FROM_FN, MESH_SPOOF_MAC);
	if (unlikely(ifindex && rewrite_ttl(p)))
		return mesh_drop(ctx, MESH_FROM_FN, MESH_TTL);
	meter_count(ctx, flow);
	if (unlikely(!ifindex))
		return verdict_pass(ctx);
	rewrite_ethernet(p, flow);
	if (flow->flags & (MESH_FLOW_NAT_SRC | MESH_FLOW_NAT_DST))
		rewrite_nat(ctx, p, flow);
	return verdict_redirect(ctx, ifindex);
}

/* A packet that a function sends. */
HOT int mesh_from_function(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_flow *flow;
	struct pkt p;
	int reason;

	if (!config)
		return mesh_drop(ctx, MESH_FROM_FN, MESH_NO_FUNCTION);
	reason = parse_packet(ctx, &p);
	if (unlikely(reason))
		return mesh_drop(ctx, MESH_FROM_FN, reason);
	if (unlikely(p.kind != PKT_FLOW)) {
		reason = mesh_check_other(ctx, &p);
		return reason ? mesh_drop(ctx, MESH_FROM_FN, reason) : verdict_pass(ctx);
	}
	flow = flow_find(&p, context_ifindex(ctx));
	if (unlikely(!flow || flow->epoch != config->epoch)) {
		reason = mesh_judge_from(ctx, &p, config, flow);
		if (reason)
			return mesh_drop(ctx, MESH_FROM_FN, reason);
		flow = flow_find(&p, context_ifindex(ctx));
		if (!flow)
			return mesh_drop(ctx, MESH_FROM_FN, MESH_FLOW_FULL);
	}
	return mesh_forward(ctx, &p, flow);
}

/* A packet that the host's stack sends to a function. */
HOT int mesh_to_function(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_flow *flow;
	struct pkt p;
	int reason;

	if (!config)
		return mesh_drop(ctx, MESH_TO_FN, MESH_NO_FUNCTION);
	reason = parse_packet(ctx, &p);
	if (reason)
		return mesh_drop(ctx, MESH_TO_FN, reason);
	if (p.kind != PKT_FLOW)
		return p.kind == PKT_OTHER ? mesh_drop(ctx, MESH_TO_FN, MESH_PROTOCOL) :
					     verdict_pass(ctx);
	flow = flow_find(&p, 0);
	if (!flow || flow->epoch != config->epoch) {
		reason = mesh_judge_to(ctx, &p, config, flow);
		if (reason)
			return mesh_drop(ctx, MESH_TO_FN, reason);
		flow = flow_find(&p, 0);
		if (!flow)
			return mesh_drop(ctx, MESH_TO_FN, MESH_FLOW_FULL);
	}
	meter_count(ctx, flow);
	return verdict_pass(ctx);
}
#endif
