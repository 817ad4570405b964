/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * All that an injected function is written with: one C file that includes this and nothing else.
 *
 *     #include "mesh_function.h"
 *     MESH_COUNTER(seen, "packets that came by");
 *     MESH_FUNCTION(p)
 *     {
 *             mesh_count(seen);
 *             return mesh_next();
 *     }
 *
 * It reads the packet as `p` (struct mesh_view, in include/mesh_view.h) and answers with a verdict;
 * it changes nothing itself. It knows nothing of its hook: the same file serves tc and XDP.
 * `ebpfmesh inject --new NAME` writes a commented one; more are in bpf/functions/.
 *
 * What stands in MESH_PARAMETER, MESH_COUNTER, MESH_REASON and MESH_TARGET is read from the text, as
 * it is written: numbers and strings, not names of numbers or parts of macros. So are the names of
 * maps, and what stands in MESH_MIGRATE. Names that begin with mesh_ or MESH_ are ours.
 */
#ifndef MESH_FUNCTION_H
#define MESH_FUNCTION_H

#include "include/mesh_view.h"

/* The function itself, once: MESH_FUNCTION(p) { … return mesh_next(); } */
#define MESH_FUNCTION(p) static __always_inline __u32 mesh_author(const struct mesh_view *p)

/* ---- Verdicts ---- */

/* On to the next function at this place, or to where the packet goes. */
HOT __u32 mesh_next(void)
{
	return MESH_ACT_NEXT;
}

/* Drop it, for reason n, which MESH_REASON(n, "text") declares: 0 to 15. */
HOT __u32 mesh_drop(__u32 n)
{
	return MESH_ACT_DROP | (n << 2 & MESH_VERDICT_INDEX);
}

/* To another function of the same tenant, which MESH_TARGET(n, "name") declares: 0 to 15. */
HOT __u32 mesh_redirect(__u32 n)
{
	return MESH_ACT_REDIRECT | (n << 2 & MESH_VERDICT_INDEX);
}

/* The same verdict, and give the packet this DSCP (0 to 63). */
HOT __u32 mesh_set_dscp(__u32 verdict, __u32 dscp)
{
	verdict &= ~MESH_VERDICT_DSCP;
	return verdict | (dscp << 6 & MESH_VERDICT_DSCP) | MESH_VERDICT_SET_DSCP;
}

HOT __u32 mesh_next_dscp(__u32 dscp)
{
	return mesh_set_dscp(mesh_next(), dscp);
}

/* The same verdict, and mark "congestion experienced" (RFC 3168) if the packet's flow knows ECN. */
HOT __u32 mesh_mark_ce(__u32 verdict)
{
	return verdict | MESH_VERDICT_SET_CE;
}

/*
 * The same verdict, and put the low `bytes` bytes of `value`, 1 to 8, in network order at `offset` of
 * the payload: p->payload + offset is the first, so mesh_write(verdict, 4, 0x0a0b, 2) makes the fifth
 * byte of the payload 0x0a and the sixth 0x0b. Checksums are kept right. One write for each packet;
 * the last one asked for counts.
 *
 * Nothing is written, the packet goes on as it is, and `show injected` counts it as unwritten,
 *   where it has no payload: other protocols than TCP, UDP and echoes, later fragments;
 *   where the bytes are not all within the payload (of this fragment, if it is one);
 *   in packets of UDP that GSO has yet to cut, which are several datagrams; and in those of TCP behind
 *   their first segment.
 * TCP is a stream: what you look for may begin in one packet and end in the next, and comes again, cut
 * elsewhere, where a packet was lost. Write what is the same whenever the same bytes come by.
 */
HOT __u32 mesh_write(__u32 verdict, __u32 offset, __u64 value, __u32 bytes)
{
	__u64 high = value >> 32;

	asm volatile("*(u32 *)(r10 - %4) = %0\n\t"
		     "*(u32 *)(r10 - %5) = %1\n\t"
		     "*(u32 *)(r10 - %6) = %2\n\t"
		     "*(u32 *)(r10 - %7) = %3"
		     :
		     : "r"(value), "r"(high), "r"((__u64)offset), "r"((__u64)bytes),
		       "i"(MESH_STACK_WRITE), "i"(MESH_STACK_WRITE - 4), "i"(MESH_STACK_WRITE - 8),
		       "i"(MESH_STACK_WRITE - 12));
	return verdict | MESH_VERDICT_WRITE;
}

#define MESH_REASON(n, text)                                                 \
	_Static_assert((n) < 16 && sizeof(text) > 1, "a number below 16, a " \
						     "text")
#define MESH_TARGET(n, function) \
	_Static_assert((n) < 16 && sizeof(function) > 1, "a number below 16, a name")

/* ---- Parameters: an integer that `inject set` changes while packets flow; mesh_get(name). ---- */
#define MESH_PARAMETER(type, name, value, text) \
	_Static_assert(sizeof(type) <= 8 && sizeof(text) > 1, "an integer type, a text")
#define mesh_get(name) (mesh_parameters()->name)

/* ---- Counters: one for each CPU, summed when shown; mesh_count(name), mesh_add(name, 10). ---- */
#define MESH_COUNTER(name, text) _Static_assert(sizeof(text) > 1, "a text")
#define mesh_count(name) mesh_count_at(MESH_COUNTER_##name, 1)
#define mesh_add(name, number) mesh_count_at(MESH_COUNTER_##name, number)

