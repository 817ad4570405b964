# SPDX-License-Identifier: BSD-2-Clause
"""The mesh's maps: created with the sizes of its limits, checked before use, read as ctypes.

A pin is opened only after its type, sizes and entries were compared with ``ebpfmesh._abi``: the
kernel and BCC would take any other layout in silence and overrun it.
"""

import ctypes
from collections.abc import Iterator
from typing import Any, Generic, NamedTuple, TypeVar

from ebpfmesh import _abi
from ebpfmesh.errors import AbiMismatch, NotFound
from ebpfmesh.kernel import bpf, rooms
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import UPLINKS, Limits

NO_PREALLOC = 1
CALL_SLOTS = 8
DROP_ENTRIES = 65536  # a bound; entries exist once something was dropped
TARGETS = 4096  # of all injected programs
FLOWS = ("mesh_flow4", "mesh_flow6")

K = TypeVar("K")
V = TypeVar("V")


class Map(Generic[K, V]):
    """An open map whose keys and values are the ctypes of its row in ``_abi.MAPS``."""

    def __init__(self, fd: bpf.Fd, spec: _abi.MapSpec) -> None:
        self.fd = fd
        self.spec = spec
        self.per_cpu = spec.kind.startswith("percpu")
        self._key_size, _ = _sizes(spec)
        self._value_size = _value_size(spec)

    def get(self, key: K) -> V | None:
        """The value of a key. Of a per-CPU map: the sum of all CPUs, field by field."""
        raw = bpf.map_lookup(self.fd, bytes(key), self._value_size)  # type: ignore[call-overload]
        return None if raw is None else self._value(raw)

    def set(self, key: K, value: V) -> None:
        """Set a key. Of a per-CPU map: on every CPU."""
        raw = bytes(value) * (bpf.possible_cpus() if self.per_cpu else 1)  # type: ignore[call-overload]
        bpf.map_update(self.fd, bytes(key), raw)  # type: ignore[call-overload]

    def delete(self, key: K) -> bool:
        """Delete a key; False if it was not there."""
        return bpf.map_delete(self.fd, bytes(key))  # type: ignore[call-overload]

    def items(self) -> Iterator[tuple[K, V]]:
        """Every key with its value; per-CPU values are summed."""
        for key, raw in bpf.map_items(self.fd, self._key_size, self._value_size):
            yield self.spec.key.from_buffer_copy(key), self._value(raw)  # type: ignore[attr-defined]

    def filled(self) -> Iterator[tuple[K, V]]:
        """Every key whose value is not all zeros: what is used of an array."""
        nothing = bytes(self._value_size)
        for key, raw in bpf.map_items(self.fd, self._key_size, self._value_size):
            if raw != nothing:
                yield self.spec.key.from_buffer_copy(key), self._value(raw)  # type: ignore[attr-defined]

    def slots(self, count: int) -> bpf.Slots:
        """A reader of neighbouring slots of an array; each CPU's value is on its own."""
        return bpf.Slots(self.fd, count, self._value_size)

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        """All keys and all values, many at a time, as they are in memory."""
        return bpf.map_batches(self.fd, self._key_size, self._value_size)

    def count(self) -> int:
        """Number of entries that are there."""
        return sum(1 for _ in bpf.map_items(self.fd, self._key_size, self._value_size))

    def _value(self, raw: bytes) -> V:
        shape: Any = self.spec.value
        if not self.per_cpu:
            value: V = shape.from_buffer_copy(raw)
            return value
        total, width = shape(), self._value_size // bpf.possible_cpus()
        for start in range(0, len(raw), width):
            part = shape.from_buffer_copy(raw, start)
            for name, _ in shape._fields_:
                setattr(total, name, getattr(total, name) + getattr(part, name))
        result: V = total
        return result


