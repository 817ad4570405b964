/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to struct pkt: who to whom, and where its headers are. Decides whether a packet is
 * well-formed and of a kind the mesh carries; must not ask any map.
 *
 * parse_packet() returns MESH_OK with the fields that pkt.kind calls for set and the headers they
 * point to inside the packet, or a reason to drop.
 */
#ifndef MESH_PARSE_H
#define MESH_PARSE_H

#include "lib/context.h"

/* ICMPv6 types of RFC 4861; linux-libc-dev has no names for them. */
#define ND_ROUTER_SOLICIT 133
#define ND_NEIGHBOR_SOLICIT 135
#define ND_NEIGHBOR_ADVERT 136
#define ND_REDIRECT 137

enum pkt_kind {
	PKT_OTHER, /* not IP; only the Ethernet header was looked at */
	PKT_ARP,
	PKT_ND,	  /* neighbour or router discovery, RFC 4861 */
	PKT_FLOW, /* TCP, UDP or ICMP echo */
};

struct pkt {
	void *end;
	struct ethhdr *eth;
	struct iphdr *ip4; /* one of the two is set for PKT_ND and PKT_FLOW */
	struct ipv6hdr *ip6;
	void *l4;
	__u16 l4_offset; /* from the start of the frame */
	__u16 l4_length; /* header and payload */
	__u8 kind;
	__u8 protocol;
	/*
	 * Source and destination port as they stand, in one word: a key stored in halves and hashed
	 * by words would stall. ICMP echo has its identifier for the asking side's port and the next
	 * number for the other's. So a reply is its request turned round, and no request is another
	 * one turned round, whatever the two identifiers are.
	 */
	__u32 ports;
};

union ports {
	__be16 port[2]; /* source, destination */
	__u32 word;
};

HOT __u32 ports_join(__be16 source, __be16 destination)
{
	union ports p = { .port = { source, destination } };

	return p.word;
}

HOT __be16 ports_source(__u32 word)
{
	union ports p = { .word = word };

	return p.port[0];
}

HOT __be16 ports_destination(__u32 word)
{
	union ports p = { .word = word };

	return p.port[1];
}

HOT int parse_tcp(struct pkt *p, __u32 length)
{
	struct tcphdr *tcp = p->l4;

	if ((void *)(tcp + 1) > p->end || tcp->doff < 5 || tcp->doff * 4 > length)
		return MESH_MALFORMED;
	p->ports = LOAD(__u32, tcp->source);
	return MESH_OK;
}

HOT int parse_udp(struct pkt *p, __u32 length)
{
	struct udphdr *udp = p->l4;

	if ((void *)(udp + 1) > p->end)
		return MESH_MALFORMED;
	if (bpf_ntohs(udp->len) < sizeof(*udp) || bpf_ntohs(udp->len) > length)
		return MESH_MALFORMED;
	p->ports = LOAD(__u32, udp->source);
	return MESH_OK;
}

/* Both ICMPs: type, code, checksum, identifier; the request and reply types differ. */
HOT int parse_echo(struct pkt *p, __u8 request, __u8 reply)
{
	struct icmphdr *icmp = p->l4;

	if ((void *)(icmp + 1) > p->end)
		return MESH_MALFORMED;
	if (icmp->code != 0 || (icmp->type != request && icmp->type != reply))
		return MESH_PROTOCOL;
	p->ports = ports_join(icmp->un.echo.id + (icmp->type == reply),
			      icmp->un.echo.id + (icmp->type == request));
	return MESH_OK;
}

HOT int parse_ipv4(struct pkt *p, __u32 length)
{
	struct iphdr *ip = (void *)(p->eth + 1);
	__u32 header, total;

	if ((void *)(ip + 1) > p->end || ip->version != 4)
		return MESH_MALFORMED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || total < header || total > length)
		return MESH_MALFORMED;
	p->ip4 = ip;
	if (bpf_ntohl(ip->daddr) >= 0xe0000000)
		return MESH_MULTICAST;
	if (ip->frag_off & bpf_htons(0x3fff)) /* more fragments, or an offset */
		return MESH_FRAGMENT;
	p->protocol = ip->protocol;
	p->l4 = (void *)ip + header;
	p->l4_offset = sizeof(*p->eth) + header;
	p->l4_length = total - header;
	p->kind = PKT_FLOW;
	if (ip->protocol == IPPROTO_TCP)
		return parse_tcp(p, total - header);
	if (ip->protocol == IPPROTO_UDP)
		return parse_udp(p, total - header);
	if (ip->protocol == IPPROTO_ICMP && total - header >= sizeof(struct icmphdr))
		return parse_echo(p, ICMP_ECHO, ICMP_ECHOREPLY);
	return ip->protocol == IPPROTO_ICMP ? MESH_MALFORMED : MESH_PROTOCOL;
}

HOT int parse_icmpv6(struct pkt *p, __u32 length)
{
	struct icmp6hdr *icmp = p->l4;

	if ((void *)(icmp + 1) > p->end || length < sizeof(*icmp))
		return MESH_MALFORMED;
	if (icmp->icmp6_type >= ND_ROUTER_SOLICIT && icmp->icmp6_type <= ND_REDIRECT) {
		p->kind = PKT_ND;
		return MESH_OK;
	}
	if (p->ip6->daddr.s6_addr[0] == 0xff)
		return MESH_MULTICAST;
	return parse_echo(p, ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY);
}

HOT int parse_ipv6(struct pkt *p, __u32 length)
{
	struct ipv6hdr *ip = (void *)(p->eth + 1);
	__u32 payload;

	if ((void *)(ip + 1) > p->end || ip->version != 6)
		return MESH_MALFORMED;
	payload = bpf_ntohs(ip->payload_len);
	if (sizeof(*ip) + payload > length)
		return MESH_MALFORMED;
	p->ip6 = ip;
	p->protocol = ip->nexthdr;
	p->l4 = ip + 1;
	p->l4_offset = sizeof(*p->eth) + sizeof(*ip);
	p->l4_length = payload;
	p->kind = PKT_FLOW;
	if (ip->nexthdr == IPPROTO_ICMPV6)
		return parse_icmpv6(p, payload);
	if (ip->daddr.s6_addr[0] == 0xff)
		return MESH_MULTICAST;
	if (ip->nexthdr == IPPROTO_TCP)
		return parse_tcp(p, payload);
	if (ip->nexthdr == IPPROTO_UDP)
		return parse_udp(p, payload);
	return ip->nexthdr == IPPROTO_FRAGMENT ? MESH_FRAGMENT : MESH_PROTOCOL;
}

HOT int parse_packet(CTX *ctx, struct pkt *p)
{
	__u32 length = context_length(ctx) - sizeof(*p->eth);
	__be16 protocol;

	context_linearize(ctx);
	p->eth = context_data(ctx);
	p->end = context_end(ctx);
	p->ip4 = NULL;
	p->ip6 = NULL;
	p->kind = PKT_OTHER;
	if ((void *)(p->eth + 1) > p->end)
		return MESH_MALFORMED;
	if (unlikely(context_vlan(ctx)))
		return MESH_VLAN;
	protocol = LOAD(__be16, p->eth->h_proto);
	if (protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(p, length);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(p, length);
	if (protocol == bpf_htons(ETH_P_ARP))
		p->kind = PKT_ARP;
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))
		return MESH_VLAN;
	return MESH_OK;
}
#endif
