/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Stands in for the kernel's own linux/kconfig.h, which BCC includes before
 * every program. It lets network programs compile on machines without kernel
 * headers: ebpfmesh/compile/headers.py joins this directory with the user-space
 * headers of linux-libc-dev into the tree that BCC takes for a kernel source.
 *
 * BCC's helpers use a few kernel-only types; they are defined here and nowhere
 * else. Programs of this project use the __uNN and __beNN types.
 */
#ifndef EBPFMESH_UAPI_KCONFIG_H
#define EBPFMESH_UAPI_KCONFIG_H

/*
 * BCC brings a linux/bpf.h of its own, newer than the machine's; this is the guard of
 * the machine's.
 */
#define __LINUX_BPF_H__

#include <linux/types.h>

typedef __s8 s8;
typedef __u8 u8;
typedef __s16 s16;
typedef __u16 u16;
typedef __s32 s32;
typedef __u32 u32;
typedef __s64 s64;
typedef __u64 u64;

typedef _Bool bool;
typedef __SIZE_TYPE__ size_t;
typedef __UINTPTR_TYPE__ uintptr_t;

#define true 1
#define false 0
#define NULL ((void *)0)

#endif /* EBPFMESH_UAPI_KCONFIG_H */
