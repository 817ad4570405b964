/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How far a flow has got: which of its sides were heard, whether it is closing, and whether its
 * time is over. It decides how long an entry lives and whether it is for the fast path, not whether
 * a packet passes.
 *
 * A new TCP flow is half open, and has a place among such; when its opener speaks after the other
 * side has, it gets one among the established (store.h), which the fast path is for. That never
 * meets SYN, FIN or RST (plain.h).
 */
#ifndef MESH_TRACK_H
#define MESH_TRACK_H

#include "lib/flow.h"

/* Flags that outlive another judgement. */
#define TRACK_FLAGS (MESH_FLOW_REPLIED | MESH_FLOW_FIN | MESH_FLOW_CLOSING | MESH_FLOW_HALF)

struct track {
	struct mesh_flow *flow;	  /* the entry of the packet, or NULL */
	struct mesh_flow *peer;	  /* that of the other way, or NULL */
	struct mesh_tuple answer; /* its five-tuple */
};

HOT void track_find(struct track *t, const struct mesh_tuple *packet, __u32 ifindex)
{
	t->peer = NULL;
	t->flow = flow_find_tuple(packet, ifindex);
	if (!t->flow)
		return;
	flow_answer(&t->answer, packet, t->flow);
	t->peer = flow_find_tuple(&t->answer, flow_ifindex(t->flow));
}

/* The entry of j->packet.tuple; NULL where there is none, or it is over. */
HOT void track_find_known(struct track *t, const struct mesh_judgement *j)
{
	track_find(t, &j->packet.tuple, j->packet.ifindex);
	if (!j->packet.known)
		t->flow = NULL;
}

/* A flow lives while either of its sides speaks. */
HOT int track_expired(const struct mesh_config *config, const struct track *t, __u32 protocol,
		      __u32 now)
{
	__u32 timeout = flow_timeout(config, t->flow, protocol);

	return now - t->flow->seen > timeout && (!t->peer || now - t->peer->seen > timeout);
}

/*
 * Does the packet open another connection? With the ports of one that is closing; or from the side
 * that was called and has answered: what the caller may does not let it call back.
 */
HOT int track_reopens(const struct track *t, const struct pkt *p)
{
	__u32 answered = MESH_FLOW_REPLY | MESH_FLOW_REPLIED;
	int over = t->flow->flags & MESH_FLOW_CLOSING || (t->flow->flags & answered) == answered;

	return over && (p->tcp & (PKT_SYN | PKT_ACK)) == PKT_SYN;
}

/* The word of an entry that its flags are in: BCC has clang make atomic operations on no smaller one. */
union track_word {
	__u64 word;
	struct {
		__u16 sender;
		__u16 flags;
		__u32 address;
	};
};
_Static_assert(__builtin_offsetof(struct mesh_flow, flags) % 8 == 2, "layout");

/*
 * Set a flag of an entry, and see those that others have set from then on: packets of both ways may
 * be on two CPUs. The value of before is asked for, as without it this is no barrier everywhere.
 */
HOT void track_mark(struct mesh_flow *flow, __u16 flag)
{
	union track_word mark = { .flags = flag };
	__u64 before = __sync_fetch_and_or((__u64 *)((void *)&flow->flags - 2), mark.word);

	asm volatile("" ::"r"(before));
}

HOT void track_close(struct track *t, const struct pkt *p)
{
	if (p->tcp & PKT_FIN)
		track_mark(t->flow, MESH_FLOW_FIN);
	if (p->tcp & PKT_RST || (p->tcp & PKT_FIN && t->peer && t->peer->flags & MESH_FLOW_FIN)) {
		track_mark(t->flow, MESH_FLOW_CLOSING);
		if (t->peer)
			track_mark(t->peer, MESH_FLOW_CLOSING);
	}
}

/* Learn from a packet that passes. 1 if the flow is established from here on. */
HOT int track_packet(struct track *t, const struct pkt *p, __u32 now)
{
	t->flow->seen = now;
	if (!p->tcp)
		return 0;
	track_close(t, p);
	if (!flow_is_half(t->flow))
		return 0;
	if (!(t->flow->flags & MESH_FLOW_REPLY))
		return t->flow->flags & MESH_FLOW_REPLIED && !(p->tcp & PKT_SYN) && t->peer;
	if (!(p->tcp & PKT_ACK))
		return 0; /* both open at once: a SYN is no answer */
	track_mark(t->flow, MESH_FLOW_REPLIED);
	if (t->peer)
		track_mark(t->peer, MESH_FLOW_REPLIED);
	return 0;
}
#endif
