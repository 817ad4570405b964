/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Ports of fragments: the first one of a datagram has them, and they are remembered for the later
 * ones. One that comes before the first is dropped; nothing is put together or kept back.
 * Reads and writes mesh_fragment.
 */
#ifndef MESH_FRAGMENT_H
#define MESH_FRAGMENT_H

#include "lib/endpoint.h"
#include "lib/meter.h"
#include "lib/room.h"

/* As far as what is gone by here is in it: TCP's options are not. */
HOT __u16 fragment_headers(const struct pkt *p)
{
	return p->l4_offset - p->fragment_data +
	       (p->protocol == IPPROTO_TCP ? sizeof(struct tcphdr) : sizeof(struct udphdr));
}

/* 0 if the datagram was known; see flow_renew(). */
HOT int fragment_renew(struct mesh_fragment_key *key, struct mesh_fragment *first)
{
	const __u64 BPF_ANY = BPF_EXIST;

	return mesh_fragment.update(key, first);
}

/* Remember a first fragment's ports; MESH_OK or a reason. */
HOT int fragment_remember(const struct mesh_judgement *j, struct mesh_fragment_key *key,
			  struct mesh_fragment *first)
{
	struct mesh_function *sender = endpoint_get(j->packet.sender);
	struct mesh_slot *slot;
	int failed;

	if (!fragment_renew(key, first))
		return MESH_OK;
	slot = sender ? room_take_fragment(sender->tenant, first->seen) : NULL;
	if (!slot)
		return MESH_FRAGMENT;
	__builtin_memcpy(&slot->key[0], key, sizeof(*key));
	failed = mesh_fragment.update(key, first);
	room_unlock(slot);
	count_one(MESH_COUNT_FRAGMENT_MADE);
	return failed ? MESH_FRAGMENT : MESH_OK;
}

/*
 * MESH_OK with the ports in j->packet.tuple, or a reason. The key is what the receiver will put the
 * datagram together by (RFC 791, RFC 8200), and the interface. No later fragment may reach back
 * into the headers of the first one (RFC 1858, 3128, 5722).
 */
HOT int fragment_ports(const struct pkt *p, struct mesh_judgement *j, int remember)
{
	struct mesh_fragment_key key = {};
	struct mesh_fragment first = {
		.ports = p->ports,
		.headers = fragment_headers(p),
		.protocol = p->protocol,
		.seen = flow_clock(),
	};
	struct mesh_fragment *known;

	key.source = j->packet.tuple.source;
	key.destination = j->packet.tuple.destination;
	key.id = p->fragment_id;
	key.origin = flow_origin(j->packet.ifindex, pkt_is4(p) ? p->protocol : 0);
	if (p->fragment == PKT_FIRST_FRAGMENT)
		return j->verdict.step || !remember ? MESH_OK : fragment_remember(j, &key, &first);
	known = mesh_fragment.lookup(&key);
	if (!known)
		return MESH_FRAGMENT;
	if (p->fragment_offset < known->headers)
		return MESH_MALFORMED;
	tuple_set_ports(&j->packet.tuple, known->ports);
	j->packet.tuple.protocol = known->protocol;
	return MESH_OK;
}
#endif
