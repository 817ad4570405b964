/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Flows that functions open to the outside by an uplink that masquerades: IPv4 with the uplink's address
 * and a port of it, IPv6 as it is. Which uplink is for the host's routes to say; what has none goes on to
 * store.h, for the host's stack. A program of its own, behind decide.h.
 *
 * A port is taken by the entry of the answers, whose key has the peer's address and port as well: so
 * flows to different peers may share one, and of two CPUs one gets it. One whose flow is over is taken
 * by a compare-and-swap of the words that say when it spoke; the slot of the flow before names that
 * entry on, see room_is_anothers(). So is one of a tenant that has too many, if there is no other.
 *
 * Reads mesh_masquerade; writes mesh_flow4, mesh_flow6, with a slot from room.h.
 */
#ifndef MESH_OUT_H
#define MESH_OUT_H

#include "lib/store.h"

/* Ports that are tried. */
#define OUT_LOOKS 32

/*
 * Where they are all taken, a tenant may have a port of another's that has more of them than so many times
 * what it has itself, and one.
 */
#define OUT_RIVAL 4

/* Ticks that a closed connection keeps its port: nothing of it is on its way any more. */
#define OUT_CLOSED 2

/*
 * Routes are asked as for packets of the host itself, which those that leave are like; the kernel
 * answers if this interface forwards (bpf_ipv4_fib_lookup() in linux/net/core/filter.c).
 */
#define OUT_LOOPBACK 1

/* What a flow has of the uplink it leaves by. */
struct out {
	struct mesh_masquerade *uplink;
	__be32 address4; /* for IPv4 */
	__be16 port;	 /* 0: one is to be found */
};

