/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses of both families as one 16-byte value, so that judging a flow is written once. */
#ifndef MESH_ADDRESS_H
#define MESH_ADDRESS_H

#include "lib/parse.h"

HOT int mac_equal(const void *a, const void *b)
{
	return *(__u32 *)a == *(__u32 *)b && *(__u16 *)(a + 4) == *(__u16 *)(b + 4);
}

HOT void address_set4(struct mesh_address *a, __be32 v4)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = bpf_htonl(0xffff);
	a->word[3] = v4;
}

HOT void address_set6(struct mesh_address *a, const __be32 *v6)
{
	a->word[0] = v6[0];
	a->word[1] = v6[1];
	a->word[2] = v6[2];
	a->word[3] = v6[3];
}

HOT int address_equal(const struct mesh_address *a, const struct mesh_address *b)
{
	return a->word[3] == b->word[3] && a->word[2] == b->word[2] && a->word[1] == b->word[1] &&
	       a->word[0] == b->word[0];
}

HOT int in6_equal(const struct in6_addr *a, const struct in6_addr *b)
{
	return a->s6_addr32[3] == b->s6_addr32[3] && a->s6_addr32[2] == b->s6_addr32[2] &&
	       a->s6_addr32[1] == b->s6_addr32[1] && a->s6_addr32[0] == b->s6_addr32[0];
}

HOT int address_is4(const struct mesh_address *a)
{
	return a->word[2] == bpf_htonl(0xffff) && !a->word[0] && !a->word[1];
}

HOT void tuple_set_ports(struct mesh_tuple *t, __u32 ports)
{
	t->source_port = ports_source(ports);
	t->destination_port = ports_destination(ports);
}

HOT void tuple_of(struct mesh_tuple *t, const struct pkt *p)
{
	if (pkt_is4(p)) {
		address_set4(&t->source, p->ip4->saddr);
		address_set4(&t->destination, p->ip4->daddr);
	} else {
		address_set6(&t->source, p->ip6->saddr.s6_addr32);
		address_set6(&t->destination, p->ip6->daddr.s6_addr32);
	}
	tuple_set_ports(t, p->ports);
	t->protocol = p->protocol;
}

/* Of an ICMP error: the five-tuple that an answer to what it quotes would have. */
HOT void tuple_of_quote(struct mesh_tuple *t, const struct pkt *p)
{
	struct iphdr *ip4 = p->quote;
	struct ipv6hdr *ip6 = p->quote;

	if (pkt_is4(p)) {
		if ((void *)(ip4 + 1) > p->end)
			return;
		address_set4(&t->source, ip4->daddr);
		address_set4(&t->destination, ip4->saddr);
	} else {
		if ((void *)(ip6 + 1) > p->end)
			return;
		address_set6(&t->source, ip6->daddr.s6_addr32);
		address_set6(&t->destination, ip6->saddr.s6_addr32);
	}
	tuple_set_ports(t, p->ports);
	t->protocol = p->protocol;
}

HOT void tuple_reverse(struct mesh_tuple *t)
{
	struct mesh_address address = t->source;
	__be16 port = t->source_port;

	t->source = t->destination;
	t->destination = address;
	t->source_port = t->destination_port;
	t->destination_port = port;
}
#endif
