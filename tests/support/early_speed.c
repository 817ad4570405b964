/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * For tests/netns/test_early_speed.py: a bare redirect, which is what XDP at an uplink is measured
 * beside, and where frames end.
 */
#include <uapi/linux/bpf.h>

BPF_DEVMAP(receiver, 1);
BPF_ARRAY(arrived, u64, 1);

int speed_redirect(struct xdp_md *ctx)
{
	return receiver.redirect_map(0, 0);
}

int speed_sink(struct xdp_md *ctx)
{
	u32 zero = 0;
	u64 *count = arrived.lookup(&zero);

	if (count)
		++*count;
	return XDP_DROP;
}

int speed_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}
