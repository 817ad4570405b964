/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Uplinks: which of the packets that come in from outside are the mesh's. All others are the host's
 * own, and go on to its stack as they came; so does whatever the mesh cannot make out.
 * Reads mesh_address, mesh_local, mesh_service, flows.
 */
#ifndef MESH_UPLINK_H
#define MESH_UPLINK_H

#include "lib/endpoint.h"
#include "lib/flow.h"
#include "lib/service.h"

/* The packet is the host's: no reason to drop it, and no flow of the mesh. */
#define UPLINK_HOST -1

/* Both addresses of what is IP, be the rest of it as it may. */
HOT void uplink_addresses(const struct pkt *p, struct mesh_address *source,
			  struct mesh_address *destination)
{
	if (pkt_is4(p)) {
		address_set4(source, p->ip4->saddr);
		address_set4(destination, p->ip4->daddr);
	} else {
		address_set6(source, p->ip6->saddr.s6_addr32);
		address_set6(destination, p->ip6->daddr.s6_addr32);
	}
}

/* What a packet, or what an ICMP error quotes, says of its flow. */
HOT void uplink_tuple(const struct pkt *p, struct mesh_tuple *t)
{
	__builtin_memset(t, 0, sizeof(*t));
	tuple_of(t, p);
	if (p->kind == PKT_ERROR)
		tuple_of_quote(t, p);
}

/*
 * Of a packet for a function itself: does it belong to a flow that goes through the host's stack, as
 * answers to what a function asked outside do? mesh_to_fn then judges it.
 */
HOT int uplink_is_of_stack(const struct mesh_tuple *t, __u32 uplink)
{
	return !flow_find_tuple(t, uplink) && flow_find_tuple(t, 0);
}

/* Is it a source that nobody outside has? A remote's is right at its own uplink. */
HOT int uplink_is_spoofed(struct mesh_address *source, __u32 uplink)
{
	return endpoint_by_address(source) && !endpoint_remote(source, uplink);
}

/*
 * Is it a source that no packet on a wire has: the host's own, one of a loopback, of many, or of nobody? The
 * host's stack, which what we take does not meet, would drop it (ip_route_input_slow() in
 * linux/net/ipv4/route.c, ip6_rcv_core() in linux/net/ipv6/ip6_input.c). What is the host's it still does.
 */
HOT int uplink_is_martian(struct mesh_address *source)
{
	__u32 first = bpf_ntohl(source->word[0]), last = bpf_ntohl(source->word[3]);

	if (mesh_local.lookup(source))
		return 1;
	if (!address_is4(source))
		return first >> 24 == 0xff ||
		       !(first | source->word[1] | source->word[2] | (last & ~1U));
	return last >> 24 == 0 || last >> 24 == 127 || last >> 28 == 0xe || last == ~0U;
}

/*
 * Whom of the mesh it is for by its own address, 0: nobody. What the outside sends to a remote by its
 * address is none of ours, and goes as the host's routes say.
 */
HOT __u32 uplink_owner(struct mesh_address *destination)
{
	__u32 id = endpoint_by_address(destination);
	struct mesh_function *fn = id ? endpoint_get(id) : NULL;

	return fn && fn->flags & MESH_FN_REMOTE ? 0 : id;
}

/*
 * Does a packet for nobody's address belong to a flow: an answer of a remote, or to who speaks by the host's
 * address, or an error about one?
 */
HOT int uplink_is_of_flow(const struct mesh_judgement *j, const struct mesh_tuple *t)
{
	struct mesh_flow *flow = flow_find_tuple(t, j->packet.ifindex);

	return flow && (j->packet.sender || flow_is_masqueraded(flow));
}

/*
 * MESH_OK if it is for the mesh, UPLINK_HOST if it is not, or a reason to drop; `malformed` is what
 * parse_packet() said. A remote is its sender from here on. A later fragment of which nobody knows
 * the first one is left to the host: what of that is for a function meets mesh_to_fn.
 */
HOT int uplink_check(const struct mesh_config *config, const struct pkt *p,
		     struct mesh_judgement *j, int malformed)
{
	__u32 uplink = j->packet.ifindex, owner;
	struct mesh_address source, destination;
	struct mesh_tuple t;

	if (!p->version)
		return UPLINK_HOST;
	uplink_addresses(p, &source, &destination);
	if (uplink_is_spoofed(&source, uplink))
		return MESH_SPOOF_IP;
	owner = uplink_owner(&destination);
	if (malformed)
		return owner ? malformed : UPLINK_HOST;
	if (p->kind != PKT_FLOW && p->kind != PKT_ERROR)
		return UPLINK_HOST;
	uplink_tuple(p, &t);
	/* A router on the way to a remote tells of what was sent there: that remote would have answered. */
	j->packet.sender = endpoint_remote(&t.source, uplink);
	if (p->fragment == PKT_LATER_FRAGMENT)
		return MESH_OK;
	if (owner ? uplink_is_of_stack(&t, uplink) :
		    !service_find(config, &t.destination, t.destination_port, t.protocol, uplink) &&
			    !uplink_is_of_flow(j, &t))
		return UPLINK_HOST;
	return uplink_is_martian(&source) ? MESH_SPOOF_IP : MESH_OK;
}
#endif
