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

/* Part of the path of every pin. Raise it when a layout or a meaning below changes. */
#define MESH_ABI 1

/* Largest parts of a packet a program looks at: Ethernet, IPv4 with options, TCP without. */
#define MESH_HEADERS_MAX (14 + 60 + 20)

/* An interface index and a protocol share a word of every flow key. */
#define MESH_IFINDEX_BITS 24

/* In mesh_address: a service's address, not a function's. */
#define MESH_SERVICE_ADDRESS 65536

/* A row of mesh_maglev; the table of a service is the largest prime that fits its rows. */
#define MESH_MAGLEV_ROW 256

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
	MESH_PROTOCOL = 7,    /* neither TCP, UDP nor ICMP echo over plain IPv4 or IPv6 */
	MESH_FRAGMENT = 8,    /* an IP fragment */
	MESH_VLAN = 9,	      /* a VLAN tag */
	MESH_MULTICAST = 10,  /* multicast and broadcast have no place in a routed mesh */
	MESH_TTL = 11,	      /* the TTL or hop limit ran out */
	MESH_POLICY = 12,     /* the policy forbids it */
	MESH_NO_FLOW = 13,    /* a reply, a reset or a close that belongs to no flow */
	MESH_NO_BACKEND = 14, /* the service has no function that could answer */
	MESH_HAIRPIN = 15,    /* the service chose the function that asks */
	MESH_NO_SERVICE = 16, /* the address is a service's, but not (or no longer) on this port */
	MESH_FLOW_FULL = 17,  /* no room for a flow entry */
	MESH_NOT_HERE = 18,   /* from the host: the address is not this function's */
	MESH_REASONS
};

/* Which way a packet was going when it was counted, seen from the function. */
enum mesh_direction {
	MESH_FROM_FN = 0,
	MESH_TO_FN = 1,
};

/* Kinds of identity; an identity is kind << 24 | id, and a policy joins two of them. */
enum mesh_identity {
	MESH_ANY = 0,
	MESH_FUNCTION = 1,
	MESH_TENANT = 2,
	MESH_SERVICE = 3,
	MESH_OUTSIDE = 4,
};

/*
 * The shape of a rule: which parts of it are wildcards. Its bit in mesh_config.policy_shapes is
 * (source * 4 + destination) * 3 + depth.
 */
enum mesh_shape_source {
	MESH_SHAPE_SELF, /* a function, or the outside */
	MESH_SHAPE_TENANT,
	MESH_SHAPE_ANY,
	MESH_SHAPE_SOURCES
};

enum mesh_shape_destination {
	MESH_SHAPE_TO_SELF,
	MESH_SHAPE_TO_TENANT,
	MESH_SHAPE_TO_SERVICE,
	MESH_SHAPE_TO_ANY,
	MESH_SHAPE_DESTINATIONS
};

enum mesh_shape_depth {
	MESH_SHAPE_PORT,     /* protocol and port */
	MESH_SHAPE_PROTOCOL, /* protocol, any port */
	MESH_SHAPE_ALL,
	MESH_SHAPE_DEPTHS
};

enum mesh_action {
	MESH_DENY = 0,
	MESH_ALLOW = 1,
};

enum mesh_function_flag {
	MESH_FN_AUDIT = 1, /* what policy would drop on its way in passes and is counted */
};

enum mesh_flow_flag {
	MESH_FLOW_REPLY = 1,   /* made for the answers to the flow that was judged */
	MESH_FLOW_NAT_SRC = 2, /* address and port replace the source's */
	MESH_FLOW_NAT_DST = 4, /* address and port replace the destination's */
};

/* An IPv6 address, or an IPv4 address as ::ffff:a.b.c.d (RFC 4291, 2.5.5.2). */
struct mesh_address {
	__be32 word[4];
};

/* The one record of what changes for all packets at once. */
struct mesh_config {
	__u64 policy_shapes; /* bit n: some rule has shape n */
	__u32 epoch;	     /* flow entries of another epoch are judged again */
	__u32 tenants;	     /* meter slots of one function */
};

/* A function, by its id. ifindex 0: there is none of this id. */
struct mesh_function {
	__u32 ifindex; /* host-side interface */
	__u16 tenant;
	__u16 flags;	    /* enum mesh_function_flag */
	__u8 mac[6];	    /* of its own interface */
	__u8 gateway[6];    /* of the host-side interface: what it sends to */
	__be32 address4;    /* 0: none */
	__be32 address6[4]; /* ::: none */
};

