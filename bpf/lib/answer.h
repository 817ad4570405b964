/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the sender of a dropped packet is told, where it is to be told: a TCP reset, ICMP time
 * exceeded, packet too big or unreachable (as iptables' REJECT). A program of its own behind the slow path,
 * which has counted the drop by then; what cannot be answered is dropped without a word.
 *
 * Functions that make an answer of the packet return 0, or -1 with a packet to be dropped.
 */
#ifndef MESH_ANSWER_H
#define MESH_ANSWER_H

#include "lib/csum.h"
#include "lib/endpoint.h"
#include "lib/flow.h"
#include "lib/verdict.h"

#define ANSWER_TTL 64

/*
 * So much of the packet is quoted behind its IP header: 8 bytes (RFC 792), but all of TCP's header,
 * since the kernel cuts no packet whose checksum it has yet to fill in.
 */
#define QUOTE_TCP 20
#define QUOTE 8
#define QUOTE_BIG 48 /* of IPv6, with extension headers before it: what is too big has them all */

struct reset4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct reset6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

struct icmp_error4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct icmphdr icmp;
	struct iphdr quote;
} __attribute__((packed));

struct icmp_error6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct icmp6hdr icmp;
	struct ipv6hdr quote;
} __attribute__((packed));

/* May a packet be answered, if it is dropped? Not an error, nor a later fragment (RFC 1122, 3.2.2). */
HOT void answer_prepare(struct mesh_judgement *j, const struct pkt *p)
{
	j->packet.l4_offset = p->l4_offset;
	j->packet.answerable = p->kind == PKT_FLOW && p->fragment != PKT_LATER_FRAGMENT;
}

/* Is there an ICMP message left of this tick's? Two CPUs at a time may send a few too many. */
HOT int answer_allowed(const struct mesh_judgement *j)
{
	__u32 function = j->packet.function, way = j->packet.direction & 1, now = flow_clock();
	struct mesh_answers *answers = mesh_answers.lookup(&function);

	if (!answers)
		return 0;
	if (answers->tick[way] != now) {
		answers->tick[way] = now;
		answers->sent[way] = 0;
	}
	return answers->sent[way]++ < MESH_ANSWERS;
}

/*
 * Back the way the packet came; what the host gets is from the function, as its own packets are, and
 * out of an uplink the kernel finds the MACs.
 */
HOT int answer_ethernet(struct ethhdr *eth, const struct mesh_judgement *j)
{
	struct mesh_function *fn = endpoint_get(j->packet.function);

	if (!fn)
		return -1;
	if (j->packet.direction == MESH_FROM_FN) {
		__builtin_memcpy(eth->h_dest, fn->mac, 6);
		__builtin_memcpy(eth->h_source, fn->gateway, 6);
	} else {
		__builtin_memcpy(eth->h_dest, fn->gateway, 6);
		__builtin_memcpy(eth->h_source, fn->mac, 6);
	}
	return 0;
}

/* Sum of so many bytes of the packet, a multiple of four, put on `sum`. */
HOT __u32 answer_sum(void *from, __u32 size, __u32 sum)
{
	return csum_fold(bpf_csum_diff(NULL, 0, from, size, sum));
}

HOT void answer_ipv4(struct iphdr *ip, __u32 length, __u8 protocol, __be32 source,
		     __be32 destination)
{
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->tot_len = bpf_htons(sizeof(*ip) + length);
	ip->frag_off = protocol == IPPROTO_TCP ? bpf_htons(0x4000) : 0;
	ip->ttl = ANSWER_TTL;
	ip->protocol = protocol;
	ip->saddr = source;
	ip->daddr = destination;
	ip->check = ~answer_sum(ip, sizeof(*ip), 0);
}

HOT void answer_ipv6(struct ipv6hdr *ip, __u32 length, __u8 protocol, const struct in6_addr *source,
		     const struct in6_addr *destination)
{
	*(__be32 *)ip = bpf_htonl(0x60000000);
	ip->payload_len = bpf_htons(length);
	ip->nexthdr = protocol;
	ip->hop_limit = ANSWER_TTL;
	ip->saddr = *source;
	ip->daddr = *destination;
}

/* Cut the frame behind `length` bytes; where that is in a checksum's place the kernel refuses. */
HOT int answer_cut(CTX *ctx, __u32 length)
{
	return bpf_skb_change_tail(ctx, length, 0);
}

/* Cut the frame behind `keep` bytes and make room for `room` behind its Ethernet header. */
HOT int answer_make_room(CTX *ctx, __u32 keep, __u32 room)
{
	if (answer_cut(ctx, keep))
		return -1;
	return bpf_skb_adjust_room(ctx, room, BPF_ADJ_ROOM_MAC, 0);
}

