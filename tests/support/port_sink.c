/* SPDX-License-Identifier: BSD-2-Clause */
/* Take packets and touch each, by a port or (port_sink socket) by recvmmsg(2), 64 at a time. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <string.h>

#include "ebpfmesh_port.h"

#define BATCH 64

static volatile uint64_t sum; /* of the last byte of each, so that they are read */

static void by_socket(void)
{
	static char text[BATCH][2048];
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(9) };
	struct mmsghdr messages[BATCH];
	struct iovec places[BATCH];
	int fd = socket(AF_INET, SOCK_DGRAM, 0), size = 1 << 22, count;

	setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)))
		exit(1);
	memset(messages, 0, sizeof(messages));
	for (int i = 0; i < BATCH; i++) {
		places[i] = (struct iovec){ text[i], sizeof(text[i]) };
		messages[i].msg_hdr.msg_iov = &places[i];
		messages[i].msg_hdr.msg_iovlen = 1;
	}
	while ((count = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL)) > 0)
		for (int i = 0; i < count; i++)
			sum += text[i][messages[i].msg_len - 1];
	exit(1);
}

int main(int words, char **word)
{
	struct xdp_desc packets[256];
	struct port port;

	if (words > 1 && !strcmp(word[1], "socket"))
		by_socket();
	if (port_open(&port))
		return 1;
	for (;;) {
		uint32_t count = port_receive(&port, packets, 256, -1);

		for (uint32_t i = 0; i < count; i++)
			sum += port.memory[packets[i].addr + packets[i].len - 1];
		port_drop(&port, packets, count);
	}
}
