# SPDX-License-Identifier: BSD-2-Clause
"""What is done to a mesh that is up; ``apply.live`` does it."""

from typing import Protocol

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


class Changes(Protocol):
    """What is done to a mesh. Each can be done again after it was cut short."""

    def set_timeouts(self, timeouts: Timeouts) -> None:
        """How long flows live."""

    def set_reject(self, reject: bool) -> None:
        """Whether senders are told that no rule allows what they send."""

    def set_host(self, host: bool) -> None:
        """Whether the host's own processes reach services."""

    def set_rights(self, rights: tuple[Rights, ...]) -> None:
        """What tenants may inject."""

    def set_on_failure(self, on_failure: OnFailure) -> None:
        """What becomes of a change when a function does not get ready."""

    def hold_programs(self, build: str, old: str) -> None:
        """Have the programs of a build pinned, and beside them those that run, ``old``."""

    def switch_programs(self, build: str) -> None:
        """The programs of a build take the places of those that run, if they are pinned."""

    def keep_programs(self, build: str) -> None:
        """Of programs that do not run, keep those of this build alone; empty: none."""

    def kept_programs(self) -> str:
        """The build whose programs are kept; empty: none."""
        ...

    def add_function(self, function: Function, *, adopt: str, force: bool) -> None:
        """A function is made, or taken that is there (``AddFunction``)."""

    def start_function(self, function: Function, *, again: int = 0) -> None:
        """Its command, if it has one; ``again`` as StartFunction has it."""

    def ask_to_stop(self, function: Function) -> None:
        """Its command is to be stopped from now on, and is asked to end."""

    def end_command(self, function: Function) -> None:
        """It has ended, if it is to be stopped: what does not end by itself is killed."""

    def is_stopped(self, function: str) -> bool:
        """Whether its command is to be stopped."""
        ...

    def keep_stopped(self, function: str) -> None:
        """Its command is not to be started with it."""

    def runs(self, function: str) -> bool:
        """Whether its command runs."""
        ...

    def roll_function(self, function: Function) -> None:
        """Its command ends when its connections have, and begins as it is now described.

        It gets no new flows until it is ready. Unready is raised if it does not get so.
        """

    def roll_back(self, function: Function, *, why: str, wait: bool) -> None:
        """Undo that, wherever it was cut short: as it was, with no new flows if there is a reason.

        Without one it is waited for, if it is to.
        """

    def change_function(self, function: Function) -> None:
        """What is ``ROLLED`` of one that is there, but for limits that become higher."""

    def limit_function(self, function: Function) -> None:
        """All its limits."""

    def remove_function(self, name: str) -> None:
        """As far as it is there."""

    def add_uplink(self, uplink: Uplink, *, force: bool) -> None:
        """An interface of the host's is one (``AddUplink``)."""

    def change_uplink(self, uplink: Uplink) -> None:
        """What of one that is there changes in place (``UPLINK_IN_PLACE``)."""

    def remove_uplink(self, name: str) -> None:
        """As far as it is there."""

    def is_uplink(self, name: str) -> bool:
        """Whether it is there, and nobody began to remove it."""
        ...

    def add_remote(self, remote: Remote) -> None:
        """Somebody beyond an uplink is one (``AddRemote``)."""

    def remove_remote(self, name: str) -> None:
        """As far as it is there."""

    def is_remote(self, name: str) -> bool:
        """Whether it is there, and nobody began to remove it."""
        ...

    def set_unready(self, function: str, why: str, *, asked: bool = False) -> None:
        """It gets no new flows of services; empty: it does (``SetReady``)."""

    def unready(self, function: str, *, asked: bool = False) -> str:
        """Why it gets none; empty: it does."""
        ...

    def is_whole(self, function: str) -> bool:
        """Whether it is there, and nobody began to remove it."""
        ...

    def adopted(self, function: str) -> str:
        """The interface of others that it has; empty if it is ours."""
        ...

    def set_service(self, service: Service) -> None:
        """With its backends, in one update."""

    def remove_service(self, service: Service) -> None:
        """As far as it is there."""

    def set_policy(self, policy: Policy) -> None:
        """A rule, in the place of the one with the same match."""

    def remove_policy(self, policy: Policy) -> None:
        """As far as it is there."""

    def set_injection(self, injection: Injection) -> None:
        """A program of somebody's, in the place of the one of its name."""

    def remove_injection(self, name: str) -> None:
        """As far as it is there."""
