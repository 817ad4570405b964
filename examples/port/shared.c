/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Frames of two functions in one pool, of which none is copied between them: `shared decode` hands UDP to
 * port 7 on, and `shared filter` answers it by its own port, from its own addresses.
 */
#include <arpa/inet.h>
#include <net/if.h>
#include <net/ethernet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <sys/ioctl.h>

#include "ebpfmesh_port_pool.h"

enum { SOME = 64 };

struct __attribute__((packed)) frame {
	struct ether_header ethernet;
	struct iphdr ip;
	struct udphdr udp;
};

static void decode(struct pool *pool, struct port *port)
{
	struct xdp_desc packets[SOME];

	for (;;) {
		uint32_t count = port_receive(port, packets, SOME, -1);

		for (uint32_t i = 0; i < count; i++) {
			struct frame *frame = (void *)(port->memory + packets[i].addr);
			int to = pool_member(pool, "filter");

			if (to >= 0 && frame->ethernet.ether_type == htons(ETHERTYPE_IP) &&
			    frame->ip.protocol == IPPROTO_UDP && frame->udp.dest == htons(7))
				port_to_pool(port, to, &packets[i], 1);
			else
				port_drop(port, &packets[i], 1);
		}
	}
}

static uint16_t checksum(const void *header)
{
	const uint8_t *bytes = header;
	uint32_t sum = 0;

	for (int i = 0; i < 20; i += 2)
		sum += bytes[i] << 8 | bytes[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	return htons(~((sum & 0xffff) + (sum >> 16)));
}

static void answer(struct frame *frame, const struct ifreq *mac, const struct ifreq *address)
{
	static const uint8_t mesh[] = { 0x02, 0xeb, 0x9f, 0, 0, 1 };
	uint16_t source = frame->udp.source;

	memcpy(frame->ethernet.ether_shost, mac->ifr_hwaddr.sa_data, 6);
	memcpy(frame->ethernet.ether_dhost, mesh, 6);
	frame->ip.daddr = frame->ip.saddr;
	frame->ip.saddr = ((struct sockaddr_in *)&address->ifr_addr)->sin_addr.s_addr;
	frame->ip.check = 0;
	frame->ip.check = checksum(&frame->ip);
	frame->udp.source = frame->udp.dest;
	frame->udp.dest = source;
	frame->udp.check = 0; /* UDP over IPv4 may have none */
}

static void filter(struct pool *pool, struct port *port)
{
	struct ifreq mac = { .ifr_name = "eth0" }, address = mac;
	int any = socket(AF_INET, SOCK_DGRAM, 0);
	struct pool_message messages[SOME];
	struct xdp_desc own[SOME];

	ioctl(any, SIOCGIFHWADDR, &mac);
	ioctl(any, SIOCGIFADDR, &address);
	for (;;) {
		uint32_t count = pool_receive(pool, messages, SOME, port_flush(port) ? 1 : -1);

		for (uint32_t i = 0; i < count; i++)
			answer((void *)(pool->memory + messages[i].addr), &mac, &address);
		port_from_pool(port, messages, count);
		count = port_receive(port, own, SOME, 0);
		port_drop(port, own, count); /* it answers nothing that comes to itself */
	}
}

int main(int count, char **words)
{
	struct pool pool;
	struct port port;

	if (count != 2 || pool_open(&pool, "frames") || port_open_in(&port, &pool, "frames")) {
		perror("shared");
		return 1;
	}
	if (strcmp(words[1], "decode"))
		filter(&pool, &port);
	decode(&pool, &port);
}
