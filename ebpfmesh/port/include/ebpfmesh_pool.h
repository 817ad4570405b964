/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * A pool that functions of one tenant share: places for messages, and who has which. A message that
 * pool_receive() or pool_take() gave is the caller's, at pool.memory + message.addr, until pool_send()
 * or pool_free(). One process, one thread. How it works: ebpfmesh/port/pool.py; see docs/pool.md.
 */
#ifndef EBPFMESH_POOL_H
#define EBPFMESH_POOL_H

#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define POOL_FREE 0u
#define POOL_HELD(by) (1u << 16 | (by))
#define POOL_SENT(by, to) (2u << 16 | (by) << 8 | (to))
#define POOL_LINE __attribute__((aligned(64)))

struct pool_message { /* 16 bytes; `tag` is the sender's own to say */
	uint64_t addr;
	uint32_t len, tag;
};

struct pool_entry { /* of a member */
	char name[64];
	POOL_LINE uint32_t sleeps;
	POOL_LINE uint32_t hungry; /* sleeps until one of its places is free */
	POOL_LINE uint64_t sent;
	uint64_t received, malformed, reclaimed;
};
_Static_assert(sizeof(struct pool_entry) == 256, "as all members have it");

struct pool_ring { /* has room for all places, so it never overflows */
	POOL_LINE uint32_t produced;
	POOL_LINE uint32_t consumed;
	POOL_LINE struct pool_message entries[];
};
_Static_assert(sizeof(struct pool_ring) == 128, "as all members have it");

struct pool {
	uint8_t *memory;
	struct pool_entry *members;
	uint32_t *owners;
	char *rings;
	size_t ring;
	uint32_t me, count, slots, bytes, each, next, turn;
	int fd;
};

static inline struct pool_ring *pool_ring(const struct pool *pool, uint32_t from, uint32_t to)
{
	return (void *)(pool->rings + (from * pool->count + to) * pool->ring);
}

static inline uint32_t pool_waiting(struct pool_ring *ring)
{
	return __atomic_load_n(&ring->produced, __ATOMIC_ACQUIRE) -
	       __atomic_load_n(&ring->consumed, __ATOMIC_ACQUIRE);
}

/* Read once: what is checked is what is used. */
static inline struct pool_message pool_read(const struct pool *pool, struct pool_ring *ring,
					    uint32_t at)
{
	const volatile struct pool_message *entry = &ring->entries[at & (pool->slots - 1)];

	return (struct pool_message){ .addr = entry->addr, .len = entry->len, .tag = entry->tag };
}

static inline int64_t pool_clock(void) /* milliseconds */
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static inline void pool_wake(uint32_t *word)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	if (__atomic_load_n(word,
			    __ATOMIC_RELAXED)) /* cleared by the same call: no death between */
		syscall(SYS_futex, word, FUTEX_WAKE_OP, 1, NULL, word,
			FUTEX_OP(FUTEX_OP_SET, 0, FUTEX_OP_CMP_EQ, 0));
}

/* Sleep on a word that was set, a second at most: others could write it. Whether there is time left. */
static inline int pool_sleep(uint32_t *word, int64_t end)
{
	int64_t left = end - pool_clock();
	struct timespec time = { left >= 1000, left >= 1000 ? 0 : left * 1000000 };

	if (left > 0)
		syscall(SYS_futex, word, FUTEX_WAIT, 1, &time, NULL, 0);
	return left > 0;
}

static inline uint32_t pool_owner(const struct pool *pool, uint32_t slot)
{
	return __atomic_load_n(&pool->owners[slot], __ATOMIC_ACQUIRE);
}

static inline void pool_own(const struct pool *pool, uint32_t slot, uint32_t owner)
{
	__atomic_store_n(&pool->owners[slot], owner, __ATOMIC_RELEASE);
}

static inline void pool_reclaim(struct pool *pool, uint32_t slot)
{
	pool_own(pool, slot, POOL_FREE);
	pool->members[pool->me].reclaimed++;
	if (slot / pool->each < pool->count)
		pool_wake(&pool->members[slot / pool->each].hungry);
}

static inline int pool_lock(const struct pool *pool, uint32_t member, short type)
{
	struct flock lock = { .l_type = type, .l_whence = SEEK_SET, .l_start = member, .l_len = 1 };

	return fcntl(pool->fd, F_SETLK, &lock);
}

/* Whether a place is in a ring: bit `slot` of `found`, which has room for all. */
static inline void pool_pending(const struct pool *pool, struct pool_ring *ring, uint8_t *found)
{
	uint32_t at = __atomic_load_n(&ring->consumed, __ATOMIC_ACQUIRE), left = pool_waiting(ring);

	memset(found, 0, pool->slots);
	for (left = left < pool->slots ? left : pool->slots; left; left--, at++) {
		uint64_t slot = pool_read(pool, ring, at).addr / pool->bytes;

		if (slot < pool->slots)
			found[slot] = 1;
	}
}

