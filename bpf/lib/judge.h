/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What should happen to a flow. Runs for its first packet, and for the first one after a change of
 * the mesh (another epoch); service → receiver → the question for decide.h.
 * Whatever way the packet goes, the flow is judged as its opener sent it.
 */
#ifndef MESH_JUDGE_H
#define MESH_JUDGE_H

#include "lib/mesh.h"
#include "lib/csum.h"
#include "lib/endpoint.h"
#include "lib/flow.h"
#include "lib/meter.h"
#include "lib/policy.h"
#include "lib/service.h"
#include "lib/socket.h"
#include "lib/track.h"

/* The parties of a flow, beside what mesh_judgement says of them. */
struct parties {
	struct mesh_function *opener;
	struct mesh_function *receiver;
};

/* The flow as its opener sent it, from the packet and the stale entry it found (or NULL). */
HOT void judge_orient(struct mesh_judgement *j, const struct mesh_flow *stale)
{
	j->question.tuple = j->packet.tuple;
	j->question.backend = stale ? stale->backend : 0;
	j->question.backend_ifindex = stale ? flow_ifindex(stale) : 0;
	j->question.flags = stale ? stale->flags & MESH_FLOW_SOCKET : 0;
	j->question.service = 0;
	j->question.uplink = j->packet.direction == MESH_FROM_UPLINK ? j->packet.ifindex : 0;
	if (!stale)
		return;
	j->question.service_address = stale->address; /* of MESH_FLOW_SOCKET */
	j->question.asked_port = stale->port;
	j->question.target_port = stale->port;
	if (!(stale->flags & MESH_FLOW_REPLY)) {
		j->question.flags |= stale->flags & MESH_FLOW_NAT_SRC; /* see out.h */
		return;
	}
	j->question.backend_ifindex = 0;
	j->question.uplink = flow_is_to_uplink(stale) ? flow_ifindex(stale) : 0;
	j->question.target_port = j->packet.tuple.source_port;
	tuple_reverse(&j->question.tuple);
	if (stale->flags & MESH_FLOW_NAT_SRC) {
		j->question.tuple.destination = stale->address;
		j->question.tuple.destination_port = stale->port;
	}
	if (stale->flags & MESH_FLOW_HAIRPIN)
		j->question.tuple.source = j->packet.tuple.source;
	if (flow_is_masqueraded(stale)) {
		flow_answer(&j->question.tuple, &j->packet.tuple, stale);
		j->question.flags |= MESH_FLOW_NAT_SRC;
	}
}

/*
 * Is it the remote that the flow goes to? Remotes have one interface together, so its address says it:
 * what the packet is translated to, or has from its socket. What sends to itself was known by it.
 */
HOT int judge_is_remote(const struct mesh_judgement *j, const struct mesh_function *backend)
{
	const struct mesh_address *meant = j->question.flags & MESH_FLOW_SOCKET ?
						   &j->question.tuple.destination :
						   &j->question.service_address;

	return j->packet.sender == j->question.backend || endpoint_has_address(backend, meant);
}

/*
 * Does the backend that an entry or the socket has live? Its id may have another owner by now, but
 * the number of its interface is not given again; that of a reply is part of the key it was found by.
 */
HOT int judge_backend_lives(const struct mesh_judgement *j)
{
	struct mesh_function *backend =
		j->question.backend ? endpoint_get(j->question.backend) : NULL;

	if (!backend || !j->question.backend_ifindex)
		return backend != NULL;
	if (backend->ifindex != j->question.backend_ifindex)
		return 0;
	return !(backend->flags & MESH_FN_REMOTE) || judge_is_remote(j, backend);
}

/*
 * A flow keeps the backend and port it has as long as that function lives and the service stands.
 * What a socket chose has nothing to translate until then.
 */
