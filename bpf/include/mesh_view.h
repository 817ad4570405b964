/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How struct mesh_view is made of a packet: bounded, without writing and without trust. What does
 * not fit the packet is 0, and so is all that would have come after it.
 *
 * Fields are there for a text that names one of their group (MESH_VIEW_IP, MESH_VIEW_TRANSPORT), so
 * that the others cost nothing where the compiler could not leave them out by itself: a call of a
 * helper, or assembly. Code of others is verified without the right to learn kernel addresses, and
 * then no variable may be added to a pointer into the packet: hence view_load() for what has no
 * fixed place, and VIEW_BRANCH().
 */
#ifndef MESH_VIEW_H
#define MESH_VIEW_H

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include "include/mesh_abi.h"

#define HOT static __always_inline

#ifdef MESH_XDP
#define VIEW_CTX struct xdp_md
#define VIEW_LOAD_BYTES "189" /* bpf_xdp_load_bytes */
#else
#define VIEW_CTX struct __sk_buff
#define VIEW_LOAD_BYTES "26" /* bpf_skb_load_bytes */
#endif

enum mesh_view_fragment {
	MESH_WHOLE,
	MESH_FIRST_FRAGMENT,
	MESH_LATER_FRAGMENT, /* has neither ports nor payload: its first one had */
};

/* A packet as the author sees it. Ports, lengths and offsets are in host order. */
struct mesh_view {
	__u32 length;	   /* of the frame, Ethernet's 14 bytes among them */
	VIEW_CTX *context; /* for mesh_read() */
#ifdef MESH_VIEW_IP
	struct mesh_address source; /* network order; IPv4 as ::ffff:a.b.c.d */
	struct mesh_address destination;
	__u8 version; /* 4 or 6; 0: no IP, or malformed */
	__u8 dscp;
	__u8 ecn;
	__u8 ttl;
#endif
#ifdef MESH_VIEW_TRANSPORT
	__u8 protocol; /* of the transport, behind extension headers */
	__u8 fragment; /* enum mesh_view_fragment */
	__u8 tcp_flags;
	__u8 icmp_type;
	__u8 icmp_code;
	__u16 source_port; /* of TCP and UDP */
	__u16 destination_port;
	__u32 transport;      /* where the transport's header begins; 0: none */
	__u32 payload;	      /* where the data behind the transport's header begins; 0: none */
	__u32 payload_length; /* of what GSO has yet to cut: of all segments */
#endif
};

/* Bytes of a header by one load. */
#define VIEW_BYTES(type, at) (*(type *)(at))

#ifdef MESH_XDP
/* BCC's own declaration of it does not say that a call can be left out. */
static __u64 (*view_xdp_length)(VIEW_CTX *) __attribute__((const)) = (void *)188;
#endif

/*
 * The packet's start as it is in one branch. With one pointer for both clang would choose the offset
 * and add that, which is a variable.
 */
#define VIEW_BRANCH(data) asm("" : "+r"(data))

HOT __u32 view_length(VIEW_CTX *ctx)
{
#ifdef MESH_XDP
	return view_xdp_length(ctx);
#else
	return ctx->len;
#endif
}

#ifdef MESH_VIEW_IP
#ifdef MESH_VIEW_TRANSPORT
#ifdef MESH_VIEW_OURS
/*
 * Eight bytes of the packet, in host order; 0 if they are not there. Our own programs want every
 * field, and BCC reads them once for the host, which knows no such registers as below.
 */
HOT __u64 view_load(VIEW_CTX *ctx, __u64 offset)
{
	__u64 bytes;

	return bpf_skb_load_bytes(ctx, offset, &bytes, sizeof(bytes)) ? 0 : bpf_ntohll(bytes);
}
#else
/*
 * The same by assembly, which is left out where nobody asks for what comes of it. It goes through a
 * place of the stack that no author has (enum mesh_stack).
 */
