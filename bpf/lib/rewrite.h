/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Change a packet as its flow entry says: MACs, TTL, one address, one port, and the checksums over
 * them, all incrementally. Decides nothing.
 */
#ifndef MESH_REWRITE_H
#define MESH_REWRITE_H

#include "lib/csum.h"
#include "lib/parse.h"

HOT void rewrite_ethernet(const struct pkt *p, const struct mesh_flow *flow)
{
	__u32 *ethernet = (void *)p->eth;

	ethernet[0] = flow->ethernet[0];
	ethernet[1] = flow->ethernet[1];
	ethernet[2] = flow->ethernet[2];
}

/* What the host's stack sends has another destination: only this gives it the function's own. */
HOT void rewrite_destination(const struct pkt *p, const struct mesh_flow *flow)
{
	__builtin_memcpy(p->eth->h_dest, flow->ethernet, sizeof(p->eth->h_dest));
}

/* MESH_OK, or MESH_TTL where it would run out. */
HOT int rewrite_check_ttl(const struct pkt *p)
{
	__u8 ttl = pkt_is4(p) ? p->ip4->ttl : p->ip6->hop_limit;

	return ttl <= 1 ? MESH_TTL : MESH_OK;
}

HOT void rewrite_ttl(const struct pkt *p)
{
	if (pkt_is4(p)) {
		p->ip4->ttl--;
		p->ip4->check = csum_apply(p->ip4->check, (__u16)~bpf_htons(0x0100));
	} else {
		p->ip6->hop_limit--;
	}
}

/* Put the flow's address for one of the packet's; in a hairpin both ends are the source's. */
HOT void rewrite_address4(struct iphdr *ip, const struct mesh_flow *flow)
{
	if (flow->flags & MESH_FLOW_HAIRPIN) {
		ip->daddr = ip->saddr;
		ip->saddr = flow->address.word[3];
	} else if (flow->flags & MESH_FLOW_NAT_DST) {
		ip->daddr = flow->address.word[3];
	} else {
		ip->saddr = flow->address.word[3];
	}
	ip->check = csum_apply(ip->check, flow->checksum);
}

HOT void rewrite_address6(struct ipv6hdr *ip, const struct mesh_flow *flow)
{
	if (flow->flags & MESH_FLOW_HAIRPIN)
		ip->daddr = ip->saddr;
	if ((flow->flags & (MESH_FLOW_HAIRPIN | MESH_FLOW_NAT_DST)) == MESH_FLOW_NAT_DST)
		__builtin_memcpy(&ip->daddr, &flow->address, sizeof(flow->address));
	else
		__builtin_memcpy(&ip->saddr, &flow->address, sizeof(flow->address));
}

HOT void rewrite_address(const struct pkt *p, const struct mesh_flow *flow)
{
	if (pkt_is4(p))
		rewrite_address4(p->ip4, flow);
	else
		rewrite_address6(p->ip6, flow);
}

/* The checksum of layer 4, or NULL where there is none to keep: UDP over IPv4 without (RFC 768). */
HOT __sum16 *rewrite_checksum_at(const struct pkt *p)
{
	__u32 at = p->protocol == IPPROTO_TCP ? __builtin_offsetof(struct tcphdr, check) :
						__builtin_offsetof(struct udphdr, check);
	__sum16 *check = p->l4 + at;

	if ((void *)(check + 1) > p->end)
		return NULL;
	return p->protocol == IPPROTO_UDP && !*check ? NULL : check;
}

/* Sum of the pseudo-header, of the packet as it came. */
HOT __u16 rewrite_pseudo_sum(const struct pkt *p)
{
	__u32 sum = bpf_htons(p->protocol) + bpf_htons(p->l4_length);

	if (pkt_is4(p))
		return csum_fold(sum + csum_words(&p->ip4->saddr, 2));
	return csum_fold(sum + csum_words(p->ip6->saddr.s6_addr32, 8));
}

#ifndef MESH_XDP

/*
 * With transmit offload (CHECKSUM_PARTIAL) the field holds the pseudo-header's sum and nothing
 * else; the kernel does not tell us, but a field that differs from that sum is a whole checksum.
 * One that equals it may be either, and only the kernel's helper knows: two calls, 14 ns each.
 */
HOT int rewrite_may_be_partial(CTX *ctx, const struct pkt *p, const __sum16 *check)
{
	if (p->fragment) /* the sender has summed up what it cut */
		return 0;
	return *check == rewrite_pseudo_sum(p) || CONTEXT_FIELD(ctx, gso_size);
}

/* Makes every packet pointer stale. The pseudo-header's sum holds the addresses, not the ports. */
HOT void rewrite_checksum_by_helper(CTX *ctx, const struct pkt *p, const struct mesh_flow *flow,
				    __be16 from)
{
	__u32 at = p->l4_offset + (p->protocol == IPPROTO_TCP ?
					   __builtin_offsetof(struct tcphdr, check) :
					   __builtin_offsetof(struct udphdr, check));
	__u64 udp = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;
	__be16 to = flow->port;

	bpf_l4_csum_replace(ctx, at, 0, flow->checksum, BPF_F_PSEUDO_HDR | udp);
	if (from != to)
		bpf_l4_csum_replace(ctx, at, from, to, udp | sizeof(to));
}

#endif

HOT void rewrite_checksum(const struct pkt *p, __sum16 *check, __u32 difference)
{
	*check = csum_apply(*check, difference);
	if (p->protocol == IPPROTO_UDP && !*check)
		*check = 0xffff;
}

/* Translate; ports are the first two fields of TCP and UDP alike. */
HOT void rewrite_nat(CTX *ctx, const struct pkt *p, const struct mesh_flow *flow)
{
	__be16 *port = p->l4 + (flow->flags & MESH_FLOW_NAT_DST ? 2 : 0), from;
	__sum16 *check = rewrite_checksum_at(p);
	int by_helper = 0;

	if ((void *)(port + 1) > p->end) /* again, for the verifier: the offset varies */
		return;
#ifndef MESH_XDP
	by_helper = check && rewrite_may_be_partial(ctx, p, check);
#endif
	rewrite_address(p, flow);
	from = *port;
	*port = flow->port;
	if (check && !by_helper)
		rewrite_checksum(p, check, flow->checksum + flow->port + (__u16)~from);
#ifndef MESH_XDP
	if (by_helper)
		rewrite_checksum_by_helper(ctx, p, flow, from);
#endif
}

/* The same of an ICMP echo, whose identifier stands for both ports; its checksum covers no address. */
HOT void rewrite_echo(const struct pkt *p, const struct mesh_flow *flow)
{
	struct icmphdr *icmp = p->l4;
	__be16 from;

	if ((void *)(icmp + 1) > p->end)
		return;
	rewrite_address(p, flow);
	from = icmp->un.echo.id;
	icmp->un.echo.id = flow->port;
	icmp->checksum = csum_apply(icmp->checksum, flow->port + (__u16)~from);
}

/* All of it, of a packet that is whole and no ICMP error. */
HOT void rewrite_packet(CTX *ctx, const struct pkt *p, const struct mesh_flow *flow)
{
	rewrite_ttl(p);
	rewrite_ethernet(p, flow);
	if (flow->flags & (MESH_FLOW_NAT_SRC | MESH_FLOW_NAT_DST))
		rewrite_nat(ctx, p, flow);
}
#endif
