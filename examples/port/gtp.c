/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Take UDP packets out of GTP-U (3GPP TS 29.281) and send them on, from our own address; IPv4.
 * Which the mesh then judges: it lets nobody send from addresses of others, such as a phone's.
 */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <string.h>

#include "ebpfmesh_port.h"
#include "ebpfmesh_port_ask.h"

#define GTP_PORT 2152
#define T_PDU 255
#define OPTIONAL 7  /* flags: any of them, and four bytes follow */
#define EXTENSION 4 /* flag: the last of these is the kind of an extension header */

struct frame {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
} __attribute__((packed));

static int is_plain_udp(const struct frame *f, uint32_t length)
{
	return length >= sizeof(*f) && f->ip.version == 4 && f->ip.ihl == 5 &&
	       f->ip.protocol == 17 && ntohs(f->ip.tot_len) >= sizeof(f->ip) + sizeof(f->udp) &&
	       ntohs(f->ip.tot_len) + sizeof(f->eth) <= length;
}

static uint16_t checksum(const void *from, size_t size)
{
	const uint8_t *byte = from;
	uint32_t sum = 0;

	for (size_t i = 0; i < size; i += 2)
		sum += byte[i] << 8 | byte[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	return htons(~(sum + (sum >> 16)));
}

/* Bytes of a GTP-U header with all that is optional; 0 if this is none, or is cut short. */
static uint32_t gtp_header(const uint8_t *gtp, uint32_t length)
{
	uint32_t at = 8;
	uint8_t kind;

	if (length < at || gtp[0] >> 5 != 1 || gtp[1] != T_PDU)
		return 0;
	if (!(gtp[0] & OPTIONAL))
		return at;
	at += 4;
	if (length < at)
		return 0;
	kind = gtp[0] & EXTENSION ? gtp[at - 1] : 0;
	while (kind) {
		if (at >= length || !gtp[at] || at + gtp[at] * 4 > length)
			return 0;
		at += gtp[at] * 4;
		kind = gtp[at - 1];
	}
	return at;
}

/* Have the packet be what is inside; 0 if there is nothing good. */
static int unpack(struct port *port, struct xdp_desc *packet)
{
	struct frame *outer = (void *)(port->memory + packet->addr), *inner;
	struct frame from;
	uint32_t size;

	if (outer->eth.h_proto != htons(ETH_P_IP) || !is_plain_udp(outer, packet->len) ||
	    outer->udp.dest != htons(GTP_PORT))
		return 0;
	size = gtp_header((void *)(outer + 1), packet->len - sizeof(*outer));
	if (!size)
		return 0;
	from = *outer;
	size += sizeof(*outer) - sizeof(struct ethhdr); /* an Ethernet header has its place before */
	packet->addr += size;
	packet->len -= size;
	inner = (void *)(port->memory + packet->addr);
	if (!is_plain_udp(inner, packet->len))
		return 0;
	memcpy(inner->eth.h_dest, from.eth.h_source, ETH_ALEN);
	memcpy(inner->eth.h_source, from.eth.h_dest, ETH_ALEN);
	inner->eth.h_proto = htons(ETH_P_IP);
	inner->ip.saddr = from.ip.daddr;
	inner->udp.check = 0; /* UDP over IPv4 need not have one */
	inner->ip.check = 0;
	inner->ip.check = checksum(&inner->ip, sizeof(inner->ip));
	packet->len = sizeof(inner->eth) + ntohs(inner->ip.tot_len);
	return 1;
}

int main(void)
{
	struct xdp_desc packets[256];
	struct port port;

	if (port_ask() || port_open(&port)) {
		perror("no port");
		return 1;
	}
	while (!port.gone) {
		uint32_t count = port_receive(&port, packets, 256, 1000), good = 0;

		for (uint32_t i = 0; i < count; i++) {
			if (unpack(&port, &packets[i]))
				packets[good++] = packets[i];
			else
				port_drop(&port, &packets[i], 1);
		}
		port_send(&port, packets, good);
	}
	return 0;
}