HOT __u64 view_load(VIEW_CTX *ctx, __u64 offset)
{
	__u64 bytes;

	asm("r1 = %1\n\t"
	    "r2 = %2\n\t"
	    "r3 = r10\n\t"
	    "r3 += %3\n\t"
	    "r4 = 8\n\t"
	    "call " VIEW_LOAD_BYTES "\n\t"
	    "%0 = *(u64 *)(r10 - %4)\n\t"
	    "if r0 == 0 goto +1\n\t"
	    "%0 = 0"
	    : "=&r"(bytes)
	    : "r"(ctx), "r"(offset), "i"(-MESH_STACK_LOAD), "i"(MESH_STACK_LOAD)
	    : "r0", "r1", "r2", "r3", "r4", "r5");
	return bpf_ntohll(bytes);
}
#endif

/* The same at a place that is known when this is compiled; `data` and `end` are the packet's. */
HOT __u64 view_load_at(VIEW_CTX *ctx, void *data, void *end, __u32 offset)
{
	if (data + offset + 8 > end)
		return view_load(ctx, offset);
	return bpf_ntohll(VIEW_BYTES(__u64, data + offset));
}

/* `first` and `second` are the first 16 bytes of the transport, which has `length` in all. */
HOT void view_transport(struct mesh_view *p, __u32 at, __u32 length, __u64 first, __u64 second)
{
	__u32 header = 8;

	if (p->protocol == IPPROTO_TCP)
		header = (second >> 28 & 0xf) * 4;
	else if (p->protocol != IPPROTO_UDP && p->protocol != IPPROTO_ICMP &&
		 p->protocol != IPPROTO_ICMPV6)
		return;
	if (header < (p->protocol == IPPROTO_TCP ? 20 : 8) || header > length)
		return;
	p->transport = at;
	p->payload = at + header;
	p->payload_length = length - header;
	if (p->protocol == IPPROTO_ICMP || p->protocol == IPPROTO_ICMPV6) {
		p->icmp_type = first >> 56;
		p->icmp_code = first >> 48;
		return;
	}
	p->source_port = first >> 48;
	p->destination_port = first >> 32;
	if (p->protocol == IPPROTO_TCP)
		p->tcp_flags = second >> 16;
}
HOT int view_is_extension(__u8 protocol)
{
	return protocol == IPPROTO_HOPOPTS || protocol == IPPROTO_ROUTING ||
	       protocol == IPPROTO_FRAGMENT || protocol == IPPROTO_DSTOPTS;
}

/* Walk over extension headers (RFC 8200, 4); their length, or more than any packet has. */
HOT __u32 view_extensions(struct mesh_view *p, __u32 at)
{
	__u32 length = 0;
	__u16 fragment;
	__u64 header;

#pragma unroll
	for (int i = 0; i < MESH_EXTENSIONS_MAX; i++) {
		if (!view_is_extension(p->protocol) || p->fragment == MESH_LATER_FRAGMENT)
			return length;
		header = view_load(p->context, at + length);
		fragment = header >> 32;
		if (p->protocol != IPPROTO_FRAGMENT)
			length += (header >> 48 & 0xff) * 8;
		else if (fragment & 0xfff9) /* else it is the only one (RFC 6946) */
			p->fragment = fragment & 0xfff8 ? MESH_LATER_FRAGMENT : MESH_FIRST_FRAGMENT;
		length += 8;
		p->protocol = header >> 56;
	}
	return view_is_extension(p->protocol) ? 1 << 16 : length;
}

