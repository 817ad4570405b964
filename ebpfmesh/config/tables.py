# SPDX-License-Identifier: BSD-2-Clause
"""The tables of all files of a mesh, each looked at by itself.

The place of one is the number of its file and what leads to it there.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

from ebpfmesh.config.check import Check
from ebpfmesh.config.file import (
    FunctionTable,
    InjectTable,
    MeshFile,
    MeshTable,
    PolicyTable,
    PoolTable,
    RemoteTable,
    ServiceTable,
    UplinkTable,
)
from ebpfmesh.model import Invalid, Location, Model, Rights
from ebpfmesh.model.base import MANY

_Table = TypeVar("_Table", bound=Model)


@dataclass(frozen=True)
class Tables:
    """The tables that can be understood, by their places, and what is wrong with the others."""

    check: Check
    mesh: MeshTable
    home: int
    """The number of the file that has [mesh]."""
    functions: dict[Location, FunctionTable]
    services: dict[Location, ServiceTable]
    uplinks: dict[Location, UplinkTable]
    remotes: dict[Location, RemoteTable]
    policies: dict[Location, PolicyTable]
    injections: dict[Location, InjectTable]
    rights: dict[Location, Rights]
    pools: dict[Location, PoolTable]
    besides: frozenset[str]
    """Names that stand in the other tables."""

    def add(self, fault: Invalid, at: Location) -> None:
        """Something is wrong ``at`` a place, or inside of it."""
        path = (*at, *fault.path)
        self.check.add(Invalid(fault.message, path=path, hint=fault.hint, other=fault.other))


def read(files: list[dict[str, Any]]) -> Tables:
    """The tables of all files, each looked at by itself."""
    check = Check(MeshFile, files)
    frames = [dict(values) for values in files]
    mesh, home = _mesh_table(check, files, frames)
    functions = _tables(check, "function", FunctionTable, frames)
    services = _tables(check, "service", ServiceTable, frames)
    uplinks = _tables(check, "uplink", UplinkTable, frames)
    remotes = _tables(check, "remote", RemoteTable, frames)
    policies = _tables(check, "policy", PolicyTable, frames)
    injections = _tables(check, "inject", InjectTable, frames)
    rights = _tables(check, "tenant", Rights, frames)
    pools = _tables(check, "pool", PoolTable, frames)
    for number, frame in enumerate(frames):
        check.table(MeshFile, frame, (number,))  # what is left there is the shape of the file
    besides = frozenset(
        table[name]
        for key, made in (
            ("function", functions),
            ("service", services),
            ("uplink", uplinks),
            ("remote", remotes),
        )
        for number, values in enumerate(files)
        for index, table in enumerate(values[key] if isinstance(values.get(key), list) else ())
        for name in ("name", "tenant")
        if (number, key, index) not in made
        and isinstance(table, dict)
        and isinstance(table.get(name), str)
    )
    tables = functions, services, uplinks, remotes, policies, injections, rights, pools
    return Tables(check, mesh, home, *tables, besides)


def _mesh_table(
    check: Check, files: list[dict[str, Any]], frames: list[dict[str, Any]]
) -> tuple[MeshTable, int]:
    """The table [mesh], and in which of the files it is; none other may have one."""
    mesh = MeshTable(name="mesh")
    homes = [number for number, values in enumerate(files) if "mesh" in values] or [0]
    home = homes[0]
    for number in homes[1:]:
        hint = "one file says what holds for the whole mesh"
        at, other = (number, "mesh"), (home, "mesh")
        check.add(Invalid("there are two tables [mesh]", path=at, hint=hint, other=other))
    table = files[home].get("mesh")
    if isinstance(table, dict):
        mesh = check.table(MeshTable, table, (home, "mesh"), name=mesh.name) or mesh
    for number, frame in enumerate(frames):
        if number != home or isinstance(table, dict):
            frame["mesh"] = mesh
    return mesh, home


def _tables(
    check: Check, key: str, model: type[_Table], frames: list[dict[str, Any]]
) -> dict[Location, _Table]:
    """The tables of an array, by their places; they are taken out of the ``frames`` of files.

    Of functions and services no more than one too many: that is told of them anyway.
    """
    found: dict[Location, _Table] = {}
    for number, frame in enumerate(frames):
        if isinstance(frame.get(key), list):
            for index, table in enumerate(frame[key]):
                if check.enough or (key in ("function", "service") and len(found) > MANY):
                    break
                at = (number, key, index)
                if (made := check.table(model, table, at)) is not None:
                    found[at] = made
            frame[key] = ()
    return found