/* The interface that the host's routes say; 0: none, or the destination is the host's own. */
HOT __u32 out_route(CTX *ctx, const struct mesh_tuple *t)
{
	struct bpf_fib_lookup fib = { .ifindex = OUT_LOOPBACK, .l4_protocol = t->protocol };
	long found;

	if (address_is4(&t->destination)) {
		fib.family = 2; /* AF_INET */
		fib.ipv4_dst = t->destination.word[3];
	} else {
		fib.family = 10; /* AF_INET6 */
		__builtin_memcpy(fib.ipv6_src, &t->source, sizeof(fib.ipv6_src));
		__builtin_memcpy(fib.ipv6_dst, &t->destination, sizeof(fib.ipv6_dst));
	}
	found = bpf_fib_lookup(ctx, &fib, sizeof(fib), 0);
	/* The latter two say what the kernel then does not know, or the packet is too large for. */
	if (found == BPF_FIB_LKUP_RET_SUCCESS || found == BPF_FIB_LKUP_RET_NO_NEIGH ||
	    found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
		return fib.ifindex;
	return 0;
}

/* The uplink of this index, with what it has for the flow's family; NULL if it does not masquerade. */
HOT struct mesh_masquerade *out_uplink(struct mesh_judgement *j, __u32 ifindex)
{
	j->question.uplink = ifindex;
	return ifindex ? mesh_masquerade.lookup(&ifindex) : NULL;
}

/* Is the port one of those that the uplink has now? */
HOT int out_has(const struct out *o)
{
	return o->uplink->address4 == o->address4 &&
	       (__u32)bpf_ntohs(o->port) - o->uplink->first < o->uplink->count;
}

/* Do both entries of a flow name each other? IPv6 has nothing that could be another's. */
HOT int out_agree(const struct mesh_judgement *j, const struct track *t, const struct out *o)
{
	const struct mesh_tuple *own = &j->question.tuple;

	if (t->flow->flags & MESH_FLOW_REPLY)
		return !t->peer || t->peer->port == o->port;
	return t->peer && t->peer->port == own->source_port &&
	       t->peer->address.word[3] == own->source.word[3];
}

/* The entry of a flow's answers goes: what still comes by it is the host's from then on. */
HOT void out_forget(const struct mesh_judgement *j, const struct track *t)
{
	int reply = t->flow->flags & MESH_FLOW_REPLY;
	struct mesh_flow6_key key;

	flow_key(&key, reply ? &j->packet.tuple : &t->answer, j->question.uplink);
	flow_delete(&key);
}

/*
 * A flow that is known keeps its uplink and port, or goes on by the host's stack. MESH_OK, with no
 * o->uplink for the latter; or a reason, and then only its opener can have it judged as a new one.
 */
HOT int out_keep(struct mesh_judgement *j, struct out *o)
{
	int is4 = address_is4(&j->question.tuple.source);
	struct track t;

	track_find_known(&t, j);
	if (!t.flow)
		return MESH_NO_FLOW;
	if (t.flow->flags & MESH_FLOW_REPLY) {
		o->uplink = out_uplink(j, j->packet.ifindex);
		o->address4 = j->packet.tuple.destination.word[3];
		o->port = j->packet.tuple.destination_port;
	} else {
		o->uplink = out_uplink(j, flow_is_to_uplink(t.flow) ? flow_ifindex(t.flow) : 0);
		o->address4 = t.flow->address.word[3];
		o->port = t.flow->port;
	}
	if (!j->question.uplink)
		return MESH_OK;
	if (is4 && !out_agree(j, &t, o))
		return MESH_NO_FLOW;
	if (o->uplink && (!is4 || out_has(o)))
		return MESH_OK;
	out_forget(j, &t);
	return MESH_NO_FLOW;
}

/* Where a new flow goes. MESH_OK, with no o->uplink for the host's stack; or a reason. */
HOT int out_find(CTX *ctx, struct mesh_judgement *j, struct out *o)
{
	j->packet.known = 0;
	o->uplink = out_uplink(j, out_route(ctx, &j->question.tuple));
	o->port = 0;
	if (!o->uplink)
		return MESH_OK;
	o->address4 = o->uplink->address4;
	return o->address4 || !address_is4(&j->question.tuple.source) ? MESH_OK : MESH_NO_PORT;
}

/* The entries of both ways, with the translation of IPv4; the key of the answers, as far as it is known. */
HOT void out_entries(const struct mesh_config *config, const struct mesh_judgement *j,
		     const struct parties *who, const struct out *o, struct store *s)
{
	struct mesh_flow *flow = store_flow(&s->entry[0]), *answers = store_flow(&s->entry[1]);
	const struct mesh_tuple *own = &j->question.tuple;
	struct mesh_tuple answer;

	store_forward(config, j, who, flow);
	store_counts(&s->entry[0], NULL);
	if (flow->flags & MESH_FLOW_NAT_SRC) {
		address_set4(&flow->address, o->address4);
		flow->port = o->port;
		flow->checksum = csum_difference(own->source.word, flow->address.word, 4);
	}
	s->entry[1] = s->entry[0];
	store_reply(j, who, answers);
	if (flow->flags & MESH_FLOW_NAT_SRC) {
		answers->flags ^= MESH_FLOW_NAT_SRC | MESH_FLOW_NAT_DST;
		answers->address = own->source;
		answers->port = own->source_port;
		answers->checksum = ~flow->checksum;
	}
	flow_key(&s->key[0], own, who->opener->ifindex);
	flow_answer(&answer, own, flow);
	flow_key(&s->key[1], &answer, j->question.uplink);
}

/* The key of a flow's own way, from that of its answers. */
HOT void out_opener(struct mesh_flow4_key *opener, const struct mesh_flow4_key *key,
		    const struct mesh_flow *answers)
{
	__u32 protocol = key->origin & 0xff;

	opener->source = answers->address.word[3];
	opener->destination = key->source;
	opener->source_port = answers->port;
	opener->destination_port = protocol == IPPROTO_ICMP ? answers->port + 1 : key->source_port;
	opener->origin = flow_origin(flow_ifindex(answers), protocol);
}

/* The last words of an entry of answers: it belongs to no service. */
union out_words {
	__u64 word;
	struct {
		__u32 service;
		__u32 seen;
	};
};
_Static_assert(__builtin_offsetof(struct mesh_flow, backend) % 8 == 0, "layout");
_Static_assert(__builtin_offsetof(struct mesh_flow, seen) ==
		       __builtin_offsetof(struct mesh_flow, backend) + 4,
	       "layout");

/* A port whose flow is over; `silent` is 0 if there is none. */
struct out_choice {
	union out_words last;
	__s32 silent;
	__be16 port;
};

/* Keep it if it has been silent for longer than `limit`, and than the best so far. */
HOT void out_choose(const struct mesh_flow4_key *key, struct mesh_flow *answers, __u32 now,
		    __s32 limit, struct out_choice *best)
{
	union out_words last = { .word = *(volatile __u64 *)&answers->backend };
	struct mesh_flow4_key opener = {};
	struct mesh_flow *flow;
	__s32 silent = now - last.seen;

	out_opener(&opener, key, answers);
	flow = (struct mesh_flow *)mesh_flow4.lookup(&opener);
	if (flow && (__s32)(now - flow->seen) < silent)
		silent = now - flow->seen;
	if (silent <= limit || silent <= best->silent)
		return;
	best->last = last;
	best->silent = silent;
	best->port = key->destination_port;
}

HOT void out_look(const struct mesh_config *config, const struct mesh_flow4_key *key,
		  struct mesh_flow *answers, __u32 now, struct out_choice *best)
{
	__s32 limit = OUT_CLOSED;

	if (!(answers->flags & MESH_FLOW_CLOSING))
		limit = flow_timeout(config, answers, key->origin & 0xff);
	out_choose(key, answers, now, limit, best);
}

HOT void out_set_port(struct mesh_flow4_key *key, __be16 port)
{
	key->destination_port = port;
	if ((key->origin & 0xff) == IPPROTO_ICMP)
		key->source_port = port + 1;
}

/* The slot is to name the entry before it is there. */
HOT void out_name(struct mesh_slot *slot, const struct mesh_flow4_key *key)
{
	slot->key[1].source_port = key->source_port;
	slot->key[1].destination_port = key->destination_port;
}

/* Put the entry of answers in the place of that of a flow which is over. 1, or 0: it was gone. */
HOT int out_replace(struct mesh_slot *slot, struct mesh_flow4_key *key, MESH_FLOW_ENTRY *entry,
		    const struct out_choice *best, __u32 now)
{
	union out_words mine = { .seen = now };
	struct mesh_flow4_key opener = {};
	struct mesh_flow *answers;

	out_set_port(key, best->port);
	answers = (struct mesh_flow *)mesh_flow4.lookup(key);
	if (!answers || __sync_val_compare_and_swap((__u64 *)&answers->backend, best->last.word,
						    mine.word) != best->last.word)
		return 0;
	out_opener(&opener, key, answers);
	mesh_flow4.delete(&opener);
	out_name(slot, key);
	return !mesh_flow4.update(key, entry);
}

/* Who has the ports that are tried: our tenant, and another, the first that was met. */
struct out_rival {
	struct out_choice longest; /* of the other's */
	__u64 own;
	__u64 theirs;
	__u32 tenant; /* of the other, and one; 0: there is none */
};

/* The tenant of a flow's opener, and one: what comes from the outside, 0, is metered by it. */
HOT __u32 out_tenant(const struct mesh_flow *answers)
{
	return answers->meter_tx + 1;
}

/* 1 for the same, else 0; of a comparison the verifier would follow both ways, at each turn. */
HOT __u64 out_is(__u32 tenant, __u32 other)
{
	return ((__u64)(tenant ^ other) - 1) >> 63;
}

HOT void out_weigh(const struct mesh_flow4_key *key, struct mesh_flow *answers, __u32 now,
		   __u32 tenant, struct out_rival *rival)
{
	__u32 whose = out_tenant(answers);

	rival->own += out_is(whose, tenant);
	if (!rival->tenant && whose != tenant)
		rival->tenant = whose;
	rival->theirs += out_is(whose, rival->tenant);
	if (whose == rival->tenant)
		out_choose(key, answers, now, -1, &rival->longest);
}

/*
 * The same where all are taken, of live flows: so nobody has all of a peer's ports while others have
 * none. Of who has too many, who was silent for longest loses it.
 */
HOT __be16 out_take_rivals(const struct mesh_masquerade *uplink, struct mesh_slot *slot,
			   struct store *s, __u32 tenant)
{
	__u32 now = flow_clock(), at = bpf_get_prandom_u32(), count = uplink->count;
	__u32 step = count > OUT_LOOKS ? at >> 16 | 1 : 1;
	struct out_rival rival = { .longest = { .silent = -1 } };
	struct mesh_flow4_key key;
	struct mesh_flow *answers;
	struct mesh_room *room;

	flow_key_is4(&s->key[1], &key);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < OUT_LOOKS && i < count; i++, at += step) {
		loop_head(i);
		out_set_port(&key, bpf_htons(uplink->first + at % count));
		answers = (struct mesh_flow *)mesh_flow4.lookup(&key);
		if (answers)
			out_weigh(&key, answers, now, tenant + 1, &rival);
	}
	if (rival.theirs <= OUT_RIVAL * (rival.own + 1) ||
	    !out_replace(slot, &key, &s->entry[1], &rival.longest, now))
		return 0;
	room = room_of(MESH_ROOM_FLOW, rival.tenant - 1);
	if (room)
		__sync_fetch_and_add(&room->evicted, 1);
	return rival.longest.port;
}

