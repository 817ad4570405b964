/* SPDX-License-Identifier: BSD-2-Clause */
/*
 * Messages of 1 KiB and of 64 KiB, by a pool and by TCP: `pool_speed sink`, `pool_speed source ADDRESS
 * SMALL LARGE`, with how many of each. The source makes each message, the sink reads all of it. A signal
 * has the source send: USR1 and USR2 by the pool, HUP and WINCH by TCP, small and large ones. Both say
 * NAME, MESSAGES, nanoseconds by the wall from the first to the last, nanoseconds of their CPU time.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <poll.h>
#include <signal.h>

#include "ebpfmesh_pool.h"

#define BATCH 32
#define PORT 9

enum { SMALL, LARGE, SIZES };
static const char *const names[SIZES] = { "small", "large" };
static const uint32_t sizes[SIZES] = { 1024, 65536 };
static struct pool pools[SIZES];
static uint64_t counts[SIZES], sum;
static uint8_t buffer[1 << 18] __attribute__((aligned(64)));

static uint64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * 1000000000ull + time.tv_nsec;
}

static void say(const char *how, int kind, uint64_t count, uint64_t wall, uint64_t cpu)
{
	printf("%s-%s %lu %lu %lu\n", how, names[kind], (unsigned long)count,
	       (unsigned long)(now(CLOCK_MONOTONIC) - wall),
	       (unsigned long)(now(CLOCK_PROCESS_CPUTIME_ID) - cpu));
	fflush(stdout);
}

static void consume(const uint8_t *place, size_t size)
{
	const uint64_t *words = (const void *)place;

	for (size_t i = 0; i < size / sizeof(*words); i++)
		sum += words[i];
}

static void source_pool(int kind)
{
	struct pool *pool = &pools[kind];
	struct pool_message some[BATCH];
	int to = pool_member(pool, "sink");

	for (uint64_t sent = 0; sent < counts[kind];) {
		uint64_t left = counts[kind] - sent;
		uint32_t count = pool_take(pool, some, left < BATCH ? left : BATCH, -1);

		for (uint32_t i = 0; i < count; i++) {
			memset(pool->memory + some[i].addr, (int)(sent + i), sizes[kind]);
			some[i].len = sizes[kind];
			some[i].tag = sent + i + 1 == counts[kind]; /* the last */
		}
		pool_send(pool, to, some, count);
		sent += count;
	}
}

static void source_tcp(int kind, const char *address)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(PORT + kind) };
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	inet_pton(AF_INET, address, &to.sin_addr);
	if (connect(fd, (struct sockaddr *)&to, sizeof(to)))
		exit(1);
	for (uint64_t sent = 0; sent < counts[kind]; sent++) {
		memset(buffer, (int)sent, sizes[kind]);
		for (size_t at = 0; at < sizes[kind];) {
			ssize_t done = write(fd, buffer + at, sizes[kind] - at);

			if (done <= 0)
				exit(1);
			at += done;
		}
	}
	close(fd);
}

static void source(const char *address)
{
	const int numbers[] = { SIGUSR1, SIGUSR2, SIGHUP, SIGWINCH };
	sigset_t set;
	int number;

	sigemptyset(&set);
	for (int i = 0; i < 4; i++)
		sigaddset(&set, numbers[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
	puts("waits");
	fflush(stdout);
	while (!sigwait(&set, &number)) {
		uint64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID);
		int kind = number == SIGUSR2 || number == SIGWINCH ? LARGE : SMALL;
		int by_pool = number == SIGUSR1 || number == SIGUSR2;

		if (by_pool)
			source_pool(kind);
		else
			source_tcp(kind, address);
		say(by_pool ? "pool" : "tcp", kind, counts[kind], wall, cpu);
	}
}

/* A process for each way: one sleeps while the other works. */
static void sink_pool(int kind)
{
	struct pool *pool = &pools[kind];
	struct pool_message some[BATCH];
	uint64_t wall = 0, cpu = 0, seen = 0;

	if (pool_open(pool, names[kind]))
		exit(1);
	for (int last = 0;; last = 0) {
		uint32_t count = pool_receive(pool, some, BATCH, -1);

		if (!seen) {
			wall = now(CLOCK_MONOTONIC);
			cpu = now(CLOCK_PROCESS_CPUTIME_ID);
		}
		for (uint32_t i = 0; i < count; i++) {
			consume(pool->memory + some[i].addr, some[i].len);
			last |= some[i].tag;
		}
		pool_free(pool, some, count);
		seen += count;
		if (last) {
			say("pool", kind, seen, wall, cpu);
			seen = 0;
		}
	}
}

static void sink_tcp(int kind)
{
	struct sockaddr_in own = { .sin_family = AF_INET, .sin_port = htons(PORT + kind) };
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&own, sizeof(own)) || listen(fd, 1))
		exit(1);
	for (;;) {
		int from = accept(fd, NULL, NULL);
		uint64_t wall = now(CLOCK_MONOTONIC), cpu = now(CLOCK_PROCESS_CPUTIME_ID), all = 0;
		ssize_t count;

		while ((count = read(from, buffer, sizeof(buffer))) > 0) {
			consume(buffer, count);
			all += count;
		}
		say("tcp", kind, all / sizes[kind], wall, cpu);
		close(from);
	}
}

int main(int words, char **word)
{
	if (words == 5 && !strcmp(word[1], "source")) {
		counts[SMALL] = strtoull(word[3], NULL, 10);
		counts[LARGE] = strtoull(word[4], NULL, 10);
		for (int kind = 0; kind < SIZES; kind++)
			if (pool_open(&pools[kind], names[kind]))
				return 1;
		source(word[2]);
	}
	for (int kind = 0; kind < SIZES; kind++) {
		if (!fork())
			sink_tcp(kind);
		if (!fork())
			sink_pool(kind);
	}
	pause();
	return sum == 1; /* so that it is read */
}
