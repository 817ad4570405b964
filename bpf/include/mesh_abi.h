/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The contract between the programs and everything that reads or writes their maps: names, numbers
 * and the layout of every key and value. ebpfmesh/_abi.py is generated from this file and
 * mesh_maps.h (`make abi`); CI fails when they differ. Nothing here has behaviour.
 *
 * Padding is forbidden: every byte has a name, and what has no meaning is called pad and is zero.
 * Addresses, ports and checksums are in network order, all else in the host's.
 */
#ifndef MESH_ABI_H
#define MESH_ABI_H

#include <linux/types.h>

/*
 * Raise it when a meaning below changes and nothing else does: it is part of the path of every pin,
 * by a hash of all that is generated from here.
 */
#define MESH_MEANING 1

/* The gateway's addresses inside every function, 169.254.1.1 and fe80::1; host order. */
#define MESH_GATEWAY4 0xa9fe0101
#define MESH_GATEWAY6_FIRST 0xfe800000
#define MESH_GATEWAY6_LAST 1

/* As much of a packet as a program looks at: Ethernet, IP with options, an ICMP error, its quote. */
#define MESH_HEADERS_MAX 256

/* IPv6 extension headers that are walked (RFC 8200, 4.1 lists no more than seven). */
#define MESH_EXTENSIONS_MAX 6

/* An interface index and a protocol share a word of every flow key. */
#define MESH_IFINDEX_BITS 24

/* In mesh_address: a service's address, not a function's. */
#define MESH_SERVICE_ADDRESS 65536

/* A row of mesh_maglev; the table of a service is the largest prime that fits its rows. */
#define MESH_MAGLEV_ROW 256

/* Prefixes around the address of an outside party that rules may speak of, the longest first. */
#define MESH_PREFIXES 5

/* How finely a rule can match: any protocol, a protocol, and 1 to 16 leading bits of the port. */
#define MESH_POLICY_DEPTHS 18

/* In a flow's epoch: the fast path is not for it. */
#define MESH_EPOCH_SLOW 0x80000000

/* In a packet's mark, in BPF_PROG_TEST_RUN only: judge, and change nothing (see context_is_dry()). */
#define MESH_DRY_RUN 0xeb9fd27
#define MESH_DRY_AUDITED 0x80000000
#define MESH_DRY_REJECTED 0x40000000

/* In the mark of an answer to the host, on its way to where the function's packets come in. */
#define MESH_ANSWER 0xeb9fa25

/* In the mark of a judged packet, on its way out of the host-side interface of an XDP function. */
#define MESH_PASSED 0xeb9fa55

/* ICMP messages about dropped packets that a function, or the host for it, gets in a tick. */
#define MESH_ANSWERS 64

/* Services that a datagram socket of the host may speak with by turns, each with its own name. */
#define MESH_DATAGRAMS 4

/* The clock of flows is the kernel's jiffies without its last bits: about a second at HZ=250. */
#define MESH_TICK_SHIFT 8

/* Slots of mesh_tc_calls. */
#define MESH_CALL_SLOW 0
#define MESH_CALL_JUDGE 1
#define MESH_CALL_DECIDE 2
#define MESH_CALL_EVENT 3
#define MESH_CALL_ANSWER 4
#define MESH_CALL_STORE 5
#define MESH_CALL_RATE 6
#define MESH_CALL_OUT 7

/*
 * Slots of mesh_injected. A chain has sixteen, of which its programs take the first ones but one: it is
 * named by the last of them, where a packet begins, and goes down to a number whose last four bits
 * are 0.
 */
#define MESH_CHAIN_MAX 15
#define MESH_CHAIN_END 1 /* in no chain: mesh_chain_end, for the programs of tenants */
#define MESH_CHAIN_SLOTS 16384

/* mesh_chain_word MESH_CHAIN_NEXT: the receiver's chain runs, the sender's is over. */
#define MESH_CHAIN_LAST 0x80000000

/* Ids of injected programs are less: 256 injected, and what each has beside, before and after a change. */
#define MESH_PROGRAMS 2048

/* What live cost is taken from: one in about so many packets that set out through chains. */
#define MESH_SAMPLE_ONE_IN 128

/*
 * A circuit breaker opens after so many windows in a row in which more than half of the samples were
 * above the limit. A window lasts so many nanoseconds and as long as it takes for so many samples.
 */
#define MESH_BREAKER_WINDOWS 5
#define MESH_BREAKER_WINDOW 1000000000
#define MESH_BREAKER_SAMPLES 32

/* Of mesh_cost's histogram: bucket n is from 2^n nanoseconds on, the first from 0, the last to any. */
#define MESH_COST_BUCKETS 20

/*
 * Bytes of mesh_events, a power of two and of pages, and those of them that no tenant's events take:
 * for what is told of a program, not of a packet.
 */
#define MESH_EVENT_BYTES 1048576
#define MESH_EVENT_SPARE 16384

/* In mesh_bucket.cost: parts of a nanosecond. */
#define MESH_RATE_SHIFT 16

