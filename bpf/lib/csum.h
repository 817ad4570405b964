/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One's complement arithmetic (RFC 1071, 1624). Values in, values out. */
#ifndef MESH_CSUM_H
#define MESH_CSUM_H

#include "lib/context.h"

/* A sum of 16-bit words folded to 16 bits; exact up to 2^32 - 1. */
HOT __u16 csum_fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return sum;
}

/* Sum of the 16-bit words of n 32-bit words. */
HOT __u32 csum_words(const __be32 *words, int n)
{
	__u32 sum = 0;

	for (int i = 0; i < n; i++)
		sum += (words[i] & 0xffff) + (words[i] >> 16);
	return sum;
}

/* Difference made by putting `to` where `from` stood, for csum_apply. */
HOT __u32 csum_difference(const __be32 *from, const __be32 *to, int n)
{
	return csum_fold(csum_words(to, n) + (__u16)~csum_fold(csum_words(from, n)));
}

/* A checksum field after the words under it changed by `difference` (RFC 1624, eqn. 3). */
HOT __sum16 csum_apply(__sum16 check, __u32 difference)
{
	return ~csum_fold((__u16)~check + difference);
}
#endif
