/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flow entries: the memory of a verdict. An established packet finds everything it needs in one
 * entry (the idea is ONCache's, NSDI 2025); this file makes its key, finds it and stores it.
 * Reads and writes mesh_flow4, mesh_flow6; room.h decides who has a place there.
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
	return (struct mesh_flow *)mesh_flow4.lookup(&key);
}

HOT struct mesh_flow *flow_find6(const struct pkt *p, __u32 ifindex)
{
	struct mesh_flow6_key key;

	__builtin_memcpy(key.source, &p->ip6->saddr, sizeof(key.source));
	__builtin_memcpy(key.destination, &p->ip6->daddr, sizeof(key.destination));
	*(__u32 *)&key.source_port = p->ports;
	key.origin = flow_origin(ifindex, p->protocol);
	return (struct mesh_flow *)mesh_flow6.lookup(&key);
}

/* The fast path's: of a packet with ports of its own. */
HOT struct mesh_flow *flow_find(const struct pkt *p, __u32 ifindex)
{
	return pkt_is4(p) ? flow_find4(p, ifindex) : flow_find6(p, ifindex);
}

/* On the slow path all flows have keys of one kind; the addresses stand as in the tuple. */
HOT void flow_key(struct mesh_flow6_key *key, const struct mesh_tuple *t, __u32 ifindex)
{
	__builtin_memcpy(key->source, t->source.word, sizeof(key->source));
	__builtin_memcpy(key->destination, t->destination.word, sizeof(key->destination));
	key->source_port = t->source_port;
	key->destination_port = t->destination_port;
	key->origin = flow_origin(ifindex, t->protocol);
}

/* 1 with what it is in mesh_flow4 if it is a flow's of IPv4. */
HOT int flow_key_is4(const struct mesh_flow6_key *key, struct mesh_flow4_key *key4)
{
	key4->source = key->source[3];
	key4->destination = key->destination[3];
	key4->source_port = key->source_port;
	key4->destination_port = key->destination_port;
	key4->origin = key->origin;
	return key->source[2] == bpf_htonl(0xffff) && !key->source[0] && !key->source[1];
}

HOT struct mesh_flow *flow_get(struct mesh_flow6_key *key)
{
	struct mesh_flow4_key key4;

	return (struct mesh_flow *)(flow_key_is4(key, &key4) ? mesh_flow4.lookup(&key4) :
							       mesh_flow6.lookup(key));
}

/* 0, or something else where the map takes no more. */
HOT int flow_put(struct mesh_flow6_key *key, MESH_FLOW_ENTRY *entry)
{
	struct mesh_flow4_key key4;

	return flow_key_is4(key, &key4) ? mesh_flow4.update(&key4, entry) :
					  mesh_flow6.update(key, entry);
}

/* The same, if there is an entry; BCC writes BPF_ANY into the call, and has no other word for it. */
HOT int flow_renew(struct mesh_flow6_key *key, MESH_FLOW_ENTRY *entry)
{
	const __u64 BPF_ANY = BPF_EXIST;
	struct mesh_flow4_key key4;

	return flow_key_is4(key, &key4) ? mesh_flow4.update(&key4, entry) :
					  mesh_flow6.update(key, entry);
}

HOT void flow_delete(struct mesh_flow6_key *key)
{
	struct mesh_flow4_key key4;

	if (flow_key_is4(key, &key4))
		mesh_flow4.delete(&key4);
	else
		mesh_flow6.delete(key);
}

HOT struct mesh_flow *flow_find_tuple(const struct mesh_tuple *t, __u32 ifindex)
{
	struct mesh_flow6_key key;

	flow_key(&key, t, ifindex);
	return flow_get(&key);
}

/* Has it spoken so lately that its time cannot be over? See track.h for the others. */
HOT int flow_is_fresh(struct mesh_flow *flow)
{
	__u32 now = flow_clock();

	if (now - flow->seen > 1)
		return 0;
	if (unlikely(now != flow->seen))
		flow->seen = now;
	return 1;
}

/* Is it established, so that the fast path may be for it? */
HOT int flow_is_half(const struct mesh_flow *flow)
{
	return !!(flow->flags & MESH_FLOW_HALF);
}

/* The epoch it was judged in; none that ever was for one that every packet has judged. */
HOT __u32 flow_judged(const struct mesh_flow *flow)
{
	return flow->epoch & ~MESH_EPOCH_SLOW;
}

/* Ticks that it lives without a packet. */
HOT __u32 flow_timeout(const struct mesh_config *config, const struct mesh_flow *flow,
		       __u32 protocol)
{
	if (protocol == IPPROTO_UDP)
		return config->timeouts[MESH_TIMEOUT_UDP];
	if (protocol != IPPROTO_TCP)
		return config->timeouts[MESH_TIMEOUT_ICMP];
	if (flow->flags & MESH_FLOW_CLOSING)
		return config->timeouts[MESH_TIMEOUT_CLOSING];
	return config
		->timeouts[flow_is_half(flow) ? MESH_TIMEOUT_HANDSHAKE : MESH_TIMEOUT_ESTABLISHED];
}

HOT __u32 flow_output_kind(const struct mesh_flow *flow)
{
	return flow->output >> MESH_IFINDEX_BITS;
}

HOT int flow_is_to_peer(const struct mesh_flow *flow)
{
	return !(flow_output_kind(flow) & MESH_OUTPUT_STACK);
}

/* Out of an uplink, and not by the host's stack? */
HOT int flow_is_to_uplink(const struct mesh_flow *flow)
{
	return !!(flow_output_kind(flow) & MESH_OUTPUT_NEIGHBOUR);
}

/* Is it that of answers to a function behind the uplink's address (out.h)? Services have none like it. */
HOT int flow_is_masqueraded(const struct mesh_flow *flow)
{
	__u32 both = MESH_FLOW_REPLY | MESH_FLOW_NAT_DST;

	return (flow->flags & both) == both;
}

/* Straight into its receiver, past nothing? */
HOT int flow_is_straight(const struct mesh_flow *flow)
{
	return flow_output_kind(flow) == MESH_OUTPUT_PEER;
}

/* Do its packets go through what is injected, or by a rate? */
HOT int flow_is_chained(const struct mesh_flow *flow)
{
	return !!(flow_output_kind(flow) & (MESH_OUTPUT_CHAIN | MESH_OUTPUT_RATE));
}

/* The interface that its packets leave by, and answers come from; 0: the host's stack. */
HOT __u32 flow_ifindex(const struct mesh_flow *flow)
{
	return flow->output & ((1 << MESH_IFINDEX_BITS) - 1);
}

/*
 * What an answer to a packet has for its five-tuple; with where it comes from a flow's entry leads
 * to that of the other way.
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
	if (t->protocol == IPPROTO_ICMP && flow->flags & MESH_FLOW_NAT_SRC)
		answer->destination_port = flow->port + 1; /* see struct pkt */
	if (t->protocol == IPPROTO_ICMP && flow->flags & MESH_FLOW_NAT_DST)
		answer->source_port = flow->port + 1;
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