/*
 * Prefix lengths of one family that are looked up one by one; where a deny list has more, the
 * longest match in a trie is.
 */
#define MESH_DENY_LENGTHS 4

/* Two lists: packets meet one, the other is the next one while it is made. */
#define MESH_DENY_LISTS 2

/* What mixes an address for the filter of a deny list (the finalizer of MurmurHash3). */
#define MESH_DENY_MIX1 0xff51afd7ed558ccd
#define MESH_DENY_MIX2 0xc4ceb9fe1a85ec53

/* No bucket is so many nanoseconds ahead of now: what says so was written while it was counted on. */
#define MESH_RATE_AHEAD_MAX (1ULL << 43)

/* Most bytes of a packet that an event carries. */
#define MESH_SNAP_MAX 2048

/*
 * Why a packet was dropped. Stable: a number is never given a second meaning. The text after each
 * is what `ebpfmesh show drops` prints.
 */
enum mesh_reason {
	MESH_OK = 0,
	MESH_MALFORMED = 1,   /* a header is cut short or contradicts itself */
	MESH_NO_FUNCTION = 2, /* the interface belongs to no function */
	MESH_SPOOF_MAC = 3,   /* the source MAC is not the function's own */
	MESH_SPOOF_IP = 4,    /* the source address is not the function's own */
	MESH_SPOOF_ARP = 5,   /* the ARP message claims another's address */
	MESH_SPOOF_ND = 6,    /* the ND message claims another's address, or to be a router */
	MESH_PROTOCOL = 7,    /* neither TCP, UDP, ICMP echo nor an ICMP error, over IPv4 or IPv6 */
	MESH_FRAGMENT = 8,    /* a later fragment whose first one was not seen */
	MESH_VLAN = 9,	      /* a VLAN tag */
	MESH_MULTICAST = 10,  /* multicast and broadcast have no place in a routed mesh */
	MESH_TTL = 11,	      /* the TTL or hop limit ran out */
	MESH_POLICY = 12,     /* the policy forbids it */
	MESH_NO_FLOW = 13,    /* a reply, a reset or a close that belongs to no flow */
	MESH_NO_BACKEND = 14, /* the service has no function that could answer */
	MESH_HAIRPIN = 15,    /* a function sends to its own address */
	MESH_NO_SERVICE = 16, /* the address is a service's, but not (or no longer) on this port */
	MESH_FLOW_FULL = 17,  /* no room for a flow entry */
	MESH_NOT_HERE = 18,   /* from the host: the address is not this function's */
	MESH_NO_PROGRAM = 19, /* a part of the mesh's program is missing */
	MESH_INJECTED = 20,   /* a function injected there dropped it */
	MESH_RATE = 21,	      /* more than the rate of the function */
	MESH_TENANT_RATE = 22, /* more than the rate of its tenant */
	MESH_RING_FULL = 23,   /* the function took its packets too slowly: its rings were full */
	MESH_DENIED = 24,      /* its source is in the deny list of the uplink */
	MESH_TOO_BIG = 25,     /* it is larger than the MTU of the uplink it was to leave by */
	MESH_NO_PORT = 26,     /* all ports that the uplink's address has for that peer are taken */
	MESH_REASONS
};

/* Which way a packet was going when it was counted, seen from the function. */
enum mesh_direction {
	MESH_FROM_FN = 0,
	MESH_TO_FN = 1,
	MESH_FROM_UPLINK = 2, /* from outside, at an uplink of the host's */
};

/* Kinds of identity; an identity is kind << 24 | id, and a policy joins two of them. */
enum mesh_identity {
	MESH_ANY = 0,
	MESH_FUNCTION = 1,
	MESH_TENANT = 2,
	MESH_SERVICE = 3,
	MESH_OUTSIDE = 4,
	MESH_PREFIX = 5, /* the outside, as far as its address is in a prefix */
	MESH_GROUP = 6,	 /* functions that are replicas of one */
};

/*
 * The shape of a rule: the kinds of its two identities, and its depth. Of each pair of kinds
 * mesh_config.depths[source * MESH_SHAPE_DESTINATIONS + destination] has the depths that exist.
 */
enum mesh_shape_source {
	MESH_SHAPE_SELF, /* a function, or the outside */
	MESH_SHAPE_TENANT,
	MESH_SHAPE_ANY,
	MESH_SHAPE_PREFIX,
	MESH_SHAPE_GROUP,
	MESH_SHAPE_SOURCES
};

enum mesh_shape_destination {
	MESH_SHAPE_TO_SELF,
	MESH_SHAPE_TO_TENANT,
	MESH_SHAPE_TO_ANY,
	MESH_SHAPE_TO_PREFIX,
	MESH_SHAPE_TO_SERVICE,
	MESH_SHAPE_TO_GROUP,
	MESH_SHAPE_DESTINATIONS
};

/* Of two rules of one priority the lower one decides. */
enum mesh_action {
	MESH_DENY = 0,
	MESH_REJECT = 1, /* deny, and the sender is told */
	MESH_ALLOW = 2,
};

