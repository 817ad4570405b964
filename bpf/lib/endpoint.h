/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Functions: who is behind an interface or an address, and whether a packet is really theirs.
 * Reads mesh_iface, mesh_function, mesh_address. Id 0 is everything that is not a function; a remote,
 * beyond an uplink, is one by its address alone.
 */
#ifndef MESH_ENDPOINT_H
#define MESH_ENDPOINT_H

#include "lib/address.h"

HOT __u32 endpoint_by_ifindex(__u32 ifindex)
{
	struct mesh_iface *iface = mesh_iface.lookup(&ifindex);

	return iface && iface->kind == MESH_IFACE_FUNCTION ? iface->id : 0;
}

HOT int endpoint_is_uplink(__u32 ifindex)
{
	struct mesh_iface *iface = mesh_iface.lookup(&ifindex);

	return iface && iface->kind == MESH_IFACE_UPLINK;
}

HOT __u32 endpoint_by_address(struct mesh_address *address)
{
	__u32 *id = mesh_address.lookup(address);

	return id ? *id : 0;
}

/* NULL for an id that has no function; id 0 has a record with nothing in it but zeros. */
HOT struct mesh_function *endpoint_get(__u32 id)
{
	struct mesh_function *fn = mesh_function.lookup(&id);

	return fn && (!id || fn->ifindex) ? fn : NULL;
}

/* Id of the remote that has an address beyond this uplink; 0: it is somebody else's. */
HOT __u32 endpoint_remote(struct mesh_address *address, __u32 uplink)
{
	__u32 id = endpoint_by_address(address);
	struct mesh_function *fn = id ? endpoint_get(id) : NULL;

	return fn && fn->flags & MESH_FN_REMOTE && fn->ifindex == uplink ? id : 0;
}

/* The flags alone: neither is MESH_OUTPUT_PEER. */
HOT __u32 endpoint_output_kind(const struct mesh_function *fn)
{
	if (fn->flags & MESH_FN_REMOTE)
		return MESH_OUTPUT_NEIGHBOUR;
	return fn->flags & MESH_FN_XDP ? MESH_OUTPUT_EGRESS : MESH_OUTPUT_PEER;
}

/* Where a function's packets go, as flows have it. */
HOT __u32 endpoint_output(const struct mesh_function *fn)
{
	return fn->ifindex | endpoint_output_kind(fn) << MESH_IFINDEX_BITS;
}

/* 1 with the function's address of the family that `like` has; 0 where it has none of that. */
HOT int endpoint_address(const struct mesh_function *fn, const struct mesh_address *like,
			 struct mesh_address *address)
{
	if (address_is4(like)) {
		address_set4(address, fn->address4);
		return fn->address4 != 0;
	}
	address_set6(address, fn->address6);
	return (address->word[0] | address->word[1] | address->word[2] | address->word[3]) != 0;
}

HOT int endpoint_has_address(const struct mesh_function *fn, const struct mesh_address *address)
{
	struct mesh_address own;

	return endpoint_address(fn, address, &own) && address_equal(&own, address);
}

/* Does the packet come from the function whose interface it came in by? */
HOT int endpoint_check_sender(const struct mesh_function *fn, const struct pkt *p)
{
	struct mesh_address source;

	if (!mac_equal(p->eth->h_source, fn->mac))
		return MESH_SPOOF_MAC;
	if (pkt_is4(p))
		address_set4(&source, p->ip4->saddr);
	else
		address_set6(&source, p->ip6->saddr.s6_addr32);
	return endpoint_has_address(fn, &source) ? MESH_OK : MESH_SPOOF_IP;
}
#endif
