/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Sink of the benchmark: tc ingress on the receiver's interface. Counts and
 * drops the UDP frames to the port BENCH_SINK_PORT (a -D, host order) and the one
 * after it, so that delivery costs no socket; everything else goes on as if it
 * were not there.
 * Of every SINK_STRIDE frames the first one's time is kept: rates come from when
 * frames arrived, since a test run spends tens of milliseconds setting up.
 */
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/udp.h>

#define SINK_STRIDE 64 /* a power of two; a clock for each frame would cost too much */

/* Python unpacks the same bytes: ebpfmesh/bench/generator.py, COUNT. */
struct bench_count {
	__u64 packets;
	__u64 bytes;	/* whole frames */
	__u64 first_ns; /* CLOCK_MONOTONIC of the first frame */
	__u64 last_ns;	/* of the last whose number - 1 is a multiple of SINK_STRIDE */
};
_Static_assert(sizeof(struct bench_count) == 32, "layout known to generator.py");

/* one slot, per CPU: no atomics */
BPF_PERCPU_ARRAY(bench_count, struct bench_count, 1);

static __always_inline int is_ours_port(__be16 port)
{
	__u32 number = bpf_ntohs(port);

	return number - BENCH_SINK_PORT <= 1; /* wraps around below it */
}

static __always_inline int is_ours(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(udp + 1) > data_end)
		return 0;
	if (eth->h_proto == bpf_htons(ETH_P_IP))
		return ip->protocol == IPPROTO_UDP && is_ours_port(udp->dest);
	udp = (void *)(ip6 + 1);
	if (eth->h_proto != bpf_htons(ETH_P_IPV6) || (void *)(udp + 1) > data_end)
		return 0;
	return ip6->nexthdr == IPPROTO_UDP && is_ours_port(udp->dest);
}

int bench_sink(struct __sk_buff *skb)
{
	struct bench_count *count;
	__u32 zero = 0;

	if (!is_ours(skb))
		return TC_ACT_UNSPEC;
	count = bench_count.lookup(&zero);
	if (!count)
		return TC_ACT_UNSPEC;
	if (!(count->packets & (SINK_STRIDE - 1))) {
		count->last_ns = bpf_ktime_get_ns();
		if (!count->packets)
			count->first_ns = count->last_ns;
	}
	count->packets++;
	count->bytes += skb->len;
	return TC_ACT_SHOT;
}
