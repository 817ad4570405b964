# SPDX-License-Identifier: BSD-2-Clause
"""Rates as the programs have them: token buckets of bytes and of packets, see lib/rate.h.

A bucket holds ``SECONDS`` of its rate, and never less than a few of the largest packets. A policer
that holds less starves TCP: whoever has lost a whole window waits 200 ms (TCP_RTO_MIN in
linux/include/net/tcp.h), and what the bucket cannot hold of that time is lost to it.
"""

from ebpfmesh import _abi
from ebpfmesh._abi import Direction
from ebpfmesh.model import Function, Limits, Rate

SECONDS = 0.25
LEAST_BYTES = 128 << 10  # two GSO packets
LEAST_PACKETS = 128
NANOSECONDS = 10**9
WAYS = (Direction.FROM_FN, Direction.TO_FN)
"""What a function has a rate for; nothing comes from an uplink that is not for one."""
_RATED = {
    Direction.FROM_FN: _abi.FunctionFlag.RATE_SEND,
    Direction.TO_FN: _abi.FunctionFlag.RATE_RECEIVE,
}


def slot(function: int) -> int:
    """Where the rates of a function begin in mesh_rate, by enum mesh_direction."""
    return 2 * function


def tenant_slot(limits: Limits, tenant: int) -> int:
    """Where those of a tenant do: behind those of all functions."""
    return 2 * (limits.functions + 1 + tenant)


def row(rate: Rate | None, direction: Direction, tenant: int = 0) -> _abi.Rate:
    """A rate one way, whose bucket is full; ``tenant`` is the slot of its tenant's, 0: none."""
    bits, packets = None, None
    if rate:
        sends = direction == Direction.FROM_FN
        bits = rate.send if sends else rate.receive
        packets = rate.send_pps if sends else rate.receive_pps
    return _abi.Rate(
        bytes=_bucket(bits and bits / 8, LEAST_BYTES),
        packets=_bucket(packets, LEAST_PACKETS),
        tenant=tenant,
    )


def _bucket(units: float | None, least: int) -> _abi.Bucket:
    """For so many units a second; rounded so that no more is dropped than must be."""
    if not units:
        return _abi.Bucket()
    cost = int((NANOSECONDS << _abi.RATE_SHIFT) / units)
    return _abi.Bucket(cost=cost, burst=int(max(SECONDS, least / units) * NANOSECONDS))


def rows(
    function: Function | None, shared: Rate | None = None, place: int = 0
) -> dict[Direction, _abi.Rate]:
    """The rates of a function; ``shared`` is that of its tenant, which begins at ``place``."""
    rate = function.rate if function else None
    return {
        one: row(rate, one, place + one if any(_fixed(row(shared, one))) else 0) for one in WAYS
    }


def flags(function: Function, shared: Rate | None) -> int:
    """The flags of a function's record."""
    found = _abi.FunctionFlag.AUDIT if function.audit else 0
    found |= _abi.FunctionFlag.XDP if function.has_frames else 0
    for one, flag in _RATED.items():
        limited = any(any(_fixed(row(rate, one))) for rate in (function.rate, shared))
        found |= flag if limited else 0
    return found


def alike(old: _abi.Rate, new: _abi.Rate) -> bool:
    """Whether two rates are the same, however full their buckets are."""
    return _fixed(old) == _fixed(new)


def _fixed(rate: _abi.Rate) -> tuple[int, ...]:
    both = (rate.bytes, rate.packets)
    return (*(number for one in both for number in (one.cost, one.burst)), rate.tenant)
