/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The maps that have one entry. */
#ifndef MESH_STATE_H
#define MESH_STATE_H

#include "lib/context.h"

HOT struct mesh_config *mesh_config_get(void)
{
	__u32 zero = 0;

	return mesh_config.lookup(&zero);
}

HOT struct mesh_judgement *mesh_scratch_get(void)
{
	__u32 zero = 0;

	return mesh_scratch.lookup(&zero);
}
#endif
