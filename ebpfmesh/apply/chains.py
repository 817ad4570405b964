# SPDX-License-Identifier: BSD-2-Clause
"""What is injected, between the record and the kernel.

An injection is only written down, with its program, when it is ``put``; ``draw`` makes the kernel's
chains what the record says: new ones are put together in blocks that nobody uses, then the heads of
functions flip to them, one update each. What nothing leads to any more goes a grace period later.
"""

import contextlib
import ctypes
import functools
import shutil
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ebpfmesh import _abi
from ebpfmesh.apply import migrations
from ebpfmesh.apply.breakers import Breakers
from ebpfmesh.apply.held import Held
from ebpfmesh.apply.shared import Shared
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import instructions
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import UsageError
from ebpfmesh.inject import build, compose, maps, source, verify
from ebpfmesh.inject.budget import Budget
from ebpfmesh.inject.build import Built
from ebpfmesh.inject.instructions import with_maps
from ebpfmesh.inject.maps import Layout, OwnMap
from ebpfmesh.kernel import bpf, private
from ebpfmesh.kernel.programs import CHAIN_END, Program
from ebpfmesh.model import Function, Injection, Rights, suggest
from ebpfmesh.state import chains
from ebpfmesh.state.chains import Both, Place
from ebpfmesh.state.rows import Chain, FunctionRow, InjectionRow, ProgramRow

SPLIT = "mesh_split.c"
SHARES = 1 << 16  # mesh_split.c counts in such parts
OF_A_VERSION = (maps.PARAMETER_MAP, source.COUNTERS)
"""Maps that two versions never share: they are compared by them."""
NOTHING = bytes.fromhex("b7000000020000009500000000000000")  # r0 = TC_ACT_SHOT; exit
"""What stands where a program was. An empty slot would do; but before a slot is emptied the kernel
waits a grace period for each tail call to it that is a jump, and each program has eight of them
(bpf_arch_poke_desc_update() in linux/arch/x86/net/bpf_jit_comp.c)."""
LAST_BLOCK = _abi.CHAIN_SLOTS // (_abi.CHAIN_MAX + 1) - 1


