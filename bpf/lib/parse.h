/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * From bytes to struct pkt: who to whom, and where its headers are. Decides whether a packet is
 * well-formed and of a kind the mesh carries; must not ask any map.
 *
 * parse_packet() returns MESH_OK with the fields that pkt.kind calls for set and the headers they
 * point to inside the packet, or a reason to drop. What nearly all packets are, plain.h finds out
 * sooner.
 */
#ifndef MESH_PARSE_H
#define MESH_PARSE_H

#include "lib/context.h"

/* Types of RFC 4443 and 4861; linux-libc-dev has no names for the latter. */
#define ND_ROUTER_SOLICIT 133
#define ND_NEIGHBOR_SOLICIT 135
#define ND_NEIGHBOR_ADVERT 136
#define ND_REDIRECT 137

/* Flags of a TCP header (RFC 9293, 3.1) as in pkt.tcp, and one that there is such a header. */
#define PKT_FIN 0x01
#define PKT_SYN 0x02
#define PKT_RST 0x04
#define PKT_ACK 0x10
#define PKT_TCP 0x100

enum pkt_kind {
	PKT_OTHER, /* not IP; only the Ethernet header was looked at */
	PKT_ARP,
	PKT_ND,	   /* neighbour or router discovery, RFC 4861 */
	PKT_FLOW,  /* TCP, UDP or ICMP echo */
	PKT_ERROR, /* an ICMP error; protocol and ports are those of an answer to what it quotes */
};

enum pkt_fragment {
	PKT_WHOLE,
	PKT_FIRST_FRAGMENT,
	PKT_LATER_FRAGMENT, /* it has no header of layer 4, and ports are those of the first one */
};

struct pkt {
	void *end;
	struct ethhdr *eth;
	struct iphdr *ip4; /* one of the two is set for what is IP */
	struct ipv6hdr *ip6;
	void *l4;
	void *quote; /* PKT_ERROR: the IP header it quotes, and what comes after that */
	void *quote_l4;
	/*
	 * Whole words: of these alone the verifier remembers what was put where on the stack, and
	 * so which of the pointers are set. Of a pointer itself it does not take "not NULL" for so.
	 */
	__u64 version; /* of IP, 0: not IP */
	__u64 kind;
	__u64 fragment;
	__u64 tcp;	       /* PKT_FLOW: flags; 0: no TCP, or a later fragment of it */
	__u16 l4_offset;       /* from the start of the frame */
	__u16 l4_length;       /* header and payload */
	__u16 quote_offset;    /* of quote_l4, from l4 */
	__u16 fragment_offset; /* of its data, in the datagram */
	__u16 fragment_data;   /* its data, as l4_offset; it may begin with extension headers */
	__u8 protocol;
	__u32 fragment_id;
	/*
	 * Source and destination port as they stand, in one word: a key stored in halves and hashed
	 * by words would stall. ICMP echo has its identifier for the asking side's port and the next
	 * number for the other's. So a reply is its request turned round, and no request is another
	 * one turned round, whatever the two identifiers are.
	 */
	__u32 ports;
};

HOT int pkt_is4(const struct pkt *p)
{
	return p->version == 4;
}

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

HOT __u32 ports_reverse(__u32 word)
{
	return ports_join(ports_destination(word), ports_source(word));
}

/* Both ICMPs: request and reply differ in their types. */
HOT __u32 ports_of_echo(const struct icmphdr *icmp, int is_reply)
{
	return ports_join(icmp->un.echo.id + is_reply, icmp->un.echo.id + !is_reply);
}

HOT int parse_tcp(struct pkt *p)
{
	struct tcphdr *tcp = p->l4;

	if ((void *)(tcp + 1) > p->end || tcp->doff < 5 || tcp->doff * 4 > p->l4_length)
		return MESH_MALFORMED;
	p->ports = LOAD(__u32, tcp->source);
	p->tcp = PKT_TCP | ((__u8 *)tcp)[13];
	return MESH_OK;
}

HOT int parse_udp(struct pkt *p)
{
	struct udphdr *udp = p->l4;

	if ((void *)(udp + 1) > p->end || p->l4_length < sizeof(*udp))
		return MESH_MALFORMED;
	if (bpf_ntohs(udp->len) < sizeof(*udp))
		return MESH_MALFORMED;
	if (!p->fragment && bpf_ntohs(udp->len) > p->l4_length)
		return MESH_MALFORMED;
	p->ports = LOAD(__u32, udp->source);
	return MESH_OK;
}

