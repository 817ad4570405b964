/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What differs between a program at tc and one at XDP, so that what both have is written once. An entry
 * file defines MESH_XDP before its includes, or does not. Decides nothing.
 */
#ifndef MESH_CONTEXT_H
#define MESH_CONTEXT_H

#define unlikely(x) __builtin_expect(!!(x), 0)
#define HOT static __always_inline

/*
 * The first statement of a loop that stays one: nothing is moved from here to the end of the turn
 * before. Linux 6.1 takes a loop only if its last instruction is a jump, also where it is laid out
 * before the head and falls through into it (check_cfg() in linux/kernel/bpf/verifier.c).
 */
#define loop_head(count) asm volatile("" : "+r"(count)::"memory")

#ifdef MESH_XDP
#define CTX struct xdp_md
#else
#define CTX struct __sk_buff
#endif

/*
 * A field of the context, by one load at a constant offset. Left to itself clang shares a pointer
 * to the field between branches, and the verifier refuses "dereference of modified ctx ptr".
 */
#define CONTEXT_FIELD(ctx, field)                                                         \
	({                                                                                \
		__u64 __value;                                                            \
		asm volatile("%0 = *(u32 *)(%1 + %2)"                                     \
			     : "=r"(__value)                                              \
			     : "r"(ctx), "i"(__builtin_offsetof(typeof(*(ctx)), field))); \
		(__u32) __value;                                                          \
	})

/*
 * A field of a packed header by one load; clang would take it byte by byte. Packets need no
 * alignment on machines with efficient unaligned access, and the verifier refuses on the others.
 */
#define LOAD(type, field)                      \
	({                                     \
		type *__at = (void *)&(field); \
		*__at;                         \
	})

HOT void *context_data(CTX *ctx)
{
	return (void *)(long)ctx->data;
}

HOT void *context_end(CTX *ctx)
{
	return (void *)(long)ctx->data_end;
}

#ifdef MESH_XDP

HOT __u32 context_ifindex(CTX *ctx)
{
	return CONTEXT_FIELD(ctx, ingress_ifindex);
}

HOT __u32 context_length(CTX *ctx)
{
	return context_end(ctx) - context_data(ctx);
}

/* BCC 0.26 does not declare it. */
static __u64 (*xdp_get_buff_len)(void *ctx) = (void *)BPF_FUNC_xdp_get_buff_len;

/* Fragments are behind what can be read directly. */
HOT __u32 context_whole_length(CTX *ctx)
{
	return xdp_get_buff_len(ctx);
}

/* One frame is one packet: XDP sits below segmentation offload. */
HOT __u32 context_packets(CTX *ctx)
{
	return 1;
}

/* A tag that the device took out of the frame is not seen here; veth leaves it in. */
HOT int context_vlan(CTX *ctx)
{
	return 0;
}

/* Nothing that is cut is looked at. */
HOT void context_linearize(CTX *ctx)
{
}

#else

HOT __u32 context_ifindex(CTX *ctx)
{
	return CONTEXT_FIELD(ctx, ifindex);
}

HOT __u32 context_length(CTX *ctx)
{
	return CONTEXT_FIELD(ctx, len);
}

/* A GSO packet leaves as so many segments. */
HOT __u32 context_packets(CTX *ctx)
{
	__u32 segments = CONTEXT_FIELD(ctx, gso_segs);

	return segments ? segments : 1;
}

HOT int context_vlan(CTX *ctx)
{
	return CONTEXT_FIELD(ctx, vlan_present);
}

/*
 * Bring the headers into the linear part. A raw socket can place them in page fragments, where
 * direct access does not reach; without this such a packet would count as malformed.
 */
HOT void context_linearize(CTX *ctx)
{
	__u32 linear = context_end(ctx) - context_data(ctx), length = context_length(ctx);

	if (linear < length && linear < MESH_HEADERS_MAX)
		bpf_skb_pull_data(ctx, length < MESH_HEADERS_MAX ? length : MESH_HEADERS_MAX);
}

/* Copy the first bytes of the packet, as many as there are, at most MESH_SNAP_MAX; how many. */
HOT __u32 context_copy(CTX *ctx, void *to, __u64 length)
{
	if (length > context_length(ctx))
		length = context_length(ctx);
	if (length > MESH_SNAP_MAX)
		length = MESH_SNAP_MAX;
	asm volatile("" : "+r"(length)); /* or the verifier meets a copy that was not compared */
	if ((__s64)length <= 0)		 /* from `!= 0` Linux 6.1 learns no lower bound */
		return 0;
	asm volatile("" : "+r"(length)); /* or clang makes one comparison of the two */
	if (length > MESH_SNAP_MAX || bpf_skb_load_bytes(ctx, 0, to, length))
		return 0;
	return length;
}

/*
 * A question of `policy test`. A container cannot ask it: a packet that changes its network
 * namespace loses its mark (skb_scrub_packet() in linux/net/core/skbuff.c).
 */
HOT int context_is_dry(CTX *ctx)
{
	return CONTEXT_FIELD(ctx, mark) == MESH_DRY_RUN;
}

/* Which way the packet that is asked about goes, enum mesh_direction. */
HOT __u32 context_question(CTX *ctx)
{
	return CONTEXT_FIELD(ctx, cb[MESH_DRY_REASON]);
}

/* What verdict_answer() sent to the host comes by once more, as if from the function. */
HOT int context_is_answer(CTX *ctx)
{
	if (CONTEXT_FIELD(ctx, mark) != MESH_ANSWER)
		return 0;
	ctx->mark = 0;
	return 1;
}

/* What verdict_output() sent out of a function's interface was judged where it came from. */
HOT int context_is_passed(CTX *ctx)
{
	if (CONTEXT_FIELD(ctx, mark) != MESH_PASSED)
		return 0;
	ctx->mark = 0;
	return 1;
}

#endif
#endif
