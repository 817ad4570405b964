/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * The port of a function with datapath = "af_xdp": whole Ethernet frames in memory that it shares with
 * the kernel. A packet that port_receive() or port_take() gave is the caller's, at
 * port.memory + packet.addr, until port_send() or port_drop(). One thread. See docs/port.md.
 */
#ifndef EBPFMESH_PORT_H
#define EBPFMESH_PORT_H
#include <errno.h>
#include <linux/if_xdp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define PORT_HEADROOM 256 /* free bytes in front of a packet that came */
#define PORT_QUEUES 16 /* at most */

enum { PORT_RX, PORT_TX, PORT_FILL, PORT_DONE, PORT_RINGS };
struct port_ring { /* has room for all frames of its queue, so it never overflows */
	uint32_t *producer, *consumer, mask, mine;
	void *entries;
};
struct port { /* each queue has its own frames, as many as a ring has entries */
	uint8_t *memory;
	uint32_t frames, frame, queues, turn, spares[PORT_QUEUES];
	int fd; /* for poll(2), as fds is where there are several queues */
	int gone; /* its interface was removed, as was seen when none came for a time */
	struct pollfd fds[PORT_QUEUES];
	struct port_ring rings[PORT_QUEUES][PORT_RINGS];
	uint64_t *spare[PORT_QUEUES]; /* frames for port_take(), half of all */
	void *pool; /* that its frames are in (ebpfmesh_port_pool.h); these are free, and some are filled */
	void (*pooled)(struct port *port, const struct xdp_desc *packets, uint32_t count);
	int64_t looked;
};

#define PORT_NEXT(ring, type) ((type *)(ring)->entries)[(ring)->mine++ & (ring)->mask]
#define PORT_READY(ring) (__atomic_load_n((ring)->producer, __ATOMIC_ACQUIRE) - (ring)->mine)
#define PORT_LEFT(ring) ((ring)->mine - __atomic_load_n((ring)->consumer, __ATOMIC_ACQUIRE))
#define PORT_TELL(ring, who) __atomic_store_n((ring)->who, (ring)->mine, __ATOMIC_RELEASE)
#define PORT_HOME(port, address) ((address) >> __builtin_ctz((port)->frames * (port)->frame))

/* Their frames are free: half of a queue's are spare, the others the kernel fills. */
static inline void port_drop(struct port *port, const struct xdp_desc *packets, uint32_t count)
{
	if (port->pooled) {
		port->pooled(port, packets, count);
		return;
	}
	for (uint32_t i = 0; i < count; i++) {
		uint64_t home = PORT_HOME(port, packets[i].addr);
		struct port_ring *fill = &port->rings[home][PORT_FILL];

		if (port->spares[home] < port->frames / 2)
			port->spare[home][port->spares[home]++] = packets[i].addr & -(uint64_t)port->frame;
		else
			PORT_NEXT(fill, uint64_t) = packets[i].addr;
		PORT_TELL(fill, producer);
	}
}

/* Sockets and bytes of a frame, as EBPFMESH_PORT has them after the memory. */
static inline int port_sockets(struct port *port, char *said)
{
	int read;

	if (sscanf(said, "%d %u%n", &port->fd, &port->frame, &read) < 2)
		return -1;
	port->fds[port->queues++] = (struct pollfd){ .fd = port->fd, .events = POLLIN };
	for (said += read; *said && port->queues < PORT_QUEUES;)
		port->fds[port->queues++] = (struct pollfd){ strtol(said, &said, 10), POLLIN, 0 };
	return 0;
}

static inline int port_rings(struct port *port)
{
	static const uint64_t where[] = { XDP_PGOFF_RX_RING, XDP_PGOFF_TX_RING,
					  XDP_UMEM_PGOFF_FILL_RING, XDP_UMEM_PGOFF_COMPLETION_RING };

	for (uint32_t queue = 0, i; queue < port->queues; queue++) {
		struct xdp_ring_offset at[PORT_RINGS]; /* struct xdp_mmap_offsets */
		socklen_t size = sizeof(at);

		if (getsockopt(port->fds[queue].fd, SOL_XDP, XDP_MMAP_OFFSETS, at, &size))
			return -1;
		for (i = 0; i < PORT_RINGS; i++) {
			size_t entry = i < PORT_FILL ? sizeof(struct xdp_desc) : sizeof(uint64_t);
			char *map = mmap(NULL, at[i].desc + port->frames * entry, PROT_READ | PROT_WRITE,
					 MAP_SHARED | MAP_POPULATE, port->fds[queue].fd, where[i]);

			if (map == MAP_FAILED)
				return -1;
			port->rings[queue][i] = (struct port_ring){
				(void *)(map + at[i].producer), (void *)(map + at[i].consumer),
				port->frames - 1, 0, map + at[i].desc };
		}
	}
	return 0;
}

