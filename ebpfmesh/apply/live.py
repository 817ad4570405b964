# SPDX-License-Identifier: BSD-2-Clause
"""A mesh that is up, held by its lock: what operations do to it, and who holds it."""

import contextlib
import functools
import resource
from collections.abc import Iterator

from ebpfmesh.apply import builds
from ebpfmesh.apply.chains import Chains
from ebpfmesh.apply.deny import Deny
from ebpfmesh.apply.early import Early
from ebpfmesh.apply.functions import STOPPED, Functions
from ebpfmesh.apply.held import Held, OnStep, quiet
from ebpfmesh.apply.lookup import home_in
from ebpfmesh.apply.names import Names
from ebpfmesh.apply.pools import Pools
from ebpfmesh.apply.remotes import Remotes
from ebpfmesh.apply.rolls import Rolls
from ebpfmesh.apply.uplinks import Uplinks
from ebpfmesh.errors import MeshError
from ebpfmesh.kernel import rcu
from ebpfmesh.kernel.host import check_supported
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import (
    Function,
    Injection,
    OnFailure,
    Policy,
    Remote,
    Rights,
    Service,
    Timeouts,
    Uplink,
)
from ebpfmesh.runtime.home import Home
from ebpfmesh.state.lock import locked
from ebpfmesh.state.place import check_place
from ebpfmesh.state.rows import CommandRow
from ebpfmesh.state.tables import LOCK_SECONDS
from ebpfmesh.state.writer import Writer

FILES = 128  # more than a change ever has open: all maps, a compiler's pipes, some sockets