/* As a member whose lock we have: free what it held, and what it had not yet sent. */
static inline void pool_repair(struct pool *pool, uint32_t member, uint8_t *found)
{
	int gone = !pool->members[member].name[0];

	for (uint32_t other = 0; other < pool->count; other++) { /* what waits for it */
		struct pool_ring *ring = pool_ring(pool, other, member);
		uint32_t end = __atomic_load_n(&ring->produced, __ATOMIC_ACQUIRE);

		pool_pending(pool, ring, found);
		for (uint32_t slot = 0; slot < pool->slots; slot++) {
			if (found[slot] && pool_owner(pool, slot) == POOL_HELD(member))
				pool_own(pool, slot, POOL_SENT(other, member));
			if (gone && found[slot] &&
			    pool_owner(pool, slot) == POOL_SENT(other, member))
				pool_reclaim(pool, slot);
		}
		if (gone)
			__atomic_store_n(&ring->consumed, end, __ATOMIC_RELEASE);
	}
	for (uint32_t slot = 0; slot < pool->slots; slot++)
		if (pool_owner(pool, slot) == POOL_HELD(member))
			pool_reclaim(pool, slot);
	for (uint32_t other = 0; other < pool->count; other++) { /* what is in no ring */
		uint8_t *lost = found + pool->slots;
		uint32_t owner = POOL_SENT(member, other);

		for (uint32_t slot = 0; slot < pool->slots; slot++)
			lost[slot] = pool_owner(pool, slot) == owner;
		pool_pending(pool, pool_ring(pool, member, other), found);
		for (uint32_t slot = 0; slot < pool->slots; slot++)
			if (lost[slot] && !found[slot] && pool_owner(pool, slot) == owner)
				pool_reclaim(pool, slot);
	}
}

/* Be this member. A process of before may be about to end, and others look whether it has. */
static inline int pool_own_byte(const struct pool *pool)
{
	const struct timespec pause = { .tv_nsec = 10000000 };

	for (int i = 0; i < 100; i++, nanosleep(&pause, NULL))
		if (!pool_lock(pool, pool->me, F_WRLCK))
			return 0;
	return -1;
}

/* 0; or -1 with errno: ENOENT, not handed this pool; EAGAIN or EACCES, another process has it. */
static inline int pool_open(struct pool *pool, const char *name)
{
	const char *said = getenv("EBPFMESH_POOLS");
	size_t length = strlen(name), page = 4096, owners, rings, places;
	struct stat memory;
	uint8_t *found;
	char *map;

	for (; said; said = strchr(said, ' ') ? strchr(said, ' ') + 1 : NULL)
		if (!strncmp(said, name, length) && said[length] == ':')
			break;
	errno = ENOENT;
	if (!said || sscanf(said + length, ":%d:%u:%u:%u:%u", &pool->fd, &pool->me, &pool->count,
			    &pool->slots, &pool->bytes) != 5)
		return -1;
	owners = (pool->count * sizeof(struct pool_entry) + page - 1) / page * page;
	rings = owners + (pool->slots * sizeof(uint32_t) + page - 1) / page * page;
	pool->ring = sizeof(struct pool_ring) + pool->slots * sizeof(struct pool_message);
	places = rings + (pool->count * pool->count * pool->ring + page - 1) / page * page;
	if (fstat(pool->fd, &memory) || pool_own_byte(pool))
		return -1;
	map = mmap(NULL, memory.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, pool->fd, 0);
	found = malloc(2 * (size_t)pool->slots);
	if (map == MAP_FAILED || !found)
		return -1;
	pool->members = (void *)map;
	pool->owners = (void *)(map + owners);
	pool->rings = map + rings;
	pool->memory = (uint8_t *)map + places;
	pool->each = pool->slots / pool->count;
	pool->next = pool->turn = 0;
	pool_repair(pool, pool->me, found);
	free(found);
	return 0;
}

/* The number of a member, for pool_send(); -1 if there is none of this name (any more). */
static inline int pool_member(const struct pool *pool, const char *name)
{
	for (uint32_t i = 0; i < pool->count; i++)
		if (*name && !strncmp(pool->members[i].name, name, sizeof(pool->members[i].name)))
			return (int)i;
	return -1;
}

static inline uint32_t pool_take_free(struct pool *pool, struct pool_message *messages,
				      uint32_t most)
{
	uint32_t count = 0, begin = pool->me * pool->each;

	for (uint32_t seen = 0; seen < pool->each && count < most; seen++) {
		uint32_t slot = begin + pool->next;

		pool->next = pool->next + 1 == pool->each ? 0 : pool->next + 1;
		if (pool_owner(pool, slot) != POOL_FREE)
			continue;
		pool_own(pool, slot, POOL_HELD(pool->me));
		messages[count++] = (struct pool_message){ .addr = (uint64_t)slot * pool->bytes };
	}
	return count;
}

