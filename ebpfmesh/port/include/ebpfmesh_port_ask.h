/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A port for a program that the mesh did not start: where EBPFMESH_PORT is a path, `ebpfmesh port` is
 * asked there. Before port_open() of ebpfmesh_port.h.
 */
#ifndef EBPFMESH_PORT_ASK_H
#define EBPFMESH_PORT_ASK_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* 0: EBPFMESH_PORT says what port_open() understands, as it did if it was no path; or -1 with what went
 * wrong on stderr. Waits for `ebpfmesh port` for a minute. */
static inline int port_ask(void)
{
	const char *path = getenv("EBPFMESH_PORT");
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(32 * sizeof(int))];
	} control;
	char said[1024] = "nobody hands over a port there", text[512];
	struct iovec place = { said, sizeof(said) - 1 };
	struct msghdr message = { .msg_iov = &place, .msg_iovlen = 1, .msg_control = &control };
	int fds[32], count = 0, length = 0, got = 0, one;

	if (!path || *path != '/')
		return 0;
	strncpy(at.sun_path, path, sizeof(at.sun_path) - 1);
	for (int turn = 0; turn < 1200 && got <= 0; turn++) {
		message.msg_controllen = sizeof(control);
		one = socket(AF_UNIX, SOCK_SEQPACKET, 0);
		if (!connect(one, (struct sockaddr *)&at, sizeof(at)))
			got = recvmsg(one, &message, 0);
		close(one);
		if (got <= 0)
			usleep(50000);
	}
	if (got > 0 && CMSG_FIRSTHDR(&message)) {
		said[got] = '\0';
		count = (CMSG_FIRSTHDR(&message)->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		memcpy(fds, CMSG_DATA(CMSG_FIRSTHDR(&message)), count * sizeof(int));
	}
	if (count < 2) {
		fprintf(stderr, "%s: %s\n", path, said);
		return -1;
	}
	length = snprintf(text, sizeof(text), "%d %d %s", fds[0], fds[1], said);
	for (int i = 2; i < count; i++)
		length += snprintf(text + length, sizeof(text) - length, " %d", fds[i]);
	return setenv("EBPFMESH_PORT", text, 1);
}
#endif
