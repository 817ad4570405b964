/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy: may this identity talk to that one? Rules sit in one hash, mesh_policy, whatever their
 * number; a rule's shape says which of its parts are wildcards, and only shapes that some rule
 * has are looked up. Of the rules that match, the lowest priority decides, deny before allow.
 */
#ifndef MESH_POLICY_H
#define MESH_POLICY_H

#include "lib/endpoint.h"

struct policy_question {
	__u32 source[MESH_SHAPE_SOURCES];		 /* identities, most particular first */
	__u32 destination[MESH_SHAPE_DESTINATIONS];
	__be16 port;		/* of the receiver */
	__be16 service_port;	/* of the service, for rules that name one */
	__u8 protocol;
};

HOT __u32 identity(__u32 kind, __u32 id)
{
	return kind << 24 | id;
}

HOT __u32 identity_of(__u32 id)
{
	return id ? identity(MESH_FUNCTION, id) : identity(MESH_OUTSIDE, 0);
}

/* What holds where no rule does: within a tenant, and from a function to the outside. */
HOT int policy_default(__u32 source, const struct mesh_function *from, __u32 destination,
		       const struct mesh_function *to)
{
	return source && (!destination || from->tenant == to->tenant);
}

#define POLICY_SHAPES (MESH_SHAPE_SOURCES * MESH_SHAPE_DESTINATIONS * MESH_SHAPE_DEPTHS)

/* Lower is stronger; 2^17 and up: no rule. */
#define POLICY_NONE (1 << 17)

HOT __u32 policy_strength(struct mesh_policy_key *key)
{
	struct mesh_policy *rule = mesh_policy.lookup(key);

	return rule ? rule->priority << 1 | rule->action : POLICY_NONE;
}

/* MESH_ALLOW, MESH_DENY, or -1 where no rule matches. */
HOT int policy_rules(__u64 shapes, const struct policy_question *q)
{
	__u32 best = POLICY_NONE, strength;
	struct mesh_policy_key key = {};

#pragma unroll
	for (int shape = 0; shape < POLICY_SHAPES; shape++) {
		int depth = shape % MESH_SHAPE_DEPTHS;
		int destination = shape / MESH_SHAPE_DEPTHS % MESH_SHAPE_DESTINATIONS;

		if (!(shapes >> shape & 1))
			continue;
		key.source = q->source[shape / (MESH_SHAPE_DEPTHS * MESH_SHAPE_DESTINATIONS)];
		key.destination = q->destination[destination];
		key.protocol = depth == MESH_SHAPE_ALL ? 0 : q->protocol;
		key.port = 0;
		if (depth == MESH_SHAPE_PORT)
			key.port = destination == MESH_SHAPE_TO_SERVICE ? q->service_port : q->port;
		strength = policy_strength(&key);
		if (strength < best)
			best = strength;
	}
	return best == POLICY_NONE ? -1 : (int)(best & 1);
}
#endif
