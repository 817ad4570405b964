# SPDX-License-Identifier: BSD-2-Clause
"""The namespace or interface that the options of attach name."""

from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.errors import UsageError
from ebpfmesh.kernel import interface, netns
from ebpfmesh.runtime import process
from ebpfmesh.state.record import Record


@dataclass(frozen=True)
class Target:
    """What to attach: a namespace, or a host-side interface and the addresses behind it."""

    netns: str | None = None
    iface: str = ""
    addresses: tuple[str, ...] = ()


def find(
    record: Record,
    *,
    namespace: str | None = None,
    pid: int | None = None,
    container: str | None = None,
    iface: str | None = None,
) -> Target:
    """The target that exactly one of these names.

    ``namespace`` is a name or a path, ``pid`` a process in one, ``container`` what podman or
    docker runs, ``iface`` the host side of a veth pair. NotFound if it is not there, UsageError
    if a function of the mesh is there already.
    """
    if sum(given is not None for given in (namespace, pid, container, iface)) != 1:
        hint = "give exactly one of --netns, --pid, --container, --iface and --uplink"
        raise UsageError("it is not clear what to attach", hint=hint)
    if iface is not None:
        with netns.rtnetlink() as ip:
            found = interface.adopt(ip, iface)
        _check_free(record, found.netns)
        return Target(iface=iface, addresses=tuple(map(str, found.addresses)))
    if container is not None:
        pid = process.in_container(container)
    path = netns.of_pid(pid) if pid is not None else netns.find(str(namespace))
    _check_free(record, path)
    return Target(netns=str(path) if pid is not None else namespace)


def _check_free(record: Record, path: Path) -> None:
    name = record.function_in(netns.inode(path))
    row = record.function(name) if name else None
    if row is None or interface.find(row.attachment.interface) != row.attachment.ifindex:
        return  # gone with the namespace that had this inode before
    what = f"function {name} is in that namespace already"
    raise UsageError(what, hint="a namespace holds one function")