/* The reset that a closed port sends (RFC 9293, 3.10.7.1); -1 for a reset, which gets none. */
HOT int answer_tcp(CTX *ctx, const struct mesh_judgement *j, __u32 frame, struct tcphdr *reset)
{
	__u32 at = j->packet.l4_offset & 0xff;
	struct tcphdr *tcp = context_data(ctx) + at;

	if ((void *)(tcp + 1) > context_end(ctx) || tcp->rst)
		return -1;
	__builtin_memset(reset, 0, sizeof(*reset));
	reset->source = tcp->dest;
	reset->dest = tcp->source;
	reset->doff = sizeof(*reset) / 4;
	reset->rst = 1;
	if (tcp->ack) {
		reset->seq = tcp->ack_seq;
		return 0;
	}
	reset->ack = 1;
	reset->ack_seq =
		bpf_htonl(bpf_ntohl(tcp->seq) + frame - at - tcp->doff * 4 + tcp->syn + tcp->fin);
	return 0;
}

HOT int answer_reset4(CTX *ctx, const struct mesh_judgement *j)
{
	struct reset4 *r = context_data(ctx);
	struct tcphdr tcp;
	__be32 from, to;
	__u32 sum;

	if ((void *)(r + 1) > context_end(ctx))
		return -1;
	from = r->ip.saddr;
	to = r->ip.daddr;
	if (answer_tcp(ctx, j, sizeof(r->eth) + bpf_ntohs(r->ip.tot_len), &tcp) ||
	    answer_cut(ctx, sizeof(*r)))
		return -1;
	r = context_data(ctx);
	if ((void *)(r + 1) > context_end(ctx) || answer_ethernet(&r->eth, j))
		return -1;
	answer_ipv4(&r->ip, sizeof(tcp), IPPROTO_TCP, to, from);
	r->tcp = tcp;
	sum = bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(tcp));
	sum = answer_sum(&r->ip.saddr, 2 * sizeof(from), sum);
	r->tcp.check = ~answer_sum(&r->tcp, sizeof(r->tcp), sum);
	return 0;
}

HOT int answer_reset6(CTX *ctx, const struct mesh_judgement *j)
{
	struct reset6 *r = context_data(ctx);
	struct in6_addr from, to;
	struct tcphdr tcp;
	__u32 sum;

	if ((void *)(r + 1) > context_end(ctx))
		return -1;
	from = r->ip.saddr;
	to = r->ip.daddr;
	if (answer_tcp(ctx, j, sizeof(r->eth) + sizeof(r->ip) + bpf_ntohs(r->ip.payload_len),
		       &tcp) ||
	    answer_cut(ctx, sizeof(*r)))
		return -1;
	r = context_data(ctx);
	if ((void *)(r + 1) > context_end(ctx) || answer_ethernet(&r->eth, j))
		return -1;
	answer_ipv6(&r->ip, sizeof(tcp), IPPROTO_TCP, &to, &from);
	r->tcp = tcp;
	sum = bpf_htons(IPPROTO_TCP) + bpf_htons(sizeof(tcp));
	sum = answer_sum(&r->ip.saddr, 2 * sizeof(from), sum);
	r->tcp.check = ~answer_sum(&r->tcp, sizeof(r->tcp), sum);
	return 0;
}

/* Neither a reset nor unreachable is said of it. */
HOT int answer_is_of_way(const struct mesh_judgement *j)
{
	return j->verdict.reason == MESH_TTL || j->verdict.reason == MESH_TOO_BIG;
}

HOT void answer_what4(struct icmphdr *icmp, const struct mesh_judgement *j)
{
	__builtin_memset(icmp, 0, sizeof(*icmp));
	icmp->type = j->verdict.reason == MESH_TTL ? ICMP_TIME_EXCEEDED : ICMP_DEST_UNREACH;
	if (j->verdict.reason == MESH_TOO_BIG) { /* RFC 1191, 4 */
		icmp->code = ICMP_FRAG_NEEDED;
		icmp->un.frag.mtu = bpf_htons(j->packet.mtu);
	} else if (j->verdict.reason != MESH_TTL) {
		icmp->code =
			j->verdict.reason == MESH_POLICY ? ICMP_PKT_FILTERED : ICMP_PORT_UNREACH;
	}
}