/*
 * ---- Maps ---- of the kinds hash, lru_hash, array, percpu_hash, percpu_array, lru_percpu_hash:
 *     MESH_MAP(lru_hash, flows, struct key, struct state, 4096);
 *     value = flows.lookup(&key);  flows.update(&key, &value);  flows.delete(&key);
 * Not within a macro. A key has no padding that is not set to 0.
 */
#define MESH_MAP(kind, name, key, value, entries) BPF_TABLE(#kind, key, value, name, entries)

/*
 * An array that commands read in their memory, without a system call (ebpfmesh.port.map), those of the
 * functions whose packets the program meets; nobody but the program writes it. Other CPUs do at the
 * same time:
 *     MESH_SHARED(load, u64, 256);
 *     value = load.lookup(&key);
 *     if (value)
 *             __sync_fetch_and_add(value, 1);
 */
#define MESH_SHARED(name, value, entries) BPF_TABLE("array", __u32, value, name, entries)

/*
 * To a reader in user space; a power of two, at least 4096:
 *     MESH_RING(samples, 65536);
 *     samples.ringbuf_output(&record, sizeof(record), 0);
 */
#define MESH_RING(name, bytes)                                                                 \
	struct name##_table_t {                                                                \
		int key;                                                                       \
		__u32 leaf;                                                                    \
		int (*ringbuf_output)(void *, __u64, __u64);                                   \
		void *(*ringbuf_reserve)(__u64);                                               \
		void (*ringbuf_submit)(void *, __u64);                                         \
		void (*ringbuf_discard)(void *, __u64);                                        \
		__u32 max_entries;                                                             \
		int flags;                                                                     \
	};                                                                                     \
	__attribute__((section("maps/ringbuf"))) struct name##_table_t name = { .max_entries = \
											(bytes) }

/*
 * ---- Another version of a map ---- A swap goes on with the maps of the version before it where name
 * and layout are the same. Where the layout of one is another, this says how a value becomes a new
 * one, and stands behind the map:
 *     struct flow_v1 { u32 packets; };
 *     struct flow { u64 packets; u64 bytes; };
 *     MESH_MAP(hash, flows, u32, struct flow, 1024);
 *     MESH_MIGRATE(flows, struct flow_v1, old, new)
 *     {
 *             new->packets = old->packets;
 *             return 1;
 *     }
 * It is given `const struct flow_v1 *old`, and `struct flow *new`, which is zero; it returns whether
 * the entry is kept. The key stays. hash may become lru_hash, or the other way round; so may the
 * percpu_ ones, of which each CPU's value is given by itself. It computes, and calls nothing but the
 * clocks and mesh_random(): no map, counter or parameter.
 */
#define MESH_MIGRATE(map, type, old, new)                                          \
	typedef type mesh_old_type_##map;                                          \
	typedef __typeof__(((struct map##_table_t *)0)->leaf) mesh_new_type_##map; \
	HOT __u32 mesh_migrate_##map(const mesh_old_type_##map *old, mesh_new_type_##map *new)

/* ---- The packet beyond the view, and the rest of the world ---- */

/* Copy `length` bytes at `offset` of the frame (p->payload + …) to `to`; 0, or negative: not there. */
#ifdef MESH_XDP
#define mesh_read(p, offset, to, length) bpf_xdp_load_bytes((p)->context, offset, to, length)
#else
#define mesh_read(p, offset, to, length) bpf_skb_load_bytes((p)->context, offset, to, length)
#endif

HOT __u64 mesh_mix(__u64 hash, __u64 word)
{
	hash = (hash ^ word) * 0x9e3779b97f4a7c15; /* 2^64 by the golden ratio, Knuth */
	return hash ^ hash >> 32;
}

#ifdef MESH_VIEW_TRANSPORT
/* A number for a flow's packets in one direction, to spread by or to choose by; no secret. */
HOT __u32 mesh_hash(const struct mesh_view *p)
{
	const __u32 *from = p->source.word, *to = p->destination.word;
	__u64 hash = mesh_mix(p->protocol, (__u64)p->source_port << 16 | p->destination_port);

	hash = mesh_mix(hash, (__u64)from[0] << 32 | from[1]);
	hash = mesh_mix(hash, (__u64)from[2] << 32 | from[3]);
	hash = mesh_mix(hash, (__u64)to[0] << 32 | to[1]);
	return mesh_mix(hash, (__u64)to[2] << 32 | to[3]);
}
#endif

/* Nanoseconds since the machine started, without its sleep. */
HOT __u64 mesh_now(void)
{
	return bpf_ktime_get_ns();
}

HOT __u32 mesh_random(void)
{
	return bpf_get_prandom_u32();
}

/* ---- What the declarations above come down to (written by ebpfmesh/inject/source.py) ---- */

#ifdef MESH_PARAMETERS
HOT const struct mesh_parameters *mesh_parameters(void)
{
	return (const void *)bpf_pseudo_fd(2, MESH_PARAMETERS); /* BPF_PSEUDO_MAP_VALUE */
}
#endif

#ifdef MESH_COUNTERS
BPF_TABLE("percpu_array", __u32, __u64, mesh_counters, MESH_COUNTERS);

HOT void mesh_count_at(__u32 counter, __u64 number)
{
	__u64 *value = mesh_counters.lookup(&counter);

	if (value)
		*value += number;
}
#endif
#endif