/*
 * The packet that an ICMP error quotes: at least 8 bytes after its IP header (RFC 792). The ports
 * are turned round: an error belongs to the flow as an answer would.
 */
HOT int parse_quoted_ports(struct pkt *p, __u8 protocol, __u8 request, __u8 reply)
{
	struct icmphdr *icmp = p->quote_l4;

	if (p->quote_l4 + 8 > p->end)
		return MESH_MALFORMED;
	p->protocol = protocol;
	if (protocol == IPPROTO_TCP || protocol == IPPROTO_UDP) {
		p->ports = ports_reverse(*(__u32 *)p->quote_l4);
		return MESH_OK;
	}
	if (protocol != (pkt_is4(p) ? IPPROTO_ICMP : IPPROTO_ICMPV6))
		return MESH_PROTOCOL;
	if (icmp->type != request && icmp->type != reply)
		return MESH_PROTOCOL;
	p->ports = ports_of_echo(icmp, icmp->type == request);
	return MESH_OK;
}

HOT int parse_quote4(struct pkt *p)
{
	struct iphdr *ip = p->l4 + sizeof(struct icmphdr);

	p->kind = PKT_ERROR;
	if (p->fragment)
		return MESH_PROTOCOL; /* a stack cuts its errors to what always fits (RFC 1812) */
	if ((void *)(ip + 1) > p->end || ip->version != 4 || ip->ihl < 5)
		return MESH_MALFORMED;
	p->quote_offset = sizeof(struct icmphdr) + ip->ihl * 4;
	if (p->quote_offset + 8 > p->l4_length)
		return MESH_MALFORMED;
	if (ip->frag_off & bpf_htons(0x1fff))
		return MESH_NO_FLOW;
	p->quote = ip;
	p->quote_l4 = (void *)ip + ip->ihl * 4;
	return parse_quoted_ports(p, ip->protocol, ICMP_ECHO, ICMP_ECHOREPLY);
}

/* Any extension header of IPv6; RFC 8200, 4. */
struct extension {
	__u8 next;
	__u8 length;	   /* in 8 bytes, without the first 8 */
	__be16 offset;	   /* of a fragment, in the upper 13 bits; bit 0: more of them */
	__be32 identifier; /* of a fragment's datagram */
};

/* Whose data is the part of a datagram from `offset`, in bytes. */
HOT void parse_fragment(struct pkt *p, __u32 id, __u32 offset, __u16 data)
{
	p->fragment = offset ? PKT_LATER_FRAGMENT : PKT_FIRST_FRAGMENT;
	p->fragment_id = id;
	p->fragment_offset = offset;
	p->fragment_data = data;
}

/*
 * One extension header, at `offset`; its length in bytes, or a reason, negative. A source route
 * that is not at its end names another receiver than policy was asked about.
 */
HOT int parse_extension(struct pkt *p, const struct extension *e, __u32 offset)
{
	__u16 fragment;

	switch (p->protocol) {
	case IPPROTO_ROUTING:
		if (bpf_ntohs(e->offset) & 0xff) /* segments left */
			return -MESH_PROTOCOL;
	case IPPROTO_HOPOPTS:
	case IPPROTO_DSTOPTS:
		p->protocol = e->next;
		return e->length * 8 + 8;
	case IPPROTO_FRAGMENT:
		fragment = bpf_ntohs(e->offset);
		p->protocol = e->next;
		if (fragment & 0xfff9) /* else it is the only one (RFC 6946) */
			parse_fragment(p, e->identifier, fragment & 0xfff8,
				       sizeof(*p->eth) + sizeof(*p->ip6) + offset + sizeof(*e));
		return sizeof(*e);
	}
	return -MESH_PROTOCOL;
}

HOT int parse_is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_DSTOPTS;
}

/* Walk to the header of `ip`'s transport; the bytes that were walked, or a reason, negative. */
HOT int parse_extensions(struct pkt *p, const struct ipv6hdr *ip, __u32 payload)
{
	struct extension *e;
	__u32 offset = 0;
	int length;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MESH_EXTENSIONS_MAX; i++) {
		if (!parse_is_extension(p->protocol) || p->fragment == PKT_LATER_FRAGMENT)
			break;
		e = (void *)(ip + 1) + offset;
		if ((void *)(e + 1) > p->end || offset + sizeof(*e) > payload)
			return -MESH_MALFORMED;
		length = parse_extension(p, e, offset);
		if (length < 0)
			return length;
		offset += length;
		if (offset > MESH_HEADERS_MAX / 2)
			return -MESH_PROTOCOL;
	}
	offset &= 0xff; /* or the verifier follows what comes for each way out of the loop */
	return offset > payload ? -MESH_MALFORMED : offset;
}

