# SPDX-License-Identifier: BSD-2-Clause
"""Circuit breakers of injected programs: closed when one is put in; packets open them.

All are one value of a map, whose writing may take back what a packet writes in that moment: a
breaker that has opened then does so again when the next window of its program is over.
"""

import ctypes
import time
from collections.abc import Collection

from ebpfmesh import _abi
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.inject import measure
from ebpfmesh.kernel.maps import Maps
from ebpfmesh.model import suggest
from ebpfmesh.state import chains
from ebpfmesh.state.record import Record

ONLY = ctypes.c_uint32(0)  # key of mesh_breaker


class Breakers:
    """The circuit breakers of a mesh."""

    def __init__(self, maps: Maps, record: Record) -> None:
        self._maps = maps
        self._record = record

    def close(self, programs: Collection[int]) -> None:
        """Have programs be met, by ids; what they took until now is forgotten."""
        if not programs:
            return
        clock, now = measure.clock(), time.monotonic_ns()
        for number in programs:
            self._maps["mesh_cost"].set(ctypes.c_uint32(number), _abi.Cost(began=now))
        limits = {one: self._record.program(one).compiled["limit_ns"] for one in programs}
        self._write({n: _abi.Breaker(limit=limit, clock=clock) for n, limit in limits.items()})

    def reset(self, name: str) -> None:
        """Close those that are open of what is injected under a name; UsageError if none is."""
        row = self._record.injection(name)
        if row is None:
            names = [one.injection.name for one in self._record.injections()]
            raise NotFound(f"nothing is injected as {name}", hint=suggest(name, names))
        opened = row.running & chains.opened(self._maps)
        if not opened:
            what = f"the circuit breaker of {name} is not open"
            raise UsageError(what, hint=f"ebpfmesh show injected {name} says what it costs")
        self.close(opened)

    def forget(self, program: int) -> None:
        """Nothing is of this id any more."""
        self._write({program: _abi.Breaker()})
        self._maps["mesh_cost"].set(ctypes.c_uint32(program), _abi.Cost())

    def _write(self, rows: dict[int, _abi.Breaker]) -> None:
        table = self._maps["mesh_breaker"].get(ONLY) or _abi.Breakers()
        for number, row in rows.items():
            table.of[number] = row
        self._maps["mesh_breaker"].set(ONLY, table)
