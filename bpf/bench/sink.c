/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sink of the benchmark for rates: tc ingress on the receiver's interface, or XDP there. Counts and
 * drops UDP and SYNs to the BENCH_SINK_PORTS ports from BENCH_SINK_PORT on (-D, host order), so
 * that delivery costs no socket; everything else goes on as if it were not there. check.c looks
 * more closely.
 * Of every BENCH_STRIDE frames the first one's time is kept: rates come from when frames arrived,
 * not from when they were sent.
 */
#include "bench/frame.h"

/* one slot, per CPU: no atomics */
BPF_PERCPU_ARRAY(bench_count, struct bench_count, 1);

/* Is it a frame to be dropped? */
static __always_inline int frame_count(void *data, void *data_end, __u32 length)
{
	struct bench_count *count;
	struct bench_tag *tag;
	__u32 zero = 0;

	if (!frame_is_to(data, data_end, BENCH_SINK_PORT, BENCH_SINK_PORTS, &tag))
		return 0;
	count = bench_count.lookup(&zero);
	if (!count)
		return 0;
	if (!(count->packets & (BENCH_STRIDE - 1))) {
		count->last_ns = bpf_ktime_get_ns();
		if (!count->packets)
			count->first_ns = count->last_ns;
	}
	count->packets++;
	count->bytes += length;
	return 1;
}

int bench_sink(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;

	/* the ring of a packet socket sends all but the Ethernet header in pages */
	if (data + 8 * BENCH_FRAME_WORDS > data_end && skb->len >= 8 * BENCH_FRAME_WORDS) {
		if (bpf_skb_pull_data(skb, 8 * BENCH_FRAME_WORDS))
			return TC_ACT_UNSPEC;
		data = (void *)(long)skb->data;
		data_end = (void *)(long)skb->data_end;
	}
	return frame_count(data, data_end, skb->len) ? TC_ACT_SHOT : TC_ACT_UNSPEC;
}

int bench_sink_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;

	return frame_count(data, data_end, data_end - data) ? XDP_DROP : XDP_PASS;
}
