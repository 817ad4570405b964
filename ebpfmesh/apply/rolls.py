# SPDX-License-Identifier: BSD-2-Clause
"""A command that takes the place of another in a function that stays: with no request lost.

The function gets no new flows of services, those it has may end, its command is asked to, the new
one is started, and once it is ready new flows come back. One function after the other: its services
go on with the others, which must be ready for it. Undone the same way.
"""

import time
from socket import IPPROTO_TCP, IPPROTO_UDP

from ebpfmesh import _abi
from ebpfmesh.apply.functions import Functions
from ebpfmesh.apply.held import Held
from ebpfmesh.apply.ready import Unready, Waits
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import clock
from ebpfmesh.kernel.flows import living
from ebpfmesh.model import Function, Service
from ebpfmesh.operation import RollFunction

ROLLING = "rolling"
"""Why a function gets no new flows whose command is about to be another."""
LOOK_SECONDS = 0.05
LOOKS = 2
"""How often in a row no flow must be seen: what was sent here before is under way at the first."""
DATAGRAM_TICKS = 2
"""How long after its last datagram a flow without an end is still waited for: some two seconds."""


class Rolls:
    """Functions of a mesh whose commands are started anew."""

    def __init__(self, mesh: Held, functions: Functions) -> None:
        self._mesh = mesh
        self._functions = functions

    def refusal(self, function: Function) -> str:
        """Why it must not be taken out now; empty if it may.

        Another of its group is not ready; or one of its services has others, and none is.
        """
        record, name = self._mesh.record, function.name
        unready = record.unready()
        if name in unready:
            return ""
        down = {one: why for one, why in record.marks().items() if not record.command(one).stopped}
        group = record.group(function.group) if function.group else ()
        if late := [one for one in group if one in down]:
            return f"{late[0]} is not ready: {down[late[0]]}"
        for service in self._services(name):
            others = [one for one in _weighted(service) if one != name]
            if not set(others) <= unready.keys():
                continue
            if late := [one for one in others if one in down]:
                what = f"service {service.name} has no other that is ready"
                return f"{what}; {late[0]} is not: {down[late[0]]}"
        return ""

    def roll(self, function: Function) -> None:
        """Do it; Unready if the new command is not started, or does not get ready."""
        seconds = self._mesh.patience
        self._end(function.name)
        self._functions.change(function)
        self._functions.limit(function)
        try:
            self._start(function, wait=seconds != 0)
        except MeshError as error:
            what = f'function "{function.name}": {error.message}'
            self._mesh.control.services.set_unready({function.name: what[:200]})
            raise Unready(what, hint=error.hint, about=(function.name, "command")) from error
        if seconds != 0:
            self._wait(seconds)

    def again(self, function: Function) -> RollFunction:
        """What starts its command anew, the same as it is."""
        alone = (
            one.name for one in self._services(function.name) if _weighted(one) == [function.name]
        )
        return RollFunction(function, function, tuple(alone))

    def back(self, function: Function, *, why: str, wait: bool) -> None:
        """As it was, from wherever ``roll`` was cut short; Unready if it does not get so."""
        name = function.name
        row = self._mesh.record.function(name)
        changed = bool(row and row.function != function)
        if changed:
            self._end(name)
            self._functions.change(function)
            self._functions.limit(function)
        if changed or self._mesh.record.command(name).stopped or not self._functions.runs(name):
            self._start(function, wait=wait)
        self._mesh.starting = {name: self._mesh.record.probes(function)} if wait and not why else {}
        if self._mesh.starting:
            self._wait(None)
        else:
            self._mesh.control.services.set_unready({name: why})

    def _end(self, name: str) -> None:
        """Its command has ended; those who are connected have the time that it says."""
        row = self._mesh.record.function(name)
        if row is None:
            return
        self._mesh.step(f"{name}: draining")
        self._mesh.control.services.set_unready({name: ROLLING})
        if self._functions.runs(name) and not self._is_alone(name):
            self._drain(row.function, row.attachment.ifindex)
        self._functions.ask_to_stop(row.function)
        self._functions.end_command(row.function)

    def _drain(self, function: Function, ifindex: int) -> None:
        """Wait for flows to end, as long as the function says."""
        begun, told, quiet = time.monotonic(), 0, 0
        while (passed := time.monotonic() - begun) < function.drain_seconds:
            left = self._flows(ifindex)
            quiet = 0 if left else quiet + 1
            if quiet == LOOKS:
                return
            if left != told:
                what = "1 connection" if left == 1 else f"{left} connections"
                self._mesh.step(f"{function.name}: draining, {what}")
                told = left
            # A table of millions takes a while to look at: not all of the time.
            spent = time.monotonic() - begun - passed
            time.sleep(max(LOOK_SECONDS, 4 * spent))

    def _flows(self, ifindex: int) -> int:
        """How many lead to an interface, and are not over: connections, and datagrams of late."""
        found = 0
        for one in living(self._mesh.control.maps):
            if one.receiver != ifindex or one.flags & _abi.FlowFlag.CLOSING:
                continue
            late = one.protocol == IPPROTO_UDP and clock.age(one.seen) <= DATAGRAM_TICKS
            found += one.entries if late or one.protocol == IPPROTO_TCP else 0
        return found

    def _is_alone(self, name: str) -> bool:
        """Whether nobody could stand in: a service has no other that is ready, or there is none."""
        unready = self._mesh.record.unready()
        served = [_weighted(one) for one in self._services(name)]
        served = [backends for backends in served if name in backends]
        return not served or any(set(one) - {name} <= unready.keys() for one in served)

    def _services(self, name: str) -> list[Service]:
        return self._mesh.record.services_of([name])

    def _start(self, function: Function, *, wait: bool) -> None:
        """Its command begins; it is not ready yet if it is to be waited for."""
        name = function.name
        self._mesh.starting = {name: self._mesh.record.probes(function)} if wait else {}
        self._functions.start(function)

    def _wait(self, seconds: float | None) -> None:
        """What was started is ready; Unready if it does not get so."""
        faults = Waits(self._mesh, seconds).run()
        self._mesh.starting = {}
        if faults:
            raise faults[0]


def _weighted(service: Service) -> list[str]:
    return [name for name, weight in service.backends.items() if weight]
