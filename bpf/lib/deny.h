/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The deny list: sources of which nothing comes in by an uplink. Decides that, and which packets are
 * so malformed that the host's stack would drop them too; must not look beyond the IP header.
 * Reads mesh_deny and what begins so; writes the counter of a denied prefix.
 *
 * deny_check() returns MESH_OK for all that goes on, or a reason to drop.
 */
#ifndef MESH_DENY_H
#define MESH_DENY_H

#include "lib/state.h"

#define DENY_TAGS 2
#define VLAN_VID_MASK 0x0fff /* linux/include/linux/if_vlan.h */

/* What a packet meets of the two lists, found once: a change is the other one in its place. */
struct deny {
	const struct mesh_deny_list *list;
	void *filter;
	CTX *ctx;
	__u32 slot;
};

HOT __u64 deny_mix(__u64 value)
{
	value = (value ^ value >> 32) * MESH_DENY_MIX1;
	value = (value ^ value >> 32) * MESH_DENY_MIX2;
	return value ^ value >> 32;
}

/* Whether a prefix may be in the list, be it this uplink's or another's. */
HOT int deny_may_have(const struct deny *d, __u64 hash)
{
	__u32 index = hash >> 32 & d->list->words;
	__u64 wanted = 1ULL << (hash & 63) | 1ULL << (hash >> 6 & 63) | 1ULL << (hash >> 12 & 63);
	struct mesh_deny_word *word = bpf_map_lookup_elem(d->filter, &index);

	return word && (word->bits & wanted) == wanted;
}

HOT int deny_count(struct mesh_denied *denied)
{
	if (!denied)
		return 0;
	__sync_fetch_and_add(&denied->packets, 1);
	return 1;
}

/* An entry of this key at this uplink, or at every one: 1, and counted. */
#define deny_entry(d, map, key)                                              \
	({                                                                   \
		int __found;                                                 \
		(key)->ifindex = 0;                                          \
		__found = deny_count(bpf_map_lookup_elem(map, key));         \
		if (!__found && (d)->list->own) {                            \
			(key)->ifindex = context_ifindex((d)->ctx);          \
			__found = deny_count(bpf_map_lookup_elem(map, key)); \
		}                                                            \
		__found;                                                     \
	})

/* The bits of an address that a prefix of so many has, 0 to 32. */
HOT __be32 deny_mask(__u32 bits)
{
	return bpf_htonl(~(0xffffffffULL >> (bits & 63)));
}

HOT int deny_may_have4(const struct deny *d, __be32 first, __u32 bits)
{
	return deny_may_have(d, deny_mix(d->list->seed ^ (__u64)bits << 32 ^ first));
}

/*
 * Hashes and tries apart, down to the call of the helper: of a call that either comes to the verifier
 * makes an indirect one, which takes as long as all the rest.
 */
HOT int deny_trie4(const struct deny *d, __be32 address)
{
	struct mesh_deny4_key key = { .prefix = 64, .address = address };
	__u32 slot = d->slot, bits = d->list->four.bits[0];
	void *map;

	if (!deny_may_have4(d, address & deny_mask(bits), bits))
		return 0;
	map = mesh_deny4_trie.lookup(&slot);
	return map && deny_entry(d, map, &key);
}

HOT int deny_hash4(const struct deny *d, __be32 address)
{
	const struct mesh_deny_lengths *lengths = &d->list->four;
	struct mesh_deny4_key key = {};
	__u32 slot = d->slot, bits;
	void *map = mesh_deny4.lookup(&slot);

	if (!map)
		return 0;
#pragma unroll
	for (int i = 0; i < MESH_DENY_LENGTHS; i++) {
		if (i >= lengths->count)
			return 0;
		bits = lengths->bits[i];
		key.prefix = 32 + bits;
		key.address = address & deny_mask(bits);
		if (deny_may_have4(d, key.address, bits) && deny_entry(d, map, &key))
			return 1;
	}
	return 0;
}

/* The first bits of an IPv6 address into a key; its hash. */
HOT __u64 deny_cut6(struct mesh_deny6_key *key, const __be32 *address, __u32 bits, __u64 seed)
{
	__u64 first, last;

#pragma unroll
	for (int i = 0; i < 4; i++) {
		__u32 rest = bits > i * 32 ? bits - i * 32 : 0;

		key->address[i] = address[i] & deny_mask(rest > 32 ? 32 : rest);
	}
	first = key->address[0] | (__u64)key->address[1] << 32;
	last = key->address[2] | (__u64)key->address[3] << 32;
	return deny_mix(deny_mix(seed ^ (__u64)bits << 32 ^ first) ^ last);
}

HOT int deny_trie6(const struct deny *d, const __be32 *address)
{
	struct mesh_deny6_key key = {};
	__u32 slot = d->slot;
	void *map;

	if (!deny_may_have(d, deny_cut6(&key, address, d->list->six.bits[0], d->list->seed)))
		return 0;
	deny_cut6(&key, address, 128, 0);
	key.prefix = 32 + 128;
	map = mesh_deny6_trie.lookup(&slot);
	return map && deny_entry(d, map, &key);
}