enum mesh_function_flag {
	MESH_FN_AUDIT = 1,	  /* what policy would drop on its way in passes and is counted */
	MESH_FN_RATE_SEND = 2,	  /* it or its tenant has a rate for what it sends */
	MESH_FN_RATE_RECEIVE = 4, /* and for what it gets */
	MESH_FN_XDP = 8,	  /* what is for it meets XDP at its own interface */
	MESH_FN_REMOTE = 16,	  /* it is a machine beyond an uplink, whose interface it has */
};

enum mesh_flow_flag {
	MESH_FLOW_REPLY = 1,   /* made for the answers to the flow that was judged */
	MESH_FLOW_NAT_SRC = 2, /* address and port replace the source's */
	MESH_FLOW_NAT_DST = 4, /* address and port replace the destination's */
	MESH_FLOW_HAIRPIN = 8, /* both ends are one function: its address is replaced as well */
	MESH_FLOW_SOCKET =
		16, /* the socket chose the backend: a service, and nothing to translate */
	MESH_FLOW_REPLIED = 64,	 /* TCP: both sides were heard */
	MESH_FLOW_FIN = 128,	 /* TCP: this side has closed */
	MESH_FLOW_CLOSING = 256, /* TCP: both sides have closed, or one has reset */
	MESH_FLOW_HALF = 512,	 /* TCP: the opener has not spoken again after the other side */
};

/* Where a flow's packets go: mesh_flow.output is kind << MESH_IFINDEX_BITS | target. */
enum mesh_output_kind {
	MESH_OUTPUT_PEER,  /* into the function behind the host-side interface of this index */
	MESH_OUTPUT_STACK, /* on to the host's stack; the target is 0 */
	MESH_OUTPUT_CHAIN, /* a bit: first through the chains of sender and receiver */
	MESH_OUTPUT_SAMPLED =
		4, /* a bit, of a packet in them: what programs take for it is measured */
	MESH_OUTPUT_RATE = 8, /* a bit: first by the rates of sender and receiver */
	MESH_OUTPUT_EGRESS =
		16, /* a bit: out of that interface, and so past XDP at its other end */
	MESH_OUTPUT_NEIGHBOUR = 32, /* a bit: out of this uplink, to whom the host's routes say */
};

/* What an interface is to the mesh. */
enum mesh_iface_kind {
	MESH_IFACE_FUNCTION = 1, /* the host side of a function's; the id is the function's */
	MESH_IFACE_UPLINK = 2,	 /* the host's own, to the outside; the id is 0 */
};

enum mesh_iface_flag {
	MESH_IFACE_TAKES_FRAMES = 1, /* XDP of other interfaces may send there */
};

enum mesh_service_flag {
	MESH_SVC_AFFINITY = 1, /* the same source meets the same backend */
};

/* How long a flow without packets lives, in ticks; the control plane reckons them from seconds. */
enum mesh_timeout {
	MESH_TIMEOUT_HANDSHAKE,	  /* TCP, until both sides were heard */
	MESH_TIMEOUT_ESTABLISHED, /* TCP */
	MESH_TIMEOUT_CLOSING,	  /* TCP, after both closed or one reset */
	MESH_TIMEOUT_UDP,
	MESH_TIMEOUT_ICMP,
	MESH_TIMEOUTS
};

/* What an event tells; bits of mesh_config.events. */
enum mesh_event_kind {
	MESH_EVENT_DROP = 1,	/* a packet was dropped, or would have been (audited) */
	MESH_EVENT_FLOW = 2,	/* a flow was judged and may pass */
	MESH_EVENT_VERDICT = 4, /* a packet passed */
	MESH_EVENT_BREAKER = 8, /* the circuit breaker of an injected program opened */
};

/* Words of a packet's cb[], in BPF_PROG_TEST_RUN only: what is answered to MESH_DRY_RUN. */
enum mesh_dry {
	MESH_DRY_REASON, /* and the question: enum mesh_direction */
	MESH_DRY_RULE,
	MESH_DRY_RECEIVER,
	MESH_DRY_SERVICE, /* and MESH_DRY_AUDITED, MESH_DRY_REJECTED */
	MESH_DRY_PORT,	  /* host order */
	MESH_DRY_WORDS
};

/* Words of a packet's cb[] on its way through chains. No injected program can write them. */
enum mesh_chain_word {
	MESH_CHAIN_NEXT,   /* slot of the program; above 16 bits the receiver's chain, or LAST */
	MESH_CHAIN_OUTPUT, /* of the flow, and MESH_OUTPUT_SAMPLED */
	MESH_CHAIN_TX,	   /* its meters */
	MESH_CHAIN_RX,
	MESH_CHAIN_VERDICT, /* of the program that ran, and above 16 bits its id */
	MESH_CHAIN_WORDS
};

/* What an injected program asks for, in the bits of its verdict. */
enum mesh_injected_verdict {
	MESH_VERDICT_ACTION = 0x3, /* enum mesh_injected_action */
	MESH_VERDICT_INDEX = 0x3c, /* of a reason to drop, or of a target */
	MESH_VERDICT_DSCP = 0xfc0,
	MESH_VERDICT_SET_DSCP = 0x1000,
	MESH_VERDICT_SET_CE = 0x2000, /* where the sender understands it (RFC 3168) */
	MESH_VERDICT_WRITE = 0x4000,  /* into the payload, what is at MESH_STACK_WRITE */
};

