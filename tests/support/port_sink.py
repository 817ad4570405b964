# SPDX-License-Identifier: BSD-2-Clause
"""Take packets by a port and touch each, a batch at a time."""

from ebpfmesh.port import Port

total = 0
for batch in Port().receive():
    total += int(batch.read(46, "u1").sum())