class Chains:
    """The chains of a mesh."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh
        self._record = mesh.record
        self._maps = mesh.control.maps
        self.breakers = Breakers(self._maps, self._record)
        self._migrations = migrations.Migrations(mesh)
        self._shared = Shared(mesh)
        self._changed = self._doubted = self._has_end = False
        self._new: set[str] = set()
        self._avoid: set[int] = set()
        self._ends: dict[str, bytes] = {}

    def doubt(self) -> None:
        """Have all be drawn anew: something may be wrong with what is there."""
        self._doubted = True

    # ---- what is injected

    def put(self, injection: Injection) -> None:
        """Write an injection down; a text that is new is compiled and checked, or refused."""
        old = self._record.injection(injection.name)
        number, before = self._program(injection, old)
        _check_parameters(injection, self._record.program(number).compiled)
        canary = split = 0
        if injection.canary:
            canary, split = self._canary(injection, old, number)
            _check_parameters(injection.promoted, self._record.program(canary).compiled)
        self._record.put_injection(InjectionRow(injection, number, before, canary, split))
        self._new.add(injection.name)
        self._changed = True

    def remove(self, name: str) -> None:
        """Forget an injection; packets meet it until the chains are drawn."""
        self._record.delete_injection(name)
        self._changed = True

    def _program(self, injection: Injection, old: InjectionRow | None) -> tuple[int, int]:
        """Ids of the program of an injection and of the one before it, 0: there is none."""
        if old is None:
            return self._build(injection, None), 0
        running = self._record.program(old.program)
        if self._is(old.program, injection):
            return old.program, old.before
        if self._is(old.canary, injection):
            return old.canary, old.program
        if self._is(old.before, injection):
            if (before := migrations.unfinished(running)) is not None:
                return old.before, before if before in self._record.programs() else 0
            ran = any(old.program in chain for chain in self._record.chains())
            return old.before, old.program if ran else 0
        return self._build(injection, running, undo=old.before), old.program

    def _is(self, program: int, injection: Injection) -> bool:
        """Whether a program is of an injection's text."""
        return bool(program) and self._record.program(program).injection.source == injection.source

    def _canary(
        self, injection: Injection, old: InjectionRow | None, number: int
    ) -> tuple[int, int]:
        """Ids of the program of a canary and of what chooses; both count for themselves."""
        wanted = injection.promoted
        if old and old.canary and self._is(old.canary, wanted):
            return old.canary, old.split
        canary = self._build(wanted, self._record.program(number), apart=OF_A_VERSION)
        text = (bpf_dir() / SPLIT).read_text()
        chooser = wanted.model_copy(update={"file": SPLIT, "source": text, "parameters": {}})
        return canary, self._build(chooser, None)

    def _build(
        self,
        injection: Injection,
        older: ProgramRow | None,
        apart: Collection[str] = (),
        undo: int = 0,
    ) -> int:
        """A new program; maps that are the same as the older one's are shared, but for some.

        Others migrate. ``undo`` is the program before the older one.
        """
        text = source.parse(Path(injection.file), injection.source)
        budget = self._budget(injection)
        with (
            self.opened(older) as found,
            build.build(
                text,
                budget=budget,
                reuse={name: one for name, one in found.items() if name not in apart},
                guarded=injection.tenant is not None,
            ) as built,
        ):
            there = {name: one.layout for name, one in found.items() if name not in OF_A_VERSION}
            migrating = migrations.found(text, built, there)
            state = {migrations.UNFINISHED: undo} if migrating else {}
            number = self._record.new_program(injection, _dump(built, budget) | state)
            directory = self._pins(number)
            shutil.rmtree(directory, ignore_errors=True)  # of a change that was cut short
            for one in (directory.parent, directory):
                private.directory(one)
            for name, own in built.maps.items():
                bpf.obj_pin(own.fd, directory / name)
        if older and migrating:
            self._migrations.add(older.id, number, migrating)
        return number

    def _budget(self, injection: Injection) -> Budget:
        """What a program may cost: as its tenant's rights say, or what any may."""
        if injection.tenant is None:
            return Budget()
        rights = self._record.base().rights_of(injection.tenant)
        names = {one.name for one in fields(Budget)} & Rights.model_fields.keys()
        return Budget(**{name: getattr(rights, name) for name in names})

    def _pins(self, program: int) -> Path:
        return self._mesh.pins.injected / str(program)

    @contextlib.contextmanager
    def opened(self, program: ProgramRow | None) -> Iterator[dict[str, OwnMap]]:
        """The maps of a program."""
        with contextlib.ExitStack() as stack:
            found = {}
            if program:
                for name, (number, layout) in program.compiled["maps"].items():
                    fd = stack.enter_context(bpf.obj_get(self._pins(program.id) / name))
                    found[name] = OwnMap(name, number, Layout(**layout), fd)
            yield found

    def _check_targets(self, row: InjectionRow) -> None:
        """Raise UsageError if one is no function of the tenant at whose place the program is."""
        injection = row.injection
        programs = (
            self._record.program(number) for number in sorted({row.program, row.canary} - {0})
        )
        for index, name in (pair for one in programs for pair in one.compiled["targets"].items()):
            function = self._record.function(name)
            if function is None or function.function.tenant not in self._tenants(injection):
                what = f"{injection.file}: target {index}, {name}, is no function of its own tenant"
                raise UsageError(what, hint="MESH_TARGET(n, name) names a function of this mesh")

    def _tenants(self, injection: Injection) -> set[str]:
        kind, name = injection.target
        if kind == "tenant":
            return {name}
        rows = (self._record.function(one) for one in self._record.group(name) or (name,))
        return {row.function.tenant for row in rows if row}

    # ---- the kernel's chains

    def draw(self) -> None:
        """Have packets meet what the record says, from their next flow or epoch on.

        Does nothing where no injection changed, and no function that concerns one.
        """
        if not self._is_to_be_drawn():
            return
        for row in self._record.injections():
            if row.injection.name in self._new:
                self._check_targets(row)
        self._new.clear()
        if self._doubted:
            self._renew()
            self._avoid = set(self._record.chains().values())
            for block in self._avoid:
                self._record.free_block(block)
        self._write_programs()
        new = chains.running(self._record) - chains.drawn(self._record)
        # A function that came in the same change has its chain since then.
        self.breakers.close(new | chains.unguarded(self._maps, self._record))
        wanted = chains.wanted(self._record)
        blocks = self._made(wanted)
        self._migrations.copy()
        self._write_heads(wanted, blocks)
        self._shared.tell()

    def _renew(self) -> None:
        """Compile again what has lost its maps; they begin empty. A canary that did is over."""
        for row in self._record.injections():
            pins = self._mesh.pins
            lost = {
                number for number in row.programs if not chains.has_maps(pins, self._record, number)
            }
            if not lost:
                continue
            injection, before = row.injection, row.before
            if lost & {row.canary, row.split}:
                injection = injection.model_copy(update={"canary": None})
            program = self._build(injection, None) if row.program in lost else row.program
            kept = (row.canary, row.split) if injection.canary else (0, 0)
            before = 0 if before in lost else before
            self._record.put_injection(InjectionRow(injection, program, before, *kept))

    def _is_to_be_drawn(self) -> bool:
        return (self._changed or self._doubted) and self._record.injects

    def write(self, row: FunctionRow) -> None:
        """Have the packets of a function meet what is injected, before there are any."""
        if self._record.injects:
            wanted = {row.id: chains.of(self._record.injections(), row.function)}
            self._write_heads(wanted, self._made(wanted))
            self._changed |= self._is_target(row.function.name)

    def leave(self, function: Function) -> None:
        """A function goes, or is about to be another: what it met may be met by none then."""
        if self._record.injects:
            both = chains.of(self._record.injections(), function)
            met = bool(both.egress or both.ingress)
            self._changed |= met or self._is_target(function.name)

    def _is_target(self, function: str) -> bool:
        """Whether a program may send packets to a function."""
        numbers = (number for row in self._record.injections() for number in row.programs)
        programs = (self._record.program(number) for number in numbers)
        return any(function in one.compiled["targets"].values() for one in programs)

    def _made(self, wanted: Mapping[int, Both]) -> dict[Chain, int]:
        """The blocks of all chains, those of new ones among them."""
        blocks = self._record.chains()
        for chain in {one for both in wanted.values() for one in (both.egress, both.ingress)}:
            if chain and chain not in blocks:
                blocks[chain] = self._make(chain)
        return blocks

    def _write_heads(self, wanted: Mapping[int, Both], blocks: dict[Chain, int]) -> None:
        for function, both in wanted.items():
            key, heads = ctypes.c_uint32(function), both.heads(blocks)
            row = self._maps["mesh_chain"].get(key)
            if row is None or tuple(row.head) != heads:
                self._mesh.step(f"chains of function {function}")
                self._maps["mesh_chain"].set(key, _abi.Chain(head=(ctypes.c_uint16 * 2)(*heads)))

    def _make(self, chain: Chain) -> int:
        """Put a chain together in a block that nothing leads to; which one."""
        if chains.size(chain) > _abi.CHAIN_MAX:
            what = f"packets would meet {chains.size(chain)} injected functions in a row"
            hint = (
                f"at most {_abi.CHAIN_MAX}, tenant's and function's together; a canary takes three"
            )
            raise UsageError(what, hint=hint)
        self._mesh.step(f"chain of {len(chain)}")
        block = self._record.take_block(chain, LAST_BLOCK, self._avoid)
        for place in chains.places(block, chain):
            self._put(place)
        return block

    def _put(self, place: Place) -> None:
        program = self._record.program(place.program)
        with self.opened(program) as own:
            numbers = {one.number: one.fd.fileno() for one in own.values()}
            author = with_maps(bytes.fromhex(program.compiled["code"]), numbers)
            guarded = program.injection.tenant is not None and not place.sides
            end = self._end(compose.end_of(author, guarded=guarded))
            if guarded:
                self._put_end()
            if place.sides:
                stable, canary = place.sides
                chain = self._tables.chain
                code = compose.split(author, end, stable=stable, canary=canary, chain=chain)
            else:
                code = compose.compose(
                    author,
                    end,
                    number=program.id,
                    following=place.following,
                    detour=place.detour,
                    tables=self._tables,
                )
            with verify.running(guarded=guarded):
                self._load(place.slot, program.injection.name.replace("-", "_"), code)

    def _put_end(self) -> None:
        """Have what programs of tenants go on to where they look for it."""
        if not self._has_end:
            self._load(_abi.CHAIN_END, CHAIN_END.name, self._end(CHAIN_END))
            self._has_end = True

    def _load(self, slot: int, name: str, code: bytes) -> None:
        with bpf.prog_load(bpf.PROG_TYPE_SCHED_CLS, name, code) as loaded:
            descriptor = ctypes.c_uint32(loaded.fileno())
            self._maps["mesh_injected"].set(ctypes.c_uint32(slot), descriptor)

    @functools.cached_property
    def _tables(self) -> compose.Tables:
        names = ("mesh_injected", "mesh_breaker", "mesh_sampling")
        return compose.Tables(*(self._maps[name].fd.fileno() for name in names))

    def _end(self, which: Program) -> bytes:
        """What stands behind a program; the maps that it names are open as long as the mesh."""
        if which.name not in self._ends:
            pins = self._mesh.pins.maps
            defines = compiled.defines(pins, count_flows=self._maps.count_flows)
            code, named = instructions(bpf_dir() / which.file, which.name, defines=defines)
            for one in named:
                self._mesh.until_closed.enter_context(one)
            self._ends[which.name] = code
        return self._ends[which.name]

    def _write_programs(self) -> None:
        """Parameters and targets of all programs that are injected."""
        for row in self._record.injections():
            injection = row.injection
            self._write_parameters(row.program, injection.parameters)
            if injection.canary:
                self._write_parameters(row.canary, injection.canary.parameters)
                share = injection.canary.share * SHARES // 100
                self._write_parameters(row.split, {"share": share})
            for number in {row.program, row.canary} - {0}:
                self._write_targets(self._record.program(number), self._tenants(injection))

    def _write_targets(self, program: ProgramRow, tenants: Collection[str]) -> None:
        for index, name in program.compiled["targets"].items():
            key = _abi.InjectedKey(program=program.id, index=int(index))
            function = self._record.function(name)
            if function and function.function.tenant in tenants:
                self._maps["mesh_target"].set(key, ctypes.c_uint32(function.id))
            else:
                self._maps["mesh_target"].delete(key)

    def _write_parameters(self, number: int, parameters: Mapping[str, int]) -> None:
        given = self._record.program(number).compiled["parameters"]
        if not given:
            return
        values = (parameters.get(name, default) for name, _, default, _ in given)
        slots = zip(given, values, strict=True)
        value = b"".join(maps.packed(kind, number) for (_, kind, _, _), number in slots)
        with bpf.obj_get(self._pins(number) / maps.PARAMETER_MAP) as table:
            if bpf.map_lookup(table, bytes(4), len(value)) != value:
                bpf.map_update(table, bytes(4), value)

    # ---- what nothing leads to any more

    def sweep(self) -> None:
        """Remove what no packet can meet, a grace period after the last one could."""
        if not self._is_to_be_drawn():
            return
        rows = self._record.injections()
        used = {one for both in chains.wanted(self._record).values()
                for one in (both.egress, both.ingress)}  # fmt: skip
        idle = {chain: block for chain, block in self._record.chains().items() if chain not in used}
        gone = set(self._record.programs()).difference(*(row.programs for row in rows))
        if not (idle or gone or self._doubted or self._migrations.some):
            self._changed = False
            return
        self._mesh.step("grace period")
        bpf.grace_period()
        self._migrations.finish()
        for chain, block in idle.items():
            self._clear(place.slot for place in chains.places(block, chain))
            self._record.free_block(block)
        if self._doubted:
            self._clear(set(range(_abi.CHAIN_SLOTS)) - chains.used_slots(self._record))
            self._avoid = set()
        self._changed = self._doubted = False
        for program in gone:
            self._forget(program)
        for directory in self._mesh.pins.injected.glob("*"):
            if int(directory.name) not in self._record.programs():
                shutil.rmtree(directory)

    def _clear(self, slots: Iterable[int]) -> None:
        """Let go of the programs in slots that nothing leads to."""
        table = self._maps["mesh_injected"]
        with bpf.prog_load(bpf.PROG_TYPE_SCHED_CLS, "mesh_nothing", NOTHING) as nothing:
            for key in map(ctypes.c_uint32, slots):
                if table.get(key) is not None:
                    table.set(key, ctypes.c_uint32(nothing.fileno()))

    def _forget(self, program: int) -> None:
        for name in ("mesh_target", "mesh_refused"):
            for key, _ in list(self._maps[name].items()):
                if key.program == program:
                    self._maps[name].delete(key)
        self.breakers.forget(program)
        shutil.rmtree(self._pins(program), ignore_errors=True)
        self._record.delete_program(program)


