/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Take 64-byte UDP frames and look at each: consume port|recvmmsg|tpacket PORT FILE
 *
 * How many came to PORT is written to the first eight bytes of FILE after each batch.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <string.h>
#include <unistd.h>

#include "ebpfmesh_port.h"

#define BATCH 64
#define BUFFER (8 << 20) /* bytes of a socket's receive buffer: more than a burst takes */
#define BLOCK (1 << 18)	 /* bytes of a block of TPACKET_V3's ring, and how many there are */
#define BLOCKS 32
#define RETIRE_MS 1  /* a block that is not full is handed over after so long */
#define DEST_PORT 36 /* where it is in a frame of IPv4 without options */
#define LEAST (DEST_PORT + 2)

static volatile uint64_t *total;
static uint16_t wanted; /* network order */

static uint32_t is_ours(const uint8_t *frame, uint32_t length)
{
	uint16_t port;

	if (length < LEAST)
		return 0;
	memcpy(&port, frame + DEST_PORT, sizeof(port));
	return port == wanted;
}

static void by_port(void)
{
	struct xdp_desc packets[256];
	struct port port;

	if (port_open(&port))
		exit(1);
	for (;;) {
		uint32_t count = port_receive(&port, packets, 256, -1), ours = 0;

		for (uint32_t i = 0; i < count; i++)
			ours += is_ours(port.memory + packets[i].addr, packets[i].len);
		port_drop(&port, packets, count);
		*total += ours;
	}
}

static void by_socket(void)
{
	static char text[BATCH][2048];
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = wanted };
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = BUFFER, count;
	static volatile char seen;
	struct mmsghdr messages[BATCH];
	struct iovec places[BATCH];

	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)))
		exit(1);
	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < BATCH; i++) {
		places[i] = (struct iovec){ text[i], sizeof(text[i]) };
		messages[i].msg_hdr.msg_iov = &places[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while ((count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL)) > 0) {
		for (int i = 0; i < count; i++)
			seen ^= text[i][0];
		*total += count;
	}
	exit(1);
}

static uint32_t of_block(struct tpacket_block_desc *block)
{
	uint8_t *at = (uint8_t *)block + block->hdr.bh1.offset_to_first_pkt;
	uint32_t ours = 0;

	for (uint32_t i = 0; i < block->hdr.bh1.num_pkts; i++) {
		struct tpacket3_hdr *packet = (void *)at;

		ours += is_ours(at + packet->tp_mac, packet->tp_snaplen);
		at += packet->tp_next_offset;
	}
	return ours;
}

static void by_ring(void)
{
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), version = TPACKET_V3;
	struct tpacket_req3 ring = { .tp_block_size = BLOCK,
				     .tp_block_nr = BLOCKS,
				     .tp_frame_size = 2048,
				     .tp_frame_nr = BLOCK / 2048 * BLOCKS,
				     .tp_retire_blk_tov = RETIRE_MS };
	struct sockaddr_ll own = { .sll_family = AF_PACKET,
				   .sll_protocol = htons(ETH_P_ALL),
				   .sll_ifindex = (int)if_nametoindex("eth0") };
	struct pollfd readable = { .fd = fd, .events = POLLIN };
	uint8_t *memory;

	if (setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof(version)) ||
	    setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &ring, sizeof(ring)))
		exit(1);
	memory = mmap(NULL, (size_t)BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (memory == MAP_FAILED || bind(fd, (struct sockaddr *)&own, sizeof(own)))
		exit(1);
	for (uint32_t next = 0;; next = (next + 1) % BLOCKS) {
		struct tpacket_block_desc *block = (void *)(memory + (size_t)next * BLOCK);
		uint32_t *status = &block->hdr.bh1.block_status;

		while (!(__atomic_load_n(status, __ATOMIC_ACQUIRE) & TP_STATUS_USER))
			poll(&readable, 1, -1);
		*total += of_block(block);
		__atomic_store_n(status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
	}
}

int main(int words, char **word)
{
	int fd = words == 4 ? open(word[3], O_RDWR) : -1;

	if (fd < 0)
		return 2;
	total = mmap(NULL, sizeof(*total), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (total == MAP_FAILED)
		return 1;
	wanted = htons((uint16_t)atoi(word[2]));
	if (!strcmp(word[1], "port"))
		by_port();
	if (!strcmp(word[1], "recvmmsg"))
		by_socket();
	if (!strcmp(word[1], "tpacket"))
		by_ring();
	return 2;
}