enum mesh_injected_action { MESH_ACT_NEXT, MESH_ACT_DROP, MESH_ACT_REDIRECT };

/*
 * The end of an injected program's stack, which is ours: bytes below its top where a place begins.
 * Checkers let an author write none of it but the four words of a write, one by one.
 */
enum mesh_stack {
	MESH_STACK_CONTEXT = 512, /* kept around the author's instructions */
	MESH_STACK_LOAD = 504,	  /* view_load() */
	MESH_STACK_WRITE = 496,	  /* a write's value, low word and high word, offset, bytes */
	MESH_STACK_AUTHOR = 480,  /* from here on the author's */
};

/*
 * Why a payload was not written to: mesh_injected_key.index, behind the numbers of reasons to drop.
 * The packet went on as it was.
 */
enum mesh_unwritten {
	MESH_UNWRITTEN_PAYLOAD = 16, /* no whole header of TCP, UDP or an echo to have one behind */
	MESH_UNWRITTEN_BOUNDS,	     /* not within the payload, or not 1 to 8 bytes */
	MESH_UNWRITTEN_SEGMENTS, /* GSO: several datagrams, or behind the first segment of TCP */
	MESH_UNWRITTEN_MEMORY,	 /* the kernel had none for a copy */
};

/* What is counted for `doctor`. */
enum mesh_count {
	MESH_COUNT_FLOW_MADE,	  /* flows that got a place as established ones */
	MESH_COUNT_HALF_MADE,	  /* and as half-open ones */
	MESH_COUNT_FRAGMENT_MADE, /* into mesh_fragment */
	MESH_COUNT_EXPIRED,	  /* flows found after their time */
	MESH_COUNT_EVENT_LOST,	  /* no room in mesh_events */
	MESH_COUNTS
};

/* What has a place in mesh_slot. */
enum mesh_room_kind { MESH_ROOM_FLOW, MESH_ROOM_HALF, MESH_ROOM_FRAGMENT, MESH_ROOMS };

/* An IPv6 address, or an IPv4 address as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
struct mesh_address {
	__be32 word[4];
};
_Static_assert(sizeof(struct mesh_address) == 16, "padding");

/*
 * The one record of what changes for all packets at once. The fast path asks `epoch` alone;
 * 0 there sends every packet the slow way, where events are made.
 */
struct mesh_config {
	__u32 epoch;   /* judged, or 0 while every packet's verdict is wanted */
	__u32 judged;  /* entries of another epoch are judged again; 1 to 2^31 - 1 */
	__u32 tenants; /* meter slots of one function */
	__u32 inverse; /* a slot times this, shifted right, is the function it is of */
	__u32 shift;
	__u32 events;	      /* enum mesh_event_kind, a bit each */
	__u32 snap;	      /* bytes of a packet that go with an event */
	__u32 service_depths; /* bit n: some service has a range of ports that share n bits */
	__u32 timeouts[5];    /* ticks, by enum mesh_timeout */
	__u32 depths[32];     /* by shape: bit n: some rule has depth n */
	__u32 reject;	      /* 1: what fails without a rule is answered, too */
	__be32 hairpin4;      /* stands for a function that reaches itself through a service */
	__be32 hairpin6[4];
	__u32 masquerade; /* 1: some uplink does */
};
_Static_assert(sizeof(struct mesh_config) == 208, "padding");

/* An interface, by its index. */
struct mesh_iface {
	__u32 id;
	__u8 kind;  /* enum mesh_iface_kind */
	__u8 flags; /* enum mesh_iface_flag */
	__u8 pad[2];
};
_Static_assert(sizeof(struct mesh_iface) == 8, "padding");

/*
 * What flows to the outside have of an uplink that they leave by at once, by its index. IPv4 gets its
 * address, and a port of `count` from `first` on; IPv6 goes as it is.
 */
struct mesh_masquerade {
	__be32 address4; /* 0: it has none, and IPv4 does not leave by it */
	__u16 first;	 /* host order */
	__u16 count;
	__u64 exhausted; /* flows for which no port was free; programs alone add to it */
};
_Static_assert(sizeof(struct mesh_masquerade) == 16, "padding");

/* A function, by its id. ifindex 0: there is none of this id. */
struct mesh_function {
	__u32 ifindex; /* host-side interface; of a remote its uplink */
	__u16 tenant;
	__u16 flags;	    /* enum mesh_function_flag */
	__u8 mac[6];	    /* of its own interface */
	__u8 gateway[6];    /* of the host-side interface: what it sends to */
	__be32 address4;    /* 0: none */
	__be32 address6[4]; /* ::: none */
	__u32 group;	    /* 0: none */
};
_Static_assert(sizeof(struct mesh_function) == 44, "padding");

