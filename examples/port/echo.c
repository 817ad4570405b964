/* SPDX-License-Identifier: BSD-2-Clause */
/* Send every UDP datagram back to where it came from; IPv4 and IPv6. */
#include <string.h>

#include "ebpfmesh_port.h"
#include "ebpfmesh_port_ask.h"

static void swap(uint8_t *packet, int at, int other, int size)
{
	uint8_t kept[16];

	memcpy(kept, packet + at, size);
	memcpy(packet + at, packet + other, size);
	memcpy(packet + other, kept, size);
}

/* Whether it is to be sent; MACs, addresses and ports change places, and no checksum by that. */
static int turn_round(uint8_t *packet, uint32_t length)
{
	int four = length >= 42 && packet[12] == 0x08 && packet[13] == 0x00 && packet[14] == 0x45 &&
		   packet[23] == 17;
	int six = length >= 62 && packet[12] == 0x86 && packet[13] == 0xdd && packet[20] == 17;

	if (!four && !six)
		return 0;
	swap(packet, 0, 6, 6);
	swap(packet, four ? 26 : 22, four ? 30 : 38, four ? 4 : 16);
	swap(packet, four ? 34 : 54, four ? 36 : 56, 2);
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
		uint32_t count = port_receive(&port, packets, 256, 1000), back = 0;

		for (uint32_t i = 0; i < count; i++) {
			if (turn_round(port.memory + packets[i].addr, packets[i].len))
				packets[back++] = packets[i];
			else
				port_drop(&port, &packets[i], 1);
		}
		port_send(&port, packets, back);
	}
	return 0;
}
