# SPDX-License-Identifier: BSD-2-Clause
"""What the programs counted: traffic and drops, summed over all CPUs."""

from collections.abc import Iterator
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.observe import ports
from ebpfmesh.observe.view import View

DIRECTIONS = {
    _abi.Direction.FROM_FN: "from function",
    _abi.Direction.TO_FN: "to function",
    _abi.Direction.FROM_UPLINK: "from uplink",
}


@dataclass(frozen=True)
class Meter:
    """What a function (or the outside) sent to and received from one tenant (or the outside)."""

    function: str
    peer_tenant: str
    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int


@dataclass(frozen=True)
class Drop:
    """Packets dropped at a function's interface for one reason; ``audited``: would have been."""

    function: str
    direction: str
    reason: str
    number: int
    text: str
    packets: int
    bytes: int
    audited: bool


def read_meters(view: View) -> list[Meter]:
    """Every meter that is not zero, by function and peer."""
    stride = view.config.tenants
    rows = [
        Meter(
            function=view.name_of("function", slot.value // stride),
            peer_tenant=view.name_of("tenant", slot.value % stride),
            tx_packets=meter.tx_packets,
            tx_bytes=meter.tx_bytes,
            rx_packets=meter.rx_packets,
            rx_bytes=meter.rx_bytes,
        )
        for slot, meter in view.maps["mesh_meter"].filled()
    ]
    return sorted(rows, key=lambda row: (row.function, row.peer_tenant))


def _function(view: View, key: _abi.DropKey) -> str:
    at_uplink = key.direction == _abi.Direction.FROM_UPLINK
    return view.name_of("function", key.function) if key.function or at_uplink else "unknown"


def counted(maps: Maps) -> Iterator[tuple[_abi.DropKey, _abi.Drop]]:
    """What was dropped at tc, and at XDP of uplinks."""
    yield from maps["mesh_drops"].items()
    for reason, drop in maps["mesh_xdp_drops"].filled():
        key = _abi.DropKey(reason=reason.value, direction=_abi.Direction.FROM_UPLINK)
        yield key, drop


def read_drops(view: View) -> list[Drop]:
    """Every reason that was counted, most packets first.

    Of what full rings took no more of, the kernel counts no bytes.
    """
    full = _abi.Reason.RING_FULL
    rows = [
        Drop(row.function.name, DIRECTIONS[_abi.Direction.TO_FN], full.name, full.value,
             _abi.REASON_TEXT[full], packets, 0, audited=False)
        for row in view.functions if (packets := ports.lost(row))
    ]  # fmt: skip
    rows += [
        Drop(
            function=_function(view, key),
            direction=DIRECTIONS[_abi.Direction(key.direction)],
            reason=_abi.Reason(key.reason).name,
            number=key.reason,
            text=_abi.REASON_TEXT[_abi.Reason(key.reason)],
            packets=drop.packets,
            bytes=drop.bytes,
            audited=bool(key.audited),
        )
        for key, drop in counted(view.maps)
    ]
    return sorted(rows, key=lambda row: -row.packets)