/*
 * A token bucket as one time (GCRA, ITU-T I.371): when all would be out that was let in, were it sent
 * at the rate. A unit may come as long as that is no more than `burst` ahead of now.
 */
struct mesh_bucket {
	__u64 due;  /* nanoseconds of CLOCK_MONOTONIC; programs alone write it while packets come */
	__u64 cost; /* of a unit, nanoseconds << MESH_RATE_SHIFT; 0: no limit */
	__u64 burst; /* nanoseconds */
};
_Static_assert(sizeof(struct mesh_bucket) == 24, "padding");

/*
 * The rate of a function one way, at id * 2 + enum mesh_direction; behind all of these those of
 * tenants. Bytes are those of Ethernet frames without preamble and check sum, a GSO packet counts
 * as the frames that it would leave in.
 */
struct mesh_rate {
	struct mesh_bucket bytes;
	struct mesh_bucket packets;
	__u32 tenant; /* where the rate of its tenant is, 0: it has none */
	__u32 pad;
};
_Static_assert(sizeof(struct mesh_rate) == 56, "padding");

struct mesh_service_key {
	struct mesh_address address;
	__be16 port;
	__u8 protocol;
	__u8 depth; /* leading bits of the port that count: 16, or fewer for a part of a range */
};
_Static_assert(sizeof(struct mesh_service_key) == 20, "padding");

struct mesh_service {
	__u32 row;    /* first of its rows in mesh_maglev */
	__u32 size;   /* length of its table, 0: no backend */
	__u16 id;     /* never 0 */
	__u16 shift;  /* its functions' port minus its own, modulo 2^16; host order */
	__u16 flags;  /* enum mesh_service_flag */
	__u16 own;    /* its own port minus the one it is published on, modulo 2^16 */
	__u32 uplink; /* the interface whose packets reach it, 0: those of functions */
};
_Static_assert(sizeof(struct mesh_service) == 20, "padding");

/* Part of a Maglev table: ids of functions. */
struct mesh_maglev_row {
	__u16 function[MESH_MAGLEV_ROW];
};
_Static_assert(sizeof(struct mesh_maglev_row) == 512, "padding");

struct mesh_policy_key {
	__u32 source;	   /* identity */
	__u32 destination; /* identity */
	__be16 port;	   /* or ICMP type; its leading depth - 1 bits, the others 0 */
	__u8 protocol;	   /* 0: any; ICMPv6 has the number and the types of ICMP */
	__u8 depth;	   /* 0: any protocol and port; else one more than the bits of the port */
};
_Static_assert(sizeof(struct mesh_policy_key) == 12, "padding");

struct mesh_policy {
	__u32 rule;	/* for people: which rule said so */
	__u16 priority; /* the lowest decides; equal: the lower action */
	__u8 action;	/* enum mesh_action */
	__u8 pad;
};
_Static_assert(sizeof(struct mesh_policy) == 8, "padding");

/* Key of mesh_prefix; prefixes of IPv4 are 96 bits longer, as its addresses are written. */
struct mesh_prefix_key {
	__u32 length;
	struct mesh_address address;
};
_Static_assert(sizeof(struct mesh_prefix_key) == 20, "padding");

struct mesh_prefix {
	__u32 id;    /* of the identity */
	__u32 wider; /* 1 + length of the next wider prefix there is, 0: none */
};
_Static_assert(sizeof(struct mesh_prefix) == 8, "padding");

/*
 * The interface and the addresses of a packet as it arrives. origin is
 * ifindex << 8 | protocol, with ifindex 0 for what comes from the host's stack.
 * With the kernel's 48 bytes before it, a key and its hash fill one cache line and the value
 * the next (struct htab_elem, linux/kernel/bpf/hashtab.c).
 */
struct mesh_flow4_key {
	__be32 source;
	__be32 destination;
	__be16 source_port; /* for ICMP see parse.h */
	__be16 destination_port;
	__u32 origin;
};
_Static_assert(sizeof(struct mesh_flow4_key) == 16, "padding");

struct mesh_flow6_key {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__u32 origin;
};
_Static_assert(sizeof(struct mesh_flow6_key) == 40, "padding");

/* All that a packet of a judged flow needs. */
struct mesh_flow {
	__u32 epoch;	   /* in which it was judged, and MESH_EPOCH_SLOW */
	__u32 output;	   /* enum mesh_output_kind and its target */
	__u32 meter_tx;	   /* slot of the sender in mesh_meter, 0: not a function */
	__u32 meter_rx;	   /* slot of the receiver, 0: not a function */
	__u32 ethernet[3]; /* new destination and source MAC, as they stand in the frame */
	__u8 sender[6];	   /* the only source MAC it may come from; by an uplink: its own, to XDP */
	__u16 flags;	   /* enum mesh_flow_flag */
	struct mesh_address address; /* new address; IPv4 in word[3] */
	__u16 checksum;		     /* one's complement difference that the new address makes */
	__be16 port;		     /* new port */
	__u16 backend;		     /* id of the function a service chose, 0: no service */
	__u16 service;		     /* its id */
	__u32 seen;		     /* tick of the last packet */
};
_Static_assert(sizeof(struct mesh_flow) == 64, "padding");

