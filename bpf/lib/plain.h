/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What nearly all packets are: TCP or UDP over IP without options, whole, and neither opening nor
 * ending a connection. parse_plain() says whether a packet is that, and then has filled struct pkt
 * as parse_packet() would; of any other it says nothing, for that is parse.h's to judge.
 */
#ifndef MESH_PLAIN_H
#define MESH_PLAIN_H

#include "lib/parse.h"

HOT int plain_tcp(struct pkt *p)
{
	struct tcphdr *tcp = p->l4;

	if ((void *)(tcp + 1) > p->end || tcp->doff < 5 || tcp->doff * 4 > p->l4_length)
		return 0;
	return !(((__u8 *)tcp)[13] & (PKT_FIN | PKT_SYN | PKT_RST));
}

HOT int plain_transport(struct pkt *p)
{
	struct udphdr *udp = p->l4;

	if ((void *)(udp + 1) > p->end)
		return 0;
	p->ports = LOAD(__u32, udp->source);
	if (p->protocol == IPPROTO_TCP)
		return plain_tcp(p);
	return p->protocol == IPPROTO_UDP && bpf_ntohs(udp->len) >= sizeof(*udp) &&
	       bpf_ntohs(udp->len) <= p->l4_length;
}

HOT int plain_ipv4(struct pkt *p, __u32 length)
{
	struct iphdr *ip = (void *)(p->eth + 1);
	__u32 total;

	if ((void *)(ip + 1) > p->end || *(__u8 *)ip != 0x45 || ip->frag_off & bpf_htons(0x3fff))
		return 0;
	total = bpf_ntohs(ip->tot_len);
	if (total < sizeof(*ip) || total > length)
		return 0;
	p->ip4 = ip;
	p->version = 4;
	p->protocol = ip->protocol;
	p->l4 = ip + 1;
	p->l4_offset = sizeof(*p->eth) + sizeof(*ip);
	p->l4_length = total - sizeof(*ip);
	return plain_transport(p);
}

HOT int plain_ipv6(struct pkt *p, __u32 length)
{
	struct ipv6hdr *ip = (void *)(p->eth + 1);
	__u32 payload;

	if ((void *)(ip + 1) > p->end || ip->version != 6)
		return 0;
	payload = bpf_ntohs(ip->payload_len);
	if (sizeof(*ip) + payload > length)
		return 0;
	p->ip6 = ip;
	p->version = 6;
	p->protocol = ip->nexthdr;
	p->l4 = ip + 1;
	p->l4_offset = sizeof(*p->eth) + sizeof(*ip);
	p->l4_length = payload;
	return plain_transport(p);
}

HOT int parse_plain(CTX *ctx, struct pkt *p)
{
	__u32 length = context_length(ctx) - sizeof(*p->eth);
	__be16 protocol;

	parse_start(ctx, p);
	if ((void *)(p->eth + 1) > p->end || unlikely(context_vlan(ctx)))
		return 0;
	p->kind = PKT_FLOW;
	protocol = LOAD(__be16, p->eth->h_proto);
	if (protocol == bpf_htons(ETH_P_IP))
		return plain_ipv4(p, length);
	return protocol == bpf_htons(ETH_P_IPV6) && plain_ipv6(p, length);
}
#endif
