# SPDX-License-Identifier: BSD-2-Clause
"""Volumes that a mesh file gives to a command in vain."""

from collections.abc import Iterable

from ebpfmesh.model import Function
from ebpfmesh.runtime import access
from ebpfmesh.runtime.sandbox import Sandbox


def barred_volumes(mesh: str, functions: Iterable[Function]) -> list[str]:
    """A line for each that the user of its command cannot use; of replicas the first tells."""
    found: dict[tuple[str, str], str] = {}
    for one in functions:
        if one.sandboxed:
            for volume, text in access.barred(Sandbox(mesh, one)):
                found.setdefault((one.group or one.name, volume.source), text)
    return list(found.values())
