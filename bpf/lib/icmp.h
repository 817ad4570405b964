/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors: those about a translated flow, which quote a packet as the other side knows it
 * (RFC 5508, 7), and the one that the mesh itself sends, about a packet whose TTL ran out.
 * Asks no map.
 */
#ifndef MESH_ICMP_H
#define MESH_ICMP_H

#include "lib/address.h"
#include "lib/rewrite.h"

/* The gateway's addresses inside every function: 169.254.1.1 and fe80::1 (kernel/interface.py). */
#define GATEWAY4 bpf_htonl(0xa9fe0101)
#define GATEWAY6_FIRST bpf_htonl(0xfe800000)
#define GATEWAY6_LAST bpf_htonl(1)
#define GATEWAY_TTL 64

/*
 * Ports of the quoted packet; it went the other way, so the flow's new source stands in its
 * destination. Returns the difference that this makes to the sum of the message.
 */
HOT __u32 icmp_translate_quoted_ports(const struct pkt *p, const struct mesh_flow *flow)
{
	__be16 *port = p->quote_l4 + (flow->flags & MESH_FLOW_NAT_SRC ? 2 : 0), from, old;
	__u32 at = p->protocol == IPPROTO_TCP ? __builtin_offsetof(struct tcphdr, check) :
						__builtin_offsetof(struct udphdr, check);
	__sum16 *check = p->quote_l4 + at;
	__u32 change;

	if ((p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP) ||
	    (void *)(port + 1) > p->end)
		return 0;
	from = *port;
	*port = flow->port;
	change = flow->port + (__u16)~from;
	/* What the ports change, their checksum takes back; what is left is the address. */
	if ((void *)(check + 1) > p->end || p->quote_offset + at + sizeof(*check) > p->l4_length ||
	    (p->protocol == IPPROTO_UDP && !*check))
		return change;
	old = *check;
	rewrite_checksum(p, check, flow->checksum + change);
	return change + *check + (__u16)~old;
}

HOT void icmp_translate4(const struct pkt *p, const struct mesh_flow *flow)
{
	struct icmphdr *icmp = p->l4;
	struct iphdr *quote = p->quote;
	__be32 *inner = flow->flags & (MESH_FLOW_NAT_SRC | MESH_FLOW_HAIRPIN) ? &quote->daddr :
										&quote->saddr;
	__u32 change;

	if ((void *)(icmp + 1) > p->end || (void *)(quote + 1) > p->end)
		return;
	if (flow->flags & MESH_FLOW_HAIRPIN) /* see rewrite_address4(): here turned round */
		quote->saddr = quote->daddr;
	/* A router on the way speaks for itself; the function that was translated does not. */
	if (flow->flags & MESH_FLOW_NAT_DST || p->ip4->saddr == *inner)
		rewrite_address4(p->ip4, flow);
	change = icmp_translate_quoted_ports(p, flow);
	/* Of the quoted header the address and the checksum change, and cancel each other out. */
	*inner = flow->address.word[3];
	quote->check = csum_apply(quote->check, flow->checksum);
	icmp->checksum = csum_apply(icmp->checksum, change);
}

/* The message's checksum is over the outer addresses as well, and the quote has none of its own. */
HOT void icmp_translate6(const struct pkt *p, const struct mesh_flow *flow)
{
	struct icmphdr *icmp = p->l4;
	struct ipv6hdr *quote = p->quote;
	struct in6_addr *inner = flow->flags & (MESH_FLOW_NAT_SRC | MESH_FLOW_HAIRPIN) ?
					 &quote->daddr :
					 &quote->saddr;
	__u32 change;

	if ((void *)(icmp + 1) > p->end || (void *)(quote + 1) > p->end)
		return;
	if (flow->flags & MESH_FLOW_HAIRPIN)
		quote->saddr = quote->daddr;
	change = icmp_translate_quoted_ports(p, flow) + flow->checksum;
	if (flow->flags & MESH_FLOW_NAT_DST || in6_equal(&p->ip6->saddr, inner)) {
		rewrite_address6(p->ip6, flow);
		change += flow->checksum;
	}
	__builtin_memcpy(inner, &flow->address, sizeof(*inner));
	icmp->checksum = csum_apply(icmp->checksum, change);
}

/* Translate an error as an answer of its flow would be. */
HOT void icmp_translate(const struct pkt *p, const struct mesh_flow *flow)
{
	if (pkt_is4(p))
		icmp_translate4(p, flow);
	else
		icmp_translate6(p, flow);
}

/*
 * So much of the packet is quoted behind its IP header: 8 bytes (RFC 792), but all of TCP's header,
 * since the kernel cuts no packet whose checksum it has yet to fill in.
 */
#define QUOTE_TCP 20
#define QUOTE 8

/* May an error be sent about it? Not about an error, nor a later fragment (RFC 1122, 3.2.2). */
HOT int icmp_may_answer(const struct pkt *p)
{
	if (p->kind != PKT_FLOW || p->fragment == PKT_LATER_FRAGMENT)
		return 0;
	return pkt_is4(p) ? p->ip4->ihl == 5 : 1;
}