/* What has passed by a flow's entry, in a mesh that counts its flows; as mesh_meter counts it. */
struct mesh_flow_counts {
	__u64 packets;
	__u64 bytes;
	__u32 made; /* tick in which it became a flow */
	__u32 pad;
};
_Static_assert(sizeof(struct mesh_flow_counts) == 24, "padding");

/* An entry there. */
struct mesh_counted_flow {
	struct mesh_flow flow;
	struct mesh_flow_counts counts;
};
_Static_assert(sizeof(struct mesh_counted_flow) == 88, "padding");

/* Both entries of a flow, that of the opener's way first; IPv4 as in mesh_flow6. */
struct mesh_entries {
	struct mesh_flow6_key key[2];
	struct mesh_counted_flow entry[2];
};
_Static_assert(sizeof(struct mesh_entries) == 256, "padding");

/*
 * The place of one flow: the keys of its two entries, IPv4 as in mesh_flow6. Of a fragmented
 * datagram: the first is its key in mesh_fragment.
 */
struct mesh_slot {
	__u32 users;  /* only the first may change it */
	__u16 tenant; /* that has it, and 1; 0: nobody ever had */
	__u16 turn;   /* how often it was given away */
	struct mesh_flow6_key key[2];
};
_Static_assert(sizeof(struct mesh_slot) == 88, "padding");

/* Neighbouring slots. */
struct mesh_region {
	__u32 first;
	__u32 count;
	__u32 hand; /* where the next one is looked for */
};
_Static_assert(sizeof(struct mesh_region) == 12, "padding");

/* The slots that a tenant may have of one kind: its own, and those that all may have. */
struct mesh_room {
	struct mesh_region own;
	struct mesh_region common;
	__u64 evicted; /* of the tenant's, before their time was over */
	__u32 full;    /* how many more searches found nothing free or over than did */
	__u32 pad;
};
_Static_assert(sizeof(struct mesh_room) == 40, "padding");

/* Who asks whom: the five-tuple of a flow, as the side that opened it sends it. */
struct mesh_tuple {
	struct mesh_address source;
	struct mesh_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};
_Static_assert(sizeof(struct mesh_tuple) == 40, "padding");

/* Identities of one party; shapes are enum mesh_shape_source or _destination. */
struct mesh_party {
	__u32 identity[8];
	__u32 shape[8];
	__u32 port[8]; /* of a receiver: its own, or the service's for rules that name one */
	__u32 count;
};
_Static_assert(sizeof(struct mesh_party) == 100, "padding");

/* Two identities that some rule may join, and the depths such rules have. */
struct mesh_pair {
	__u32 source;
	__u32 destination;
	__u32 depths;
	__u32 port; /* in network order; or ICMP type */
};
_Static_assert(sizeof(struct mesh_pair) == 16, "padding");

/* Where packets of a function begin on their way through what is injected, by enum mesh_direction. */
struct mesh_chain {
	__u16 head[2]; /* slot in mesh_injected, 0: there is none */
};
_Static_assert(sizeof(struct mesh_chain) == 4, "padding");

/* A number that an injected program has given something: a reason to drop, or a target. */
struct mesh_injected_key {
	__u16 program; /* id */
	__u16 index;
};
_Static_assert(sizeof(struct mesh_injected_key) == 4, "padding");

/* What an injected program dropped for one reason, or could not write to: how often, and the packets, GSO
 * ones by segment. */
struct mesh_refused {
	__u64 times;
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct mesh_refused) == 24, "padding");

/* What an injected program may take, and whether it is met. Read by each packet that comes there. */
struct mesh_breaker {
	__u32 open;  /* 1: packets pass it by */
	__u32 limit; /* nanoseconds that the median of its samples may be; 0: there is none */
	__u32 clock; /* nanoseconds that reading the clock twice takes by itself */
	__u32 pad;
};
_Static_assert(sizeof(struct mesh_breaker) == 16, "padding");

/* All of them, by id: one value, so that a program has the address of its own among its instructions. */
struct mesh_breakers {
	struct mesh_breaker of[MESH_PROGRAMS];
};
_Static_assert(sizeof(struct mesh_breakers) == 32768, "padding");

/* What an injected program took of late, and since it is there, in nanoseconds without the clock's. */
struct mesh_cost {
	__u64 users;   /* only the first may end the window */
	__u64 began;   /* when the window did */
	__u64 samples; /* in the window */
	__u64 over;    /* of them above the limit */
	__u64 windows; /* before it, in a row, in which most were */
	__u64 since;   /* when the first of these began */
	__u64 lately;  /* follows the median: up or down by a sixteenth with each sample */
	__u64 histogram[MESH_COST_BUCKETS];
};
_Static_assert(sizeof(struct mesh_cost) == 216, "padding");

/* Which packet is sampled next, and when the program of one began. */
struct mesh_sampling {
	__u32 left; /* packets until then, with it; 0: it is the next */
	__u32 pad;
	__u64 start; /* 0: no program runs */
};
_Static_assert(sizeof(struct mesh_sampling) == 16, "padding");

