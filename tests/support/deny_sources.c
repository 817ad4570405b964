/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Frames of chosen sources for tests/netns/test_deny_speed.py, by BPF_PROG_TEST_RUN with live frames:
 * each leaves by the interface `out`. Sources are below 20.0.0.0, of 65 536 prefixes of 24 bits that
 * are denied, or below 64.0.0.0, of which none is.
 */
#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/ip.h>

enum traffic { ONE, FLOOD, FEW_OF_MANY, OTHER };

struct chosen {
	u64 seed;
	u32 traffic;
	u32 out;
};

BPF_ARRAY(chosen, struct chosen, 1);

static __always_inline u64 next_random(struct chosen *c)
{
	u64 value = ++c->seed * 0x9e3779b97f4a7c15ULL;

	value = (value ^ value >> 29) * 0xbf58476d1ce4e5b9ULL;
	return value ^ value >> 32;
}

int deny_sources(struct xdp_md *ctx)
{
	struct iphdr *ip = (void *)(long)ctx->data + sizeof(struct ethhdr);
	struct chosen *c;
	u32 zero = 0, source = 0x14000007;
	u64 value;

	c = chosen.lookup(&zero);
	if (!c || (void *)(ip + 1) > (void *)(long)ctx->data_end)
		return XDP_ABORTED;
	value = next_random(c);
	if (c->traffic == FLOOD || (c->traffic == FEW_OF_MANY && (u32)value % 100 == 0))
		source += (value >> 32 & 0xffff) << 8;
	else if (c->traffic != ONE)
		source = 0x40000000 + (value >> 16 & 0x3ffffff);
	ip->saddr = bpf_htonl(source);
	return bpf_redirect(c->out, 0);
}

int deny_drop(struct xdp_md *ctx)
{
	return XDP_DROP;
}
