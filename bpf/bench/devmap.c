/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The least that XDP at an uplink can do to bring a packet into a function: whatever is IP goes by a
 * devmap into its veth, as it came. Nothing is looked up but the device, checked or counted.
 */
#include <linux/if_ether.h>

BPF_DEVMAP(bench_devmap, 1);

int bench_devmap_xdp(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *data_end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;

	if ((void *)(eth + 1) > data_end)
		return XDP_PASS;
	if (eth->h_proto != bpf_htons(ETH_P_IP) && eth->h_proto != bpf_htons(ETH_P_IPV6))
		return XDP_PASS;
	return bench_devmap.redirect_map(0, 0);
}