class Live(Held):
    """The mesh ``name`` of this host namespace, as operations know it; use ``opened``."""

    @functools.cached_property
    def functions(self) -> Functions:
        """Its functions."""
        return Functions(self, self.chains, self.pools)

    @functools.cached_property
    def chains(self) -> Chains:
        """What is injected."""
        return Chains(self)

    @functools.cached_property
    def pools(self) -> Pools:
        """What commands share."""
        return Pools(self)

    @functools.cached_property
    def rolls(self) -> Rolls:
        """Its functions whose commands are started anew."""
        return Rolls(self, self.functions)

    @functools.cached_property
    def uplinks(self) -> Uplinks:
        """Its uplinks."""
        return Uplinks(self)

    @functools.cached_property
    def remotes(self) -> Remotes:
        """Its remotes."""
        return Remotes(self)

    @functools.cached_property
    def deny(self) -> Deny:
        """Its deny list."""
        return Deny(self, self.early)

    @functools.cached_property
    def early(self) -> Early:
        """What is at XDP of its uplinks."""
        return Early(self)

    @functools.cached_property
    def names(self) -> Names:
        """Its names."""
        return Names(self.record)

    def hold_programs(self, build: str, old: str) -> None:
        """Have the programs of a build pinned, and those that run as ``old``."""
        builds.hold(self, build, old)

    def switch_programs(self, build: str) -> None:
        """The programs of a build run, if they are pinned."""
        builds.switch(self, build)

    def keep_programs(self, build: str) -> None:
        """Of programs that do not run, keep those of this build."""
        builds.keep(self.pins, build)

    def kept_programs(self) -> str:
        """The build whose programs are kept, or nothing."""
        return builds.kept(self.pins, self.record.build)

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """How long flows live."""
        self.step("timeouts")
        self.control.set_timeouts(timeouts)

    def set_reject(self, reject: bool) -> None:
        """Whether senders are told."""
        self.step("reject")
        self.control.set_reject(reject)

    def set_host(self, host: bool) -> None:
        """Whether the host's own processes reach services."""
        if host:
            check_supported()
        self.step("host")
        self.control.set_host(host)

    def set_rights(self, rights: tuple[Rights, ...]) -> None:
        """What tenants may inject."""
        self.step("rights of tenants")
        self.control.set_rights(rights)

    def set_on_failure(self, on_failure: OnFailure) -> None:
        """What becomes of a change when a function does not get ready."""
        self.step("on_failure")
        self.control.set_on_failure(on_failure)

    def add_function(self, function: Function, *, adopt: str, force: bool) -> None:
        """Make a function, or take one that is there."""
        self.functions.add(function, adopt=adopt, force=force)
        self.early.stale |= function.datapath != "tc"

    def start_function(self, function: Function, *, again: int = 0) -> None:
        """Start its command, if it has one."""
        self.functions.start(function, again=again)

    def ask_to_stop(self, function: Function) -> None:
        """Its command is to be stopped."""
        self.functions.ask_to_stop(function)

    def end_command(self, function: Function) -> None:
        """Its command has ended, if it is to be stopped."""
        self.functions.end_command(function)

    def is_stopped(self, function: str) -> bool:
        """Whether its command is to be stopped."""
        return self.record.command(function).stopped

    def keep_stopped(self, function: str) -> None:
        """Its command is not started."""
        self.record.put_command(function, CommandRow(stopped=True))
        self.record.set_unready(function, STOPPED)

    def runs(self, function: str) -> bool:
        """Whether its command runs."""
        return self.functions.runs(function)

    def roll_function(self, function: Function) -> None:
        """Its command is started anew, as it is described now."""
        self.rolls.roll(function)

    def roll_back(self, function: Function, *, why: str, wait: bool) -> None:
        """It is as it was before."""
        self.rolls.back(function, why=why, wait=wait)

    def change_function(self, function: Function) -> None:
        """What changes in place, but for limits that become higher."""
        self.functions.change(function)

    def limit_function(self, function: Function) -> None:
        """All its limits."""
        self.functions.limit(function)

    def remove_function(self, name: str) -> None:
        """Remove it, as far as it is there."""
        row = self.record.function(name)
        self.early.stale |= row is not None and row.function.datapath != "tc"
        self.functions.remove((name,))

    def is_whole(self, function: str) -> bool:
        """Whether it is there and nobody began to remove it."""
        row = self.record.function(function)
        return bool(row and row.ready)

    def add_uplink(self, uplink: Uplink, *, force: bool) -> None:
        """An interface of the host's is one."""
        self.uplinks.add(uplink, force=force)
        self.deny.stale = True

    def change_uplink(self, uplink: Uplink) -> None:
        """What changes in place."""
        self.uplinks.change(uplink)

    def remove_uplink(self, name: str) -> None:
        """As far as it is there."""
        self.uplinks.remove(name)
        self.deny.stale = True

    def is_uplink(self, name: str) -> bool:
        """Whether it is there and nobody began to remove it."""
        row = self.record.uplink(name)
        return bool(row and row.ready)

    def add_remote(self, remote: Remote) -> None:
        """Somebody beyond an uplink is one."""
        self.remotes.add(remote)
        self.early.stale = True

    def remove_remote(self, name: str) -> None:
        """As far as it is there."""
        self.remotes.remove(name)
        self.early.stale = True

    def is_remote(self, name: str) -> bool:
        """Whether it is there and nobody began to remove it."""
        row = self.record.remote(name)
        return bool(row and row.ready)

    def set_unready(self, function: str, why: str, *, asked: bool = False) -> None:
        """New flows go elsewhere, or come back."""
        self.step(f"function {function}: {'not ready' if why else 'ready'}")
        self.control.services.set_unready({function: why}, asked=asked)

    def unready(self, function: str, *, asked: bool = False) -> str:
        """Why it is not ready, or nothing."""
        return self.record.mark(function, asked=asked)

    def adopted(self, function: str) -> str:
        """The interface of others that it has, or nothing."""
        row = self.record.function(function)
        return "" if row is None or row.attachment.made_interface else row.attachment.interface

    def set_service(self, service: Service) -> None:
        """A service, in one update."""
        self.step(f"service {service.name}")
        self.control.services.set(service)

    def remove_service(self, service: Service) -> None:
        """A service goes."""
        self.step(f"remove service {service.name}")
        self.control.services.remove(service)

    def set_policy(self, policy: Policy) -> None:
        """A rule, in the place of one with the same match."""
        self.step(f"policy {policy}")
        self.control.policies.set(policy)

    def remove_policy(self, policy: Policy) -> None:
        """A rule goes."""
        self.step(f"remove policy {policy}")
        self.control.policies.remove(policy)

    def set_injection(self, injection: Injection) -> None:
        """A program of somebody's; it is compiled and checked here."""
        self.step(f"inject {injection.name}")
        self.chains.put(injection)

    def remove_injection(self, name: str) -> None:
        """It is met by no packet from the end of the change on."""
        self.step(f"eject {name}")
        self.chains.remove(name)

    def home(self, name: str) -> Home:
        """Where a function's processes run; NotFound if there is no such function or namespace."""
        return home_in(self.record, name)


@contextlib.contextmanager
def changing(mesh: str, patience: float = LOCK_SECONDS) -> Iterator[None]:
    """Hold a mesh's lock, with what a change needs at hand; a dead change's grace periods end.

    Busy if another has it for longer than ``patience`` seconds.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < FILES:
        raise MeshError(f"only {soft} open files are allowed", hint=f"ulimit -n {FILES}")
    with locked(mesh, patience):
        rcu.put_back()
        yield


@contextlib.contextmanager
def opened(mesh: str, on_step: OnStep = quiet, patience: float = LOCK_SECONDS) -> Iterator[Live]:
    """The mesh, locked, in the host namespace it was made in; NotFound if it is not up."""
    with changing(mesh, patience):
        record = Writer(mesh)
        try:
            check_place(record)
            Pins(mesh).check()
            with contextlib.closing(Live(record, on_step)) as live:
                yield live
        finally:
            record.close()
