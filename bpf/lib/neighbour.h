/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * ARP (RFC 826) and neighbour discovery (RFC 4861) from a function. It needs neither, its
 * neighbour is permanent; what it sends all the same reaches the host's stack only if every
 * address in it is its own, and it never passes for a router.
 * Returns MESH_OK or a reason to drop.
 */
#ifndef MESH_NEIGHBOUR_H
#define MESH_NEIGHBOUR_H

#include "lib/endpoint.h"

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[6];
	__u8 sender_ip[4];
	__u8 target_mac[6];
	__u8 target_ip[4];
};

struct nd_option {
	__u8 type;   /* 1: source, 2: target link-layer address */
	__u8 length; /* in 8 bytes */
	__u8 mac[6];
};

struct nd_neighbor {
	struct icmp6hdr icmp;
	struct in6_addr target;
};

HOT int neighbour_check_arp(const struct mesh_function *fn, const struct pkt *p)
{
	struct arp_ipv4 *arp = (void *)(p->eth + 1);
	__u16 *ip, *own;

	if ((void *)(arp + 1) > p->end)
		return MESH_MALFORMED;
	if (arp->hardware != bpf_htons(1) || arp->protocol != bpf_htons(ETH_P_IP) ||
	    arp->hardware_length != 6 || arp->protocol_length != 4)
		return MESH_MALFORMED;
	if (!mac_equal(p->eth->h_source, fn->mac) || !mac_equal(arp->sender_mac, fn->mac))
		return MESH_SPOOF_ARP;
	ip = (__u16 *)arp->sender_ip;
	own = (__u16 *)&fn->address4;
	if (ip[0] | ip[1]) /* zero: a probe (RFC 5227) claims nothing */
		return ip[0] == own[0] && ip[1] == own[1] ? MESH_OK : MESH_SPOOF_ARP;
	return MESH_OK;
}

/* fe80:: with the modified EUI-64 of the MAC (RFC 4291, appendix A). */
HOT int neighbour_is_link_local(const struct mesh_function *fn, const struct in6_addr *a)
{
	const __u8 *b = a->s6_addr, *mac = fn->mac;

	return a->s6_addr32[0] == bpf_htonl(0xfe800000) && !a->s6_addr32[1] &&
	       b[8] == (mac[0] ^ 2) && b[9] == mac[1] && b[10] == mac[2] && b[11] == 0xff &&
	       b[12] == 0xfe && b[13] == mac[3] && b[14] == mac[4] && b[15] == mac[5];
}

HOT int neighbour_is_own(const struct mesh_function *fn, const struct in6_addr *a)
{
	struct mesh_address address;

	address_set6(&address, a->s6_addr32);
	return neighbour_is_link_local(fn, a) || endpoint_has_address(fn, &address);
}

HOT int in6_is_zero(const struct in6_addr *a)
{
	return !(a->s6_addr32[0] | a->s6_addr32[1] | a->s6_addr32[2] | a->s6_addr32[3]);
}

/* At most one option: none, or a link-layer address, which must be the function's own. */
HOT int neighbour_check_option(const struct mesh_function *fn, const struct pkt *p,
			       const struct nd_neighbor *nd, __u32 length)
{
	struct nd_option *option = (void *)(nd + 1);

	if (length == sizeof(*nd))
		return MESH_OK;
	if (length != sizeof(*nd) + sizeof(*option) || (void *)(option + 1) > p->end)
		return MESH_MALFORMED;
	if (option->type == 14) /* nonce of enhanced DAD (RFC 7527): no address in it */
		return MESH_OK;
	return mac_equal(option->mac, fn->mac) ? MESH_OK : MESH_SPOOF_ND;
}

HOT int neighbour_check_nd(const struct mesh_function *fn, const struct pkt *p)
{
	struct nd_neighbor *nd = p->l4;
	struct in6_addr *source = &p->ip6->saddr;

	if (!mac_equal(p->eth->h_source, fn->mac))
		return MESH_SPOOF_MAC;
	if (nd->icmp.icmp6_type == ND_ROUTER_SOLICIT)
		return MESH_MULTICAST;
	if (nd->icmp.icmp6_type != ND_NEIGHBOR_SOLICIT && nd->icmp.icmp6_type != ND_NEIGHBOR_ADVERT)
		return MESH_SPOOF_ND;
	if ((void *)(nd + 1) > p->end || p->ip6->hop_limit != 255)
		return MESH_MALFORMED;
	if (!neighbour_is_own(fn, source) && !in6_is_zero(source))
		return MESH_SPOOF_ND;
	if (nd->icmp.icmp6_type == ND_NEIGHBOR_ADVERT && !neighbour_is_own(fn, &nd->target))
		return MESH_SPOOF_ND;
	return neighbour_check_option(fn, p, nd, bpf_ntohs(p->ip6->payload_len));
}
#endif
