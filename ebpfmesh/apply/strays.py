# SPDX-License-Identifier: BSD-2-Clause
"""What is attached by a mesh and belongs to nobody of its record, as after damage to that.

What is at an interface of the host's goes, as uplinks leave nothing else. What is at one that may
be a function's stays as long as that is there: nothing is opened here, ``gc`` removes interfaces.
"""

import shutil
from pathlib import Path

from ebpfmesh.apply.frames import put_back
from ebpfmesh.apply.held import Held
from ebpfmesh.kernel import bpf, links
from ebpfmesh.state import remains
from ebpfmesh.state.place import FOUND


def sweep(mesh: Held) -> None:
    """Detach what is of uplinks that are none; forget pins and offloads of functions that went."""
    record = mesh.record
    known = {row.ifindex for row in record.uplinks()}
    for index in remains.uplinks(mesh.name) - known:
        mesh.step(f"programs at interface number {index}")
        links.detach_all(mesh.ip, index, mesh.pins.top)
    functions = {row.function.name for row in record.functions()}
    names = functions | {f"{links.UPLINK_PIN}{row.name}" for row in record.uplinks()}
    for pin in (*mesh.pins.links.glob("*-*gress"), *mesh.pins.links.glob("*-xdp")):
        if pin.name.rpartition("-")[0] not in names and not _is_somewhere(pin):
            pin.unlink(missing_ok=True)
    for place in mesh.pins.ports.glob("*"):
        if place.name not in functions:
            shutil.rmtree(place, ignore_errors=True)
    for file in record.directory.glob(f"*{FOUND}"):
        if file.name.removesuffix(FOUND) not in functions:
            put_back(mesh.ip, file)


def _is_somewhere(pin: Path) -> bool:
    """Whether a link is at an interface that is there."""
    with bpf.obj_get(pin) as held:
        return bpf.is_link(held) and bool(bpf.link_interface(held))
