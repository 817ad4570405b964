/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A packet function: each frame goes back to whom it came from. It is no more than this program.
 * Addresses and ports change places, which leaves all checksums right; an echo request becomes the
 * answer to it.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>

BPF_TABLE("percpu_array", u32, u64, echoed, 1);

#define SWAP(a, b)                     \
	do {                           \
		__typeof__(a) old = a; \
		a = b;                 \
		b = old;               \
	} while (0)

struct ports {
	__be16 source;
	__be16 destination;
};

struct echo {
	u8 type;
	u8 code;
	u16 checksum;
};

/* What IPv6 has in front of a fragment (RFC 8200, 4.5). */
struct fragment {
	u8 next;
	u8 reserved;
	__be16 offset;
	__be32 id;
};

/* The type is the high byte of its word: RFC 1624, equation 3. */
static void answer(struct echo *echo, u8 type)
{
	u32 sum = (u16)~echo->checksum;

	sum += (u16)~bpf_htons(echo->type << 8) + bpf_htons(type << 8);
	sum = (sum & 0xffff) + (sum >> 16);
	echo->checksum = ~(sum + (sum >> 16));
	echo->type = type;
}

static int transport(void *at, void *end, u8 protocol)
{
	struct ports *ports = at;
	struct echo *echo = at;

	if (at + sizeof(*ports) > end)
		return XDP_DROP;
	if (protocol == IPPROTO_UDP || protocol == IPPROTO_TCP)
		SWAP(ports->source, ports->destination);
	else if (protocol == IPPROTO_ICMP && echo->type == 8)
		answer(echo, 0);
	else if (protocol == IPPROTO_ICMPV6 && echo->type == 128)
		answer(echo, 129);
	else
		return XDP_DROP;
	return XDP_TX;
}

static int network(void *at, void *end, __be16 type)
{
	struct iphdr *ip4 = at;
	struct ipv6hdr *ip6 = at;
	struct fragment *part;

	if (type == bpf_htons(ETH_P_IP) && at + sizeof(*ip4) <= end) {
		if (ip4->ihl != 5)
			return XDP_DROP;
		SWAP(ip4->saddr, ip4->daddr);
		if (ip4->frag_off & bpf_htons(0x1fff)) /* it has no ports */
			return XDP_TX;
		return transport(at + sizeof(*ip4), end, ip4->protocol);
	}
	if (type == bpf_htons(ETH_P_IPV6) && at + sizeof(*ip6) <= end) {
		SWAP(ip6->saddr, ip6->daddr);
		part = at + sizeof(*ip6);
		if (ip6->nexthdr != IPPROTO_FRAGMENT)
			return transport(part, end, ip6->nexthdr);
		if ((void *)(part + 1) > end)
			return XDP_DROP;
		if (part->offset & bpf_htons(0xfff8))
			return XDP_TX;
		return transport(part + 1, end, part->next);
	}
	return XDP_DROP;
}

int echo(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	u32 first = 0;
	u64 *count = echoed.lookup(&first);
	int verdict;

	if ((void *)(eth + 1) > end)
		return XDP_DROP;
	verdict = network(eth + 1, end, eth->h_proto);
	if (verdict != XDP_TX)
		return verdict;
	SWAP(((u32 *)eth->h_dest)[0], *(u32 *)eth->h_source);
	SWAP(*(u16 *)(eth->h_dest + 4), *(u16 *)(eth->h_source + 4));
	if (count)
		*count += 1;
	return XDP_TX;
}