/* How far a packet has got on the slow path. */
enum mesh_step {
	MESH_ARRIVED,
	MESH_JUDGED,	  /* its flow was judged, just now */
	MESH_ESTABLISHED, /* it is out, and its flow is to become an established one */
};

/* What is known of the packet. Written by mesh_slow(), the direction by who calls it. */
struct mesh_packet {
	struct mesh_tuple tuple; /* as the packet has it, or as an answer to what it quotes */
	__u32 function;		 /* id of the function whose interface it is */
	__u32 sender;		 /* id of the function the packet is from, 0: the outside */
	__u32 ifindex;		 /* of the flow's key: 0 from the host's stack */
	__u8 direction;		 /* enum mesh_direction */
	__u8 known;		 /* the flow has an entry that counts */
	__u8 answerable;	 /* should it be dropped */
	__u8 pad;
	__u16 l4_offset;
	__u16 mtu; /* that it is larger than, of MESH_TOO_BIG */
};
_Static_assert(sizeof(struct mesh_packet) == 60, "padding");

/* What is asked: the flow as its opener sends it, and the two parties. Written by mesh_judge(). */
struct mesh_question {
	struct mesh_tuple tuple;
	struct mesh_address target; /* address and port of the receiver itself */
	struct mesh_address service_address;
	__be16 target_port;
	__be16 service_port;
	/* Interface the backend had, which the next owner of its id has not; 0: it lives. */
	__u32 backend_ifindex;
	__u16 backend;	/* id of the receiver if a service chose it */
	__u16 service;	/* its id, 0: none */
	__u32 opener;	/* id of the flow's opener, 0: the outside */
	__u32 receiver; /* id of its receiver, 0: the outside */
	__u32 flags;	/* enum mesh_flow_flag, of the forward entry */
	struct mesh_party source;
	struct mesh_party destination;
	struct mesh_pair pair[32];
	__u32 pairs;
	__u32 protocol;
	__u32 uplink; /* interface of the party outside, 0: there is none, or by the host's stack */
	__be16 asked_port; /* as the packet or socket has it; service_port is the service's own */
	__u16 pad;
};
_Static_assert(sizeof(struct mesh_question) == 824, "padding");

/* What became of it. */
struct mesh_verdict {
	__u32 rule;	/* that decided, 0: none */
	__u32 strength; /* of that rule, see lib/policy.h */
	__u8 reason;	/* enum mesh_reason */
	__u8 rejected;	/* the reason is one whose packet is answered */
	__u8 audited;	/* it would not pass, were its receiver not in audit */
	__u8 step;	/* enum mesh_step */
	__u8 event;	/* enum mesh_event_kind: sent already, 0: none */
	__u8 pad[3];
	__u32 action; /* what the hook is to do with the packet, for mesh_store() to return */
};
_Static_assert(sizeof(struct mesh_verdict) == 20, "padding");

/* What the programs of the slow path tell each other of the packet that is on it. */
struct mesh_judgement {
	struct mesh_packet packet;
	struct mesh_question question;
	struct mesh_verdict verdict;
};
_Static_assert(sizeof(struct mesh_judgement) == 904, "padding");

/* A datagram's first fragment has the ports, the others have this. */
struct mesh_fragment_key {
	struct mesh_address source;
	struct mesh_address destination;
	__u32 id;
	__u32 origin; /* as in a flow's key; protocol 0 for IPv6, whose first header may not be TCP */
};
_Static_assert(sizeof(struct mesh_fragment_key) == 40, "padding");

struct mesh_fragment {
	__u32 ports;   /* struct pkt's */
	__u16 headers; /* bytes of the datagram up to the end of its transport's header */
	__u8 protocol;
	__u8 pad;
	__u32 seen; /* tick of the first fragment */
};
_Static_assert(sizeof(struct mesh_fragment) == 12, "padding");

/* A socket of a function's or the host's that asked for a service and got a backend of it. */
struct mesh_socket {
	struct mesh_address service;
	struct mesh_address backend;
	__be16 service_port;
	__be16 backend_port;
	__u16 id; /* of the backend */
	__u16 pad;
	__u32 ifindex; /* of the backend: its id may be another's one day */
};
_Static_assert(sizeof(struct mesh_socket) == 44, "padding");

/* Those of a datagram socket of the host; of an entry that is not used the port is 0. */
struct mesh_datagrams {
	struct mesh_socket of[MESH_DATAGRAMS];
	__u32 next; /* that takes the place of an older one, modulo their number */
};
_Static_assert(sizeof(struct mesh_datagrams) == 180, "padding");

/* The question of a connect(), which may be interrupted by one on the same CPU. */
struct mesh_asked {
	__u32 users; /* only the first may write */
	struct mesh_judgement judgement;
};
_Static_assert(sizeof(struct mesh_asked) == 908, "padding");

