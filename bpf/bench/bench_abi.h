/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the benchmark's programs share with Python: the values of their maps, and numbers. As
 * include/mesh_abi.h for the mesh: Python's side, ebpfmesh/bench/_abi.py, is made from this file
 * by `make abi`.
 */
#ifndef BENCH_ABI_H
#define BENCH_ABI_H

#define BENCH_MAGIC 0xebf
#define BENCH_FLOW_BITS 20  /* the lower ones of bench_tag.flow; the magic is above */
#define BENCH_FRAME_WORDS 8 /* all that paths rewrite but the checksum, which is written anyway */
#define BENCH_STRIDE 64	    /* a power of two; a clock for each frame would cost too much */
#define BENCH_WINDOW 64	    /* the bits of bench_flow.window */

/* A frame's number, where its payload or its sequence numbers are: frame.h. */
struct bench_tag {
	__be32 sequence; /* of the flow, from 0 */
	__be32 flow;	 /* BENCH_MAGIC << BENCH_FLOW_BITS | number */
};
_Static_assert(sizeof(struct bench_tag) == 8, "padding");

/* What generate.c sends. */
struct bench_template {
	__u64 frame[BENCH_FRAME_WORDS]; /* the first flow's: Ethernet, IP, transport, no options */
	__u32 sum;   /* ones' complement sum of what the checksum covers and stays */
	__u32 flows; /* at least 1 */
	__u32 ports; /* source ports; at least 1 */
	__u32 port;  /* the first, host order; so is the next */
	__u32 target_port;
	__u32 l4; /* where the transport header is, from the frame's beginning; below 64 */
	__u32 check;
	__u32 tag;	 /* 0: there is no room for one */
	__u32 no_check;	 /* what to send for a checksum of zero: UDP would take it for "none" */
	__u32 ifindex;	 /* for bench_redirect */
	__u32 next_flow; /* of the next frame, counted from 0; written here, as are those below */
	__u32 next_port;
	__u32 next_target;
	__u32 sequence;
};
_Static_assert(sizeof(struct bench_template) == 120, "padding");

/* What sink.c counted. */
struct bench_count {
	__u64 packets;
	__u64 bytes;	/* whole frames */
	__u64 first_ns; /* CLOCK_MONOTONIC of the first frame */
	__u64 last_ns;	/* of the last whose number - 1 is a multiple of BENCH_STRIDE */
};
_Static_assert(sizeof(struct bench_count) == 32, "padding");

/* What check.c knows of a flow. */
struct bench_flow {
	__u32 run; /* another than bench_check's: nothing has come yet */
	__u32 packets;
	__u32 next; /* highest number that came, plus one */
	__u32 pad;
	__u64 window;  /* bit n: next - 1 - n came */
	__u64 last_ns; /* CLOCK_MONOTONIC of the last frame */
};
_Static_assert(sizeof(struct bench_flow) == 32, "padding");

/* What check.c counted. */
struct bench_check {
	__u64 run; /* written by Python, with the rest zero, for each new beginning */
	__u64 packets;
	__u64 bytes; /* whole frames */
	__u64 flows;
	__u64 duplicated;
	__u64 reordered;
	__u64 old;	/* BENCH_WINDOW or more behind: late, or a duplicate */
	__u64 foreign;	/* to our ports, but without a tag of ours */
	__u64 first_ns; /* CLOCK_MONOTONIC; not atomic, as the three below */
	__u64 last_ns;
	__u64 gap_ns;	   /* the longest between two arrivals, of whatever flows */
	__u64 flow_gap_ns; /* the longest between two arrivals of one flow */
};
_Static_assert(sizeof(struct bench_check) == 96, "padding");

/* The client of connect.c. */
struct bench_client {
	__u32 port; /* the first one; host order */
	__u32 ports;
	__u32 next;    /* port of the next connection, counted from 0; written here, as all below */
	__u32 ifindex; /* of the client's interface */
	__u64 from_ns; /* CLOCK_MONOTONIC: connections that end between these two are counted */
	__u64 until_ns;
	__u64 opened;
	__u64 closed;
	__u64 counted;
	__u64 ended; /* chains */
	__u64 resets;
	__u64 spent_ns; /* in this program */
};
_Static_assert(sizeof(struct bench_client) == 80, "padding");

#endif /* BENCH_ABI_H */
