/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path: first packets of flows, first ones after a change of the mesh, what opens or ends
 * a connection, fragments, ICMP, neighbour discovery, all that comes from the host, and all that is
 * dropped. In mesh_slow(): who sends → what flow is it → may it pass → rewrite → leave.
 *
 * A flow that is new, or of another epoch, is judged by programs of their own, which look at no
 * packet: mesh_judge() → mesh_decide() → mesh_store() → mesh_slow() again. What they know of it is in
 * mesh_scratch.
 * In one program the verifier would follow every rule for every kind of packet.
 */
#ifndef MESH_SLOW_H
#define MESH_SLOW_H

#include "lib/mesh.h"
#include "lib/parse.h"
#include "lib/neighbour.h"
#include "lib/fragment.h"
#include "lib/uplink.h"
#include "lib/track.h"
#include "lib/event.h"
#include "lib/icmp.h"
#include "lib/answer.h"

/* A packet on the slow path, beside what mesh_judgement says of it. */
struct slow {
	struct mesh_config *config;
	struct mesh_judgement *j;
	struct pkt p;
	struct track track;
	int establish; /* the flow is an established one from here on */
};

/* Does it come in by an uplink? None has XDP. */
HOT int slow_is_from_uplink(const struct mesh_judgement *j)
{
	return j->packet.direction == MESH_FROM_UPLINK;
}

/* Whose interface is it? Of a packet that comes here for the first time. */
HOT void slow_start(CTX *ctx, struct mesh_judgement *j)
{
	if (context_is_dry(ctx))
		j->packet.direction = context_question(ctx);
	j->packet.function = endpoint_by_ifindex(context_ifindex(ctx));
	j->packet.sender = j->packet.direction == MESH_FROM_FN ? j->packet.function : 0;
	j->packet.ifindex = j->packet.direction == MESH_TO_FN ? 0 : context_ifindex(ctx);
	j->question.receiver = 0;
	j->verdict.rule = 0;
	j->question.service = 0;
	j->question.target_port = 0;
	j->verdict.audited = 0;
	j->verdict.rejected = 0;
	__builtin_memset(&j->packet.tuple, 0, sizeof(j->packet.tuple));
}

/* From a function: ARP, neighbour discovery and all that is not IP. */
HOT int slow_check_other(const struct slow *s, const struct mesh_function *fn)
{
	if (s->p.kind == PKT_ARP)
		return neighbour_check_arp(fn, &s->p);
	if (s->p.kind == PKT_ND)
		return neighbour_check_nd(fn, &s->p);
	return MESH_PROTOCOL;
}

HOT int slow_check_function(const struct slow *s)
{
	struct mesh_function *fn = endpoint_get(s->j->packet.function);

	if (!s->j->packet.function || !fn)
		return MESH_NO_FUNCTION;
	if (s->p.kind != PKT_FLOW && s->p.kind != PKT_ERROR)
		return slow_check_other(s, fn);
	return endpoint_check_sender(fn, &s->p);
}

/* From the host's stack: the outside sends, and may not use a function's address for it. */
HOT int slow_check_host(const struct slow *s)
{
	struct mesh_tuple t;

	if (s->p.kind != PKT_FLOW && s->p.kind != PKT_ERROR)
		return s->p.kind == PKT_OTHER ? MESH_PROTOCOL : MESH_OK;
	tuple_of(&t, &s->p);
	if (endpoint_by_address(&t.source))
		return MESH_SPOOF_IP;
	return endpoint_by_address(&t.destination) == s->j->packet.function ? MESH_OK :
									      MESH_NOT_HERE;
}

/* The five-tuple of the packet's flow. MESH_OK or a reason. */
HOT int slow_tuple(CTX *ctx, struct slow *s)
{
	struct mesh_tuple *t = &s->j->packet.tuple;
	struct mesh_address receiver;

	answer_prepare(s->j, &s->p);
	tuple_of(t, &s->p);
	if (s->p.kind == PKT_ERROR) {
		receiver = t->destination;
		tuple_of_quote(t, &s->p);
		if (!address_equal(&receiver, &t->destination))
			return MESH_NO_FLOW; /* it is for another than whose packet it quotes */
	}
	/* On the wire a mapped address stands for nothing; here it would pass for IPv4. */
	if (!pkt_is4(&s->p) && (address_is4(&t->source) || address_is4(&t->destination)))
		return MESH_MALFORMED;
	return s->p.fragment ? fragment_ports(&s->p, s->j, !context_is_dry(ctx)) : MESH_OK;
}

/* Is the entry that was found still one? What is asked in a dry run is always new. */
HOT int slow_knows(CTX *ctx, struct slow *s, __u32 now)
{
	if (!s->track.flow || context_is_dry(ctx) || track_reopens(&s->track, &s->p))
		return 0;
	if (!track_expired(s->config, &s->track, s->j->packet.tuple.protocol, now))
		return 1;
	count_one(MESH_COUNT_EXPIRED);
	return 0;
}

