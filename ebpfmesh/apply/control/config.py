# SPDX-License-Identifier: BSD-2-Clause
"""mesh_config, the one record that every packet reads, and the epoch in it."""

import ctypes
import math
from typing import Literal

from ebpfmesh import _abi
from ebpfmesh.apply.control.tenants import Tenants
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import clock
from ebpfmesh.kernel.keys import packed
from ebpfmesh.kernel.maps import Maps, tenant_ids
from ebpfmesh.state.tables import Entry
from ebpfmesh.state.writer import Writer

_TIMEOUTS = [one.name.lower() for one in _abi.Timeout if one is not _abi.Timeout.MESH_TIMEOUTS]
_ONLY = ctypes.c_uint32(0)  # key of mesh_config
DEPTHS = 32  # more than there are: shape * DEPTHS + depth is one number


class Config:
    """The maps of one mesh with what holds for all its flows, and since when."""

    def __init__(self, maps: Maps, record: Writer) -> None:
        self.maps = maps
        self.record = record
        self._limits = record.limits()
        self.tenants = Tenants(maps, record)

    def commit(self) -> None:
        """Have every flow judged again with its next packet, by what the maps say now.

        What is called by a name that nothing uses any more is free for others after that.
        """
        gone = self.record.forget_ids()
        config = self._config()
        base = self.record.base()
        self.tenants.draw_rooms()
        # 0 would be no epoch, and the first bit says that it is not for the fast path.
        config.judged = config.judged % (_abi.EPOCH_SLOW - 1) + 1
        config.epoch = 0 if config.events & _abi.EventKind.VERDICT else config.judged
        config.tenants = tenant_ids(self._limits)
        config.inverse, config.shift = inverse(config.tenants)
        config.service_depths = self.record.service_depths()
        config.timeouts[:] = [ticks(getattr(base.timeouts, key)) for key in _TIMEOUTS]
        config.depths[:] = [0] * len(config.depths)
        for number in self.record.shapes():
            config.depths[number // DEPTHS] |= 1 << number % DEPTHS
        config.reject = base.reject
        config.hairpin4 = int(base.prefix4.network_address)
        config.hairpin6[:] = list(packed(base.prefix6.network_address).word)
        config.masquerade = any(row.uplink.masquerade for row in self.record.uplinks())
        self.maps.config.set(_ONLY, config)
        for tenant in gone:
            self.tenants.forget(tenant)

    def make_room(self, kind: Literal["function", "tenant"], *names: str) -> None:
        """Have an id for each name; where all are given, those that this change has freed."""
        new = sum(self.record.find_id(kind, name) is None for name in {*names})
        limit = self._limits.functions if kind == "function" else tenant_ids(self._limits) - 1
        if new and self.record.count_ids(kind) + new > limit:
            self.commit()
            if self.record.count_ids(kind) + new > limit:
                what = f"no room for {kind} {', '.join(names)}"
                raise MeshError(what, hint=f"raise limits.{kind}s under [mesh]")

    def tenant(self, name: str) -> int:
        """The id of a tenant, which has its room."""
        self.make_room("tenant", name)
        number = self.record.id_of("tenant", name)
        self.tenants.give_room(number)
        return number

    def _config(self) -> _abi.Config:
        """What is there now; others write ``events`` and ``snap``."""
        return self.maps.config.get(_ONLY) or _abi.Config()

    def look_deeper(self, service_depths: int, entries: list[Entry]) -> None:
        """Have the programs look for what is about to be written, without judging anew."""
        config = self._config()
        before = bytes(config)
        config.service_depths |= service_depths
        for entry in entries:
            config.depths[entry.shape // DEPTHS] |= 1 << entry.shape % DEPTHS
        if bytes(config) != before:
            self.maps.config.set(_ONLY, config)


def inverse(number: int) -> tuple[int, int]:
    """What to multiply by, and then to shift by, instead of dividing by ``number``.

    Exact for whatever times ``number`` is below 2^31 times its highest bit, as meters are. The
    multiplier has 32 bits (Granlund and Montgomery, PLDI 1994).
    """
    shift = 31 + number.bit_length() - 1
    return -(-(1 << shift) // number), shift


def ticks(seconds: int) -> int:
    """Seconds in the unit of the programs' clock: a jiffy without its last bits, rounded up."""
    return math.ceil(seconds * clock.hz() / (1 << _abi.TICK_SHIFT))