/* A packet's extension headers are quoted with it, and may be what is complained of. */
HOT int parse_quote6(struct pkt *p)
{
	struct ipv6hdr *ip = p->l4 + sizeof(struct icmp6hdr);
	int extensions;

	p->kind = PKT_ERROR;
	if (p->fragment)
		return MESH_PROTOCOL;
	if ((void *)(ip + 1) > p->end || ip->version != 6)
		return MESH_MALFORMED;
	p->quote_offset = sizeof(struct icmp6hdr) + sizeof(*ip);
	if (p->quote_offset + 8 > p->l4_length)
		return MESH_MALFORMED;
	p->quote = ip;
	p->protocol = ip->nexthdr;
	extensions = parse_extensions(p, ip, p->l4_length - p->quote_offset);
	if (extensions < 0)
		return -extensions;
	if (p->fragment == PKT_LATER_FRAGMENT)
		return MESH_NO_FLOW;
	p->fragment = PKT_WHOLE; /* the error itself is */
	p->quote_offset += extensions;
	if (p->quote_offset + 8 > p->l4_length)
		return MESH_MALFORMED;
	p->quote_l4 = (void *)(ip + 1) + extensions;
	return parse_quoted_ports(p, p->protocol, ICMPV6_ECHO_REQUEST, ICMPV6_ECHO_REPLY);
}

HOT int parse_icmp(struct pkt *p)
{
	struct icmphdr *icmp = p->l4;

	if ((void *)(icmp + 1) > p->end || p->l4_length < sizeof(*icmp))
		return MESH_MALFORMED;
	switch (icmp->type) {
	case ICMP_ECHO:
	case ICMP_ECHOREPLY:
		p->ports = ports_of_echo(icmp, icmp->type == ICMP_ECHOREPLY);
		return icmp->code ? MESH_PROTOCOL : MESH_OK;
	case ICMP_DEST_UNREACH:
	case ICMP_TIME_EXCEEDED:
	case ICMP_PARAMETERPROB:
		return parse_quote4(p);
	}
	return MESH_PROTOCOL;
}

HOT int parse_icmpv6(struct pkt *p)
{
	struct icmphdr *icmp = p->l4;

	if ((void *)(icmp + 1) > p->end || p->l4_length < sizeof(*icmp))
		return MESH_MALFORMED;
	if (icmp->type >= ND_ROUTER_SOLICIT && icmp->type <= ND_REDIRECT) {
		p->kind =
			PKT_ND; /* never behind another header: neighbour.h would look elsewhere */
		return p->l4 == p->ip6 + 1 ? MESH_OK : MESH_PROTOCOL;
	}
	if (p->ip6->daddr.s6_addr[0] == 0xff)
		return MESH_MULTICAST;
	switch (icmp->type) {
	case ICMPV6_ECHO_REQUEST:
	case ICMPV6_ECHO_REPLY:
		p->ports = ports_of_echo(icmp, icmp->type == ICMPV6_ECHO_REPLY);
		return icmp->code ? MESH_PROTOCOL : MESH_OK;
	case ICMPV6_DEST_UNREACH:
	case ICMPV6_PKT_TOOBIG:
	case ICMPV6_TIME_EXCEED:
	case ICMPV6_PARAMPROB:
		return parse_quote6(p);
	}
	return MESH_PROTOCOL;
}

/* What follows the IP header, whose own protocol number for ICMP is `icmp`. */
HOT int parse_transport(struct pkt *p, __u8 icmp)
{
	if (p->fragment == PKT_LATER_FRAGMENT) /* the first one says what it is part of */
		return MESH_OK;
	if (p->protocol != IPPROTO_TCP && p->protocol != IPPROTO_UDP && p->protocol != icmp)
		return MESH_PROTOCOL;
	if (p->protocol == IPPROTO_TCP)
		return parse_tcp(p);
	if (p->protocol == IPPROTO_UDP)
		return parse_udp(p);
	return pkt_is4(p) ? parse_icmp(p) : parse_icmpv6(p);
}

#define OPTION_END 0
#define OPTION_NOP 1
#define OPTION_LSRR 131
#define OPTION_SSRR 137

/*
 * Options of IPv4 (RFC 791, 3.1): 0 unless they make no sense, or hold a source route, for the
 * reason of parse_extension(). The mask tells the verifier where they end; no stack takes more.
 * Comes before all else that is known of the packet, of which the verifier would otherwise follow
 * a case for each way through here; a header that is not whole is none of its business.
 */