/* Whom a known flow's packets go to; of what leaves by an uplink the address says it. */
HOT __u32 slow_receiver(struct slow *s)
{
	if (s->j->packet.direction == MESH_TO_FN)
		return s->j->packet.function;
	if (flow_is_to_uplink(s->track.flow))
		return endpoint_by_address(&s->track.answer.source);
	return endpoint_by_ifindex(flow_ifindex(s->track.flow));
}

/* Does it come to the host's address, by the entry of a flow that is over? Then it is the host's. */
HOT int slow_is_of_nobody(const struct slow *s)
{
	return slow_is_from_uplink(s->j) && s->track.flow && flow_is_masqueraded(s->track.flow);
}

/*
 * The entry of the packet's flow, if it was judged in this epoch or just now: MESH_OK. Otherwise
 * goes on to mesh_judge(), or returns a reason.
 */
HOT int slow_find(CTX *ctx, struct slow *s)
{
	struct mesh_judgement *j = s->j;
	__u32 now = flow_clock();

	track_find(&s->track, &j->packet.tuple, j->packet.ifindex);
	if (!j->verdict.step) {
		j->packet.known = slow_knows(ctx, s, now);
		if (!j->packet.known && slow_is_of_nobody(s))
			return UPLINK_HOST;
		if (!j->packet.known && !flow_may_open(&s->p, &j->packet.tuple))
			return MESH_NO_FLOW;
		if (!j->packet.known || !s->track.flow ||
		    flow_judged(s->track.flow) != s->config->judged) {
			verdict_call(ctx, MESH_CALL_JUDGE);
			return MESH_NO_PROGRAM;
		}
	}
	if (!s->track.flow)
		return MESH_FLOW_FULL;
	if (!j->verdict.step && s->config->events) { /* which name them */
		j->question.service = s->track.flow->service;
		j->question.receiver = slow_receiver(s);
	}
	s->establish = track_packet(&s->track, &s->p, now);
	return MESH_OK;
}

/* MESH_OK, with s->track.flow NULL for what belongs to no flow and passes; or a reason. */
HOT int slow_classify(CTX *ctx, struct slow *s)
{
	int reason;

	if (!s->j->verdict.step && !s->j->verdict.event)
		slow_start(ctx, s->j);
	reason = parse_packet(ctx, &s->p);
	if (slow_is_from_uplink(s->j))
		reason = uplink_check(s->config, &s->p, s->j, reason);
	else if (!reason)
		reason = s->j->packet.direction == MESH_FROM_FN ? slow_check_function(s) :
								  slow_check_host(s);
	if (reason || (s->p.kind != PKT_FLOW && s->p.kind != PKT_ERROR))
		return reason;
	if (s->j->verdict.step && (s->j->verdict.reason || context_is_dry(ctx)))
		return s->j->verdict.reason;
	reason = slow_tuple(ctx, s);
	if (reason == MESH_FRAGMENT && slow_is_from_uplink(s->j))
		return UPLINK_HOST; /* nobody knows whose it is */
	return reason ? reason : slow_find(ctx, s);
}

/* Does anything stand in the way of what its flow would have done to the packet? */
HOT int slow_check_delivery(CTX *ctx, const struct slow *s)
{
	const struct mesh_flow *flow = s->track.flow;
	int reason;

	if (!flow_is_to_peer(flow) || s->j->packet.direction == MESH_TO_FN)
		return MESH_OK;
	reason = rewrite_check_ttl(&s->p);
	if (reason)
		return reason;
	s->j->packet.mtu = mtu_exceeded(ctx, flow);
	return s->j->packet.mtu ? MESH_TOO_BIG : MESH_OK;
}

/* Change a packet as its flow says, of whatever kind it is. */
HOT void slow_rewrite(CTX *ctx, struct slow *s, const struct mesh_flow *flow)
{
	rewrite_ttl(&s->p);
	rewrite_ethernet(&s->p, flow);
	if (!(flow->flags & (MESH_FLOW_NAT_SRC | MESH_FLOW_NAT_DST)))
		return;
	if (s->p.kind == PKT_ERROR)
		icmp_translate(&s->p, flow);
	else if (s->p.fragment == PKT_LATER_FRAGMENT)
		rewrite_address(&s->p, flow);
	else if (s->p.protocol == IPPROTO_ICMP)
		rewrite_echo(&s->p, flow);
	else
		rewrite_nat(ctx, &s->p, flow);
}

