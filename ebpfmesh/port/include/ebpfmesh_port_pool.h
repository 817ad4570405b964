/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A port whose frames are places of a pool (frames_in): what came by the port is handed to members of the
 * pool, and what they hand over is sent, without a copy. Places for packets of one's own: pool_take().
 * How it works: ebpfmesh/port/pooled.py; see docs/port.md.
 */
#ifndef EBPFMESH_PORT_POOL_H
#define EBPFMESH_PORT_POOL_H

#include "ebpfmesh_pool.h"
#include "ebpfmesh_port.h"

/* These places are free; or, of none, have half of the member's own part be filled. */
static inline void port_pooled(struct port *port, const struct xdp_desc *packets, uint32_t count)
{
	struct pool *pool = port->pool;
	uint32_t starved = 0;

	for (uint32_t i = 0; i < count; i++)
		pool_free(pool, &(struct pool_message){ .addr = packets[i].addr }, 1);
	for (uint32_t i = 0; !count && i < port->queues; i++) {
		struct port_ring *fill = &port->rings[i][PORT_FILL];
		uint32_t with_kernel = fill->mine - port->rings[i][PORT_RX].mine;
		uint32_t missing = pool->each / 2 / port->queues - with_kernel, found = 1;

		for (struct pool_message free; missing && found; missing -= found) {
			if ((found = pool_take_free(pool, &free, 1)))
				PORT_NEXT(fill, uint64_t) = free.addr;
		}
		PORT_TELL(fill, producer);
		starved |= missing && !PORT_LEFT(fill);
	}
	if (starved && pool_clock() - port->looked > 100) { /* somebody may have died with them */
		pool_repair_dead(pool);
		port->looked = pool_clock();
	}
}

/* 0; or -1 with errno: ENOENT, its frames are not in this pool; EBUSY, a process before has used it. */
static inline int port_open_in(struct port *port, struct pool *pool, const char *name)
{
	char *said = getenv("EBPFMESH_PORT");
	size_t length = strlen(name);

	*port = (struct port){ .memory = pool->memory, .frames = pool->slots, .pool = pool };
	errno = ENOENT;
	if (!said || strncmp(said, "pool:", 5) || strncmp(said + 5, name, length) ||
	    said[5 + length] != ' ' || port_sockets(port, said + 5 + length) || port_rings(port))
		return -1;
	errno = EBUSY;
	for (uint32_t i = 0; i < port->queues; i++)
		if (PORT_READY(&port->rings[i][PORT_FILL]))
			return -1;
	port->pooled = port_pooled;
	port_pooled(port, NULL, 0);
	return 0;
}

/* Hand packets that came by the port to a member (pool_member()). */
static inline void port_to_pool(struct port *port, uint32_t to, const struct xdp_desc *packets,
				uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		struct pool_message one = { .addr = packets[i].addr, .len = packets[i].len };

		pool_send(port->pool, to, &one, 1);
	}
}

/* Send what came by the pool, or of places that were taken. Then and while it waits for more, the caller
 * looks by port_flush() at what was sent: its places are others'. */
static inline void port_from_pool(struct port *port, const struct pool_message *messages, uint32_t count)
{
	struct port_ring *tx = &port->rings[0][PORT_TX];

	for (uint32_t i = 0; i < count; i++)
		PORT_NEXT(tx, struct xdp_desc) =
			(struct xdp_desc){ .addr = messages[i].addr, .len = messages[i].len };
	PORT_TELL(tx, producer);
	port_flush(port);
}
#endif
