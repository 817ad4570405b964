# SPDX-License-Identifier: BSD-2-Clause
"""Functions with AF_XDP: what their interfaces could not give to their commands."""

from pathlib import Path

from ebpfmesh.kernel import xsk
from ebpfmesh.state.place import port_pins
from ebpfmesh.state.record import FunctionRow


def lost(row: FunctionRow) -> int:
    """Packets that were dropped as RING_FULL, since the function is there; 0 for others."""
    if row.function.datapath != "af_xdp":
        return 0
    return xsk.lost(row.attachment.interface, Path(row.attachment.netns), port_pins(row))
