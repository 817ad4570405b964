# SPDX-License-Identifier: BSD-2-Clause
"""Functions that have frames: what their interfaces could not give them, and could not carry."""

from pathlib import Path

from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import offload, xsk
from ebpfmesh.observe.view import View
from ebpfmesh.state.place import port_pins
from ebpfmesh.state.rows import FunctionRow


def lost(row: FunctionRow) -> int:
    """Packets that were dropped as RING_FULL, since the function is there; 0 for others."""
    match row.function.datapath:
        case "af_xdp":
            place = port_pins(row)
            return xsk.lost(row.attachment.interface, Path(row.attachment.netns), place)
        case "xdp":
            return xsk.unsent(row.attachment.interface)
    return 0


def taken(row: FunctionRow) -> bool | None:
    """Whether a process has a function's port; None for a function that is to have none."""
    return xsk.is_taken(port_pins(row)) if row.function.datapath == "af_xdp" else None


def changed(view: View, row: FunctionRow) -> str:
    """Offloads of a function with raw frames that somebody has changed; empty if nobody has."""
    if row.function.datapath != "xdp":
        return ""
    try:
        found = offload.pair(view.ip, row.attachment.ifindex, Path(row.attachment.netns))
    except (NotFound, OSError):  # it is gone, which is told elsewhere
        return ""
    ends = {"its own": found.inner, "the host's": found.host}
    wrong = [f"{one} {what}" for one, what in ends.items() if what != offload.FOR_FRAMES]
    return ", ".join(wrong)