struct mesh_service_key {
	struct mesh_address address;
	__be16 port;
	__u8 protocol;
	__u8 pad;
};

struct mesh_service {
	__u32 id;
	__u32 row;	    /* first of its rows in mesh_maglev */
	__u32 size;	    /* length of its table, 0: no backend */
	__be16 target_port; /* of its functions */
	__u16 pad;
};

/* Part of a Maglev table: ids of functions. */
struct mesh_maglev_row {
	__u16 function[MESH_MAGLEV_ROW];
};

struct mesh_policy_key {
	__u32 source;	   /* identity */
	__u32 destination; /* identity */
	__be16 port;	   /* 0: any */
	__u8 protocol;	   /* 0: any */
	__u8 pad;
};

struct mesh_policy {
	__u32 rule;	/* for people: which rule said so */
	__u16 priority; /* the lowest decides; equal: deny before allow */
	__u8 action;	/* enum mesh_action */
	__u8 pad;
};

/*
 * The interface and the addresses of a packet as it arrives. origin is
 * ifindex << 8 | protocol, with ifindex 0 for what comes from the host's stack.
 * With the kernel's 48 bytes before it, a key and its hash fill one cache line and the value
 * the next (struct htab_elem, kernel/bpf/hashtab.c).
 */
struct mesh_flow4_key {
	__be32 source;
	__be32 destination;
	__be16 source_port; /* for ICMP see parse.h */
	__be16 destination_port;
	__u32 origin;
};

struct mesh_flow6_key {
	__be32 source[4];
	__be32 destination[4];
	__be16 source_port;
	__be16 destination_port;
	__u32 origin;
};

/* All that a packet of a judged flow needs. */
struct mesh_flow {
	__u32 epoch;	   /* in which it was judged */
	__u32 ifindex;	   /* host-side interface of the receiver, 0: the host's stack */
	__u32 meter_tx;	   /* slot of the sender in mesh_meter, 0: not a function */
	__u32 meter_rx;	   /* slot of the receiver, 0: not a function */
	__u32 ethernet[3]; /* new destination and source MAC, as they stand in the frame */
	__u8 sender[6];	   /* the only source MAC it may come from */
	__u16 flags;	   /* enum mesh_flow_flag */
	struct mesh_address address; /* new address; IPv4 in word[3] */
	__u32 checksum;		     /* one's complement difference that the new address makes */
	__be16 port;		     /* new port */
	__u16 backend;		     /* id of the function a service chose, 0: no service */
	__u32 service;		     /* its id */
};

/* Who asks whom: the five-tuple of a flow, as the side that opened it sends it. */
struct mesh_tuple {
	struct mesh_address source;
	struct mesh_address destination;
	__be16 source_port;
	__be16 destination_port;
	__u32 protocol;
};

/* What the policy is asked: identities by enum mesh_shape_source and _destination. */
struct mesh_question {
	__u32 source[4]; /* one more than there are, so that a mask bounds the index */
	__u32 destination[4];
	__be16 port;	     /* of the receiver */
	__be16 service_port; /* of the service, for rules that name one */
	__u32 protocol;
};

/* A flow while it is judged. */
struct mesh_judgement {
	struct mesh_tuple tuple;
	struct mesh_address target; /* address and port of the receiver itself */
	__be16 target_port;
	__u16 backend;	/* id of the receiver if a service chose it */
	__u32 service;	/* its id, 0: none */
	__u32 opener;	/* id of the opener, 0: the outside */
	__u32 receiver; /* id of the receiver, 0: the outside */
	struct mesh_question question;
};

/* What a function sent to and received from one tenant; slot = function * tenants + tenant. */
struct mesh_meter {
	__u64 tx_packets;
	__u64 tx_bytes;
	__u64 rx_packets;
	__u64 rx_bytes;
};

struct mesh_drop_key {
	__u32 function; /* id of the function whose interface it was, 0: none */
	__u8 reason;	/* enum mesh_reason */
	__u8 direction; /* enum mesh_direction */
	__u8 audited;	/* 1: it passed, because the receiver is in audit */
	__u8 pad;
};

struct mesh_drop {
	__u64 packets;
	__u64 bytes;
};

#endif
