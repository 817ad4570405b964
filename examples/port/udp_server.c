/* SPDX-License-Identifier: BSD-2-Clause */
/* Answer each datagram to port 5000 by how many came before it, as text; IPv4. */
#include <arpa/inet.h>
#include <linux/if_ether.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <string.h>

#include "ebpfmesh_port.h"
#include "ebpfmesh_port_ask.h"

#define PORT 5000
#define DIGITS 12

struct packet {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	char text[DIGITS];
} __attribute__((packed));

static uint16_t checksum(const void *from, size_t size)
{
	const uint8_t *byte = from;
	uint32_t sum = 0;

	for (size_t i = 0; i < size; i += 2)
		sum += byte[i] << 8 | byte[i + 1];
	sum = (sum & 0xffff) + (sum >> 16);
	return htons(~(sum + (sum >> 16)));
}

/* IPv4 without options or fragments, UDP, our port? */
static int is_for_us(const struct packet *p, uint32_t length)
{
	return length >= sizeof(*p) - DIGITS && p->eth.h_proto == htons(ETH_P_IP) &&
	       p->ip.version == 4 && p->ip.ihl == 5 && !(p->ip.frag_off & htons(0x3fff)) &&
	       p->ip.protocol == 17 && p->udp.dest == htons(PORT);
}

static void answer(struct packet *p, unsigned long number)
{
	uint8_t mac[ETH_ALEN];
	__be32 address = p->ip.saddr;
	__be16 port = p->udp.source;

	memcpy(mac, p->eth.h_source, ETH_ALEN);
	memcpy(p->eth.h_source, p->eth.h_dest, ETH_ALEN);
	memcpy(p->eth.h_dest, mac, ETH_ALEN);
	p->ip.saddr = p->ip.daddr;
	p->ip.daddr = address;
	p->udp.source = p->udp.dest;
	p->udp.dest = port;
	memset(p->text, 0, DIGITS);
	snprintf(p->text, DIGITS, "%lu", number);
	p->udp.len = htons(sizeof(p->udp) + DIGITS);
	p->udp.check = 0; /* UDP over IPv4 need not have one */
	p->ip.tot_len = htons(sizeof(p->ip) + sizeof(p->udp) + DIGITS);
	p->ip.check = 0;
	p->ip.check = checksum(&p->ip, sizeof(p->ip));
}

int main(void)
{
	struct xdp_desc packets[256];
	unsigned long number = 0;
	struct port port;

	if (port_ask() || port_open(&port)) {
		perror("no port");
		return 1;
	}
	while (!port.gone) {
		uint32_t count = port_receive(&port, packets, 256, 1000), asked = 0;

		for (uint32_t i = 0; i < count; i++) {
			struct packet *p = (void *)(port.memory + packets[i].addr);

			if (!is_for_us(p, packets[i].len)) {
				port_drop(&port, &packets[i], 1);
				continue;
			}
			answer(p, number++);
			packets[i].len = sizeof(*p);
			packets[asked++] = packets[i];
		}
		port_send(&port, packets, asked);
	}
	return 0;
}
