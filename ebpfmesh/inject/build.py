# SPDX-License-Identifier: BSD-2-Clause
"""From an author's file to instructions that may run in a chain, ``build``; and there, ``load``.

Each step may refuse, and none leaves anything behind then: text, compiler, instructions, maps,
verifier, costs. The program is verified twice: as if its author had loaded it without the right to
learn the kernel's addresses (CAP_PERFMON), so that it gives none away and reads no memory that it
did not write; and as it runs.
"""

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Self

from ebpfmesh.inject import instructions, maps, migrate
from ebpfmesh.inject import source as sources
from ebpfmesh.inject.budget import Budget, Figures
from ebpfmesh.inject.compile import Compiled, compiled
from ebpfmesh.inject.compose import Tables, compose
from ebpfmesh.inject.instructions import with_maps
from ebpfmesh.inject.maps import Layout, OwnMap
from ebpfmesh.inject.measure import NOTHING, measure
from ebpfmesh.inject.source import PARAMETERS, Parameter, Source
from ebpfmesh.inject.verify import checked, loaded, running, without_addresses
from ebpfmesh.kernel import bpf


@dataclass(frozen=True)
class Built:
    """An author's function that may run; closes its descriptors with its ``with`` block.

    ``code`` are its instructions, which name ``maps`` by their descriptors; a program that was
    loaded holds the maps too. ``alone`` is a loaded program of it in no chain, for
    BPF_PROG_TEST_RUN: its verdict is in cb[] (enum mesh_chain_word) at tc, and what it returns at
    XDP. ``shared`` are names of maps that an older one has too; ``digest`` is the SHA-256 of the
    text, ``tag`` the kernel's of ``alone``.
    """

    source: Source
    hook: str
    compiled: Compiled
    code: bytes
    alone: bpf.Fd
    maps: dict[str, OwnMap]
    shared: frozenset[str]
    figures: Figures
    digest: str
    tag: str

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return self.source.path.stem

    @property
    def parameters(self) -> dict[str, Parameter]:
        """By name, with the defaults; in the order of their slots in mesh_parameters."""
        return self.source.parameters

    @property
    def layouts(self) -> dict[str, Layout]:
        """What each map is, by name."""
        return {name: one.layout for name, one in self.maps.items()}

    def close(self) -> None:
        """Close program and maps; twice is fine."""
        self.alone.close()
        for one in self.maps.values():
            one.fd.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def build(
    text: Path | Source,
    *,
    hook: str = "tc",
    budget: Budget | None = None,
    reuse: Mapping[str, OwnMap] | None = None,
    guarded: bool = False,
) -> Built:
    """Compile, check, verify and measure an author's file, or its text, for a hook, "tc" or "xdp".

    ``guarded``: it runs with the verifier's barriers against speculation (``verify.running``).
    ``reuse``: maps of an older Built of the function, taken over where name and layout are the
    same. Raises FunctionRefused, MissingPrivilege, Unsupported; OSError if the file cannot be read.
    """
    allowed = budget or Budget()
    source = text if isinstance(text, Source) else sources.read(text)
    program = compiled(source, hook)
    _check(source, program, hook, allowed)
    wanted = maps.layouts(source, program, allowed)
    migrate.check(source, program, allowed)
    figures = _tried(source, program, wanted, hook, allowed, guarded=guarded)
    if over := list(figures.over(allowed)):
        raise source.refuse("over its budget: " + "; ".join(over), None)
    with ExitStack() as stack:
        own = maps.create(source, wanted, reuse or {}, stack)
        code = with_maps(program.instructions, _numbers(own))
        with running(guarded=guarded):
            alone = stack.enter_context(loaded(source, program, _alone(code, hook), hook))
        shared = frozenset(
            name for name, one in (reuse or {}).items()
            if name in own and own[name].layout == one.layout
        )  # fmt: skip
        digest = hashlib.sha256(source.text.encode()).hexdigest()
        tag = bytes(bpf.prog_info(alone).tag).hex()
        built = Built(source, hook, program, code, alone, own, shared, figures, digest, tag)
        stack.pop_all()
    return built


def _check(source: Source, program: Compiled, hook: str, budget: Budget) -> None:
    values = {PARAMETERS: maps.SLOT * len(source.parameters)}
    numbers = {table.number for table in program.tables}
    checked(source, program, hook, budget, maps=numbers, values=values)


def _tried(
    source: Source,
    program: Compiled,
    wanted: Mapping[str, tuple[int, Layout]],
    hook: str,
    budget: Budget,
    *,
    guarded: bool,
) -> Figures:
    """Verified as the author's own and measured, with maps that are gone afterwards."""
    with ExitStack() as stack:
        own = maps.create(source, wanted, {}, stack)
        code = _alone(with_maps(program.instructions, _numbers(own)), hook)
        with without_addresses():
            verified = stack.enter_context(loaded(source, program, code, hook))
        told = bpf.fdinfo(verified).get("verified_insns")
        with running(guarded=guarded):
            runs = stack.enter_context(loaded(source, program, code, hook))
        cost = measure(runs, hook, min(budget.ns_median, budget.ns_worst))
        return Figures(
            instructions=len(program.instructions) // instructions.SIZE,
            verified=int(told or 0),
            jited_bytes=bpf.prog_info(runs).jited_prog_len,
            maps=len(source.maps),
            map_bytes=sum(bpf.map_memory(one.fd) for one in own.values()),
            ns_median=median(cost.warm.values()),
            ns_worst=cost.warm[cost.slowest],
            ns_cold_median=median(cost.cold.values()),
            ns_cold_worst=max(cost.cold.values()),
            slowest=cost.slowest,
        )


def _numbers(own: Mapping[str, OwnMap]) -> dict[int, int]:
    return {one.number: one.fd.fileno() for one in own.values()}


def _alone(code: bytes, hook: str) -> bytes:
    """A program of the author's instructions that is called by nobody and calls nobody."""
    if hook == "xdp":
        return code
    return compose(code, NOTHING, number=0, following=0, tables=None)


def load(
    built: Built, end: bytes, *, number: int, following: int, tables: Tables, guarded: bool = False
) -> bpf.Fd:
    """A program of what was built for one place of a chain; the arguments are those of ``compose``.

    Raises OSError if the verifier does not take it in that place.
    """
    code = compose(built.code, end, number=number, following=following, tables=tables)
    with running(guarded=guarded):
        return bpf.prog_load(bpf.PROG_TYPE_SCHED_CLS, built.name, code)
