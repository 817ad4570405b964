/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packet generator of the benchmark: XDP programs for BPF_PROG_TEST_RUN with live frames. The
 * kernel fills each page once with the frame it was given and recycles pages without resetting
 * them, so the headers, which a path rewrites, are overwritten with the template's for each frame;
 * the rest of the payload stays as it is. Then come the next flow's ports, its number, and the
 * checksum that follows from them. Flows come round robin, so that the sequence number of all of
 * them is the number of the round: flow f has source port f % ports and destination f / ports.
 *
 * bench_generate  XDP_PASS: the frame enters the stack of the interface named in the test run's
 *                 context as if its NIC had received it
 * bench_redirect  out of the interface `ifindex`, as an XDP program on that NIC would send it
 * bench_discard   XDP_DROP: the generator's own limit
 *
 * All drop if there is no template. One run at a time: the state is not per CPU.
 */
#include "bench/frame.h"

BPF_ARRAY(bench_template, struct bench_template, 1);

static __always_inline __u16 checksum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

static __always_inline __u32 halves(__u32 word)
{
	return (word >> 16) + (word & 0xffff);
}

static __always_inline void flow_advance(struct bench_template *t)
{
	t->next_flow++;
	t->next_port++;
	if (t->next_flow >= t->flows) {
		t->next_flow = 0;
		t->next_port = 0;
		t->next_target = 0;
		t->sequence++;
	} else if (t->next_port >= t->ports) {
		t->next_port = 0;
		t->next_target++;
	}
}

/* The template, after its next frame was written; NULL if there is none or the frame is short. */
static __always_inline struct bench_template *frame_write(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	__u32 zero = 0, ports, flow, sum;
	struct bench_template *t;
	struct bench_tag *tag;
	__u64 *words = data;
	__be16 *check;
	__be32 *l4;

	t = bench_template.lookup(&zero);
	if (!t || (void *)(words + BENCH_FRAME_WORDS) > data_end)
		return NULL;
#pragma unroll
	for (int i = 0; i < BENCH_FRAME_WORDS; i++)
		words[i] = t->frame[i];

	ports = (t->port + t->next_port) << 16 | (t->target_port + t->next_target);
	l4 = data + (t->l4 & 63);
	check = data + (t->check & 127);
	tag = data + (t->tag & 127);
	if ((void *)(l4 + 1) > data_end || (void *)(check + 1) > data_end ||
	    (void *)(tag + 1) > data_end)
		return NULL;
	*l4 = bpf_htonl(ports);
	sum = t->sum + halves(ports);
	if (t->tag) {
		flow = BENCH_MAGIC << BENCH_FLOW_BITS | t->next_flow;
		tag->sequence = bpf_htonl(t->sequence);
		tag->flow = bpf_htonl(flow);
		sum += halves(t->sequence) + halves(flow);
	}
	sum = checksum_fold(sum);
	*check = bpf_htons(sum ? sum : t->no_check);
	flow_advance(t);
	return t;
}

int bench_generate(struct xdp_md *ctx)
{
	return frame_write(ctx) ? XDP_PASS : XDP_DROP;
}

int bench_redirect(struct xdp_md *ctx)
{
	struct bench_template *t = frame_write(ctx);

	return t ? bpf_redirect(t->ifindex, 0) : XDP_DROP;
}

int bench_discard(struct xdp_md *ctx)
{
	frame_write(ctx);
	return XDP_DROP;
}
