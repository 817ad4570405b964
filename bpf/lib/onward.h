/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * XDP in front of tc, of packets that leave by an uplink: for remotes, and answers to the outside. The
 * next hop is whom the host's routes say now, as at tc (verdict_neighbour()); where they say none, or
 * its MAC is not known yet, the packet goes on to tc, where the kernel finds it out.
 * Reads mesh_iface.
 */
#ifndef MESH_ONWARD_H
#define MESH_ONWARD_H

#include "lib/flow.h"
#include "lib/meter.h"
#include "lib/rewrite.h"
#include "lib/verdict.h"

/* Address families, linux/include/linux/socket.h */
#define ONWARD_IPV4 2
#define ONWARD_IPV6 10

/*
 * Does the uplink take frames by XDP? What a driver does not take the kernel drops, and nobody would
 * know; who attaches us has asked it.
 */
HOT int onward_is_open(__u32 uplink)
{
	struct mesh_iface *iface = mesh_iface.lookup(&uplink);

	return iface && iface->flags & MESH_IFACE_TAKES_FRAMES;
}

/* Both addresses as the packet will leave with them, what is asked besides as tc asks it. */
HOT void onward_question(struct bpf_fib_lookup *asked, const struct pkt *p,
			 const struct mesh_flow *flow)
{
	asked->l4_protocol = p->protocol;
	asked->ifindex = flow_ifindex(flow);
	if (pkt_is4(p)) {
		asked->family = ONWARD_IPV4;
		asked->tos = p->ip4->tos;
		asked->tot_len = bpf_ntohs(p->ip4->tot_len);
		asked->ipv4_src =
			flow->flags & MESH_FLOW_NAT_SRC ? flow->address.word[3] : p->ip4->saddr;
		asked->ipv4_dst =
			flow->flags & MESH_FLOW_NAT_DST ? flow->address.word[3] : p->ip4->daddr;
		return;
	}
	asked->family = ONWARD_IPV6;
	asked->flowinfo = *(__be32 *)p->ip6 & bpf_htonl(0x0fffffff);
	asked->tot_len = bpf_ntohs(p->ip6->payload_len) + sizeof(*p->ip6);
	if (flow->flags & MESH_FLOW_NAT_SRC)
		__builtin_memcpy(asked->ipv6_src, &flow->address, 16);
	else
		__builtin_memcpy(asked->ipv6_src, &p->ip6->saddr, 16);
	if (flow->flags & MESH_FLOW_NAT_DST)
		__builtin_memcpy(asked->ipv6_dst, &flow->address, 16);
	else
		__builtin_memcpy(asked->ipv6_dst, &p->ip6->daddr, 16);
}

/*
 * 1 with its MACs in `hop` if the packet may go there: it is no longer than what the route takes. Asks
 * with the uplink as the way out, so that hosts with other routes to there send by it nevertheless.
 */
HOT int onward_find(CTX *ctx, const struct pkt *p, const struct mesh_flow *flow,
		    struct bpf_fib_lookup *hop)
{
	onward_question(hop, p, flow);
	return bpf_fib_lookup(ctx, hop, sizeof(*hop), BPF_FIB_LOOKUP_OUTPUT) ==
		       BPF_FIB_LKUP_RET_SUCCESS &&
	       hop->ifindex == flow_ifindex(flow);
}

HOT void onward_ethernet(const struct pkt *p, const struct bpf_fib_lookup *hop)
{
	__builtin_memcpy(p->eth->h_dest, hop->dmac, sizeof(p->eth->h_dest));
	__builtin_memcpy(p->eth->h_source, hop->smac, sizeof(p->eth->h_source));
}

/*
 * May the packet be sent on from here? One of each flow in a tick is left to tc: neighbours are
 * confirmed by what the host's stack sends there, and one that has moved is found so.
 */
HOT int onward_may(const struct mesh_flow *flow)
{
	return flow->seen == flow_clock() && !(flow->flags & MESH_FLOW_HAIRPIN) &&
	       onward_is_open(flow_ifindex(flow));
}

/* Of an established flow whose packet early_carry() has looked at. */
HOT int onward_carry(CTX *ctx, const struct pkt *p, struct mesh_flow *flow)
{
	struct bpf_fib_lookup hop = {};
	__u32 uplink = flow_ifindex(flow);

	if (!onward_may(flow) || context_whole_length(ctx) != context_length(ctx) ||
	    !onward_find(ctx, p, flow, &hop))
		return verdict_pass(ctx);
	meter_count(ctx, flow);
	rewrite_ttl(p);
	onward_ethernet(p, &hop);
	if (flow->flags & (MESH_FLOW_NAT_SRC | MESH_FLOW_NAT_DST))
		rewrite_nat(ctx, p, flow);
	return verdict_onward(ctx, uplink);
}
#endif
