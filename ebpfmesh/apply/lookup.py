# SPDX-License-Identifier: BSD-2-Clause
"""Where the processes of a function run; only looked up, so that nobody's change is waited for."""

import contextlib
from pathlib import Path

from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import netns
from ebpfmesh.runtime.home import Home
from ebpfmesh.runtime.probe import Inside
from ebpfmesh.runtime.sandbox import Sandbox
from ebpfmesh.state.files import RUN
from ebpfmesh.state.place import cgroup_of, check_place, hosts_file
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import FunctionRow


def home(mesh: str, name: str) -> Home:
    """Where a function's processes run; NotFound if there is no such function or namespace."""
    with contextlib.closing(Record(mesh)) as record:
        check_place(record)
        return home_in(record, name)


def sandbox(mesh: str, name: str) -> Sandbox | None:
    """What a function's command runs in; None if it has none, as it is with what others started."""
    with contextlib.closing(Record(mesh)) as record:
        check_place(record)
        row, *_ = functions(record, name)
        return Sandbox(mesh, row.function) if row.function.sandboxed else None


def inside(record: Record, name: str) -> Inside:
    """A function, to be probed; NotFound if there is no such function or namespace."""
    row, *_ = functions(record, name)
    own = Sandbox(record.mesh, row.function) if row.function.sandboxed else None
    return Inside(row.function, home_in(record, name), own)


def home_in(record: Record, name: str) -> Home:
    """As ``home``, by an open record."""
    row, *others = functions(record, name)
    if others or row.function.name != name:
        names = ", ".join(one.function.name for one in (row, *others))
        raise UsageError(f"{name} is a group of functions", hint=f"name one: {names}")
    path = Path(row.attachment.netns)
    if row.attachment.netns_inode not in (0, netns.inode(path)):
        what = f"function {name}: the namespace at {path} is another one now"
        raise NotFound(what, hint="ebpfmesh gc, then up or attach again")
    return Home(path, cgroup_of(record, name), hosts_file(record), RUN)


def functions(record: Record, name: str) -> tuple[FunctionRow, ...]:
    """A function, or those of a group; NotFound if there is none of this name."""
    names = record.group(name) or (name,)
    rows = tuple(row for one in names if (row := record.function(one)))
    if not rows:
        known = ", ".join(r.function.name for r in record.functions()) or "none"
        hint = f"known: {known}"
        if record.uplink(name):
            hint = "it is an uplink: ebpfmesh detach --uplink, show uplinks"
        elif record.remote(name):
            hint = "it is a remote: ebpfmesh remote del, show remotes"
        raise NotFound(f"there is no function {name} in mesh {record.mesh}", hint=hint)
    return rows
