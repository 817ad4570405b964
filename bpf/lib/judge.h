/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The slow path: what should happen to a flow. Runs for its first packet, and for the first one
 * after a change of the mesh (another epoch); service → receiver → policy → two flow entries, one
 * for each way. Whatever way the packet goes, the flow is judged as its opener sent it.
 */
#ifndef MESH_JUDGE_H
#define MESH_JUDGE_H

#include "lib/csum.h"
#include "lib/endpoint.h"
#include "lib/flow.h"
#include "lib/meter.h"
#include "lib/policy.h"
#include "lib/service.h"

/* The parties of a flow, beside what mesh_judgement says of them. */
struct parties {
	struct mesh_function *opener;
	struct mesh_function *receiver;
};

HOT struct mesh_judgement *judge_scratch(void)
{
	__u32 zero = 0;

	return mesh_scratch.lookup(&zero);
}

/* The flow as its opener sent it, from the packet and the stale entry it found (or NULL). */
HOT void judge_orient(struct mesh_judgement *j, const struct pkt *p, const struct mesh_flow *stale)
{
	tuple_of(&j->tuple, p);
	j->backend = stale ? stale->backend : 0;
	j->target_port = stale ? stale->port : 0;
	if (!stale || !(stale->flags & MESH_FLOW_REPLY))
		return;
	j->target_port = ports_source(p->ports);
	tuple_reverse(&j->tuple);
	if (stale->flags & MESH_FLOW_NAT_SRC) {
		j->tuple.destination = stale->address;
		j->tuple.destination_port = stale->port;
	}
}

/*
 * Does the backend of a stale entry live? Its id may have another owner by now, but the number of
 * its interface is not given again; that of a reply is part of the key it was found by.
 */
HOT int judge_backend_lives(const struct mesh_judgement *j, const struct mesh_flow *stale)
{
	struct mesh_function *backend = stale && j->backend ? endpoint_get(j->backend) : NULL;

	return backend && (stale->flags & MESH_FLOW_REPLY || backend->ifindex == stale->ifindex);
}

/*
 * Find the receiver. A flow keeps the backend and port it has as long as that function lives and
 * the service stands; a new one takes what the service says. 0: MESH_OK.
 */
HOT int judge_receiver(struct mesh_judgement *j, const struct mesh_flow *stale, struct parties *who)
{
	struct mesh_service *service = service_find(&j->tuple);

	j->target = j->tuple.destination;
	j->service = 0;
	if (service) {
		j->service = service->id;
		if (!judge_backend_lives(j, stale)) {
			j->backend = service_select(service, &j->tuple);
			j->target_port = service->target_port;
		}
		j->receiver = j->backend;
		if (!j->receiver)
			return MESH_NO_BACKEND;
	} else {
		if (j->backend)
			return MESH_NO_SERVICE;
		j->target_port = j->tuple.destination_port;
		j->receiver = endpoint_by_address(&j->target);
		if (j->receiver == MESH_SERVICE_ADDRESS)
			return MESH_NO_SERVICE;
	}
	who->receiver = endpoint_get(j->receiver);
	if (!who->receiver)
		return MESH_NO_BACKEND;
	if (service) {
		endpoint_address(who->receiver, &j->tuple.destination, &j->target);
		if (!j->target.word[3])
			return MESH_NO_BACKEND;
	}
	return MESH_OK;
}

HOT int judge_policy(const struct mesh_config *config, struct mesh_judgement *j,
		     const struct parties *who)
{
	struct mesh_question *q = &j->question;
	int verdict;

	q->source[MESH_SHAPE_SELF] = identity_of(j->opener);
	q->source[MESH_SHAPE_TENANT] = identity(MESH_TENANT, who->opener->tenant);
	q->source[MESH_SHAPE_ANY] = identity(MESH_ANY, 0);
	q->destination[MESH_SHAPE_TO_SELF] = identity_of(j->receiver);
	q->destination[MESH_SHAPE_TO_TENANT] = identity(MESH_TENANT, who->receiver->tenant);
	q->destination[MESH_SHAPE_TO_SERVICE] = identity(MESH_SERVICE, j->service);
	q->destination[MESH_SHAPE_TO_ANY] = identity(MESH_ANY, 0);
	q->port = j->target_port;
	q->service_port = j->tuple.destination_port;
	q->protocol = j->tuple.protocol;
	if (q->protocol == IPPROTO_ICMPV6)
		q->protocol = IPPROTO_ICMP;
	verdict = policy_rules(config->policy_shapes, q);
	if (verdict < 0)
		verdict = policy_default(j->opener, who->opener, j->receiver, who->receiver);
	return verdict ? MESH_OK : MESH_POLICY;
}