HOT int parse_options(CTX *ctx)
{
	struct ethhdr *eth = context_data(ctx);
	void *end = context_end(ctx);
	struct iphdr *ip = (void *)(eth + 1);
	__u32 size, at = 0, length;

	if ((void *)(ip + 1) > end || LOAD(__be16, eth->h_proto) != bpf_htons(ETH_P_IP))
		return 0;
	size = ip->ihl * 4 - sizeof(*ip);
#pragma clang loop unroll(disable)
	for (int i = 0; i < 16; i++) {
		const __u8 *option = (void *)(ip + 1) + at;

		if (at >= size)
			return 0;
		if ((void *)(option + 2) > end)
			return -1;
		if (option[0] == OPTION_END)
			return 0;
		length = option[0] == OPTION_NOP ? 1 : option[1];
		if (option[0] == OPTION_LSRR || option[0] == OPTION_SSRR || !length)
			return -1;
		at = (at + length) & 0x3f;
	}
	return -1;
}

HOT int parse_ipv4(struct pkt *p, __u32 length, int options)
{
	struct iphdr *ip = (void *)(p->eth + 1);
	__u32 header, total, fragment;

	if ((void *)(ip + 1) > p->end || ip->version != 4)
		return MESH_MALFORMED;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || total < header || total > length)
		return MESH_MALFORMED;
	p->ip4 = ip;
	p->version = 4;
	if (bpf_ntohl(ip->daddr) >= 0xe0000000)
		return MESH_MULTICAST;
	if (options)
		return MESH_PROTOCOL;
	p->protocol = ip->protocol;
	p->l4 = (void *)ip + header;
	p->l4_offset = sizeof(*p->eth) + header;
	p->l4_length = total - header;
	p->kind = PKT_FLOW;
	fragment = bpf_ntohs(ip->frag_off) & 0x3fff; /* more fragments, and the offset in 8 bytes */
	if (fragment)
		parse_fragment(p, ip->id, (fragment & 0x1fff) * 8, p->l4_offset);
	return parse_transport(p, IPPROTO_ICMP);
}

HOT int parse_ipv6(struct pkt *p, __u32 length)
{
	struct ipv6hdr *ip = (void *)(p->eth + 1);
	__u32 payload;
	int extensions;

	if ((void *)(ip + 1) > p->end || ip->version != 6)
		return MESH_MALFORMED;
	payload = bpf_ntohs(ip->payload_len);
	if (sizeof(*ip) + payload > length)
		return MESH_MALFORMED;
	p->ip6 = ip;
	p->version = 6;
	p->protocol = ip->nexthdr;
	p->kind = PKT_FLOW;
	extensions = parse_extensions(p, ip, payload);
	if (extensions < 0)
		return ip->daddr.s6_addr[0] == 0xff ? MESH_MULTICAST : -extensions;
	if (ip->daddr.s6_addr[0] == 0xff && (p->protocol != IPPROTO_ICMPV6 || p->fragment))
		return MESH_MULTICAST;
	p->l4 = (void *)(ip + 1) + extensions;
	p->l4_offset = sizeof(*p->eth) + sizeof(*ip) + extensions;
	p->l4_length = payload - extensions;
	return parse_transport(p, IPPROTO_ICMPV6);
}

HOT void parse_start(CTX *ctx, struct pkt *p)
{
	p->eth = context_data(ctx);
	p->end = context_end(ctx);
	p->ip4 = NULL;
	p->ip6 = NULL;
	p->version = 0;
	p->kind = PKT_OTHER;
	p->fragment = PKT_WHOLE;
	p->tcp = 0;
}

HOT int parse_packet(CTX *ctx, struct pkt *p)
{
	__u32 length = context_length(ctx) - sizeof(*p->eth);
	__be16 protocol;
	int options;

	context_linearize(ctx);
	options = parse_options(ctx);
	asm volatile("" ::: "memory"); /* or its pointers are those that follow */
	parse_start(ctx, p);
	if ((void *)(p->eth + 1) > p->end)
		return MESH_MALFORMED;
	if (context_vlan(ctx))
		return MESH_VLAN;
	protocol = LOAD(__be16, p->eth->h_proto);
	if (protocol == bpf_htons(ETH_P_IP))
		return parse_ipv4(p, length, options);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return parse_ipv6(p, length);
	if (protocol == bpf_htons(ETH_P_ARP))
		p->kind = PKT_ARP;
	if (protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD))
		return MESH_VLAN;
	return MESH_OK;
}
#endif