/* 0; or -1 with errno, ENOENT where this process was not handed a port of its own memory. */
static inline int port_open(struct port *port)
{
	char *said = getenv("EBPFMESH_PORT");
	struct stat memory;
	int fd, read;

	*port = (struct port){ 0 };
	errno = ENOENT;
	if (!said || sscanf(said, "%d%n", &fd, &read) < 1 || port_sockets(port, said + read) ||
	    fstat(fd, &memory))
		return -1;
	port->frames = memory.st_size / port->frame / port->queues;
	port->memory = mmap(NULL, memory.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (port->memory == MAP_FAILED || port_rings(port))
		return -1;
	for (uint32_t queue = 0, i; queue < port->queues; queue++) {
		if (!(port->spare[queue] = malloc(port->frames * sizeof(uint64_t))))
			return -1;
		/* the first half was put in when the command began */
		for (i = port->rings[queue][PORT_FILL].mine = port->frames / 2; i < port->frames; i++)
			port->spare[queue][port->spares[queue]++] =
				((uint64_t)queue * port->frames + i) * port->frame;
	}
	return 0;
}

/* Have the kernel send what was queued, as far as it has room, and take back what it has sent. Whether
 * some is unsent, or it has no frame to fill: these come back unasked, and nothing would wake us. */
static inline int port_flush(struct port *port)
{
	int soon = 0;

	for (uint32_t i = 0; i < port->queues; i++) {
		struct port_ring *tx = &port->rings[i][PORT_TX], *done = &port->rings[i][PORT_DONE];
		uint32_t left = PORT_LEFT(tx), before;

		for (int stuck = 0; left && stuck < 3; stuck = left == before ? stuck + 1 : 0) {
			before = left;
			sendto(port->fds[i].fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
			left = PORT_LEFT(tx);
		}
		while (PORT_READY(done)) {
			struct xdp_desc sent = { .addr = PORT_NEXT(done, uint64_t) };

			PORT_TELL(done, consumer);
			port_drop(port, &sent, 1);
		}
		if (port->pooled) { /* others may wait for what was sent */
			port->pooled(port, NULL, 0);
			soon |= tx->mine != done->mine;
		}
		soon |= left || !PORT_LEFT(&port->rings[i][PORT_FILL]);
	}
	return soon;
}

/* Up to `most` packets, waiting so many milliseconds for one; -1: for ever, 0: not at all. */
static inline uint32_t port_receive(struct port *port, struct xdp_desc *packets, uint32_t most,
				    int milliseconds)
{
	int soon = port_flush(port);
	uint32_t count = 0, looked = 0;

	while (!count && looked++ < 2 * port->queues) {
		struct port_ring *rx = &port->rings[port->turn++ % port->queues][PORT_RX];

		for (uint32_t ready = PORT_READY(rx); ready && count < most; ready--)
			packets[count++] = PORT_NEXT(rx, struct xdp_desc);
		PORT_TELL(rx, consumer);
		if (!count && looked == port->queues) {
			socklen_t size = sizeof(port->gone);

			if (!poll(port->fds, port->queues, soon && milliseconds ? 1 : milliseconds))
				getsockopt(port->fd, SOL_SOCKET, SO_ERROR, &port->gone, &size);
			port_flush(port);
		}
	}
	return count;
}

/* Up to `most` places for packets of one's own, with their addresses; their lengths are the caller's. */
static inline uint32_t port_take(struct port *port, struct xdp_desc *packets, uint32_t most)
{
	uint32_t count = 0;

	port_flush(port);
	for (uint32_t i = 0; i < port->queues; i++)
		while (count < most && port->spares[i])
			packets[count++] = (struct xdp_desc){
				.addr = port->spare[i][--port->spares[i]] + PORT_HEADROOM };
	return count;
}

static inline void port_send(struct port *port, const struct xdp_desc *packets, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct port_ring *tx = &port->rings[PORT_HOME(port, packets[i].addr)][PORT_TX];

		PORT_NEXT(tx, struct xdp_desc) = packets[i];
		PORT_TELL(tx, producer);
	}
	port_flush(port);
}
#endif