HOT int deny_hash6(const struct deny *d, const __be32 *address)
{
	const struct mesh_deny_lengths *lengths = &d->list->six;
	struct mesh_deny6_key key = {};
	__u32 slot = d->slot, bits;
	void *map = mesh_deny6.lookup(&slot);

	if (!map)
		return 0;
#pragma unroll
	for (int i = 0; i < MESH_DENY_LENGTHS; i++) {
		if (i >= lengths->count)
			return 0;
		bits = lengths->bits[i];
		key.prefix = 32 + bits;
		if (deny_may_have(d, deny_cut6(&key, address, bits, d->list->seed)) &&
		    deny_entry(d, map, &key))
			return 1;
	}
	return 0;
}

HOT int deny_find(CTX *ctx, struct deny *d)
{
	__u32 zero = 0, *which = mesh_deny.lookup(&zero);

	if (!which)
		return 0;
	d->slot = *which;
	d->ctx = ctx;
	d->list = mesh_deny_list.lookup(&d->slot);
	d->filter = mesh_deny_bits.lookup(&d->slot);
	return d->list && d->filter;
}

/*
 * Bytes of a frame that by its header has so many: what can be read directly is all of it, unless that
 * is less.
 */
HOT __u32 deny_length(CTX *ctx, __u32 bytes)
{
	__u32 linear = context_length(ctx);

	return linear < bytes ? context_whole_length(ctx) : linear;
}

/*
 * What the stack drops first thing (ip_rcv_core() in linux/net/ipv4/ip_input.c): a header that is not
 * whole, or says of itself what cannot be. A length of 0 is that of a packet above 64 KiB.
 */
HOT int deny_check4(CTX *ctx, const struct iphdr *ip, __u32 at, __u32 *length)
{
	__u32 total = sizeof(*ip);
	struct deny d;

	if ((void *)(ip + 1) > context_end(ctx)) {
		*length = deny_length(ctx, at + total);
		return *length < at + total ? MESH_MALFORMED : MESH_OK;
	}
	total = bpf_ntohs(ip->tot_len);
	*length = deny_length(ctx, at + total);
	if (ip->version != 4 || ip->ihl < 5 || *length < at + total ||
	    (total && total < ip->ihl * 4))
		return MESH_MALFORMED;
	if (!deny_find(ctx, &d))
		return MESH_OK;
	if (d.list->four.trie ? deny_trie4(&d, ip->saddr) : deny_hash4(&d, ip->saddr))
		return MESH_DENIED;
	return MESH_OK;
}

/* The same of IPv6 (ip6_rcv_core() in linux/net/ipv6/ip6_input.c). */
HOT int deny_check6(CTX *ctx, const struct ipv6hdr *ip, __u32 at, __u32 *length)
{
	const __be32 *address = ip->saddr.s6_addr32;
	__u32 total = at + sizeof(*ip);
	struct deny d;

	if ((void *)(ip + 1) > context_end(ctx)) {
		*length = deny_length(ctx, total);
		return *length < total ? MESH_MALFORMED : MESH_OK;
	}
	total += bpf_ntohs(ip->payload_len);
	*length = deny_length(ctx, total);
	if (ip->version != 6 || *length < total)
		return MESH_MALFORMED;
	if (!deny_find(ctx, &d))
		return MESH_OK;
	if (d.list->six.trie ? deny_trie6(&d, address) : deny_hash6(&d, address))
		return MESH_DENIED;
	return MESH_OK;
}

HOT int deny_is_tag(__be16 protocol)
{
	return protocol == bpf_htons(ETH_P_8021Q) || protocol == bpf_htons(ETH_P_8021AD);
}

/*
 * What is behind priority tags (VLAN 0), and in `at` where: the stack takes it for what came without
 * (__netif_receive_skb_core() in linux/net/core/dev.c). 0: it is a VLAN's, or nothing is there. A tag:
 * there are more than DENY_TAGS, which nobody sends.
 */
HOT __be16 deny_untag(CTX *ctx, __be16 protocol, __u32 *at)
{
	const __be16 *tag = context_data(ctx) + sizeof(struct ethhdr); /* the VLAN, what follows */
	int i;

#pragma unroll
	for (i = 0; i < DENY_TAGS; i++, tag += 2) {
		if (!deny_is_tag(protocol))
			break;
		if ((void *)(tag + 2) > context_end(ctx) || tag[0] & bpf_htons(VLAN_VID_MASK))
			return 0;
		protocol = tag[1];
		*at += 2 * sizeof(*tag);
	}
	return protocol;
}

/* What is not IP, or a VLAN's, goes on unseen. `length` is that of a frame to drop. */
HOT int deny_check(CTX *ctx, __u32 *length)
{
	struct ethhdr *eth = context_data(ctx);
	__u32 at = sizeof(*eth);
	__be16 protocol;

	if ((void *)(eth + 1) > context_end(ctx))
		return MESH_OK;
	protocol = LOAD(__be16, eth->h_proto);
	if (unlikely(deny_is_tag(protocol)))
		protocol = deny_untag(ctx, protocol, &at);
	if (protocol == bpf_htons(ETH_P_IP))
		return deny_check4(ctx, (void *)eth + at, at, length);
	if (protocol == bpf_htons(ETH_P_IPV6))
		return deny_check6(ctx, (void *)eth + at, at, length);
	if (!deny_is_tag(protocol))
		return MESH_OK;
	*length = context_whole_length(ctx);
	return MESH_MALFORMED;
}
#endif