def _dump(built: Built, budget: Budget) -> dict[str, Any]:
    """What is written down of a program, for JSON: enough to put it into a chain again."""
    text = built.source
    return {
        "code": built.compiled.instructions.hex(),
        "maps": {name: (one.number, asdict(one.layout)) for name, one in built.maps.items()},
        "parameters": [(p.name, p.type, p.value, p.text) for p in text.parameters.values()],
        "counters": text.counters,
        "reasons": text.reasons,
        "targets": text.targets,
        "figures": asdict(built.figures),
        "limit_ns": budget.ns_median,
    }


def _check_parameters(injection: Injection, compiled: dict[str, Any]) -> None:
    known = {name: kind for name, kind, _, _ in compiled["parameters"]}
    for name, value in injection.parameters.items():
        if name not in known:
            what = f"{injection.file} has no parameter {name}"
            raise UsageError(what, hint=suggest(name, known))
        try:
            maps.packed(known[name], value)
        except struct.error:
            what = f"{injection.file}: {value} is no {known[name]}, as {name} must be"
            bits, signed = source.INTEGERS[known[name]]
            least, most = (-(1 << bits - 1), 1 << bits - 1) if signed else (0, 1 << bits)
            raise UsageError(what, hint=f"it may be from {least} to {most - 1}") from None
