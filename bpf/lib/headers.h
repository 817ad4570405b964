/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What every other file here builds upon: packets as the kernel has them, the contract, the maps. */
#ifndef MESH_HEADERS_H
#define MESH_HEADERS_H

#include <uapi/linux/bpf.h>
#include <uapi/linux/if_ether.h>
#include <uapi/linux/in.h>
#include <uapi/linux/in6.h>
#include <uapi/linux/ip.h>
#include <uapi/linux/ipv6.h>
#include <uapi/linux/tcp.h>
#include <uapi/linux/udp.h>
#include <uapi/linux/icmp.h>
#include <uapi/linux/icmpv6.h>
#include <uapi/linux/pkt_cls.h>

#include "include/mesh_maps.h"
#include "lib/context.h"
#endif