/* Put the entry of answers at a port that nobody has, of those that are tried. The port, or 0. */
HOT __be16 out_take(const struct mesh_config *config, const struct mesh_masquerade *uplink,
		    struct mesh_slot *slot, struct store *s)
{
	__u32 now = flow_clock(), at = bpf_get_prandom_u32(), count = uplink->count;
	__u32 step = count > OUT_LOOKS ? at >> 16 | 1 : 1;
	struct out_choice best = {};
	struct mesh_flow4_key key;
	struct mesh_flow *answers;

	flow_key_is4(&s->key[1], &key);
#pragma clang loop unroll(disable)
	for (__u32 i = 0; i < OUT_LOOKS && i < count; i++, at += step) {
		loop_head(i);
		out_set_port(&key, bpf_htons(uplink->first + at % count));
		answers = (struct mesh_flow *)mesh_flow4.lookup(&key);
		if (answers) {
			out_look(config, &key, answers, now, &best);
			continue;
		}
		out_name(slot, &key);
		if (!mesh_flow4.insert(&key, &s->entry[1]))
			return key.destination_port;
	}
	if (!best.silent || !out_replace(slot, &key, &s->entry[1], &best, now))
		return 0;
	return best.port;
}

/* Put both entries of a new flow of IPv4, as store_put() does. MESH_OK or a reason. */
HOT int out_put(const struct mesh_config *config, struct mesh_masquerade *uplink, struct store *s,
		__u32 tenant)
{
	struct mesh_flow *flow = store_flow(&s->entry[0]);
	__u32 half = flow_is_half(flow);
	struct mesh_slot *slot =
		room_take(config, half, tenant, flow_clock(), bpf_get_prandom_u32());
	int failed;

	if (!slot)
		return MESH_FLOW_FULL;
	slot->key[0] = s->key[0];
	slot->key[1] = s->key[1];
	flow->port = out_take(config, uplink, slot, s);
	if (!flow->port)
		flow->port = out_take_rivals(uplink, slot, s, tenant);
	failed = flow->port ? flow_put(&s->key[0], &s->entry[0]) : 0;
	if (!flow->port)
		slot->key[1] = s->key[0]; /* what it names is another's */
	room_unlock(slot);
	if (!flow->port) {
		__sync_fetch_and_add(&uplink->exhausted, 1);
		return MESH_NO_PORT;
	}
	count_one(half ? MESH_COUNT_HALF_MADE : MESH_COUNT_FLOW_MADE);
	return failed ? MESH_FLOW_FULL : MESH_OK;
}

