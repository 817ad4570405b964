/* SPDX-License-Identifier: BSD-2-Clause */
/* As pool.py: `pool send NAME COUNT`, `pool receive`; either works with the other language's. */
#include <inttypes.h>

#include "ebpfmesh_pool.h"

#define BATCH 256

static int pool_error(const char *what)
{
	perror(what);
	return 1;
}

static int send_all(struct pool *pool, const char *name, uint64_t last)
{
	struct pool_message messages[BATCH];
	int to = pool_member(pool, name);

	if (to < 0)
		return fprintf(stderr, "no member is called %s\n", name), 1;
	for (uint64_t number = 1, left = last + 1; left;) { /* and 0: these are all */
		uint32_t count = pool_take(pool, messages, left < BATCH ? left : BATCH, -1);

		for (uint32_t i = 0; i < count; i++, number++) {
			uint64_t said = number <= last ? number : 0;

			memcpy(pool->memory + messages[i].addr, &said, sizeof(said));
			messages[i].len = sizeof(said);
		}
		left -= count;
		pool_send(pool, to, messages, count);
	}
	return 0;
}

static void receive_all(struct pool *pool)
{
	struct pool_message messages[BATCH];
	uint64_t number, total = 0;

	for (;;) {
		uint32_t count = pool_receive(pool, messages, BATCH, -1);

		for (uint32_t i = 0; i < count; i++) {
			memcpy(&number, pool->memory + messages[i].addr, sizeof(number));
			total += number;
			if (number)
				continue;
			printf("%" PRIu64 "\n", total);
			fflush(stdout);
			total = 0;
		}
		pool_free(pool, messages, count);
	}
}

int main(int count, char **words)
{
	struct pool pool;

	if (pool_open(&pool, "numbers"))
		return pool_error("pool");
	if (count == 4 && !strcmp(words[1], "send"))
		return send_all(&pool, words[2], strtoull(words[3], NULL, 10));
	receive_all(&pool);
	return 0;
}