/* Made ready for what is injected, where it goes when its flow has been looked after. */
HOT int slow_inject(CTX *ctx, struct slow *s, struct mesh_flow *flow)
{
	chain_begin(ctx, s->config, flow);
	if (s->j->packet.direction == MESH_TO_FN) {
		ctx->cb[MESH_CHAIN_OUTPUT] =
			MESH_OUTPUT_STACK << MESH_IFINDEX_BITS | (flow->output & CHAIN_RATE);
		rewrite_destination(&s->p, flow);
	} else if (flow_is_to_peer(flow)) {
		slow_rewrite(ctx, s, flow);
	}
	return CHAIN_ACTION;
}

HOT int slow_deliver(CTX *ctx, struct slow *s)
{
	struct mesh_flow *flow = s->track.flow;
	__u32 output;

	if (!flow)
		return verdict_pass(ctx);
	if (flow_is_chained(flow))
		return slow_inject(ctx, s, flow);
	output = flow->output;
	if (slow_is_from_uplink(s->j))
		__builtin_memcpy(flow->sender, s->p.eth->h_dest, sizeof(flow->sender));
	meter_count(ctx, flow);
	if (s->j->packet.direction == MESH_TO_FN) {
		rewrite_destination(&s->p, flow);
		return verdict_pass(ctx);
	}
	if (!flow_is_to_peer(flow))
		return verdict_pass(ctx);
	slow_rewrite(ctx, s, flow);
	return verdict_output(ctx, output);
}

/*
 * If somebody wants to know, on to mesh_event(); that comes back with j->verdict.event set. MESH_OK,
 * or a reason: behind a tail call, which has then failed, most kernels let nobody look at the packet
 * (Linux 6.13, stable 6.1 and 6.12: "consider that tail calls invalidate packet pointers").
 */
HOT int slow_tell(CTX *ctx, struct slow *s, int reason)
{
	struct mesh_judgement *j = s->j;
	__u32 kind = event_kind(s->config, j, reason);

	if (j->verdict.event || !(s->config->events & kind))
		return MESH_OK;
	j->verdict.event = kind;
	verdict_call(ctx, MESH_CALL_EVENT);
	return MESH_NO_PROGRAM;
}

/* A program is missing, also where it should only have told: nothing passes unseen. */
HOT int slow_untold(CTX *ctx, struct slow *s)
{
	mesh_slow_clear(s->j);
	return verdict_drop(ctx, s->j->packet.function, s->j->packet.direction, MESH_NO_PROGRAM);
}

/*
 * Dropped; where its sender is to be told, on to mesh_answer(). The reason is read from memory, or
 * the verifier would follow this once for each that there is.
 */
HOT int slow_drop(CTX *ctx, struct slow *s)
{
	int reason = *(volatile __u8 *)&s->j->verdict.reason;

	if (slow_tell(ctx, s, reason))
		return slow_untold(ctx, s);
	mesh_slow_clear(s->j);
	drop_count(ctx, s->j->packet.function, s->j->packet.direction, reason, 0);
	if ((reason == MESH_TTL || reason == MESH_TOO_BIG || s->j->verdict.rejected) &&
	    s->j->packet.answerable)
		verdict_call(ctx, MESH_CALL_ANSWER);
	return verdict_dropped(ctx);
}

HOT int mesh_slow(CTX *ctx)
{
	struct slow s = { .config = mesh_config_get(), .j = mesh_scratch_get() };
	int reason;

	if (!s.config || !s.j)
		return mesh_drop(ctx, MESH_FROM_FN, MESH_NO_PROGRAM);
	if (s.j->packet.direction == MESH_FROM_FN && context_is_answer(ctx))
		return verdict_pass(ctx);
	reason = slow_classify(ctx, &s);
	if (reason == UPLINK_HOST) {
		mesh_slow_clear(s.j);
		return verdict_next(ctx);
	}
	if (!reason && s.track.flow)
		reason = slow_check_delivery(ctx, &s);
	if (context_is_dry(ctx)) {
		mesh_slow_clear(s.j);
		return verdict_dry(ctx, s.j, reason);
	}
	s.j->verdict.reason = reason;
	if (reason == MESH_NO_PROGRAM) { /* behind a tail call: the packet cannot be looked at */
		slow_tell(ctx, &s, reason);
		return slow_untold(ctx, &s);
	}
	if (reason)
		return slow_drop(ctx, &s);
	if (slow_tell(ctx, &s, MESH_OK))
		return slow_untold(ctx, &s);
	mesh_slow_clear(s.j);
	if (s.j->verdict.audited)
		drop_count(ctx, s.j->question.receiver, MESH_TO_FN, MESH_POLICY, 1);
	s.j->verdict.action = slow_deliver(ctx, &s);
	if (s.establish) {
		s.j->verdict.step = MESH_ESTABLISHED;
		verdict_call(ctx, MESH_CALL_STORE);
		mesh_slow_clear(s.j);
	}
	return chain_or(ctx, s.j->verdict.action);
}
#endif