/* Store a flow that leaves by an uplink. MESH_OK or a reason. */
HOT int out_store(const struct mesh_config *config, struct mesh_judgement *j, const struct out *o)
{
	struct parties who = { endpoint_get(j->question.opener), endpoint_get(0) };
	int is4 = address_is4(&j->question.tuple.source);
	struct store *s = store_place();

	if (!who.opener || !who.receiver)
		return MESH_NO_FUNCTION;
	if (!s)
		return MESH_FLOW_FULL;
	j->question.flags |= is4 ? MESH_FLOW_NAT_SRC : 0;
	out_entries(config, j, &who, o, s);
	store_progress(j, s);
	if (is4 && !o->port)
		return out_put(config, o->uplink, s, who.opener->tenant);
	if (j->packet.known && !flow_is_half(store_flow(&s->entry[0])) &&
	    !flow_renew(&s->key[0], &s->entry[0]) && !flow_renew(&s->key[1], &s->entry[1]))
		return MESH_OK;
	return store_put(config, s, who.opener->tenant);
}

/* By which uplink, and as whom? Of a flow that may pass, from a function to the outside. */
HOT int mesh_out(CTX *ctx)
{
	struct mesh_config *config = mesh_config_get();
	struct mesh_judgement *j = mesh_scratch_get();
	int reason = MESH_NO_FLOW;
	struct out o = {};

	if (!config || !j)
		return mesh_drop(ctx, MESH_FROM_FN, MESH_NO_PROGRAM);
	if (j->packet.known)
		reason = out_keep(j, &o);
	j->question.flags &= ~MESH_FLOW_NAT_SRC;
	if (reason && j->packet.direction == MESH_FROM_FN)
		reason = out_find(ctx, j, &o);
	if (!reason && !o.uplink) {
		j->question.uplink = 0;
		verdict_call(ctx, MESH_CALL_STORE);
		reason = MESH_NO_PROGRAM;
	}
	return judge_return(ctx, j, reason ? reason : out_store(config, j, &o));
}
#endif
