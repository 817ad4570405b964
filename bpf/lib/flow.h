/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flow entries: the memory of a verdict. An established packet finds everything it needs in one
 * entry (the idea is ONCache's, NSDI 2025); this file makes its key, finds it and stores it.
 * Reads and writes mesh_flow4, mesh_flow6, mesh_half.
 */
#ifndef MESH_FLOW_H
#define MESH_FLOW_H

#include "lib/address.h"
#include "lib/meter.h"

HOT __u32 flow_origin(__u32 ifindex, __u8 protocol)
{
	return ifindex << (32 - MESH_IFINDEX_BITS) | protocol;
}

/* Ticks since the machine started; one load, which the verifier puts in the helper's place. */
HOT __u32 flow_clock(void)
{
	return bpf_jiffies64() >> MESH_TICK_SHIFT;
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

/* The fast path's: of a packet with ports of its own. */
HOT struct mesh_flow *flow_find(const struct pkt *p, __u32 ifindex)
{
	return pkt_is4(p) ? flow_find4(p, ifindex) : flow_find6(p, ifindex);
}

HOT void flow_key4(struct mesh_flow4_key *key, const struct mesh_tuple *t, __u32 ifindex)
{
	key->source = t->source.word[3];
	key->destination = t->destination.word[3];
	key->source_port = t->source_port;
	key->destination_port = t->destination_port;
	key->origin = flow_origin(ifindex, t->protocol);
}

/* The addresses of an IPv4 flow stand here as they do in the tuple: mesh_half is for both. */
HOT void flow_key6(struct mesh_flow6_key *key, const struct mesh_tuple *t, __u32 ifindex)
{
	__builtin_memcpy(key->source, t->source.word, sizeof(key->source));
	__builtin_memcpy(key->destination, t->destination.word, sizeof(key->destination));
	key->source_port = t->source_port;
	key->destination_port = t->destination_port;
	key->origin = flow_origin(ifindex, t->protocol);
}

HOT struct mesh_flow *flow_find_half(const struct mesh_tuple *t, __u32 ifindex)
{
	struct mesh_flow6_key key;

	if (t->protocol != IPPROTO_TCP)
		return NULL;
	flow_key6(&key, t, ifindex);
	return mesh_half.lookup(&key);
}

HOT struct mesh_flow *flow_find_whole(const struct mesh_tuple *t, __u32 ifindex)
{
	struct mesh_flow4_key key4;
	struct mesh_flow6_key key6;

	if (address_is4(&t->source)) {
		flow_key4(&key4, t, ifindex);
		return mesh_flow4.lookup(&key4);
	}
	flow_key6(&key6, t, ifindex);
	return mesh_flow6.lookup(&key6);
}

/*
 * 0, or something else where the map takes no more. A stored entry is looked up at once: to make
 * room the kernel takes first what nobody has looked up, and where all else is in use that is the
 * entry just made (linux/kernel/bpf/bpf_lru_list.c).
 */
HOT int flow_store_whole(const struct mesh_tuple *t, __u32 ifindex, struct mesh_flow *flow)
{
	struct mesh_flow4_key key4;
	struct mesh_flow6_key key6;

	if (address_is4(&t->source)) {
		flow_key4(&key4, t, ifindex);
		return mesh_flow4.update(&key4, flow) || !mesh_flow4.lookup(&key4);
	}
	flow_key6(&key6, t, ifindex);
	return mesh_flow6.update(&key6, flow) || !mesh_flow6.lookup(&key6);
}

HOT int flow_store_half(const struct mesh_tuple *t, __u32 ifindex, struct mesh_flow *flow)
{
	struct mesh_flow6_key key;

	flow_key6(&key, t, ifindex);
	return mesh_half.update(&key, flow) || !mesh_half.lookup(&key);
}

HOT void flow_forget_half(const struct mesh_tuple *t, __u32 ifindex)
{
	struct mesh_flow6_key key;

	flow_key6(&key, t, ifindex);
	if (!mesh_half.delete(&key))
		count_one(MESH_COUNT_HALF_GONE);
}

HOT void flow_forget_whole(const struct mesh_tuple *t, __u32 ifindex)
{
	struct mesh_flow4_key key4;
	struct mesh_flow6_key key6;
	int missing;

	if (address_is4(&t->source)) {
		flow_key4(&key4, t, ifindex);
		missing = mesh_flow4.delete(&key4);
	} else {
		flow_key6(&key6, t, ifindex);
		missing = mesh_flow6.delete(&key6);
	}
	if (!missing)
		count_one(MESH_COUNT_FLOW_GONE);
}

/*
 * What an answer to a packet has for its five-tuple, and where it comes from: the entry's receiver,
 * flow->ifindex. So a flow's entry leads to that of the other way.
 */
HOT void flow_answer(struct mesh_tuple *answer, const struct mesh_tuple *t,
		     const struct mesh_flow *flow)
{
	*answer = *t;
	if (flow->flags & MESH_FLOW_HAIRPIN) {
		answer->destination = t->source;
		answer->source = flow->address;
	} else if (flow->flags & MESH_FLOW_NAT_DST) {
		answer->destination = flow->address;
	} else if (flow->flags & MESH_FLOW_NAT_SRC) {
		answer->source = flow->address;
	}
	if (flow->flags & MESH_FLOW_NAT_DST)
		answer->destination_port = flow->port;
	if (flow->flags & MESH_FLOW_NAT_SRC)
		answer->source_port = flow->port;
	tuple_reverse(answer);
}

/*
 * May a packet without an entry open a flow? As nf_conntrack does with nf_conntrack_tcp_loose=1:
 * a SYN or a bare ACK (a flow from before us) may; SYN+ACK, FIN, RST, an echo reply and an ICMP
 * error may not, nor a later fragment of a stream.
 */
HOT int flow_may_open(const struct pkt *p, const struct mesh_tuple *t)
{
	__u32 flags = p->tcp & (PKT_FIN | PKT_SYN | PKT_RST | PKT_ACK);

	if (p->kind != PKT_FLOW)
		return 0;
	if (t->protocol == IPPROTO_ICMP || t->protocol == IPPROTO_ICMPV6) /* see struct pkt */
		return t->destination_port == (__be16)(t->source_port + 1);
	return t->protocol != IPPROTO_TCP || flags == PKT_SYN || flags == PKT_ACK;
}
#endif