HOT void judge_ethernet(struct mesh_flow *flow, const struct mesh_function *receiver,
			const struct mesh_function *sender)
{
	flow->ifindex = receiver->ifindex;
	__builtin_memcpy(flow->ethernet, receiver->mac, 6);
	__builtin_memcpy((void *)flow->ethernet + 6, receiver->gateway, 6);
	__builtin_memcpy(flow->sender, sender->mac, 6);
}

/* Both entries; the tuple is turned round on the way. */
HOT int judge_store(const struct mesh_config *config, struct mesh_judgement *j,
		    const struct parties *who)
{
	__u32 there = meter_slot(config, j->opener, who->receiver->tenant);
	__u32 back = meter_slot(config, j->receiver, who->opener->tenant);
	__u32 change = csum_difference(j->tuple.destination.word, j->target.word, 4);
	struct mesh_flow flow = {
		.epoch = config->epoch,
		.meter_tx = there,
		.meter_rx = back,
		.flags = j->service ? MESH_FLOW_NAT_DST : 0,
		.address = j->target,
		.checksum = change,
		.port = j->target_port,
		.backend = j->backend,
		.service = j->service,
	};

	judge_ethernet(&flow, who->receiver, who->opener);
	if (flow_store(&j->tuple, who->opener->ifindex, &flow))
		return MESH_FLOW_FULL;

	judge_ethernet(&flow, who->opener, who->receiver);
	flow.meter_tx = back;
	flow.meter_rx = there;
	flow.flags = MESH_FLOW_REPLY | (j->service ? MESH_FLOW_NAT_SRC : 0);
	flow.address = j->tuple.destination;
	flow.port = j->tuple.destination_port;
	flow.checksum = (__u16)~change;
	j->tuple.destination = j->target;
	j->tuple.destination_port = j->target_port;
	tuple_reverse(&j->tuple);
	return flow_store(&j->tuple, who->receiver->ifindex, &flow) ? MESH_FLOW_FULL : MESH_OK;
}

/*
 * MESH_OK with both entries stored, or a reason to drop. `sender` is the function the packet
 * comes from, 0 when it comes from the host's stack.
 */
HOT int judge_flow(CTX *ctx, const struct pkt *p, const struct mesh_config *config,
		   const struct mesh_flow *stale, __u32 sender)
{
	struct mesh_judgement *j = judge_scratch();
	struct parties who = {};
	int reply = stale && stale->flags & MESH_FLOW_REPLY;
	int reason;

	if (!j || (!stale && !flow_may_open(p)))
		return MESH_NO_FLOW;
	judge_orient(j, p, stale);
	/* On the wire a mapped address stands for nothing; here it would pass for IPv4. */
	if (p->ip6 && (address_is4(&j->tuple.source) || address_is4(&j->tuple.destination)))
		return MESH_MALFORMED;
	j->opener = reply ? endpoint_by_address(&j->tuple.source) : sender;
	who.opener = endpoint_get(j->opener);
	if (!who.opener)
		return MESH_NO_FUNCTION;
	reason = judge_receiver(j, stale, &who);
	if (reason)
		return reason;
	if (reply && j->receiver != sender)
		return MESH_NO_FLOW;
	if (j->opener == j->receiver)
		return MESH_HAIRPIN;
	reason = judge_policy(config, j, &who);
	if (reason && !(who.receiver->flags & MESH_FN_AUDIT))
		return reason;
	if (reason)
		drop_count(ctx, j->receiver, MESH_TO_FN, reason, 1);
	return judge_store(config, j, &who);
}
#endif