/* What members had who are no more. */
static inline void pool_repair_dead(struct pool *pool)
{
	uint8_t *found = malloc(2 * (size_t)pool->slots);

	for (uint32_t i = 0; found && i < pool->count; i++) {
		if (i == pool->me || pool_lock(pool, i, F_WRLCK))
			continue;
		pool_repair(pool, i, found);
		pool_lock(pool, i, F_UNLCK);
	}
	free(found);
}

/* Up to `most` free places; 0 where there is none, also after so many milliseconds (-1: for ever). */
static inline uint32_t pool_take(struct pool *pool, struct pool_message *messages, uint32_t most,
				 int milliseconds)
{
	int64_t end = milliseconds < 0 ? INT64_MAX : milliseconds ? pool_clock() + milliseconds : 0;
	uint32_t *word = &pool->members[pool->me].hungry, count;

	if ((count = pool_take_free(pool, messages, most)) || !most)
		return count;
	do {
		pool_repair_dead(pool);
		__atomic_store_n(word, 1, __ATOMIC_SEQ_CST);
	} while (!(count = pool_take_free(pool, messages, most)) && end && pool_sleep(word, end));
	__atomic_store_n(word, 0, __ATOMIC_SEQ_CST);
	return count;
}

static inline void pool_send(struct pool *pool, uint32_t to, const struct pool_message *messages,
			     uint32_t count)
{
	struct pool_ring *ring = pool_ring(pool, pool->me, to);
	uint32_t at = ring->produced;

	for (uint32_t i = 0; i < count; i++) {
		pool_own(pool, messages[i].addr / pool->bytes, POOL_SENT(pool->me, to));
		ring->entries[at++ & (pool->slots - 1)] = messages[i];
	}
	__atomic_store_n(&ring->produced, at, __ATOMIC_RELEASE);
	pool->members[pool->me].sent += count;
	pool_wake(&pool->members[to].sleeps);
}

static inline void pool_free(struct pool *pool, const struct pool_message *messages, uint32_t count)
{
	uint32_t before = UINT32_MAX;

	for (uint32_t i = 0; i < count; i++)
		pool_own(pool, messages[i].addr / pool->bytes, POOL_FREE);
	for (uint32_t i = 0; i < count; i++) { /* neighbours have mostly the same owner */
		uint32_t home = messages[i].addr / pool->bytes / pool->each;

		if (home != before && home < pool->count)
			pool_wake(&pool->members[home].hungry);
		before = home;
	}
}

/* What is good of the next messages of one sender. */
static inline uint32_t pool_taken(struct pool *pool, uint32_t sender, struct pool_message *messages,
				  uint32_t most)
{
	struct pool_ring *ring = pool_ring(pool, sender, pool->me);
	struct pool_entry *own = &pool->members[pool->me];
	uint32_t at = ring->consumed, left = pool_waiting(ring), count = 0;

	if (left > pool->slots) { /* whoever wrote this has another header */
		own->malformed++;
		at += left;
		left = 0;
	}
	for (left = left < most ? left : most; left; left--) {
		struct pool_message one = pool_read(pool, ring, at++);
		uint64_t slot = one.addr / pool->bytes;

		if (slot >= pool->slots || one.addr % pool->bytes + one.len > pool->bytes ||
		    pool_owner(pool, slot) != POOL_SENT(sender, pool->me)) {
			own->malformed++;
			continue;
		}
		pool_own(pool, slot, POOL_HELD(pool->me));
		messages[count++] = one;
	}
	__atomic_store_n(&ring->consumed, at, __ATOMIC_RELEASE);
	own->received += count;
	return count;
}

/* Up to `most` messages of one sender; 0 after so many milliseconds without any (-1: for ever). */
static inline uint32_t pool_receive(struct pool *pool, struct pool_message *messages, uint32_t most,
				    int milliseconds)
{
	int64_t end = milliseconds < 0 ? INT64_MAX : milliseconds ? pool_clock() + milliseconds : 0;
	uint32_t *word = &pool->members[pool->me].sleeps, count, asleep = 0;

	for (;;) {
		for (uint32_t i = 0; i < pool->count; i++) {
			pool->turn = pool->turn + 1 < pool->count ? pool->turn + 1 : 0;
			if ((count = pool_taken(pool, pool->turn, messages, most))) {
				if (asleep)
					__atomic_store_n(word, 0, __ATOMIC_RELAXED);
				return count;
			}
		}
		if (!end || (asleep && !pool_sleep(word, end)))
			break;
		__atomic_store_n(word, asleep = 1, __ATOMIC_SEQ_CST); /* and look once more */
	}
	__atomic_store_n(word, 0, __ATOMIC_RELAXED);
	return 0;
}
#endif
