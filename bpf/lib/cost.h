/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What injected programs cost, of some packets that meet them, and the circuit breaker of one that costs
 * too much. No author can know which packets these are. The clock is read before a program by what stands
 * before it (compose.py), and after it here. Writes mesh_sampling, mesh_cost and, where a breaker opens,
 * mesh_breaker.
 */
#ifndef MESH_COST_H
#define MESH_COST_H

#include "lib/state.h"
#include "lib/tell.h"

#define COST_SAMPLED ((__u32)MESH_OUTPUT_SAMPLED << MESH_IFINDEX_BITS)

/* The logarithm to base 2, as far as there are buckets. */
HOT __u32 cost_bucket(__u64 ns)
{
	__u32 bucket = 0;

	if (ns >= 1 << (MESH_COST_BUCKETS - 1))
		return MESH_COST_BUCKETS - 1;
#pragma unroll
	for (__u32 step = 16; step; step /= 2) {
		if (ns >> step) {
			bucket += step;
			ns >>= step;
		}
	}
	return bucket;
}

/*
 * Packets until the next one that is sampled, from a random number: about exponentially distributed, so
 * that who finds out that one was sampled knows little of the next. It is even within steps of two thirds
 * of the mean, and each step as likely as all that come after it.
 */
HOT __u32 cost_gap(__u32 random)
{
	__u32 width = MESH_SAMPLE_ONE_IN * 2 / 3, steps = 15 - cost_bucket(random >> 16);

	return 1 + steps * width + ((random & 0xffff) * width >> 16);
}

/* For a packet that sets out: COST_SAMPLED, or 0. */
HOT __u32 cost_sampled(void)
{
	__u32 zero = 0;
	struct mesh_sampling *sampling = mesh_sampling.lookup(&zero);

	if (!sampling)
		return 0;
	if (sampling->left > 1) {
		sampling->left--;
		return 0;
	}
	sampling->left = cost_gap(bpf_get_prandom_u32());
	return COST_SAMPLED;
}

HOT void cost_add(struct mesh_cost *cost, const struct mesh_breaker *breaker, __u64 ns)
{
	__u64 lately = *(volatile __u64 *)&cost->lately, step = lately / 16 + 1;
	__u32 bucket = cost_bucket(ns);

	if (ns != lately)
		cost->lately = ns > lately ? lately + step : lately - step;
	if (bucket < MESH_COST_BUCKETS)
		__sync_fetch_and_add(&cost->histogram[bucket], 1);
	if (ns > breaker->limit)
		__sync_fetch_and_add(&cost->over, 1);
	__sync_fetch_and_add(&cost->samples, 1);
}

/* To whoever listens; `event` has the program and the packet's ends. */
HOT void cost_tell(CTX *ctx, const struct mesh_cost *cost, const struct mesh_breaker *breaker,
		   struct mesh_event *event)
{
	event->time = bpf_ktime_get_ns();
	event->ifindex = context_ifindex(ctx);
	event->length = context_length(ctx);
	event->kind = MESH_EVENT_BREAKER;
	event->cost = cost->lately;
	event->limit = breaker->limit;
	event->lasted = (event->time - cost->since) / 1000000;
	if (mesh_events.ringbuf_output(event, sizeof(*event), 0))
		count_one(MESH_COUNT_EVENT_LOST);
}

/* The end of a window, if it is that; 1 if the breaker is to open. */
HOT int cost_window_ends(struct mesh_cost *cost, __u64 now)
{
	__u64 began = cost->began;
	int slow = cost->over * 2 > cost->samples;

	cost->samples = 0;
	cost->over = 0;
	cost->began = now;
	if (!slow) {
		cost->windows = 0;
		return 0;
	}
	if (!cost->windows)
		cost->since = began;
	return ++cost->windows >= MESH_BREAKER_WINDOWS;
}

HOT int cost_window_is_over(const struct mesh_cost *cost, __u64 now)
{
	__s64 lasted = now - *(volatile __u64 *)&cost->began; /* by another CPU's clock */

	return *(volatile __u64 *)&cost->samples >= MESH_BREAKER_SAMPLES &&
	       lasted >= MESH_BREAKER_WINDOW;
}

/* 1 if the breaker is to open. Of the packets that find a window over, on several CPUs, one ends it. */
HOT int cost_judge(struct mesh_cost *cost, __u64 now)
{
	__u64 users;
	int opens = 0;

	if (!cost_window_is_over(cost, now))
		return 0;
	users = __sync_fetch_and_add(&cost->users, 1);
	if (!users && cost_window_is_over(cost, now))
		opens = cost_window_ends(cost, now);
	users = __sync_fetch_and_add(&cost->users, -1);
	asm volatile("" ::"r"(users));
	return opens;
}

/* When the program began that a sampled packet has met; 0: it met none. */
HOT __u64 cost_start(void)
{
	__u32 zero = 0;
	struct mesh_sampling *sampling = mesh_sampling.lookup(&zero);
	__u64 start;

	if (!sampling)
		return 0;
	start = sampling->start;
	sampling->start = 0;
	return start;
}

HOT struct mesh_breaker *cost_breaker(__u32 program)
{
	struct mesh_breakers *breakers;
	__u32 zero = 0;

	breakers = mesh_breaker.lookup(&zero);
	return breakers ? &breakers->of[program & (MESH_PROGRAMS - 1)] : NULL;
}
#endif
