/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the generator and the sinks know of a frame: where its flow and its number stand, and
 * which frames are a sink's. No maps, no verdicts.
 *
 *    UDP  | ports | length, checksum | sequence, flow | payload …       the first 8 bytes of it
 *    TCP  | ports | sequence, flow   | offset, flags, window …          its sequence numbers
 *
 * A SYN has no room for a payload in a short frame, and its acknowledgement number means nothing;
 * NAT leaves both alone. Shorter frames than that (IPv6 and UDP below 70 bytes) carry no tag.
 */
#ifndef BENCH_FRAME_H
#define BENCH_FRAME_H

#include "bench/bench_abi.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>
#include <linux/udp.h>

/* Ports and what follows them in both protocols; TCP's flags are byte 13. */
struct bench_l4 {
	__be16 source;
	__be16 dest;
	struct bench_tag tcp_tag;
	__u8 tcp_offset;
	__u8 tcp_flags;
} __attribute__((packed));

#define TCP_SYN_ONLY 0x02

/* The transport header of an IP packet without options or extensions; NULL if there is none. */
static __always_inline struct bench_l4 *frame_l4(void *data, void *data_end, __u8 *protocol)
{
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct ipv6hdr *ip6 = (void *)(eth + 1);

	if ((void *)(ip + 1) > data_end)
		return NULL;
	if (eth->h_proto == bpf_htons(ETH_P_IP)) {
		*protocol = ip->protocol;
		return (void *)(ip + 1);
	}
	if (eth->h_proto != bpf_htons(ETH_P_IPV6) || (void *)(ip6 + 1) > data_end)
		return NULL;
	*protocol = ip6->nexthdr;
	return (void *)(ip6 + 1);
}

/*
 * Is it UDP or a SYN to one of `ports` ports from `first` on (host order)? If so *tag is where the
 * tag would be, or NULL where the frame has no room for one.
 */
static __always_inline int frame_is_to(void *data, void *data_end, __u32 first, __u32 ports,
				       struct bench_tag **tag)
{
	__u8 protocol = 0;
	struct bench_l4 *l4 = frame_l4(data, data_end, &protocol);
	struct udphdr *udp = (void *)l4;
	__u32 port;

	if (!l4 || (void *)(udp + 1) > data_end)
		return 0;
	port = bpf_ntohs(l4->dest);
	if (port - first >= ports) /* wraps around below it */
		return 0;
	if (protocol == IPPROTO_UDP) {
		*tag = (void *)(udp + 1);
		if ((void *)(*tag + 1) > data_end)
			*tag = NULL;
		return 1;
	}
	if (protocol != IPPROTO_TCP || (void *)(l4 + 1) > data_end)
		return 0;
	*tag = &l4->tcp_tag;
	return l4->tcp_flags == TCP_SYN_ONLY;
}

#endif /* BENCH_FRAME_H */