HOT void view_transport4(struct mesh_view *p, struct iphdr *ip, void *data, void *end)
{
	__u32 header = ip->ihl * 4, length = bpf_ntohs(ip->tot_len) - header;
	__u16 fragment = bpf_ntohs(ip->frag_off) & 0x3fff;
	__u64 first, second;

	p->protocol = ip->protocol;
	if (fragment & 0x1fff) {
		p->fragment = MESH_LATER_FRAGMENT;
		return;
	}
	p->fragment = fragment ? MESH_FIRST_FRAGMENT : MESH_WHOLE;
	if (header == sizeof(*ip)) {
		first = view_load_at(p->context, data, end, ETH_HLEN + sizeof(*ip));
		second = view_load_at(p->context, data, end, ETH_HLEN + sizeof(*ip) + 8);
	} else {
		first = view_load(p->context, ETH_HLEN + header);
		second = view_load(p->context, ETH_HLEN + header + 8);
	}
	view_transport(p, ETH_HLEN + header, length, first, second);
}

HOT void view_transport6(struct mesh_view *p, struct ipv6hdr *ip, void *data, void *end)
{
	__u32 at = ETH_HLEN + sizeof(*ip), length = bpf_ntohs(ip->payload_len), extensions = 0;
	__u64 first, second;

	p->protocol = ip->nexthdr;
	if (!view_is_extension(p->protocol)) {
		first = view_load_at(p->context, data, end, ETH_HLEN + sizeof(*ip));
		second = view_load_at(p->context, data, end, ETH_HLEN + sizeof(*ip) + 8);
	} else {
		extensions = view_extensions(p, at);
		if (extensions > length || p->fragment == MESH_LATER_FRAGMENT)
			return;
		first = view_load(p->context, at + extensions);
		second = view_load(p->context, at + extensions + 8);
	}
	view_transport(p, at + extensions, length - extensions, first, second);
}
#endif

HOT void view_ip4(struct mesh_view *p, void *data, void *end)
{
	struct iphdr *ip;
	__u32 header, total;

	VIEW_BRANCH(data);
	ip = data + ETH_HLEN;
	if ((void *)(ip + 1) > end || ip->version != 4)
		return;
	header = ip->ihl * 4;
	total = bpf_ntohs(ip->tot_len);
	if (header < sizeof(*ip) || total < header || total + ETH_HLEN > p->length)
		return;
	p->version = 4;
	p->ttl = ip->ttl;
	p->dscp = ip->tos >> 2;
	p->ecn = ip->tos & 3;
	p->source.word[2] = p->destination.word[2] = bpf_htonl(0xffff);
	p->source.word[3] = ip->saddr;
	p->destination.word[3] = ip->daddr;
#ifdef MESH_VIEW_TRANSPORT
	view_transport4(p, ip, data, end);
#endif
}

HOT void view_ip6(struct mesh_view *p, void *data, void *end)
{
	struct ipv6hdr *ip;
	__u16 first;

	VIEW_BRANCH(data);
	ip = data + ETH_HLEN;
	if ((void *)(ip + 1) > end || ip->version != 6)
		return;
	if (ETH_HLEN + sizeof(*ip) + bpf_ntohs(ip->payload_len) > p->length)
		return;
	first = bpf_ntohs(VIEW_BYTES(__be16, ip));
	p->version = 6;
	p->ttl = ip->hop_limit;
	p->dscp = first >> 6 & 0x3f;
	p->ecn = first >> 4 & 3;
	p->source = VIEW_BYTES(struct mesh_address, &ip->saddr);
	p->destination = VIEW_BYTES(struct mesh_address, &ip->daddr);
#ifdef MESH_VIEW_TRANSPORT
	view_transport6(p, ip, data, end);
#endif
}

HOT void view_ip(VIEW_CTX *ctx, struct mesh_view *p)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > end)
		return;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		view_ip4(p, data, end);
	else if (eth->h_proto == bpf_htons(ETH_P_IPV6))
		view_ip6(p, data, end);
}
#endif

HOT void mesh_view_packet(VIEW_CTX *ctx, struct mesh_view *p)
{
	p->context = ctx;
	p->length = view_length(ctx);
#ifdef MESH_VIEW_IP
	view_ip(ctx, p);
#endif
}
#endif
