/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ICMP errors about a translated flow, which quote a packet as the other side knows it (RFC 5508, 7).
 * What the mesh itself says is in answer.h. Asks no map.
 */
#ifndef MESH_ICMP_H
#define MESH_ICMP_H

#include "lib/address.h"
#include "lib/rewrite.h"

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

/* The same of a quoted echo. What its identifier changes, its checksum takes back. */
HOT void icmp_translate_quoted_echo(const struct pkt *p, const struct mesh_flow *flow)
{
	struct icmphdr *icmp = p->quote_l4;
	__be16 from;

	if ((void *)(icmp + 1) > p->end)
		return;
	from = icmp->un.echo.id;
	icmp->un.echo.id = flow->port;
	icmp->checksum = csum_apply(icmp->checksum, flow->port + (__u16)~from);
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
	if (p->protocol == IPPROTO_ICMP)
		icmp_translate_quoted_echo(p, flow);
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
#endif