/* What is sent to mesh_events; so many bytes of the packet as `captured` says come after it. */
struct mesh_event {
	__u64 time;	/* CLOCK_MONOTONIC, nanoseconds */
	__u32 ifindex;	/* where the packet was seen */
	__u32 sender;	/* id of a function, 0: the outside */
	__u32 receiver; /* id of a function, 0: the outside or not known */
	__u32 rule;	/* that decided, 0: none */
	__u32 length;	/* of the packet */
	__u16 captured;
	__u8 kind;	/* enum mesh_event_kind */
	__u8 reason;	/* enum mesh_reason */
	__u8 direction; /* enum mesh_direction */
	__u8 audited;	/* 1: it passed, because the receiver is in audit */
	__u16 service;	/* id, 0: none */
	__u8 rejected;	/* 1: it was dropped, and its sender is told if it may be */
	__u8 pad;
	__u16 program;		 /* MESH_EVENT_BREAKER: id, 0 in others, as the next three */
	struct mesh_tuple tuple; /* as the packet has it; zero where it was not parsed */
	__u32 cost;		 /* nanoseconds, median */
	__u32 limit;		 /* nanoseconds */
	__u32 lasted;		 /* milliseconds that it was above */
	__u32 pad2;
};
_Static_assert(sizeof(struct mesh_event) == 96, "padding");

struct mesh_event_buffer {
	struct mesh_event event;
	__u8 data[MESH_SNAP_MAX];
};
_Static_assert(sizeof(struct mesh_event_buffer) == 2144, "padding");

/*
 * What a tenant may have in mesh_events that is not read yet, and what it has, in bytes: of events
 * about what its functions sent. `mark` is where the writers were once.
 */
struct mesh_event_room {
	__u64 before; /* no more than so much lies before the mark */
	__u64 behind; /* and behind it */
	__u64 mark;
	__u64 last;    /* where its last one ends */
	__u64 lost;    /* events there was no room for */
	__u32 own;     /* as much is for it alone */
	__u32 maximum; /* more it may not have */
	__u32 whole;   /* and more than its own only while all tenants have no more than so much */
	__u32 pad;
};
_Static_assert(sizeof(struct mesh_event_room) == 56, "padding");

/* ICMP messages about packets of a function, and about those that the host sent it. */
struct mesh_answers {
	__u32 tick[2]; /* by enum mesh_direction: when the last one was sent */
	__u32 sent[2]; /* in that tick */
};
_Static_assert(sizeof(struct mesh_answers) == 16, "padding");

/*
 * What is looked up of a source address, by family: prefix lengths, the longest first. With `trie`
 * there is one, the shortest of all: what is not in the filter by that is in no longer prefix.
 */
struct mesh_deny_lengths {
	__u32 count; /* 0: nothing of this family is denied */
	__u32 trie;
	__u32 bits[4]; /* MESH_DENY_LENGTHS */
};
_Static_assert(sizeof(struct mesh_deny_lengths) == 24, "padding");

/*
 * A deny list. Its filter has a power of two of words, and of each prefix three bits in one of them,
 * so that few addresses have all bits set that are not denied.
 */
struct mesh_deny_list {
	__u64 stamp; /* of what it was made from */
	__u64 seed;  /* of the filter */
	__u32 words; /* of the filter, less 1 */
	__u32 own;   /* 1: some prefixes are of one uplink alone */
	struct mesh_deny_lengths four;
	struct mesh_deny_lengths six;
};
_Static_assert(sizeof(struct mesh_deny_list) == 72, "padding");

/* A denied prefix: `prefix` bits of what follows, for the trie. Interface 0: at every uplink. */
struct mesh_deny4_key {
	__u32 prefix;
	__u32 ifindex;
	__be32 address;
};
_Static_assert(sizeof(struct mesh_deny4_key) == 12, "padding");

struct mesh_deny6_key {
	__u32 prefix;
	__u32 ifindex;
	__be32 address[4];
};
_Static_assert(sizeof(struct mesh_deny6_key) == 24, "padding");

struct mesh_denied {
	__u64 packets; /* dropped for it */
};
_Static_assert(sizeof(struct mesh_denied) == 8, "padding");

struct mesh_deny_word {
	__u64 bits;
};
_Static_assert(sizeof(struct mesh_deny_word) == 8, "padding");

/* What a function sent to and received from one tenant; slot = function * tenants + tenant. */
struct mesh_meter {
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 rx_packets;
	__u64 rx_bytes;
};
_Static_assert(sizeof(struct mesh_meter) == 32, "padding");

struct mesh_drop_key {
	__u32 function; /* id of the function whose interface it was, 0: none */
	__u8 reason;	/* enum mesh_reason */
	__u8 direction; /* enum mesh_direction */
	__u8 audited;	/* 1: it passed, because the receiver is in audit */
	__u8 pad;
};
_Static_assert(sizeof(struct mesh_drop_key) == 8, "padding");

struct mesh_drop {
	__u64 packets;
	__u64 bytes;
};
_Static_assert(sizeof(struct mesh_drop) == 16, "padding");

struct mesh_count_value {
	__u64 value;
};
_Static_assert(sizeof(struct mesh_count_value) == 8, "padding");

#endif
