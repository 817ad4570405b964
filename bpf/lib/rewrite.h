/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Change a packet as its flow entry says: MACs, TTL, one address, one port, and the checksums over
 * them, all incrementally. Decides nothing. The checksum of layer 4 comes last, since at tc its
 * helper makes every packet pointer stale.
 */
#ifndef MESH_REWRITE_H
#define MESH_REWRITE_H

#include "lib/csum.h"
#include "lib/parse.h"

HOT void rewrite_ethernet(const struct pkt *p, const struct mesh_flow *flow)
{
	__builtin_memcpy(p->eth, flow->ethernet, sizeof(flow->ethernet));
}

/* MESH_OK, or MESH_TTL with nothing changed. */
HOT int rewrite_ttl(const struct pkt *p)
{
	if (p->ip4) {
		if (p->ip4->ttl <= 1)
			return MESH_TTL;
		p->ip4->ttl--;
		p->ip4->check = csum_apply(p->ip4->check, (__u16)~bpf_htons(0x0100));
		return MESH_OK;
	}
	if (p->ip6->hop_limit <= 1)
		return MESH_TTL;
	p->ip6->hop_limit--;
	return MESH_OK;
}

HOT void rewrite_address(const struct pkt *p, const struct mesh_flow *flow)
{
	if (p->ip4) {
		if (flow->flags & MESH_FLOW_NAT_DST)
			p->ip4->daddr = flow->address.word[3];
		else
			p->ip4->saddr = flow->address.word[3];
		p->ip4->check = csum_apply(p->ip4->check, flow->checksum);
	} else {
		__builtin_memcpy(flow->flags & MESH_FLOW_NAT_DST ? &p->ip6->daddr : &p->ip6->saddr,
				 &flow->address, sizeof(flow->address));
	}
}

/* Where the checksum of layer 4 is, from its start. */
HOT __u32 rewrite_checksum_at(const struct pkt *p)
{
	return p->protocol == IPPROTO_TCP ? __builtin_offsetof(struct tcphdr, check) :
					    __builtin_offsetof(struct udphdr, check);
}

#ifdef MESH_XDP

HOT void rewrite_checksum(CTX *ctx, const struct pkt *p, __u32 difference, __be16 from, __be16 to)
{
	__sum16 *check = p->l4 + rewrite_checksum_at(p);

	if ((void *)(check + 1) > p->end)
		return;
	if (p->protocol == IPPROTO_UDP && !*check) /* none was sent (RFC 768) */
		return;
	*check = csum_apply(*check, difference + to + (__u16)~from);
	if (p->protocol == IPPROTO_UDP && !*check)
		*check = 0xffff;
}

#else

/*
 * By the kernel's helper, which alone knows whether the field is a whole checksum or, with
 * transmit offload, only the pseudo-header's sum: that one holds the addresses, not the ports.
 */
HOT void rewrite_checksum(CTX *ctx, const struct pkt *p, __u32 difference, __be16 from, __be16 to)
{
	__u32 at = p->l4_offset + rewrite_checksum_at(p);
	__u64 none = p->protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0;

	bpf_l4_csum_replace(ctx, at, 0, difference, BPF_F_PSEUDO_HDR | none);
	if (from != to)
		bpf_l4_csum_replace(ctx, at, from, to, none | sizeof(to));
}

#endif

/* Translate; ports are the first two fields of TCP and UDP alike. */
HOT void rewrite_nat(CTX *ctx, const struct pkt *p, const struct mesh_flow *flow)
{
	__be16 *port = p->l4 + (flow->flags & MESH_FLOW_NAT_DST ? 2 : 0), from;

	if ((void *)(port + 1) > p->end) /* again, for the verifier: the offset varies */
		return;
	rewrite_address(p, flow);
	from = *port;
	*port = flow->port;
	rewrite_checksum(ctx, p, flow->checksum, from, flow->port);
}
#endif
