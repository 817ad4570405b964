/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Every map, once. The control plane creates and pins them before a program is compiled
 * (ebpfmesh/kernel/maps.py) with the sizes named here; BCC then opens the pins, so the entries
 * given to it do not matter.
 *
 * MESH_MAP(type, name, key, value, entries): entries is a number, or the name of the limit in
 * mesh.toml that sets it.
 */
#ifndef MESH_MAPS_H
#define MESH_MAPS_H

#include "include/mesh_abi.h"

#ifndef MESH_MAP
#define MESH_MAP(type, name, key, value, entries) \
	BPF_TABLE_PINNED(type, key, value, name, 1, MESH_PINS "/" #name)
#endif

/* A ring buffer has neither keys nor values; BCC's own macro for it knows no pins. */
#ifndef MESH_RING
#define MESH_RING(name, entries)                             \
	struct name##_table_t {                              \
		int key;                                     \
		__u32 leaf;                                  \
		int (*ringbuf_output)(void *, __u64, __u64); \
		__u32 max_entries;                           \
		int flags;                                   \
	};                                                   \
	__attribute__((section("maps/ringbuf:" MESH_PINS     \
			       "/" #name))) struct name##_table_t name = { .max_entries = 1 }
#endif

/* Memory of a socket, which goes with it. It has a key for BCC alone. */
#ifndef MESH_STORAGE
#define MESH_STORAGE(name, value)                               \
	struct name##_table_t {                                 \
		int key;                                        \
		value leaf;                                     \
		void *(*sk_storage_get)(void *, void *, __u64); \
		int (*sk_storage_delete)(void *);               \
		__u32 max_entries;                              \
		int flags;                                      \
	};                                                      \
	__attribute__((section("maps/sk_storage:" MESH_PINS     \
			       "/" #name))) struct name##_table_t name = { .max_entries = 0 }
#endif

/* What changes for all packets at once. Written last by every change; read by every packet. */
MESH_MAP("array", mesh_config, __u32, struct mesh_config, 1);

/* Interface → what it is. Written by attach and detach; read when a flow is judged. */
MESH_MAP("hash", mesh_iface, __u32, struct mesh_iface, interfaces);

/* Uplink → what flows that leave by it are translated to. Written with uplinks; read when judging. */
MESH_MAP("hash", mesh_masquerade, __u32, struct mesh_masquerade, uplinks);

/* Id → function. Written by attach and detach; read when a flow is judged. */
MESH_MAP("array", mesh_function, __u32, struct mesh_function, functions);

/*
 * Address → function, or MESH_SERVICE_ADDRESS. Written by attach, detach, service add/del; read when
 * a flow is judged.
 */
MESH_MAP("hash", mesh_address, struct mesh_address, __u32, addresses);

/*
 * Addresses of the host's own, which nobody outside has. Written by every change where there are uplinks;
 * read when a packet of an uplink is judged.
 */
MESH_MAP("hash", mesh_local, struct mesh_address, __u32, locals);

/* Address, port, protocol → service. Written by service add/del; read when a flow is judged. */
MESH_MAP("hash", mesh_service, struct mesh_service_key, struct mesh_service, services);

/* Rows of the Maglev tables. A new table is written beside the old; mesh_service flips to it. */
MESH_MAP("array", mesh_maglev, __u32, struct mesh_maglev_row, maglev_rows);

/* Rules. Written by policy add/del; read when a flow is judged. */
MESH_MAP("hash", mesh_policy, struct mesh_policy_key, struct mesh_policy, rules);

/* Prefixes of the outside that rules speak of. Written by policy add/del; read when judging. */
MESH_MAP("lpm_trie", mesh_prefix, struct mesh_prefix_key, struct mesh_prefix, prefixes);

/*
 * An entry of a flow begins with its struct mesh_flow. In a mesh with `count_flows` the control plane
 * makes the maps wider, and compiles with MESH_COUNT_FLOWS; in others nothing is spent on it.
 */
#ifdef MESH_COUNT_FLOWS
#define MESH_FLOW_ENTRY struct mesh_counted_flow
#else
#define MESH_FLOW_ENTRY struct mesh_flow
#endif

/*
 * Judged flows, two entries each. Written when a flow is judged; read by every packet. They never
 * have more entries than two for each slot of a flow.
 */
MESH_MAP("hash", mesh_flow4, struct mesh_flow4_key, MESH_FLOW_ENTRY, flows);
MESH_MAP("hash", mesh_flow6, struct mesh_flow6_key, MESH_FLOW_ENTRY, flows);

/* Ports of fragmented datagrams. Written by a first fragment, read by the later ones. */
MESH_MAP("hash", mesh_fragment, struct mesh_fragment_key, struct mesh_fragment, fragments);

/* Who has which place in the three above. Written and read where an entry is made; see room.h. */
MESH_MAP("array", mesh_slot, __u32, struct mesh_slot, slots);

/* Which slots a tenant may have; tenant * MESH_ROOMS + kind. Written with tenants. */
MESH_MAP("array", mesh_room, __u32, struct mesh_room, rooms);

/* Cookie of a network namespace → function. Written by attach and detach; read by mesh_sock.c. */
MESH_MAP("hash", mesh_netns, __u64, __u32, functions);

/* The service a socket was connected to. Written by mesh_sock.c; read there and when judging. */
MESH_STORAGE(mesh_socket, struct mesh_socket);

/* Services that a datagram socket of the host speaks with. By mesh_host.c; read when judging. */
MESH_STORAGE(mesh_datagrams, struct mesh_datagrams);

/* Cookie of the host's network namespace; 0: its processes reach no services. Read by mesh_host.c. */
MESH_MAP("array", mesh_host, __u32, __u64, 1);

/* What a connect() may do is asked here: mesh_scratch belongs to packets, which interrupt it. */
MESH_MAP("percpu_array", mesh_asked, __u32, struct mesh_asked, 1);

/*
 * The flow being judged, from one tail call to the next (lib/slow.h). On the stack the verifier would
 * follow every value it can have: 550 000 instructions instead of 66 000.
 */
MESH_MAP("percpu_array", mesh_scratch, __u32, struct mesh_judgement, 1);

/* Entries of a flow, while they are put together: two that count are too large for the stack. */
MESH_MAP("percpu_array", mesh_entries, __u32, struct mesh_entries, 1);

/* Packets and bytes by function and peer tenant. Written by every packet; read by `show meters`. */
MESH_MAP("percpu_array", mesh_meter, __u32, struct mesh_meter, meters);

/* Drops by function and reason. Written by a dropped packet; read by `show drops`. */
MESH_MAP("percpu_hash", mesh_drops, struct mesh_drop_key, struct mesh_drop, drops);

/*
 * Drops at XDP of uplinks, by enum mesh_reason: a flood is dropped there, and a hash would be a fifth of
 * its cost. Written by a dropped packet; read by `show drops`.
 */
MESH_MAP("percpu_array", mesh_xdp_drops, __u32, struct mesh_drop, reasons);

/* By enum mesh_count. Written on the slow path; read by `doctor`. */
MESH_MAP("percpu_array", mesh_counts, __u32, struct mesh_count_value, counts);

/* How many ICMP messages a function got lately, by its id. Written when one is made. */
MESH_MAP("array", mesh_answers, __u32, struct mesh_answers, functions);

/*
 * Rates and how much of them is taken. Written with functions and tenants, and by each packet of a
 * flow with MESH_OUTPUT_RATE.
 */
MESH_MAP("array", mesh_rate, __u32, struct mesh_rate, rates);

/*
 * Deny lists: which of the two packets meet, and both. Written by `deny add` and `del`, which way last;
 * read by every packet at XDP of an uplink.
 */
MESH_MAP("array", mesh_deny, __u32, __u32, 1);
MESH_MAP("array", mesh_deny_list, __u32, struct mesh_deny_list, deny_lists);

/*
 * Of each list: its filter, an array of struct mesh_deny_word; its prefixes, by mesh_deny4_key or
 * mesh_deny6_key to struct mesh_denied, in hashes or tries. The maps in them are made with each list
 * (ebpfmesh/kernel/deny.py) and go with it; nothing is there while nothing is denied.
 */
MESH_MAP("array_of_maps", mesh_deny_bits, __u32, __u32, deny_lists);
MESH_MAP("array_of_maps", mesh_deny4, __u32, __u32, deny_lists);
MESH_MAP("array_of_maps", mesh_deny6, __u32, __u32, deny_lists);
MESH_MAP("array_of_maps", mesh_deny4_trie, __u32, __u32, deny_lists);
MESH_MAP("array_of_maps", mesh_deny6_trie, __u32, __u32, deny_lists);

/* Events, while somebody listens: struct mesh_event. Its place while it is put together. */
MESH_RING(mesh_events, events);
MESH_MAP("percpu_array", mesh_event_buf, __u32, struct mesh_event_buffer, 1);

/* Tenant → its part of mesh_events. Written with tenants, and by every event; see tell.h. */
MESH_MAP("array", mesh_event_room, __u32, struct mesh_event_room, tenant_ids);

/* Function → its chains. Written last by a change of what is injected; read by every packet of a
 * flow with MESH_OUTPUT_CHAIN, once. */
MESH_MAP("array", mesh_chain, __u32, struct mesh_chain, functions);

/* The programs of all chains. Slots are given away again a grace period after their chain went. */
MESH_MAP("prog", mesh_injected, __u32, __u32, chain_slots);

/* Target of an injected program → function. Written before the program is in a chain. */
MESH_MAP("hash", mesh_target, struct mesh_injected_key, __u32, targets);

/* What injected programs dropped, by their own reasons. */
MESH_MAP("percpu_hash", mesh_refused, struct mesh_injected_key, struct mesh_refused, drops);

/*
 * Circuit breakers of injected programs, by id. Written when a program is put in and by the packet that
 * finds it too slow; read where the program is met, by address.
 */
MESH_MAP("array", mesh_breaker, __u32, struct mesh_breakers, 1);

/* What injected programs take, by id. Written by packets that are sampled; read by `show injected`. */
MESH_MAP("array", mesh_cost, __u32, struct mesh_cost, programs);

/* Which packets are sampled. Written by every packet that goes through chains. */
MESH_MAP("percpu_array", mesh_sampling, __u32, struct mesh_sampling, 1);

/* Programs that go on where another leaves off, by MESH_CALL_*. Written when they are loaded. */
MESH_MAP("prog", mesh_tc_calls, __u32, __u32, calls);

#endif
