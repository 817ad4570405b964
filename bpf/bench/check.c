/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sink of the benchmark that checks: tc ingress on the receivers' interfaces, or XDP there. Reads
 * the flow and the sequence number of each frame (frame.h) and counts what came twice or out of
 * order, and the longest time between two arrivals, of all and of one flow. What was lost follows
 * from how many were sent.
 * Takes frames to the ports that sink.c does. They end here; all else, and what has no tag to be
 * believed, goes on as if it were not there.
 *
 * Behind the highest number of a flow a bit is kept for each of the last numbers up to it, as
 * anti-replay windows do (RFC 4303 3.4.3, RFC 6479): a frame whose bit is set is a duplicate, one
 * whose bit is not is late. One that is further behind may be either, and is counted as such.
 *
 * One map for all receivers. A flow must arrive on one CPU at a time, which it does as long as
 * its path has no queue of another CPU; the counters are shared by all and therefore atomic.
 */
#include "bench/frame.h"

#define FARTHEST (1u << 28) /* no flow skips so many: the number is damaged */

BPF_ARRAY(bench_check, struct bench_check, 1);
BPF_ARRAY(bench_flow, struct bench_flow, BENCH_FLOWS);

static __always_inline void time_note(struct bench_check *c, struct bench_flow *f, __u64 now)
{
	__u64 last = c->last_ns, last_of_flow = f->last_ns;

	c->last_ns = now;
	f->last_ns = now;
	if (last_of_flow && now > last_of_flow && now - last_of_flow > c->flow_gap_ns)
		c->flow_gap_ns = now - last_of_flow;
	if (!last)
		c->first_ns = now;
	else if (now > last && now - last > c->gap_ns)
		c->gap_ns = now - last;
}

static __always_inline void sequence_note(struct bench_check *c, struct bench_flow *f,
					  __u32 sequence)
{
	__u32 behind, ahead;

	if (sequence >= f->next) {
		ahead = sequence - f->next + 1;
		f->window = ahead < BENCH_WINDOW ? f->window << ahead | 1 : 1;
		f->next = sequence + 1;
		return;
	}
	behind = f->next - 1 - sequence;
	if (behind >= BENCH_WINDOW) {
		__sync_fetch_and_add(&c->old, 1);
	} else if (f->window >> behind & 1) {
		__sync_fetch_and_add(&c->duplicated, 1);
	} else {
		f->window |= 1ull << behind;
		__sync_fetch_and_add(&c->reordered, 1);
	}
}

/* Is it a frame to be dropped? */
static __always_inline int frame_check(void *data, void *data_end, __u32 length)
{
	struct bench_tag *tag = NULL;
	struct bench_check *c;
	struct bench_flow *f;
	__u32 zero = 0, word, flow, sequence;

	if (!frame_is_to(data, data_end, BENCH_SINK_PORT, BENCH_SINK_PORTS, &tag))
		return 0;
	c = bench_check.lookup(&zero);
	if (!c)
		return 0;
	word = tag ? bpf_ntohl(tag->flow) : 0;
	sequence = tag ? bpf_ntohl(tag->sequence) : 0;
	flow = word & ((1u << BENCH_FLOW_BITS) - 1);
	f = bench_flow.lookup(&flow);
	if (!f || word >> BENCH_FLOW_BITS != BENCH_MAGIC || sequence >= FARTHEST) {
		__sync_fetch_and_add(&c->foreign, 1);
		return 0;
	}
	if (f->run != (__u32)c->run) {
		f->run = c->run;
		f->packets = 0;
		f->next = 0;
		f->window = 0;
		f->last_ns = 0;
		__sync_fetch_and_add(&c->flows, 1);
	}
	f->packets++;
	__sync_fetch_and_add(&c->packets, 1);
	__sync_fetch_and_add(&c->bytes, length);
	time_note(c, f, bpf_ktime_get_ns());
	sequence_note(c, f, sequence);
	return 1;
}

int bench_check_tc(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;

	return frame_check(data, data_end, skb->len) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int bench_check_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;

	return frame_check(data, data_end, data_end - data) ? XDP_DROP : XDP_PASS;
}
