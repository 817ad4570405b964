/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Packet generator of the benchmark: an XDP program for BPF_PROG_TEST_RUN with
 * live frames. Each frame is overwritten with the template, since the kernel
 * recycles pages without resetting them, and gets the next flow's source port,
 * with IPv4 its destination too, and the checksums that follow from them. Flows
 * come round robin.
 *
 * Returns XDP_PASS: the frame enters the stack of the interface named in the
 * test run's context as if its NIC had received it; XDP_DROP if it is too short
 * or there is no template. One run at a time: the state is not per CPU.
 */
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>

#define FRAME_WORDS 8

/* Python packs the same bytes: ebpfmesh/bench/generator.py, TEMPLATE. */
struct bench_template {
	__u64 frame[FRAME_WORDS]; /* Ethernet, IP without options, UDP, payload */
	__u32 ip_sum;		  /* ones' complement sum of the words that stay: IPv4 header */
	__u32 udp_sum;		  /* the same: pseudo header, UDP header, payload */
	__u32 address;		  /* the first destination, host order; IPv4 only */
	__u32 port;		  /* the same */
	__u32 addresses;	  /* flows = addresses * ports; both at least 1 */
	__u32 ports;
	__u32 next_address; /* of the next frame, counted from 0; written here */
	__u32 next_port;
};
_Static_assert(sizeof(struct bench_template) == 96, "layout known to generator.py");

BPF_ARRAY(bench_template, struct bench_template, 1);

static __always_inline __u16 checksum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum & 0xffff;
}

static __always_inline void flow_advance(struct bench_template *t)
{
	t->next_port++;
	if (t->next_port < t->ports)
		return;
	t->next_port = 0;
	t->next_address++;
	if (t->next_address >= t->addresses)
		t->next_address = 0;
}

static __always_inline int frame_write(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct bench_template *t;
	__u32 zero = 0, address, port, halves = 0;
	__u64 *words = data;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u16 sum;

	if (data + FRAME_WORDS * sizeof(__u64) > data_end)
		return XDP_DROP;
	t = bench_template.lookup(&zero);
	if (!t)
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < FRAME_WORDS; i++)
		words[i] = t->frame[i];

	port = (t->port + t->next_port) & 0xffff;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		address = t->address + t->next_address;
		halves = (address >> 16) + (address & 0xffff);
		ip->daddr = bpf_htonl(address);
		ip->check = bpf_htons(checksum_fold(t->ip_sum + halves));
	} else {
		udp = data + sizeof(struct ethhdr) + sizeof(struct ipv6hdr);
	}
	udp->source = bpf_htons(port);
	sum = checksum_fold(t->udp_sum + halves + port);
	udp->check = bpf_htons(sum ? sum : 0xffff); /* 0 would mean "no checksum" */
	flow_advance(t);
	return XDP_PASS;
}

int bench_generate(struct xdp_md *ctx)
{
	return frame_write(ctx);
}

/* The generator's own limit: frames are made and thrown away. */
int bench_discard(struct xdp_md *ctx)
{
	frame_write(ctx);
	return XDP_DROP;
}
