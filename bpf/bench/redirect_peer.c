/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The physical limit the mesh is measured against: tc ingress on a host-side
 * veth that rewrites the two MAC addresses and moves the packet into the other
 * namespace with bpf_redirect_peer. The target is a constant (-D), nothing is
 * looked up, checked or counted. Whatever is not IP (ARP) goes to the stack.
 *
 * FORWARD_IFINDEX is the host-side veth of the receiver, FORWARD_MAC_HI and _LO the
 * MAC of the interface inside: its first two and last four bytes, as the machine
 * loads them. The same of REPLY for the way back; GATEWAY_MAC is the source of both.
 */
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

static __always_inline int redirect_to(struct __sk_buff *skb, __u32 ifindex, __u16 dst_hi,
				       __u32 dst_lo)
{
	void *data = (void *)(long)skb->data;
	void *data_end = (void *)(long)skb->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > data_end)
		return TC_ACT_UNSPEC;
	if (eth->h_proto != bpf_htons(ETH_P_IP) && eth->h_proto != bpf_htons(ETH_P_IPV6))
		return TC_ACT_UNSPEC;
	*(__u16 *)eth->h_dest = dst_hi;
	*(__u32 *)(eth->h_dest + 2) = dst_lo;
	*(__u16 *)eth->h_source = GATEWAY_MAC_HI;
	*(__u32 *)(eth->h_source + 2) = GATEWAY_MAC_LO;
	return bpf_redirect_peer(ifindex, 0);
}

/* on the client's veth */
int bench_forward(struct __sk_buff *skb)
{
	return redirect_to(skb, FORWARD_IFINDEX, FORWARD_MAC_HI, FORWARD_MAC_LO);
}

/* on the server's veth */
int bench_reply(struct __sk_buff *skb)
{
	return redirect_to(skb, REPLY_IFINDEX, REPLY_MAC_HI, REPLY_MAC_LO);
}
