/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy: may this identity talk to that one? Rules sit in one hash, mesh_policy, whatever their
 * number; a rule's shape says which of its parts are wildcards, and only shapes that some rule
 * has are looked up. Of the rules that match, the lowest priority decides, deny before allow.
 */
#ifndef MESH_POLICY_H
#define MESH_POLICY_H

#include "lib/endpoint.h"

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

/* Lower is stronger; 2^17 and up: no rule. */
#define POLICY_NONE (1 << 17)

HOT __u32 policy_strength(struct mesh_policy_key *key)
{
	struct mesh_policy *rule = mesh_policy.lookup(key);

	return rule ? rule->priority << 1 | rule->action : POLICY_NONE;
}

/* The strongest of the rules between two identities: for the port, the protocol, and any. */
HOT __u32 policy_pair(__u64 shapes, struct mesh_policy_key *key, __be16 port, __u8 protocol)
{
	__u32 best = POLICY_NONE, strength;

#pragma unroll
	for (int depth = 0; depth < MESH_SHAPE_DEPTHS; depth++) {
		if (!(shapes >> depth & 1))
			continue;
		key->port = depth == MESH_SHAPE_PORT ? port : 0;
		key->protocol = depth == MESH_SHAPE_ALL ? 0 : protocol;
		strength = policy_strength(key);
		if (strength < best)
			best = strength;
	}
	return best;
}

/* MESH_ALLOW, MESH_DENY, or -1 where no rule matches. `q` is in a map, since its indices vary. */
HOT int policy_rules(__u64 shapes, const struct mesh_question *q)
{
	__u32 best = POLICY_NONE, strength;
	struct mesh_policy_key key = {};

#pragma clang loop unroll(disable)
	for (__u32 source = 0; source < MESH_SHAPE_SOURCES; source++) {
		key.source = q->source[source & 3];
#pragma clang loop unroll(disable)
		for (__u32 to = 0; to < MESH_SHAPE_DESTINATIONS;
		     to++, shapes >>= MESH_SHAPE_DEPTHS) {
			if (!(shapes & ((1 << MESH_SHAPE_DEPTHS) - 1)))
				continue;
			key.destination = q->destination[to & 3];
			strength =
				policy_pair(shapes, &key,
					    to == MESH_SHAPE_TO_SERVICE ? q->service_port : q->port,
					    q->protocol);
			if (strength < best)
				best = strength;
		}
	}
	return best == POLICY_NONE ? -1 : (int)(best & 1);
}
#endif
