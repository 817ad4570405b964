# SPDX-License-Identifier: BSD-2-Clause
"""A mesh that is up, opened for looking at it."""

import contextlib
import ctypes
import functools
from collections.abc import Iterator, Sequence
from ipaddress import ip_address

from pyroute2 import IPRoute

from ebpfmesh import _abi
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import interface
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.prefixes import packed
from ebpfmesh.model import Address, groups_of, suggest
from ebpfmesh.state import remains
from ebpfmesh.state.place import check_place
from ebpfmesh.state.record import Record
from ebpfmesh.state.rows import FunctionRow, RemoteRow
from ebpfmesh.state.tables import Kind

OUTSIDE = "outside"
"""Name of id 0: whatever is not a function of the mesh."""


class View:
    """The mesh's record, maps and host namespace; use ``opened``."""

    def __init__(self, record: Record, ip: IPRoute) -> None:
        self.name = record.mesh
        self.record = record
        self.ip = ip
        self.pins = Pins(self.name)
        self.maps = Maps(self.pins)

    @functools.cached_property
    def functions(self) -> tuple[FunctionRow, ...]:
        """Functions of the record, by name; those that are cut short too."""
        return tuple(self.record.functions())

    @functools.cached_property
    def remotes(self) -> tuple[RemoteRow, ...]:
        """Machines beyond uplinks, by name; those that are cut short too."""
        return tuple(self.record.remotes())

    @functools.cached_property
    def down(self) -> frozenset[int]:
        """Host-side interfaces that are down, or whose other end is: what is sent there is lost."""
        return interface.without_carrier(self.ip)

    @functools.cached_property
    def unready(self) -> dict[str, str]:
        """Functions that are not ready, and why."""
        return self.record.unready()

    @functools.cached_property
    def groups(self) -> dict[str, tuple[str, ...]]:
        """The functions of each group."""
        return groups_of(row.function for row in self.functions)

    def named(self, name: str) -> tuple[str, ...]:
        """The function or remote of this name, or those of the group; NotFound if there is none."""
        known = [row.function.name for row in self.functions] + [row.name for row in self.remotes]
        if name in self.groups:
            return self.groups[name]
        if name not in known:
            what = f"there is no function {name} in mesh {self.name}"
            raise NotFound(what, hint=suggest(name, [*self.groups, *known]))
        return (name,)

    def check_service(self, name: str) -> None:
        """Raise NotFound if there is no service of this name."""
        known = [service.name for service in self.record.services()]
        if name not in known:
            what = f"there is no service {name} in mesh {self.name}"
            raise NotFound(what, hint=suggest(name, known))

    def identity(self, text: str) -> str:
        """``text`` as rules have it: ``function:NAME``, ``service:NAME``, ``outside:ADDRESS``.

        A plain name is that of a function, a remote, a group or a service, a plain
        address is whosever it is; what has a kind already stays. NotFound if nothing has the name.
        """
        with contextlib.suppress(ValueError):
            address = ip_address(text)
            owners = self.record.owners(packed(address), packed(address))
            return ":".join(owners[0]) if owners else f"{OUTSIDE}:{address}"
        if ":" in text or text in ("any", OUTSIDE):
            return text
        functions = {*self.groups, *(row.function.name for row in self.functions)}
        functions |= {row.name for row in self.remotes}
        services = {service.name for service in self.record.services()}
        if text in functions & services:
            hint = f"say function:{text} or service:{text}"
            raise UsageError(f"both a function and a service are called {text}", hint=hint)
        if text not in functions | services:
            what = f"neither a function nor a service of mesh {self.name} is called {text}"
            raise NotFound(what, hint=suggest(text, functions | services))
        return f"{'function' if text in functions else 'service'}:{text}"

    @functools.cached_property
    def config(self) -> _abi.Config:
        """What the programs read with every packet."""
        return self.maps.config.get(ctypes.c_uint32(0)) or _abi.Config()

    @functools.cached_property
    def _names(self) -> dict[Kind, dict[int, str]]:
        kinds: tuple[Kind, ...] = ("function", "tenant", "service")
        return {kind: self.record.names(kind) for kind in kinds}

    def name_of(self, kind: Kind, number: int) -> str:
        """Name of an id: ``outside`` for 0, ``#7`` for one that nothing has any more."""
        return self._names[kind].get(number, f"#{number}") if number else OUTSIDE

    @functools.cached_property
    def _interfaces(self) -> dict[int, str]:
        return {
            ifindex.value: self.name_of("function", port.id)
            for ifindex, port in self.maps["mesh_iface"].items()
        }

    def function_at(self, ifindex: int, address: Address | None = None) -> str:
        """Name of the function behind a host-side interface; ``outside`` for 0.

        Behind an uplink it is the remote of this address, or the outside.
        """
        found = self._interfaces.get(ifindex, f"ifindex {ifindex}") if ifindex else OUTSIDE
        return self._beyond.get((ifindex, address), found) if found == OUTSIDE else found

    @functools.cached_property
    def _beyond(self) -> dict[tuple[int, Address | None], str]:
        """Names of remotes by interface and address."""
        places = self.record.places()
        return {
            (places.get(row.remote.uplink, (0, ()))[0], address): row.name
            for row in self.remotes
            for address in row.remote.addresses
        }


@contextlib.contextmanager
def opened(mesh: str) -> Iterator[View]:
    """The mesh, as it is now; NotFound if it is not up, or up in another network namespace."""
    record = Record(mesh)
    try:
        check_place(record)
        view = View(record, ip := IPRoute())
        try:
            view.pins.check()
            yield view
        finally:
            view.maps.close()
            ip.close()
    finally:
        record.close()


def meshes() -> list[str]:
    """Names of all meshes with a record or pins, be it in other network namespaces."""
    return sorted(remains.named())


def left() -> list[str]:
    """Names of the meshes that there is anything of here, be it what a crash left of one."""
    with contextlib.closing(IPRoute()) as ip:
        return sorted(remains.meshes(ip))


def only_mesh(names: Sequence[str] | None = None) -> str:
    """Name of the one mesh there is; NotFound if there is none, UsageError if there are more."""
    names = meshes() if names is None else names
    if not names:
        raise NotFound("no mesh is up", hint="start one: ebpfmesh up FILE")
    if len(names) > 1:
        what = f"there are {len(names)} meshes: {', '.join(names[:8])}"
        raise UsageError(what, hint=f"say which, such as --mesh {names[0]}")
    return names[0]
