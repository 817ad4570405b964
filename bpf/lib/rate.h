/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What functions may send and get: token buckets of bytes and of packets, of the function and of its
 * tenant. A packet that one of them has no room for is dropped and takes from none of that side. Packets
 * come here that have been judged and rewritten, before anything injected, and only those of
 * flows that have a rate at an end (store.h); others know nothing of it. Writes mesh_rate.
 */
#ifndef MESH_RATE_H
#define MESH_RATE_H

#include "lib/chain.h"

/* A packet as the wire would have it. */
struct rate_load {
	__u64 bytes;
	__u64 packets;
};

/* Bytes up to the payload, of a packet that GSO knows: TCP or UDP. */
HOT __u32 rate_headers(CTX *ctx)
{
	struct ethhdr *eth = context_data(ctx);
	struct iphdr *ip = (void *)(eth + 1);
	__u32 offset = sizeof(*eth) + sizeof(struct ipv6hdr);
	__u8 protocol, words = 0;

	if ((void *)(ip + 1) > context_end(ctx))
		return 0;
	protocol = ((struct ipv6hdr *)ip)->nexthdr;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		offset = sizeof(*eth) + ip->ihl * 4;
		protocol = ip->protocol;
	}
	if (protocol == IPPROTO_UDP)
		return offset + sizeof(struct udphdr);
	bpf_skb_load_bytes(ctx, offset + 12, &words, sizeof(words)); /* data offset of TCP */
	return offset + (words >> 4) * 4;
}

/*
 * A sender by a packet socket need not say how many segments it means (SKB_GSO_DODGY), so they are
 * reckoned, as qdisc_pkt_len_init() does (linux/net/core/dev.c).
 */
HOT void rate_weigh(CTX *ctx, struct rate_load *load)
{
	__u64 size = CONTEXT_FIELD(ctx, gso_size);
	__u64 headers;

	load->bytes = context_length(ctx);
	load->packets = 1;
	if (!size)
		return;
	headers = rate_headers(ctx);
	if (load->bytes <= headers + size)
		return;
	load->packets = (load->bytes - headers + size - 1) / size;
	load->bytes += (load->packets - 1) * headers;
}

/* Nanoseconds that a bucket is ahead of now; more than MESH_RATE_AHEAD_MAX: it is full of tokens. */
HOT __u64 rate_ahead(const struct mesh_bucket *bucket, __u64 now)
{
	return *(volatile __u64 *)&bucket->due - now;
}

HOT int rate_has_room(const struct mesh_bucket *bucket, __u64 now)
{
	__u64 ahead = rate_ahead(bucket, now);

	return !bucket->cost || ahead <= bucket->burst || ahead > MESH_RATE_AHEAD_MAX;
}

/*
 * CPUs that come at once may all find room, and all of them pay: a burst can be longer by a packet of
 * each, the rate stays.
 */
HOT void rate_take(struct mesh_bucket *bucket, __u64 now, __u64 units)
{
	__u64 due = *(volatile __u64 *)&bucket->due;

	if (!bucket->cost)
		return;
	if (due - now > MESH_RATE_AHEAD_MAX)
		__sync_val_compare_and_swap(&bucket->due, due, now); /* or another CPU did */
	__sync_fetch_and_add(&bucket->due, units * bucket->cost >> MESH_RATE_SHIFT);
}

HOT int rate_fits(const struct mesh_rate *rate, __u64 now)
{
	return rate_has_room(&rate->bytes, now) && rate_has_room(&rate->packets, now);
}

HOT void rate_pay(struct mesh_rate *rate, __u64 now, const struct rate_load *load)
{
	rate_take(&rate->bytes, now, load->bytes);
	rate_take(&rate->packets, now, load->packets);
}

/* MESH_OK, and the packet has taken its part; or a reason. */
HOT int rate_check(__u32 function, __u32 direction, __u64 now, const struct rate_load *load)
{
	__u32 slot = function * 2 + direction, shared;
	struct mesh_rate *rate = mesh_rate.lookup(&slot), *tenant = NULL;

	if (!rate)
		return MESH_OK;
	if (!rate_fits(rate, now))
		return MESH_RATE;
	shared = rate->tenant;
	if (shared) {
		tenant = mesh_rate.lookup(&shared);
		if (tenant && !rate_fits(tenant, now))
			return MESH_TENANT_RATE;
	}
	rate_pay(rate, now, load);
	if (tenant)
		rate_pay(tenant, now, load);
	return MESH_OK;
}

HOT int rate_drop(CTX *ctx, const struct mesh_config *config, __u32 function, __u32 direction,
		  int reason)
{
	chain_tell(ctx, config, reason);
	return verdict_drop(ctx, function, direction, reason);
}

/* May it pass? Behind chain_begin(), or a redirect, which leaves the sender out. */
HOT int mesh_rate_check(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	__u32 direction = MESH_FROM_FN, function;
	struct rate_load load;
	__u64 now = bpf_ktime_get_ns();
	int reason = MESH_OK;

	if (!config)
		return chain_drop(ctx, MESH_NO_PROGRAM);
	rate_weigh(ctx, &load);
	function = meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_TX));
	if (!(CHAIN_WORD(ctx, MESH_CHAIN_NEXT) & MESH_CHAIN_LAST))
		reason = rate_check(function, direction, now, &load);
	if (!reason) {
		direction = MESH_TO_FN;
		function = meter_function(config, CHAIN_WORD(ctx, MESH_CHAIN_RX));
		reason = rate_check(function, direction, now, &load);
	}
	if (reason)
		return rate_drop(ctx, config, function, direction, reason);
	return chain_step(ctx);
}
#endif
