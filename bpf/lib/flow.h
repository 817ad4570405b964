/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flow entries: the memory of a verdict. An established packet finds everything it needs in one
 * entry (the idea is ONCache's, NSDI 2025); this file makes its key, finds it and stores it.
 * Reads and writes mesh_flow4, mesh_flow6.
 */
#ifndef MESH_FLOW_H
#define MESH_FLOW_H

#include "lib/address.h"

HOT __u32 flow_origin(__u32 ifindex, __u8 protocol)
{
	return ifindex << (32 - MESH_IFINDEX_BITS) | protocol;
}

HOT struct mesh_flow *flow_find4(const struct pkt *p, __u32 ifindex)
{
	struct mesh_flow4_key key;

	key.source = p->ip4->saddr;
	key.destination = p->ip4->daddr;
	*(__u32 *)&key.source_port = p->ports;
	key.origin = flow_origin(ifindex, p->protocol);
	return mesh_flow4.lookup(&key);
}

HOT struct mesh_flow *flow_find6(const struct pkt *p, __u32 ifindex)
{
	struct mesh_flow6_key key;

	__builtin_memcpy(key.source, &p->ip6->saddr, sizeof(key.source));
	__builtin_memcpy(key.destination, &p->ip6->daddr, sizeof(key.destination));
	*(__u32 *)&key.source_port = p->ports;
	key.origin = flow_origin(ifindex, p->protocol);
	return mesh_flow6.lookup(&key);
}

HOT struct mesh_flow *flow_find(const struct pkt *p, __u32 ifindex)
{
	return p->ip4 ? flow_find4(p, ifindex) : flow_find6(p, ifindex);
}

/* 0, or negative where the map takes no more. */
HOT int flow_store(const struct mesh_tuple *t, __u32 ifindex, struct mesh_flow *flow)
{
	if (address_is4(&t->source)) {
		struct mesh_flow4_key key = {
			.source = t->source.word[3],
			.destination = t->destination.word[3],
			.source_port = t->source_port,
			.destination_port = t->destination_port,
			.origin = flow_origin(ifindex, t->protocol),
		};

		return mesh_flow4.update(&key, flow);
	} else {
		struct mesh_flow6_key key = {};

		__builtin_memcpy(key.source, t->source.word, sizeof(key.source));
		__builtin_memcpy(key.destination, t->destination.word, sizeof(key.destination));
		key.source_port = t->source_port;
		key.destination_port = t->destination_port;
		key.origin = flow_origin(ifindex, t->protocol);
		return mesh_flow6.update(&key, flow);
	}
}

/*
 * May a packet without an entry open a flow? As nf_conntrack does with nf_conntrack_tcp_loose=1:
 * a SYN or a bare ACK (a flow from before us) may; SYN+ACK, FIN, RST and an echo reply may not.
 */
HOT int flow_may_open(const struct pkt *p)
{
	struct tcphdr *tcp = p->l4;

	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6) /* see struct pkt */
		return ports_destination(p->ports) == (__be16)(ports_source(p->ports) + 1);
	if (p->protocol != IPPROTO_TCP)
		return 1;
	if ((void *)(tcp + 1) > p->end)
		return 0;
	return !tcp->rst && !tcp->fin && (tcp->syn ^ tcp->ack);
}
#endif
