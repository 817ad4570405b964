/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * linux/if.h, and with it linux/icmp.h, asks the C library for this one type.
 */
#ifndef EBPFMESH_UAPI_SOCKET_H
#define EBPFMESH_UAPI_SOCKET_H

struct sockaddr {
	unsigned short sa_family;
	char sa_data[14];
};

#endif /* EBPFMESH_UAPI_SOCKET_H */
