/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A write into the payload of a packet that an injected program asked for by mesh_write(). Where the
 * payload is and where it ends is read from the packet, by what made the view: no program's word is
 * taken for it, and none reaches a header. Either exactly those bytes are written and the checksum
 * over them is kept right, or nothing is and the reason is counted (enum mesh_unwritten).
 *
 * Of a GSO packet of TCP the first segment alone may be written: bytes behind it may lie in the
 * skb's frag_list, and what was pulled out of that can bring skb_segment() to BUG_ON(!head_frag)
 * (linux/net/core/skbuff.c, up to 6.18). One of UDP is several datagrams, each with such a place.
 */
#ifndef MESH_WRITE_H
#define MESH_WRITE_H

#define MESH_VIEW_OURS
#define MESH_VIEW_IP
#define MESH_VIEW_TRANSPORT
#include "include/mesh_view.h"
#include "lib/chain.h"

/* A word that the author's instructions left on the stack, which is the same one. */
#define WRITE_WORD(number)                                            \
	({                                                            \
		__u64 __value;                                        \
		asm volatile("%0 = *(u32 *)(r10 - %1)"                \
			     : "=r"(__value)                          \
			     : "i"(MESH_STACK_WRITE - 4 * (number))); \
		(__u32) __value;                                      \
	})

/* What an ICMP error quotes, and neighbour discovery, is data of nobody. */
HOT int write_has_payload(const struct mesh_view *view)
{
	if (!view->payload)
		return 0;
	if (view->protocol == IPPROTO_ICMP)
		return view->icmp_type == ICMP_ECHO || view->icmp_type == ICMP_ECHOREPLY;
	if (view->protocol == IPPROTO_ICMPV6)
		return view->icmp_type == ICMPV6_ECHO_REQUEST ||
		       view->icmp_type == ICMPV6_ECHO_REPLY;
	return 1;
}

/*
 * Bytes of the payload, and where its checksum is; 0 where there is none to keep (RFC 768). A packet
 * may have more behind what UDP's own header says, under no checksum.
 */
HOT __u32 write_room(CTX *ctx, const struct mesh_view *view, __u32 *check)
{
	__u32 length = view->payload_length, said;
	__u64 header;

	*check = view->transport + __builtin_offsetof(struct icmphdr, checksum);
	if (view->protocol == IPPROTO_TCP)
		*check = view->transport + __builtin_offsetof(struct tcphdr, check);
	if (view->protocol != IPPROTO_UDP)
		return length;
	header = view_load(ctx, view->transport);
	said = header >> 16 & 0xffff;
	*check = header & 0xffff ? view->transport + __builtin_offsetof(struct udphdr, check) : 0;
	if (said < sizeof(struct udphdr))
		return 0;
	said -= sizeof(struct udphdr);
	return said < length ? said : length;
}

/* 0 if so many bytes at this offset of the payload may be written, or why not. */
HOT int write_refused(CTX *ctx, __u8 protocol, __u64 offset, __u64 bytes, __u32 room)
{
	__u32 segment = CONTEXT_FIELD(ctx, gso_size);

	if (bytes - 1 > 7 || offset + bytes > room)
		return MESH_UNWRITTEN_BOUNDS;
	if (segment && (protocol != IPPROTO_TCP || offset + bytes > segment))
		return MESH_UNWRITTEN_SEGMENTS;
	return 0;
}

/*
 * What a checksum changes by. The header it is in begins at an even place of the frame; bytes from an
 * odd place on are summed up swapped (RFC 1071, 2).
 */
HOT __u32 write_difference(__be64 from, __be64 to, __u32 at)
{
	__u32 difference = csum_difference((__be32 *)&from, (__be32 *)&to, 2);

	return at & 1 ? (difference >> 8 | difference << 8) & 0xffff : difference;
}

/*
 * 0, or MESH_UNWRITTEN_MEMORY. The kernel makes what is written to linear and the packet's own: no
 * other holder of it, such as its sender's queue for retransmission, sees the change. Without the
 * pseudo-header's flag bpf_l4_csum_replace() leaves alone a field that is yet to be filled in
 * (CHECKSUM_PARTIAL), and the sum of the whole packet (CHECKSUM_COMPLETE), to which payload and field
 * add up as before; that changes only where there is no such field (inet_proto_csum_replace_by_diff()
 * in linux/net/core/utils.c, 6.18).
 */
HOT int write_bytes(CTX *ctx, __u32 at, __u64 bytes, __u64 value, __u32 check, __u8 protocol)
{
	__be64 from = 0, to;

	asm volatile("" : "+r"(bytes)); /* or the verifier meets a copy that was not compared */
	if (bytes - 1 > 7)
		return MESH_UNWRITTEN_BOUNDS;
	to = bpf_htonll(value << (64 - 8 * bytes));
	if (bpf_skb_load_bytes(ctx, at, &from, bytes))
		return MESH_UNWRITTEN_MEMORY;
	if (from == to)
		return 0;
	if (bpf_skb_store_bytes(ctx, at, &to, bytes, check ? 0 : BPF_F_RECOMPUTE_CSUM))
		return MESH_UNWRITTEN_MEMORY;
	if (check)
		bpf_l4_csum_replace(ctx, check, 0, write_difference(from, to, at),
				    protocol == IPPROTO_UDP ? BPF_F_MARK_MANGLED_0 : 0);
	return 0;
}

HOT int write_payload(CTX *ctx)
{
	__u64 value = (__u64)WRITE_WORD(1) << 32 | WRITE_WORD(0);
	__u32 offset = WRITE_WORD(2), bytes = WRITE_WORD(3), room, check;
	struct mesh_view view = {};
	int reason;

	mesh_view_packet(ctx, &view);
	if (!write_has_payload(&view))
		return MESH_UNWRITTEN_PAYLOAD;
	room = write_room(ctx, &view, &check);
	reason = write_refused(ctx, view.protocol, offset, bytes, room);
	if (reason)
		return reason;
	return write_bytes(ctx, view.payload + offset, bytes, value, check, view.protocol);
}

/* What a program has asked for, before chain_end() or chain_leave(). */
HOT void write_asked(CTX *ctx)
{
	__u32 verdict = CHAIN_WORD(ctx, MESH_CHAIN_VERDICT);
	struct mesh_injected_key key = { .program = verdict >> 16 };
	struct mesh_refused none = {};

	if (verdict & MESH_VERDICT_WRITE) {
		key.index = write_payload(ctx);
		if (key.index)
			chain_count(ctx, mesh_refused.lookup_or_try_init(&key, &none));
	}
}
#endif