HOT int judge_service(struct mesh_judgement *j, const struct mesh_service *service,
		      struct parties *who)
{
	j->question.service = service->id;
	if (j->question.flags & MESH_FLOW_SOCKET)
		j->question.target_port = j->question.tuple.destination_port;
	if (!judge_backend_lives(j)) {
		j->question.flags &= ~MESH_FLOW_SOCKET;
		j->question.backend = service_select(service, &j->question.tuple);
		j->question.target_port = service_target_port(service, j->question.service_port);
	}
	j->question.receiver = j->question.backend;
	who->receiver = j->question.receiver ? endpoint_get(j->question.receiver) : NULL;
	if (!who->receiver)
		return MESH_NO_BACKEND;
	if (!endpoint_address(who->receiver, &j->question.tuple.destination, &j->question.target))
		return MESH_NO_BACKEND;
	return MESH_OK;
}

/* The service that a socket asked for, by its own address or, on the host, a published one. */
HOT struct mesh_service *judge_asked(const struct mesh_config *config, struct mesh_judgement *j)
{
	struct mesh_service *service =
		service_lookup(config, &j->question.service_address, j->question.asked_port,
			       j->question.tuple.protocol);

	if (service)
		j->question.service_port = service_own_port(service, j->question.asked_port);
	return service;
}

/*
 * A new flow of a socket that was connected to a service's backend: it has that backend as long as
 * the service's table would give it once more. Otherwise it gets another one, as any new flow does;
 * but what the host's stack sends is on its way into that very backend.
 */
HOT struct mesh_service *judge_socket(CTX *ctx, const struct mesh_config *config,
				      struct mesh_judgement *j)
{
	struct mesh_socket *socket = socket_find(ctx, j);
	struct mesh_service *service;
	struct mesh_tuple t = {};

	if (!socket)
		return NULL;
	j->question.service_address = socket->service;
	j->question.asked_port = socket->service_port;
	service = judge_asked(config, j);
	if (j->question.backend)
		return service;
	j->question.flags |= MESH_FLOW_SOCKET;
	j->question.backend = socket->id;
	j->question.backend_ifindex = socket->ifindex;
	if (j->packet.direction == MESH_TO_FN)
		return service;
	t.source = j->question.tuple.source;
	t.destination = j->question.service_address;
	t.destination_port = j->question.asked_port;
	t.protocol = IPPROTO_TCP;
	if (service &&
	    service_select_socket(service, &t, socket_cookie(ctx)) != j->question.backend)
		j->question.backend = 0;
	return service;
}

/*
 * Is it a service that the flow goes to? By its destination, or by what the socket knows: that is
 * kept in the entry, unless the backend died and the flow is translated to another one. Of such a
 * flow only the opener's packets can be judged.
 */
HOT struct mesh_service *judge_meant(CTX *ctx, const struct mesh_config *config,
				     struct mesh_judgement *j, const struct mesh_flow *stale)
{
	struct mesh_service *service = service_find(config, &j->question.tuple.destination,
						    j->question.tuple.destination_port,
						    j->question.tuple.protocol, j->question.uplink);

	if (service) {
		j->question.flags &= ~MESH_FLOW_SOCKET;
		j->question.service_port =
			service_own_port(service, j->question.tuple.destination_port);
		return service;
	}
	if (!stale || (j->question.backend && !(j->question.flags & MESH_FLOW_SOCKET)))
		return judge_socket(ctx, config, j);
	return j->question.flags & MESH_FLOW_SOCKET ? judge_asked(config, j) : NULL;
}

/* Find the receiver. MESH_OK or a reason. */
HOT int judge_receiver(CTX *ctx, const struct mesh_config *config, struct mesh_judgement *j,
		       const struct mesh_flow *stale, struct parties *who)
{
	struct mesh_service *service = judge_meant(ctx, config, j, stale);

	if (service)
		return judge_service(j, service, who);
	if (j->question.backend)
		return MESH_NO_SERVICE;
	j->question.target = j->question.tuple.destination;
	j->question.target_port = j->question.tuple.destination_port;
	j->question.receiver = endpoint_by_address(&j->question.target);
	if (j->question.receiver == MESH_SERVICE_ADDRESS) {
		j->question.receiver = 0;
		return MESH_NO_SERVICE;
	}
	who->receiver = endpoint_get(j->question.receiver);
	return who->receiver ? MESH_OK : MESH_NO_BACKEND;
}