HOT void answer_what6(struct icmp6hdr *icmp, const struct mesh_judgement *j)
{
	__builtin_memset(icmp, 0, sizeof(*icmp));
	icmp->icmp6_type = j->verdict.reason == MESH_TTL ? ICMPV6_TIME_EXCEED : ICMPV6_DEST_UNREACH;
	if (j->verdict.reason == MESH_TOO_BIG) { /* RFC 4443, 3.2 */
		icmp->icmp6_type = ICMPV6_PKT_TOOBIG;
		icmp->icmp6_dataun.un_data32[0] = bpf_htonl(j->packet.mtu);
	} else if (j->verdict.reason != MESH_TTL) {
		icmp->icmp6_code = j->verdict.reason == MESH_POLICY ? ICMPV6_ADM_PROHIBITED :
								      ICMPV6_PORT_UNREACH;
	}
}

/*
 * From the gateway to a function; to the outside, which does not know it, from the function. Quotes
 * no options: a receiver could not tell whom it concerns.
 */
HOT int answer_icmp4(CTX *ctx, const struct mesh_judgement *j, __u32 quoted)
{
	struct icmp_error4 *e = context_data(ctx);
	__u32 length = sizeof(e->icmp) + sizeof(e->quote) + quoted;

	if ((void *)(&e->ip + 1) > context_end(ctx) || e->ip.ihl != 5)
		return -1;
	if (answer_make_room(ctx, sizeof(e->eth) + sizeof(e->quote) + quoted,
			     sizeof(e->ip) + sizeof(e->icmp)))
		return -1;
	e = context_data(ctx);
	if ((void *)(e + 1) + quoted > context_end(ctx) || answer_ethernet(&e->eth, j))
		return -1;
	e->eth.h_proto = bpf_htons(ETH_P_IP);
	answer_ipv4(&e->ip, length, IPPROTO_ICMP,
		    j->packet.direction == MESH_FROM_FN ? bpf_htonl(MESH_GATEWAY4) : e->quote.daddr,
		    e->quote.saddr);
	answer_what4(&e->icmp, j);
	e->icmp.checksum = ~answer_sum(&e->icmp, length, 0);
	return 0;
}

HOT int answer_icmp6(CTX *ctx, const struct mesh_judgement *j, __u32 quoted)
{
	struct icmp_error6 *e;
	__u32 length = sizeof(e->icmp) + sizeof(e->quote) + quoted, sum;
	struct in6_addr source = { .s6_addr32 = { bpf_htonl(MESH_GATEWAY6_FIRST), 0, 0,
						  bpf_htonl(MESH_GATEWAY6_LAST) } };

	if (answer_make_room(ctx, sizeof(e->eth) + sizeof(e->quote) + quoted,
			     sizeof(e->ip) + sizeof(e->icmp)))
		return -1;
	e = context_data(ctx);
	if ((void *)(e + 1) + quoted > context_end(ctx) || answer_ethernet(&e->eth, j))
		return -1;
	e->eth.h_proto = bpf_htons(ETH_P_IPV6);
	if (j->packet.direction != MESH_FROM_FN)
		source = e->quote.daddr;
	answer_ipv6(&e->ip, length, IPPROTO_ICMPV6, &source, &e->quote.saddr);
	answer_what6(&e->icmp, j);
	sum = e->ip.payload_len + bpf_htons(IPPROTO_ICMPV6);
	sum = answer_sum(&e->ip.saddr, 2 * sizeof(source), sum);
	e->icmp.icmp6_cksum = ~answer_sum(&e->icmp, length, sum);
	return 0;
}

/* Make an answer of the packet. */
HOT int answer_make(CTX *ctx, const struct mesh_judgement *j)
{
	int is4 = address_is4(&j->packet.tuple.source),
	    tcp = j->packet.tuple.protocol == IPPROTO_TCP;

	if (tcp && !answer_is_of_way(j))
		return is4 ? answer_reset4(ctx, j) : answer_reset6(ctx, j);
	if (!answer_allowed(j))
		return -1;
	if (is4)
		return tcp ? answer_icmp4(ctx, j, QUOTE_TCP) : answer_icmp4(ctx, j, QUOTE);
	if (j->verdict.reason == MESH_TOO_BIG)
		return answer_icmp6(ctx, j, QUOTE_BIG);
	return tcp ? answer_icmp6(ctx, j, QUOTE_TCP) : answer_icmp6(ctx, j, QUOTE);
}

/* Of the packet in mesh_scratch, for the reason that j->verdict.reason has. */
HOT int mesh_answer(CTX *ctx)
{
	struct mesh_judgement *j = mesh_scratch_get();
	struct mesh_function *fn = j ? endpoint_get(j->packet.function) : NULL;

	if (!fn || answer_make(ctx, j))
		return verdict_dropped(ctx);
	return verdict_answer(ctx, j->packet.direction, endpoint_output(fn));
}
#endif
