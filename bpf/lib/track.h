/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * How far a flow has got: which of its sides were heard, whether it is closing, and whether its
 * time is over. It decides how long an entry lives and in which map, not whether a packet passes.
 *
 * A new TCP flow is in mesh_half; when its opener speaks after the other side has, both entries
 * move to the maps of the fast path, which never meets SYN, FIN or RST (plain.h).
 */
#ifndef MESH_TRACK_H
#define MESH_TRACK_H

#include "lib/flow.h"

/* Flags that outlive another judgement. */
#define TRACK_FLAGS (MESH_FLOW_REPLIED | MESH_FLOW_FIN | MESH_FLOW_CLOSING)

struct track {
	struct mesh_flow *flow;	  /* the entry of the packet, or NULL */
	struct mesh_flow *peer;	  /* that of the other way, or NULL */
	struct mesh_tuple answer; /* its five-tuple */
	int half;
	int over; /* there was an entry, and it does not count any more */
};

HOT void track_find_peer(struct track *t, const struct mesh_tuple *packet)
{
	flow_answer(&t->answer, packet, t->flow);
	t->peer = t->half ? flow_find_half(&t->answer, t->flow->ifindex) :
			    flow_find_whole(&t->answer, t->flow->ifindex);
}

HOT void track_find(struct track *t, const struct mesh_tuple *packet, __u32 ifindex)
{
	t->half = 0;
	t->peer = NULL;
	t->flow = flow_find_whole(packet, ifindex);
	if (!t->flow) {
		t->flow = flow_find_half(packet, ifindex);
		t->half = !!t->flow;
	}
	if (t->flow)
		track_find_peer(t, packet);
}

/* The entry of j->packet; NULL where there is none, or it is over. */
HOT void track_find_known(struct track *t, const struct mesh_judgement *j)
{
	track_find(t, &j->packet, j->ifindex);
	t->over = t->flow && !j->known;
	if (!j->known)
		t->flow = NULL;
}

HOT __u32 track_timeout(const struct mesh_config *config, const struct track *t, __u32 protocol)
{
	if (protocol == IPPROTO_UDP)
		return config->timeouts[MESH_TIMEOUT_UDP];
	if (protocol != IPPROTO_TCP)
		return config->timeouts[MESH_TIMEOUT_ICMP];
	if (t->flow->flags & MESH_FLOW_CLOSING)
		return config->timeouts[MESH_TIMEOUT_CLOSING];
	return config->timeouts[t->half ? MESH_TIMEOUT_HANDSHAKE : MESH_TIMEOUT_ESTABLISHED];
}

/* A flow lives while either of its sides speaks. */
HOT int track_expired(const struct mesh_config *config, const struct track *t, __u32 protocol,
		      __u32 now)
{
	__u32 timeout = track_timeout(config, t, protocol);

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

HOT void track_close(struct track *t, const struct pkt *p)
{
	if (p->tcp & PKT_FIN)
		t->flow->flags |= MESH_FLOW_FIN;
	if (p->tcp & PKT_RST || (p->tcp & PKT_FIN && t->peer && t->peer->flags & MESH_FLOW_FIN)) {
		t->flow->flags |= MESH_FLOW_CLOSING;
		if (t->peer)
			t->peer->flags |= MESH_FLOW_CLOSING;
	}
}

/* Both sides were heard, and now the opener: from here on the flow is an established one. */
HOT void track_promote(struct track *t, const struct mesh_tuple *packet, __u32 ifindex)
{
	struct mesh_flow flow = *t->flow, peer;
	struct mesh_flow *whole;

	if (!t->peer)
		return;
	peer = *t->peer;
	if (flow_store_whole(packet, ifindex, &flow) ||
	    flow_store_whole(&t->answer, flow.ifindex, &peer))
		return;
	count_one(MESH_COUNT_FLOW_MADE);
	count_one(MESH_COUNT_FLOW_MADE);
	whole = flow_find_whole(packet, ifindex);
	if (!whole) /* the second one pushed the first one out: the next packet tries again */
		return;
	t->flow = whole; /* what is deleted may be another's at once */
	flow_forget_half(packet, ifindex);
	flow_forget_half(&t->answer, flow.ifindex);
}

/* Learn from a packet that passes. */
HOT void track_packet(struct track *t, const struct pkt *p, const struct mesh_tuple *packet,
		      __u32 ifindex, __u32 now)
{
	t->flow->seen = now;
	if (!p->tcp)
		return;
	track_close(t, p);
	if (!t->half)
		return;
	if (t->flow->flags & MESH_FLOW_REPLY) {
		if (!(p->tcp & PKT_ACK))
			return; /* both open at once: a SYN is no answer */
		t->flow->flags |= MESH_FLOW_REPLIED;
		if (t->peer)
			t->peer->flags |= MESH_FLOW_REPLIED;
	} else if (t->flow->flags & MESH_FLOW_REPLIED && !(p->tcp & PKT_SYN)) {
		track_promote(t, packet, ifindex);
	}
}
#endif