HOT void judge_question(struct mesh_judgement *j, const struct parties *who)
{
	struct mesh_question *q = &j->question;
	__be16 port = j->question.target_port;

	q->protocol = j->question.tuple.protocol;
	if (q->protocol == IPPROTO_ICMP || q->protocol == IPPROTO_ICMPV6) {
		q->protocol = IPPROTO_ICMP;
		port = bpf_htons(ICMP_ECHO); /* of ICMP nothing else opens a flow */
	}
	policy_source(&q->source, j->question.opener, who->opener, &j->question.tuple.source);
	policy_destination(&q->destination, j->question.receiver, who->receiver,
			   &j->question.tuple.destination, port);
	if (j->question.service)
		policy_add_party(&q->destination, identity(MESH_SERVICE, j->question.service),
				 MESH_SHAPE_TO_SERVICE, j->question.service_port);
}

/* Is it one, and the outside or a remote of its own behind it? */
HOT int judge_is_beyond(__u32 uplink, const struct mesh_function *opener)
{
	return (!opener->ifindex || opener->ifindex == uplink) && endpoint_is_uplink(uplink);
}

/*
 * Who is it, and who should get it? MESH_OK with the question in j->question, or a reason to drop;
 * j->packet says of what, and an entry that was found how it was judged before.
 */
HOT int judge_parties(CTX *ctx, const struct mesh_config *config, struct mesh_judgement *j,
		      const struct mesh_flow *stale)
{
	int reply = stale && stale->flags & MESH_FLOW_REPLY;
	struct parties who = {};
	int reason;

	judge_orient(j, stale);
	j->question.opener =
		reply ? endpoint_by_address(&j->question.tuple.source) : j->packet.sender;
	who.opener = endpoint_get(j->question.opener);
	if (!who.opener)
		return MESH_NO_FUNCTION;
	if (j->question.uplink && !judge_is_beyond(j->question.uplink, who.opener))
		return MESH_NO_FLOW; /* it was one, or its peer outside was */
	reason = judge_receiver(ctx, config, j, stale, &who);
	if (reason)
		return reason;
	if (reply && j->question.receiver != j->packet.sender)
		return MESH_NO_FLOW;
	if (!reply && j->packet.direction == MESH_TO_FN &&
	    j->question.receiver != j->packet.function)
		return MESH_NO_BACKEND; /* the one that the host's socket had is another's by now */
	if (who.opener->flags & MESH_FN_REMOTE && !j->question.receiver)
		return MESH_NO_FLOW; /* what remotes open to others outside is the host's */
	if (j->question.receiver && j->question.flags & MESH_FLOW_NAT_SRC) {
		if (reply)
			return MESH_NO_FLOW; /* its peer is no more outside */
		j->question.flags &= ~MESH_FLOW_NAT_SRC;
	}
	if (j->question.service && !(j->question.flags & MESH_FLOW_SOCKET))
		j->question.flags |= MESH_FLOW_NAT_DST;
	if (j->question.opener == j->question.receiver) {
		if (!(j->question.flags & MESH_FLOW_NAT_DST))
			return MESH_HAIRPIN;
		j->question.flags |= MESH_FLOW_HAIRPIN;
	}
	judge_question(j, &who);
	return MESH_OK;
}

/* Back to mesh_slow() with the judgement. */
HOT int judge_return(CTX *ctx, struct mesh_judgement *j, int reason)
{
	j->verdict.reason = reason;
	j->verdict.step = MESH_JUDGED;
	verdict_call(ctx, MESH_CALL_SLOW);
	mesh_slow_clear(j);
	return mesh_drop(ctx, j->packet.direction, MESH_NO_PROGRAM);
}

/* Who talks to whom? Of the packet in mesh_scratch. */
HOT int mesh_judge(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_judgement *j = mesh_scratch_get();
	struct track track;
	int reason;

	if (!config || !j)
		return mesh_drop(ctx, MESH_FROM_FN, MESH_NO_PROGRAM);
	track_find_known(&track, j);
	reason = judge_parties(ctx, config, j, track.flow);
	j->verdict.rejected =
		config->reject && (reason == MESH_NO_BACKEND || reason == MESH_NO_SERVICE);
	if (!reason) {
		verdict_call(ctx, MESH_CALL_DECIDE);
		reason = MESH_NO_PROGRAM;
	}
	return judge_return(ctx, j, reason);
}
#endif
