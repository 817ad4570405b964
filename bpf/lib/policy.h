/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Policy: may this identity talk to that one? Rules sit in one hash, mesh_policy, whatever their
 * number; a rule's shape and depth say which of its parts are wildcards, and only what some rule
 * has is looked up. Of the rules that match, the lowest priority decides, deny before reject before
 * allow.
 * Reads mesh_policy, mesh_prefix.
 */
#ifndef MESH_POLICY_H
#define MESH_POLICY_H

#include "lib/endpoint.h"
#include "lib/service.h"

HOT __u32 identity(__u32 kind, __u32 id)
{
	return kind << 24 | id;
}

HOT void policy_add_party(struct mesh_party *party, __u32 identity, __u32 shape, __be16 port)
{
	__u32 at = party->count & 7;

	party->identity[at] = identity;
	party->shape[at] = shape;
	party->port[at] = port;
	party->count = at + 1;
}

/* The prefixes around an address of the outside, from the narrowest to the widest. */
HOT void policy_add_prefixes(struct mesh_party *party, const struct mesh_address *address,
			     __u32 shape, __be16 port)
{
	struct mesh_prefix_key key = { .length = 128, .address = *address };
	struct mesh_prefix *prefix;

#pragma clang loop unroll(disable)
	for (int i = 0; i < MESH_PREFIXES; i++) {
		prefix = mesh_prefix.lookup(&key);
		if (!prefix)
			return;
		policy_add_party(party, identity(MESH_PREFIX, prefix->id), shape, port);
		if (!prefix->wider)
			return;
		key.length = prefix->wider - 1;
	}
}

/* 1 for any number but 0, without a branch; `bits` are fewer than 63. */
HOT __u64 policy_is_set(__u64 bits)
{
	bits = -bits;
	asm volatile("" : "+r"(bits)); /* clang would see through it, and branch */
	return bits >> 63;
}

/* A function's identities: itself, its tenant, its group if it has one. */
HOT void policy_add_function(struct mesh_party *party, __u32 id, const struct mesh_function *fn,
			     __u32 self, __u32 tenant, __u32 group, __be16 port)
{
	policy_add_party(party, identity(MESH_FUNCTION, id), self, port);
	policy_add_party(party, identity(MESH_TENANT, fn->tenant), tenant, port);
	policy_add_party(party, identity(MESH_GROUP, fn->group), group, port);
	party->count -= 1 - policy_is_set(fn->group);
}

/* The outside's identities are itself and its prefixes. */
HOT void policy_source(struct mesh_party *party, __u32 id, const struct mesh_function *fn,
		       const struct mesh_address *address)
{
	party->count = 0;
	policy_add_party(party, identity(MESH_ANY, 0), MESH_SHAPE_ANY, 0);
	if (id) {
		policy_add_function(party, id, fn, MESH_SHAPE_SELF, MESH_SHAPE_TENANT,
				    MESH_SHAPE_GROUP, 0);
		return;
	}
	policy_add_party(party, identity(MESH_OUTSIDE, 0), MESH_SHAPE_SELF, 0);
	policy_add_prefixes(party, address, MESH_SHAPE_PREFIX, 0);
}

/* `port` is the receiver's own, or an ICMP type. */
HOT void policy_destination(struct mesh_party *party, __u32 id, const struct mesh_function *fn,
			    const struct mesh_address *address, __be16 port)
{
	party->count = 0;
	policy_add_party(party, identity(MESH_ANY, 0), MESH_SHAPE_TO_ANY, port);
	if (id) {
		policy_add_function(party, id, fn, MESH_SHAPE_TO_SELF, MESH_SHAPE_TO_TENANT,
				    MESH_SHAPE_TO_GROUP, port);
		return;
	}
	policy_add_party(party, identity(MESH_OUTSIDE, 0), MESH_SHAPE_TO_SELF, port);
	policy_add_prefixes(party, address, MESH_SHAPE_TO_PREFIX, port);
}

