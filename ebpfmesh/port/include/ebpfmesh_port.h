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

struct port_ring { /* has room for all frames, so it never overflows */
	uint32_t *producer, *consumer, mask, mine;
	void *entries;
};

struct port {
	uint8_t *memory;
	uint64_t *spare; /* frames for port_take(), half of all */
	uint32_t frames, frame, spares;
	int fd; /* for poll(2) */
	struct port_ring rx, tx, fill, done;
};

static inline int port_ring_map(struct port *port, struct port_ring *ring, uint64_t where,
				const struct xdp_ring_offset *at, size_t entry)
{
	char *map = mmap(NULL, at->desc + port->frames * entry, PROT_READ | PROT_WRITE,
			 MAP_SHARED | MAP_POPULATE, port->fd, (off_t)where);

	ring->producer = (void *)(map + at->producer);
	ring->consumer = (void *)(map + at->consumer);
	ring->entries = map + at->desc;
	ring->mask = port->frames - 1;
	ring->mine = 0;
	return map == MAP_FAILED ? -1 : 0;
}

static inline uint32_t port_ring_ready(const struct port_ring *ring)
{
	return __atomic_load_n(ring->producer, __ATOMIC_ACQUIRE) - ring->mine;
}

/* A frame is free: half of them are spare, the others the kernel fills. */
static inline void port_recycle(struct port *port, uint64_t address)
{
	address -= address % port->frame;
	if (port->spares < port->frames / 2)
		port->spare[port->spares++] = address;
	else
		((uint64_t *)port->fill.entries)[port->fill.mine++ & port->fill.mask] = address;
	__atomic_store_n(port->fill.producer, port->fill.mine, __ATOMIC_RELEASE);
}

/* 0; or -1 with errno, ENOENT where this process was not handed a port. */
static inline int port_open(struct port *port)
{
	const char *said = getenv("EBPFMESH_PORT");
	struct xdp_mmap_offsets at;
	socklen_t length = sizeof(at);
	struct stat memory;
	int fd;

	errno = ENOENT;
	if (!said || sscanf(said, "%d %d %u", &fd, &port->fd, &port->frame) != 3)
		return -1;
	if (fstat(fd, &memory) || getsockopt(port->fd, SOL_XDP, XDP_MMAP_OFFSETS, &at, &length))
		return -1;
	port->frames = memory.st_size / port->frame;
	port->memory = mmap(NULL, memory.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	port->spare = malloc(port->frames * sizeof(*port->spare));
	port->spares = 0;
	if (port->memory == MAP_FAILED || !port->spare ||
	    port_ring_map(port, &port->rx, XDP_PGOFF_RX_RING, &at.rx, sizeof(struct xdp_desc)) ||
	    port_ring_map(port, &port->tx, XDP_PGOFF_TX_RING, &at.tx, sizeof(struct xdp_desc)) ||
	    port_ring_map(port, &port->fill, XDP_UMEM_PGOFF_FILL_RING, &at.fr, 8) ||
	    port_ring_map(port, &port->done, XDP_UMEM_PGOFF_COMPLETION_RING, &at.cr, 8))
		return -1;
	port->fill.mine = port->frames / 2; /* put in when the command began: the first half */
	for (uint32_t i = port->fill.mine; i < port->frames; i++)
		port_recycle(port, (uint64_t)i * port->frame);
	return 0;
}

/* Send what was queued, as far as the kernel has room; how many packets it has yet to take. */
static inline uint32_t port_flush(struct port *port)
{
	uint32_t left = port->tx.mine - __atomic_load_n(port->tx.consumer, __ATOMIC_ACQUIRE), before;

	for (int stuck = 0; left && stuck < 3; stuck = left == before ? stuck + 1 : 0) {
		before = left;
		sendto(port->fd, NULL, 0, MSG_DONTWAIT, NULL, 0);
		left = port->tx.mine - __atomic_load_n(port->tx.consumer, __ATOMIC_ACQUIRE);
	}
	return left;
}

static inline void port_collect(struct port *port)
{
	while (port_ring_ready(&port->done)) {
		port_recycle(port, ((uint64_t *)port->done.entries)[port->done.mine & port->done.mask]);
		__atomic_store_n(port->done.consumer, ++port->done.mine, __ATOMIC_RELEASE);
	}
}

/* Up to `most` packets, waiting so many milliseconds for one; -1: for ever, 0: not at all. */
static inline uint32_t port_receive(struct port *port, struct xdp_desc *packets, uint32_t most,
				    int milliseconds)
{
	struct pollfd readable = { .fd = port->fd, .events = POLLIN };
	uint32_t count;

	port_collect(port);
	if (!port_ring_ready(&port->rx) && milliseconds) {
		/* what was sent comes back unasked: none to fill, and nothing would wake us */
		int soon = port_flush(port) || port->fill.mine == *port->fill.consumer;

		poll(&readable, 1, soon ? 1 : milliseconds);
		port_collect(port);
	}
	count = port_ring_ready(&port->rx);
	count = count < most ? count : most;
	for (uint32_t i = 0; i < count; i++)
		packets[i] = ((struct xdp_desc *)port->rx.entries)[port->rx.mine++ & port->rx.mask];
	__atomic_store_n(port->rx.consumer, port->rx.mine, __ATOMIC_RELEASE);
	return count;
}

/* Up to `most` places for packets of one's own, with their addresses; their lengths are the caller's. */
static inline uint32_t port_take(struct port *port, struct xdp_desc *packets, uint32_t most)
{
	uint32_t count = 0;

	port_collect(port);
	while (count < most && port->spares)
		packets[count++] = (struct xdp_desc){
			.addr = port->spare[--port->spares] + PORT_HEADROOM };
	return count;
}

static inline void port_send(struct port *port, const struct xdp_desc *packets, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		((struct xdp_desc *)port->tx.entries)[port->tx.mine++ & port->tx.mask] = packets[i];
	__atomic_store_n(port->tx.producer, port->tx.mine, __ATOMIC_RELEASE);
	port_flush(port);
}

static inline void port_drop(struct port *port, const struct xdp_desc *packets, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		port_recycle(port, packets[i].addr);
}
#endif