class Maps:
    """All maps of a mesh, opened and checked when first asked for."""

    def __init__(self, pins: Pins) -> None:
        self._pins = pins
        self._open: dict[str, Map[Any, Any]] = {}

    def __getitem__(self, name: str) -> Map[Any, Any]:
        if name not in self._open:
            spec = next(spec for spec in _abi.MAPS if spec.name == name)
            self._open[name] = _open(self._pins, *_layouts(spec))
        return self._open[name]

    def close(self) -> None:
        """Close those that were opened."""
        while self._open:
            self._open.popitem()[1].fd.close()

    @property
    def config(self) -> Map[ctypes.c_uint32, _abi.Config]:
        """The one record read by every packet."""
        return self["mesh_config"]

    @property
    def count_flows(self) -> bool:
        """Whether the values of FLOWS are ``_abi.CountedFlow``, not ``_abi.Flow``."""
        return self[FLOWS[0]].spec.value is _abi.CountedFlow

    def check(self) -> None:
        """Raise NotFound or AbiMismatch unless every map is there and as this version has it."""
        for spec in _abi.MAPS:
            self[spec.name]

    def memory(self) -> dict[str, int]:
        """Bytes the kernel holds for each map, as it accounts them itself."""
        return {spec.name: bpf.map_memory(self[spec.name].fd) for spec in _abi.MAPS}


def create_maps(pins: Pins, limits: Limits, *, count_flows: bool = False) -> bool:
    """Create and pin every map that is not pinned yet; check those that are.

    With ``count_flows`` entries of flows have room for what is counted of each.
    True if there were none, or some were missing: programs that are there use other maps then.
    """
    entries, created = _entries(limits), False
    for declared in _abi.MAPS:
        spec = _layouts(declared)[-1] if count_flows else declared
        path = pins.maps / spec.name
        if path.exists():
            with _open(pins, spec).fd as fd:
                _check_entries(spec, bpf.map_info(fd).max_entries, entries[spec.entries])
            continue
        flags = NO_PREALLOC if spec.name in LAZY else 0
        kind, sizes = bpf.MAP_TYPE[spec.kind], _sizes(spec)
        inner = INNER[spec.name].create(1) if spec.name in INNER else None
        made = bpf.map_create(kind, spec.name, *sizes, entries[spec.entries], flags, inner=inner)
        with made as fd:
            bpf.obj_pin(fd, path)
        created = True
    return created


class Inner(NamedTuple):
    """Maps that a map of maps holds; they differ in their sizes alone, which a hash always may."""

    name: str
    kind: str
    key: type
    value: type
    flags: int = 0

    def create(self, entries: int) -> bpf.Fd:
        """One, pinned nowhere."""
        sizes = ctypes.sizeof(self.key), ctypes.sizeof(self.value)
        return bpf.map_create(bpf.MAP_TYPE[self.kind], self.name, *sizes, entries, self.flags)


INNER = {
    "mesh_deny_bits": Inner("mesh_filter", "array", ctypes.c_uint32, _abi.DenyWord, bpf.MAP_INNER),
    "mesh_deny4": Inner("mesh_denied4", "hash", _abi.Deny4Key, _abi.Denied),
    "mesh_deny6": Inner("mesh_denied6", "hash", _abi.Deny6Key, _abi.Denied),
    "mesh_deny4_trie": Inner("mesh_denied4", "lpm_trie", _abi.Deny4Key, _abi.Denied, NO_PREALLOC),
    "mesh_deny6_trie": Inner("mesh_denied6", "lpm_trie", _abi.Deny6Key, _abi.Denied, NO_PREALLOC),
}
"""What maps of maps hold."""
LAZY = frozenset(
    {"mesh_policy", "mesh_service", "mesh_address", "mesh_iface", "mesh_drops", "mesh_prefix"}
    | {"mesh_local", "mesh_socket", "mesh_datagrams", "mesh_target", "mesh_refused"}
)


LOCALS = 1024
"""Addresses of the host's own that are known, at most."""