/* What holds where no rule does: within a tenant, and from a function to the outside. */
HOT int policy_default(__u32 source, const struct mesh_function *from, __u32 destination,
		       const struct mesh_function *to)
{
	return source && (!destination || from->tenant == to->tenant);
}

/* Lower is stronger: a rule's priority, and enum mesh_action below it. 2^18: no rule. */
#define POLICY_ACTION_BITS 2
#define POLICY_NONE (1 << (16 + POLICY_ACTION_BITS))

/* Number of the lowest bit that is set; by counting those below it (Warren, Hacker's Delight, 5). */
HOT __u32 policy_lowest_bit(__u32 bits)
{
	__u32 below = (bits & -bits) - 1;

	below -= below >> 1 & 0x55555555;
	below = (below & 0x33333333) + (below >> 2 & 0x33333333);
	below = (below + (below >> 4)) & 0x0f0f0f0f;
	return below * 0x01010101 >> 24;
}

/* Keep the stronger one in `j`. */
HOT void policy_keep(struct mesh_judgement *j, const struct mesh_policy *rule)
{
	__s64 strength = rule->priority << POLICY_ACTION_BITS | rule->action;
	__s64 stronger = strength - j->verdict.strength;
	__s64 mask = stronger >> 63;

	j->verdict.strength += stronger & mask;
	j->verdict.rule ^= (rule->rule ^ j->verdict.rule) & mask;
}

/*
 * Each identity of the one with each of the other, as far as there are rules of their shape. One of
 * the two is a function, which has four (five as a service's, that the outside does not reach), so
 * there are (2 + MESH_PREFIXES) * 4 pairs at most.
 */
HOT void policy_pairs(const struct mesh_config *config, struct mesh_question *q)
{
	struct mesh_pair *pair;
	__u32 shape;

	q->pairs = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < 2 + MESH_PREFIXES && i < q->source.count; i++) {
#pragma clang loop unroll(disable)
		for (__u32 k = 0; k < 2 + MESH_PREFIXES && k < q->destination.count; k++) {
			shape = q->source.shape[i] * MESH_SHAPE_DESTINATIONS +
				q->destination.shape[k];
			pair = &q->pair[q->pairs & 31];
			pair->source = q->source.identity[i];
			pair->destination = q->destination.identity[k];
			pair->port = q->destination.port[k];
			pair->depths = config->depths[shape & 31];
			q->pairs += policy_is_set(pair->depths);
		}
	}
}

/*
 * Look up the next of the rules there may be: of the last pair, at its lowest depth. 0: none is
 * left. The verifier follows both ways of each branch through all turns of a loop, hence so few
 * branches; and of a number on the stack every value, hence all that turns in a map.
 */
HOT int policy_next(struct mesh_judgement *j)
{
	struct mesh_question *q = &j->question;
	struct mesh_pair *pair = &q->pair[(q->pairs - 1) & 31];
	struct mesh_policy_key key = { .source = pair->source, .destination = pair->destination };
	__u64 depth = policy_lowest_bit(pair->depths);
	struct mesh_policy *rule;

	if (!q->pairs)
		return 0;
	key.depth = depth;
	key.protocol = q->protocol * policy_is_set(depth);
	key.port = pair->port & bpf_htons(0xffff << (17 - depth));
	pair->depths &= pair->depths - 1;
	q->pairs -= 1 - policy_is_set(pair->depths);
	rule = mesh_policy.lookup(&key);
	if (rule)
		policy_keep(j, rule);
	return 1;
}

/* The strongest rule of all that j->question meets, in j->verdict.strength and j->verdict.rule. */
HOT void policy_rules(struct mesh_judgement *j)
{
	j->verdict.strength = POLICY_NONE;
	j->verdict.rule = 0;
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < (2 + MESH_PREFIXES) * 4 * MESH_POLICY_DEPTHS; i++) {
		loop_head(i);
		if (!policy_next(j))
			break;
	}
}
#endif
