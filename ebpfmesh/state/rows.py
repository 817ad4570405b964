# SPDX-License-Identifier: BSD-2-Clause
"""What the rows of a record hold, and by what some of them are found."""

import json
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter

from ebpfmesh.model import Address, Function, Injection, Name, Policy, Pool, Remote, Uplink

Split = tuple[int, int, int]
"""Ids of the program that chooses, of the one that most flows meet, and of the canary."""
Chain = tuple[int | Split, ...]
"""Ids of programs, in the order in which packets meet them."""
Index = Annotated[int, Field(ge=0, lt=1 << 31)]
"""Of an interface, as the kernel has them."""
AS_WRITTEN = ConfigDict(extra="forbid", strict=True)
"""How rows are read: they have what was written, and nothing else."""
_NAME = TypeAdapter(Name)


@dataclass(frozen=True)
class Attachment:
    """Where a function is: what was made for it, and what was there before.

    ``ifindex`` is 0 until the interface exists.
    """

    __pydantic_config__: ClassVar = AS_WRITTEN
    netns: str
    made_netns: bool
    interface: str
    made_interface: bool
    netns_inode: int = 0
    ifindex: Index = 0


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

    __pydantic_config__: ClassVar = AS_WRITTEN
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

    __pydantic_config__: ClassVar = AS_WRITTEN
    uplink: Uplink
    ifindex: Annotated[Index, Field(gt=0)]
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

    __pydantic_config__: ClassVar = AS_WRITTEN
    id: Annotated[int, Field(gt=0)]
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


def check_pool_key(key: str) -> None:
    """ValueError unless it is one of ``pool_key``: names, which lead to files, and numbers."""
    tenant, name, *numbers = key.split("/")
    for one in (tenant, name):
        _NAME.validate_python(one)
    if len(numbers) != 3 or not all(number.isdecimal() for number in numbers):
        raise ValueError(f"{key} is no key")