/* Cut the frame behind `keep` bytes and make room for `room` behind its Ethernet header. */
HOT int icmp_make_room(CTX *ctx, __u32 keep, __u32 room)
{
#ifdef MESH_XDP
	struct ethhdr *from, *to;

	if (bpf_xdp_adjust_tail(ctx, (int)keep - (int)context_length(ctx)) ||
	    bpf_xdp_adjust_head(ctx, -(int)room))
		return -1;
	to = context_data(ctx);
	from = (void *)to + room;
	if ((void *)(from + 1) > context_end(ctx))
		return -1;
	__builtin_memcpy(to, from, sizeof(*to));
	return 0;
#else
	return bpf_skb_change_tail(ctx, keep, 0) ||
	       bpf_skb_adjust_room(ctx, room, BPF_ADJ_ROOM_MAC, 0);
#endif
}

HOT void icmp_swap_macs(struct ethhdr *eth)
{
	__u8 mac[6];

	__builtin_memcpy(mac, eth->h_source, 6);
	__builtin_memcpy(eth->h_source, eth->h_dest, 6);
	__builtin_memcpy(eth->h_dest, mac, 6);
}

struct icmp_error4 {
	struct ethhdr eth;
	struct iphdr ip;
	struct icmphdr icmp;
	struct iphdr quote;
} __attribute__((packed));

struct icmp_error6 {
	struct ethhdr eth;
	struct ipv6hdr ip;
	struct icmphdr icmp;
	struct ipv6hdr quote;
} __attribute__((packed));

/* Sum of so many bytes of the packet, a multiple of four, put on `sum`. */
HOT __u32 icmp_sum(void *from, __u32 size, __u32 sum)
{
	return csum_fold(bpf_csum_diff(NULL, 0, from, size, sum));
}

HOT int icmp_time_exceeded4(CTX *ctx, __u32 quoted)
{
	struct icmp_error4 *e;
	struct iphdr *ip;

	if (icmp_make_room(ctx, sizeof(e->eth) + sizeof(e->quote) + quoted,
			   sizeof(e->ip) + sizeof(e->icmp)))
		return MESH_TTL;
	e = context_data(ctx);
	if ((void *)(e + 1) + quoted > context_end(ctx))
		return MESH_TTL;
	icmp_swap_macs(&e->eth);
	ip = &e->ip;
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 4;
	ip->ihl = 5;
	ip->ttl = GATEWAY_TTL;
	ip->protocol = IPPROTO_ICMP;
	ip->tot_len = bpf_htons(sizeof(*e) - sizeof(e->eth) + quoted);
	ip->saddr = GATEWAY4;
	ip->daddr = e->quote.saddr;
	ip->check = ~icmp_sum(ip, sizeof(*ip), 0);
	__builtin_memset(&e->icmp, 0, sizeof(e->icmp));
	e->icmp.type = ICMP_TIME_EXCEEDED;
	e->icmp.checksum = ~icmp_sum(&e->icmp, sizeof(e->icmp) + sizeof(e->quote) + quoted, 0);
	return MESH_OK;
}

HOT int icmp_time_exceeded6(CTX *ctx, __u32 quoted)
{
	struct icmp_error6 *e;
	struct ipv6hdr *ip;
	__u32 sum;

	if (icmp_make_room(ctx, sizeof(e->eth) + sizeof(e->quote) + quoted,
			   sizeof(e->ip) + sizeof(e->icmp)))
		return MESH_TTL;
	e = context_data(ctx);
	if ((void *)(e + 1) + quoted > context_end(ctx))
		return MESH_TTL;
	icmp_swap_macs(&e->eth);
	ip = &e->ip;
	__builtin_memset(ip, 0, sizeof(*ip));
	ip->version = 6;
	ip->hop_limit = GATEWAY_TTL;
	ip->nexthdr = IPPROTO_ICMPV6;
	ip->payload_len = bpf_htons(sizeof(e->icmp) + sizeof(e->quote) + quoted);
	ip->saddr.s6_addr32[0] = GATEWAY6_FIRST;
	ip->saddr.s6_addr32[3] = GATEWAY6_LAST;
	__builtin_memcpy(&ip->daddr, &e->quote.saddr, sizeof(ip->daddr));
	__builtin_memset(&e->icmp, 0, sizeof(e->icmp));
	e->icmp.type = ICMPV6_TIME_EXCEED;
	sum = ip->payload_len + bpf_htons(IPPROTO_ICMPV6);
	sum = icmp_sum(&ip->saddr, 2 * sizeof(ip->saddr), sum);
	e->icmp.checksum = ~icmp_sum(&e->icmp, sizeof(e->icmp) + sizeof(e->quote) + quoted, sum);
	return MESH_OK;
}

/* Make the packet an answer to its sender: time exceeded, from the gateway (RFC 792, RFC 4443). */
HOT int icmp_time_exceeded(CTX *ctx, const struct pkt *p)
{
	int tcp = p->protocol == IPPROTO_TCP;

	if (!icmp_may_answer(p))
		return MESH_TTL;
	if (pkt_is4(p))
		return tcp ? icmp_time_exceeded4(ctx, QUOTE_TCP) : icmp_time_exceeded4(ctx, QUOTE);
	/* With extension headers it is these that are quoted. */
	return tcp ? icmp_time_exceeded6(ctx, QUOTE_TCP) : icmp_time_exceeded6(ctx, QUOTE);
}
#endif
