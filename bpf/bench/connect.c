/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * TCP client of the benchmark: tc ingress on the client's interface. It has no
 * sockets: each segment of the server becomes the client's answer to it and
 * leaves the way it came, so that a new connection costs the path and the server.
 *
 *    SYN,ACK  ──▶  ACK,FIN            opened, and closed without a request
 *    FIN,ACK  ──▶  ACK, and the SYN of the next connection from the next port
 *
 * As many connections are under way as SYNs were sent to begin with; a chain of
 * them ends with the first FIN after until_ns. Pure ACKs and resets end here;
 * what is not for the client's ports goes on as if the program were not there.
 *
 * Checksums are left alone: the server's segments come from its stack with
 * CHECKSUM_PARTIAL, so that the field holds the sum of the pseudo header, which
 * stays the same when the addresses change places and the length does not change.
 */
#include "bench/bench_abi.h"

#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/pkt_cls.h>
#include <linux/tcp.h>

#define TTL 64
#define WINDOW 65535
#define OPTIONS_NOP 0x01010101 /* where the SYN,ACK has the maximum segment size */

/* not per CPU: everything runs on one core */
BPF_ARRAY(bench_client, struct bench_client, 1);

struct segment {
	struct ethhdr eth;
	struct iphdr ip;
	struct tcphdr tcp;
} __attribute__((packed));

static __always_inline void ip_sum(struct iphdr *ip)
{
	__u16 *words = (__u16 *)ip;
	__u32 sum = 0;

	ip->check = 0;
#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	ip->check = ~sum & 0xffff;
}

/* Turn a segment round; its flags are those of `flags`, a byte 13 of the header. */
static __always_inline void segment_answer(struct segment *s, __u8 flags)
{
	__u8 *bytes = (__u8 *)&s->tcp;
	__u8 mac[ETH_ALEN];
	__be32 address = s->ip.saddr, acked = s->tcp.ack_seq;
	__be16 port = s->tcp.source;

	__builtin_memcpy(mac, s->eth.h_source, ETH_ALEN);
	__builtin_memcpy(s->eth.h_source, s->eth.h_dest, ETH_ALEN);
	__builtin_memcpy(s->eth.h_dest, mac, ETH_ALEN);
	s->ip.saddr = s->ip.daddr;
	s->ip.daddr = address;
	s->ip.ttl = TTL;
	ip_sum(&s->ip);
	s->tcp.source = s->tcp.dest;
	s->tcp.dest = port;
	s->tcp.ack_seq = bpf_htonl(bpf_ntohl(s->tcp.seq) + 1); /* a SYN or a FIN and no data */
	s->tcp.seq = acked;
	s->tcp.window = bpf_htons(WINDOW);
	bytes[13] = flags;
}

static __always_inline struct segment *segment_at(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data;

	if (data + sizeof(struct segment) > (void *)(long)skb->data_end)
		return 0;
	return data;
}

static __always_inline int send_counted(struct bench_client *c, __u64 begin)
{
	c->spent_ns += bpf_ktime_get_ns() - begin;
	return bpf_redirect(c->ifindex, 0);
}

/* The FIN is in `s`: acknowledge it, and go on with the next connection while there is time. */
static __always_inline int connection_next(struct __sk_buff *skb, struct segment *s,
					   struct bench_client *c, __u64 now)
{
	c->closed++;
	c->counted += now >= c->from_ns && now < c->until_ns;
	segment_answer(s, 0x10); /* ACK */
	if (now >= c->until_ns) {
		c->ended++;
		return send_counted(c, now);
	}
	bpf_clone_redirect(skb, c->ifindex, 0);
	s = segment_at(skb);
	if (!s)
		return TC_ACT_SHOT;
	s->tcp.source = bpf_htons((c->port + c->next) & 0xffff);
	s->tcp.seq = bpf_htonl((__u32)now);
	s->tcp.ack_seq = 0;
	((__u8 *)&s->tcp)[13] = 0x02; /* SYN */
	c->next = c->next + 1 < c->ports ? c->next + 1 : 0;
	return send_counted(c, now);
}

int bench_connect(struct __sk_buff *skb)
{
	struct segment *s = segment_at(skb);
	struct bench_client *c;
	__u64 now = bpf_ktime_get_ns();
	__u32 zero = 0, *options;

	if (!s || s->eth.h_proto != bpf_htons(ETH_P_IP) || s->ip.protocol != IPPROTO_TCP)
		return TC_ACT_UNSPEC;
	c = bench_client.lookup(&zero);
	if (!c || bpf_ntohs(s->tcp.dest) - c->port >= c->ports)
		return TC_ACT_UNSPEC;
	if (s->tcp.rst) {
		c->resets++;
		return TC_ACT_SHOT;
	}
	if (s->tcp.syn && s->tcp.ack) {
		c->opened++;
		options = (__u32 *)(s + 1);
		if (s->tcp.doff == 6 && (void *)(options + 1) <= (void *)(long)skb->data_end)
			*options = OPTIONS_NOP;
		segment_answer(s, 0x11); /* ACK, FIN */
		return send_counted(c, now);
	}
	if (s->tcp.fin)
		return connection_next(skb, s, c, now);
	return TC_ACT_SHOT;
}
