# SPDX-License-Identifier: BSD-2-Clause
"""Take 64-byte UDP frames by a port and look at each, a batch at a time: consume.py PORT FILE.

How many came to PORT is written to the first eight bytes of FILE after each batch.
"""

import sys

import numpy as np

from ebpfmesh.port import Port

DEST_PORT = 36
"""Where it is in a frame of IPv4 without options."""

wanted = int(sys.argv[1])
total = np.memmap(sys.argv[2], np.uint64, "r+", shape=(1,))
for batch in Port().receive():
    total[0] += np.uint64(np.count_nonzero(batch.read(DEST_PORT, ">u2") == wanted))