def maglev_rows(limits: Limits) -> int:
    """Rows of mesh_maglev: two tables of one row for each service, and some for larger ones."""
    return 2 * limits.services + 256


def tenant_ids(limits: Limits) -> int:
    """How many ids of tenants there are, the outside's among them: a change has old and new."""
    return 2 * limits.tenants + 1


def _entries(limits: Limits) -> dict[str, int]:
    """Entries of each map, by the word that stands for them in mesh_maps.h. Id 0 is the outside."""
    functions = limits.functions + 1
    return {
        "0": 0,
        "1": 1,
        "functions": functions,
        "interfaces": functions + UPLINKS,
        "uplinks": UPLINKS,
        "locals": LOCALS,
        "addresses": 2 * (functions + limits.services),
        "services": 2 * limits.services,
        "maglev_rows": maglev_rows(limits),
        "rules": 2 * limits.rules,  # a change adds the new before it removes the old
        "flows": 2 * (limits.flows + limits.half_open),  # one each way
        "fragments": limits.fragments,
        "slots": sum(rooms.sizes(limits).values()),
        "rooms": _abi.RoomKind.MESH_ROOMS * tenant_ids(limits),
        "prefixes": 2 * limits.prefixes,  # as rules
        "events": _abi.EVENT_BYTES,
        "tenant_ids": tenant_ids(limits),
        "counts": len(_abi.Count),
        "calls": CALL_SLOTS,
        "chain_slots": _abi.CHAIN_SLOTS,
        "targets": TARGETS,
        "programs": _abi.PROGRAMS,
        "meters": functions * tenant_ids(limits),
        "drops": DROP_ENTRIES,
        "reasons": len(_abi.Reason),
        "deny_lists": _abi.DENY_LISTS,
        "rates": 2 * (functions + tenant_ids(limits)),
    }


def _layouts(spec: _abi.MapSpec) -> tuple[_abi.MapSpec, ...]:
    """What a map may be: as declared; or wider, in a mesh that counts its flows."""
    return (spec, spec._replace(value=_abi.CountedFlow)) if spec.name in FLOWS else (spec,)


def _sizes(spec: _abi.MapSpec) -> tuple[int, int]:
    """Bytes of a key and of a value."""
    if spec.kind == "ringbuf":
        return 0, 0
    return ctypes.sizeof(spec.key), ctypes.sizeof(spec.value)


def _value_size(spec: _abi.MapSpec) -> int:
    _, size = _sizes(spec)
    return -(-size // 8) * 8 * bpf.possible_cpus() if spec.kind.startswith("percpu") else size


def _open(pins: Pins, spec: _abi.MapSpec, *others: _abi.MapSpec) -> Map[Any, Any]:
    """A map that is as ``spec`` says, or one of the ``others``."""
    path = pins.maps / spec.name
    try:
        fd = bpf.obj_get(path)
    except FileNotFoundError:
        pins.check()
        raise NotFound(
            f"mesh {pins.mesh} is not up: no {path}", hint="start it: ebpfmesh up FILE"
        ) from None
    info = bpf.map_info(fd)
    found = (info.type, info.key_size, info.value_size)
    for one in (spec, *others):
        if found == (bpf.MAP_TYPE[one.kind], *_sizes(one)):
            return Map(fd, one)
    fd.close()
    wanted = (bpf.MAP_TYPE[spec.kind], *_sizes(spec))
    raise AbiMismatch(
        f"{path}: type, key and value are {found}, this version uses {wanted}",
        hint=f"take the mesh down first: ebpfmesh --mesh {pins.mesh} down",
    )


def _check_entries(spec: _abi.MapSpec, found: int, wanted: int) -> None:
    if found != wanted:
        raise AbiMismatch(
            f"map {spec.name} has {found} entries, the limits ask for {wanted}",
            hint="sizes cannot change while a mesh is up: ebpfmesh down, then up",
        )
