# SPDX-License-Identifier: BSD-2-Clause
"""What the rows of a record hold, and by what some of them are found."""

import json
from dataclasses import dataclass
from typing import Any

from ebpfmesh.model import Address, Function, Injection, Policy, Pool, Remote, Uplink

Split = tuple[int, int, int]
"""Ids of the program that chooses, of the one that most flows meet, and of the canary."""
Chain = tuple[int | Split, ...]
"""Ids of programs, in the order in which packets meet them."""


@dataclass(frozen=True)
class Attachment:
    """Where a function is: what was made for it, and what was there before.

    ``ifindex`` is 0 until the interface exists.
    """

    netns: str
    made_netns: bool
    interface: str
    made_interface: bool
    netns_inode: int = 0
    ifindex: int = 0


@dataclass(frozen=True)
class InjectionRow:
    """What is injected, with ids of programs, 0 for none.

    ``before`` is the one before it, ``canary`` the one that some flows meet, by ``split``.
    """

    injection: Injection
    program: int
    before: int
    canary: int
    split: int

    @property
    def programs(self) -> set[int]:
        """All of them."""
        return {self.program, self.before, self.canary, self.split} - {0}

    @property
    def running(self) -> set[int]:
        """Ids of those that packets meet and that somebody wrote: its own, and its canary's."""
        return {self.program, self.canary} - {0}


@dataclass(frozen=True)
class ProgramRow:
    """A program: what it was injected as last, and what ``inject`` made of its text."""

    id: int
    injection: Injection
    compiled: dict[str, Any]


@dataclass(frozen=True)
class CommandRow:
    """What there is to know of a function's command besides what the kernel does.

    ``stopped``: somebody asked for it. ``restarts``: how often it was started again by itself,
    ``failures`` how often since it last ran well. ``started`` is Unix time, 0 before it was;
    ``last_exit`` how the run before ended, None if there was none, or if nobody knows.
    """

    stopped: bool = False
    restarts: int = 0
    failures: int = 0
    started: float = 0
    last_exit: int | None = None


@dataclass(frozen=True)
class FunctionRow:
    """A function of the record; not ``ready``: it was being made or removed when work stopped."""

    mesh: str
    id: int
    function: Function
    attachment: Attachment
    ready: bool


@dataclass(frozen=True)
class UplinkRow:
    """An uplink, and what it was found to be.

    ``addresses`` are the host's there on which services are published. Not ``ready``: it was being
    made or removed when work stopped. ``ifindex`` is never 0. ``without`` is why it has no XDP
    although something would be quicker with it.
    """

    uplink: Uplink
    ifindex: int
    addresses: tuple[Address, ...]
    ready: bool
    without: str = ""

    @property
    def name(self) -> str:
        """What it is called."""
        return self.uplink.name


@dataclass(frozen=True)
class RemoteRow:
    """A remote; its id is of the same kind as a function's.

    Not ``ready``: it was being made or removed when work stopped.
    """

    id: int
    remote: Remote
    ready: bool

    @property
    def name(self) -> str:
        """What it is called."""
        return self.remote.name


def match_of(policy: Policy) -> str:
    """What a policy is found by: there is one of each match."""
    return json.dumps([str(part) for part in policy.match])


def pool_key(tenant: str, pool: Pool) -> str:
    """What tells apart pools, also those of one name before and after a change."""
    return f"{tenant}/{pool.name}/{pool.members}/{pool.slots}/{pool.bytes}"
