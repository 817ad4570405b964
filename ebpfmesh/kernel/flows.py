# SPDX-License-Identifier: BSD-2-Clause
"""The table of flows read as a whole: those that live, and how long an entry does."""

import ctypes
import functools
import socket
import struct
from collections import Counter
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from ebpfmesh import _abi
from ebpfmesh.kernel import clock
from ebpfmesh.kernel.maps import FLOWS, Maps


class Living(NamedTuple):
    """Flows of a protocol between two interfaces, 0 is the outside; ``seen`` in the same tick."""

    protocol: int
    sender: int
    receiver: int
    flags: int
    seen: int
    entries: int


def living(maps: Maps) -> Iterator[Living]:
    """All flows that are not over yet by their timeouts, as who began them sends."""
    config = maps.config.get(ctypes.c_uint32(0)) or _abi.Config()
    now, timeouts = clock.now(), tuple(config.timeouts)
    for (origin, output, flags, seen), count in _alike(maps).items():
        passed = (now - seen) & 0xFFFFFFFF
        lives = passed >= 1 << 31 or passed <= timeouts[_timeout(origin & 0xFF, flags)]
        if lives and not flags & _abi.FlowFlag.REPLY:
            receiver = output & (1 << _abi.IFINDEX_BITS) - 1
            yield Living(origin & 0xFF, origin >> 8, receiver, flags, seen, count)


def translated(maps: Maps) -> dict[int, Counter[tuple[int, int, int]]]:
    """Flows that functions have by the address of an uplink and that live: how many to each peer.

    By the index of the uplink; a peer is a protocol, an address and a port (0 of ICMP).
    """
    config = maps.config.get(ctypes.c_uint32(0)) or _abi.Config()
    now, timeouts = clock.now(), tuple(config.timeouts)
    both = _abi.FlowFlag.REPLY | _abi.FlowFlag.NAT_DST
    found: dict[int, Counter[tuple[int, int, int]]] = {}
    for keys, values in maps["mesh_flow4"].batches():
        shape = maps["mesh_flow4"].spec.value
        flags, seen = _column(values, shape, "flags", "H"), _column(values, shape, "seen", "I")
        for at, (flag, tick) in enumerate(zip(flags, seen, strict=True)):
            if flag & both != both:
                continue
            key = _abi.Flow4Key.from_buffer_copy(keys, at * ctypes.sizeof(_abi.Flow4Key))
            protocol, passed = key.origin & 0xFF, (now - tick) & 0xFFFFFFFF
            if passed >= 1 << 31 or passed <= timeouts[_timeout(protocol, flag)]:
                port = 0 if protocol == socket.IPPROTO_ICMP else key.source_port
                peers = found.setdefault(key.origin >> 8, Counter())
                peers[protocol, key.source, port] += 1
    return found


def _alike(maps: Maps) -> Counter[tuple[int, int, int, int]]:
    """How many entries have the same origin, output, flags and tick of their last packet.

    Sorted out without a step of Python for each: there may be millions.
    """
    found: Counter[tuple[int, int, int, int]] = Counter()
    for name in FLOWS:
        table = maps[name]
        key, value = table.spec.key, table.spec.value
        for keys, values in table.batches():
            found.update(
                zip(
                    _column(keys, key, "origin", "I"),
                    _column(values, value, "output", "I"),
                    _column(values, value, "flags", "H"),
                    _column(values, value, "seen", "I"),
                    strict=True,
                )
            )
    return found


def _column(raw: bytes, shape: type[ctypes.Structure], field: str, kind: Literal["H", "I"]) -> Any:
    """A field of all structures that stand one after the other; CountedFlow begins with a Flow."""
    at = getattr(_abi.Flow if shape is _abi.CountedFlow else shape, field).offset
    width = struct.calcsize(kind)
    return memoryview(raw).cast(kind)[at // width :: ctypes.sizeof(shape) // width]


def timeout_of(protocol: int, flow: _abi.Flow) -> _abi.Timeout:
    """Which timeout an entry has (flow_timeout() of bpf/lib/flow.h)."""
    if protocol == socket.IPPROTO_UDP:
        return _abi.Timeout.UDP
    if protocol != socket.IPPROTO_TCP:
        return _abi.Timeout.ICMP
    if flow.flags & _abi.FlowFlag.CLOSING:
        return _abi.Timeout.CLOSING
    half = flow.flags & _abi.FlowFlag.HALF
    return _abi.Timeout.HANDSHAKE if half else _abi.Timeout.ESTABLISHED


@functools.cache
def _timeout(protocol: int, flags: int) -> int:
    return timeout_of(protocol, _abi.Flow(flags=flags))
