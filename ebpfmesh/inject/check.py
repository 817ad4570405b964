# SPDX-License-Identifier: BSD-2-Clause
"""What the instructions of others may do, read before the kernel sees any of them.

The verifier lets a program write packets, and call what it may call; a function of others may not.
Helpers are from a list, maps are its own, and nothing is stored but to its stack and to maps. For
the last, ``_Flow`` follows which registers and stack slots may hold a pointer to the context or
into the packet. It may take a number for such a pointer, never the other way round: a pointer into
the packet is one to the verifier only if it was made in one of the ways that are followed here
(adjust_ptr_min_max_vals() and check_mem_access() in linux/kernel/bpf/verifier.c, Linux 6.18), and
a store through anything else it refuses itself.

Of the stack's end (enum mesh_stack) only mesh_write()'s words may be stored to, 32 bits at a time:
that is no place for a pointer, which the verifier has spilled as a whole or not at all
(check_stack_write_fixed_off(), there).
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ebpfmesh._abi import Stack
from ebpfmesh.inject import instructions as i
from ebpfmesh.inject.instructions import Instruction

HELPERS = {
    1: "map_lookup_elem", 2: "map_update_elem", 3: "map_delete_elem", 5: "ktime_get_ns",
    7: "get_prandom_u32", 8: "get_smp_processor_id", 118: "jiffies64",
    125: "ktime_get_boot_ns", 130: "ringbuf_output", 131: "ringbuf_reserve",
    132: "ringbuf_submit", 133: "ringbuf_discard", 134: "ringbuf_query", 160: "ktime_get_coarse_ns",
}  # fmt: skip
"""What may be called, by number (linux/include/uapi/linux/bpf.h)."""

AT = {
    "tc": ({26: "skb_load_bytes"}, {0: "len", 76: "data", 80: "data_end"}, {76, 80}),
    "xdp": ({188: "xdp_get_buff_len", 189: "xdp_load_bytes"}, {0: "data", 4: "data_end"}, {0, 4}),
    "migration": ({}, {}, set()),
}
"""Of a hook: helpers besides, fields of the context that may be read, which are pointers."""

MIGRATION = "migration"
"""In the place of a hook: a program that computes a map's new value of an old one."""

COMPUTING = {number: HELPERS[number] for number in (1, 5, 7, 8, 118, 125, 160)}
"""What that may call: look-ups, for what it is given, and what changes nothing."""

LOAD_BYTES = (26, 189)
FORBIDDEN = {
    4: "probe_read", 6: "trace_printk", 9: "skb_store_bytes", 10: "l3_csum_replace",
    11: "l4_csum_replace", 12: "tail_call", 13: "clone_redirect", 14: "get_current_pid_tgid",
    18: "skb_vlan_push", 23: "redirect", 25: "perf_event_output", 31: "skb_change_proto",
    32: "skb_change_type", 38: "skb_change_tail", 39: "skb_pull_data", 43: "skb_change_head",
    44: "xdp_adjust_head", 50: "skb_adjust_room", 51: "redirect_map", 54: "xdp_adjust_meta",
    65: "xdp_adjust_tail", 93: "spin_lock", 109: "send_signal", 113: "probe_read_kernel",
    152: "redirect_neigh", 155: "redirect_peer", 181: "loop",
}  # fmt: skip
"""Names of some that may not, for the message."""

CONTEXT, PACKET, FRAME, OTHER = 1, 2, 4, 8
"""What a register may hold: bits."""

ATOMIC = 0xC0
ATOMICS = {0x00, 0x40, 0x50, 0xA0, 0x01, 0x41, 0x51, 0xA1, 0xE1, 0xF1}
STACK = Stack.AUTHOR.value  # bytes of the author's
SLOT = 8


class Refused(Exception):
    """``message`` says what the instruction ``at`` does that it may not."""

    def __init__(self, message: str, at: int, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.hint = hint


def check(
    code: Sequence[Instruction],
    *,
    hook: str,
    maps: Collection[int],
    values: Mapping[int, int],
) -> None:
    """Raise Refused unless the instructions do what a function of others may.

    ``maps`` are the numbers of its own maps, ``values`` those whose value may be read in place,
    with its size.
    """
    inner = i.halves(code)
    for at, one in enumerate(code):
        if at not in inner:
            _known(at, one)
            _alone(at, one, code, hook, maps, values)
    _targets(code, inner)
    _Flow(code, hook).run()


def _known(at: int, one: Instruction) -> None:
    """Only instructions whose meaning ``_Flow`` knows."""
    operation, mode = one.code & 0xF0, one.code & 0xE0
    if one.dst > i.FRAME or one.src > i.FRAME:
        raise Refused("there is no such register", at)
    known = {
        i.LD: one.code == i.LD_IMM64,
        i.LDX: mode in (0x60, 0x80),
        i.ST: mode == 0x60,
        i.STX: mode == 0x60
        or (mode == ATOMIC and one.imm in ATOMICS and one.code & 0x18 in (0, 0x18)),
        i.ALU: operation <= 0xD0,
        i.ALU64: operation <= 0xD0,
        i.JMP: operation <= 0xD0,
        i.JMP32: 0x10 <= operation <= 0xD0 and operation not in (0x80, 0x90),
    }[one.kind]
    if one.code == 0x8D:
        raise Refused("a call through a pointer", at, "no map operation in a macro: use a function")
    if one.code & 0xE0 in (0x20, 0x40) and one.kind == i.LD:
        raise Refused("a load of the old kind, from the packet", at, "mesh_read() reads it")
    if not known:
        raise Refused(f"the instruction {one.code:#x} is not among those that are followed", at)
    if one.code in (0xBC, 0xBF) and one.offset not in (0, 8, 16, 32):
        raise Refused("a cast of an address space", at)


def _alone(
    at: int,
    one: Instruction,
    code: Sequence[Instruction],
    hook: str,
    maps: Collection[int],
    values: Mapping[int, int],
) -> None:
    """What an instruction says by itself: calls and maps."""
    if one.code == i.CALL:
        _call(at, one, hook)
    if one.code == i.LD_IMM64 and one.src:
        if one.src == i.PSEUDO_MAP_FD and one.imm in maps:
            return
        inside = code[at + 1].imm if at + 1 < len(code) else -1
        if one.src != i.PSEUDO_MAP_VALUE or not 0 <= inside < values.get(one.imm, 0):
            if hook == MIGRATION:
                raise Refused("a map, in a migration", at, "it is given an old value, and no more")
            raise Refused("a map that is not its own", at, "MESH_MAP declares one")


def _call(at: int, one: Instruction, hook: str) -> None:
    if one.src == i.PSEUDO_CALL:
        raise Refused("a call of another function", at, "make it static inline")
    if one.src:
        raise Refused("a call of a kernel function", at)
    may = COMPUTING if hook == MIGRATION else HELPERS | AT[hook][0]
    if one.imm not in may:
        name = FORBIDDEN.get(one.imm) or HELPERS.get(one.imm)
        what = f"bpf_{name}()" if name else f"helper {one.imm}"
        raise Refused(f"{what} may not be called", at)


def _targets(code: Sequence[Instruction], inner: Collection[int]) -> None:
    for at, one in enumerate(code):
        if at in inner or not one.jumps:
            continue
        to = at + 1 + one.offset
        if not 0 <= to < len(code) or to in inner:
            raise Refused("a jump out of the program", at)


@dataclass(frozen=True)
class Value:
    """What may be in a register or slot: CONTEXT, PACKET, FRAME, OTHER; ``at`` below the frame.

    ``at`` is None where it is no stack pointer, or it is not known which.
    """

    what: int = 0
    at: int | None = None

    def join(self, other: "Value") -> "Value":
        """What may be there if either may."""
        return self if self == other else Value(self.what | other.what, None)


NOTHING, NUMBER = Value(), Value(OTHER)
Slots = dict[int, Value]


@dataclass
class State:
    """Before an instruction: eleven registers, and slots of the stack that hold a pointer."""

    registers: list[Value]
    slots: Slots

    def copy(self) -> "State":
        """One that can be changed."""
        return State(self.registers[:], dict(self.slots))

    def join(self, other: "State") -> bool:
        """Take in what else may be; whether that was new."""
        changed = False
        for number, value in enumerate(other.registers):
            joined = self.registers[number].join(value)
            if joined != self.registers[number]:
                self.registers[number], changed = joined, True
        for slot in self.slots.keys() | other.slots.keys():
            mine = self.slots.get(slot, NUMBER)
            joined = mine.join(other.slots.get(slot, NUMBER))
            if joined != mine:
                self.slots[slot], changed = joined, True
        return changed


class _Flow:
    """Follows pointers to the context and the packet along every way through the program."""

    def __init__(self, code: Sequence[Instruction], hook: str) -> None:
        self._code = code
        _, self._fields, self._pointers = AT[hook]
        registers = [NOTHING] * 11
        registers[i.CONTEXT], registers[i.FRAME] = Value(CONTEXT), Value(FRAME, 0)
        self._before: dict[int, State] = {0: State(registers, {})}

    def run(self) -> None:
        """Until nothing new can be."""
        waiting = {0}
        while waiting:
            at = min(waiting)
            waiting.remove(at)
            after = self._before[at].copy()
            self._step(at, self._code[at], after)
            for to in self._next(at, self._code[at]):
                if to >= len(self._code):
                    raise Refused("it does not end with a return", at)
                known = self._before.get(to)
                if known is None:
                    self._before[to] = after.copy()
                    waiting.add(to)
                elif known.join(after):
                    waiting.add(to)
        if not any(self._code[at].code == i.EXIT for at in self._before):
            raise Refused("it never ends", max(self._before))

    @staticmethod
    def _next(at: int, one: Instruction) -> Iterator[int]:
        if one.code == i.EXIT:
            return
        if one.code == i.JA:
            yield at + 1 + one.offset
            return
        yield at + (2 if one.code == i.LD_IMM64 else 1)
        if one.jumps:
            yield at + 1 + one.offset

    def _step(self, at: int, one: Instruction, state: State) -> None:
        kind = one.kind
        if kind in (i.ALU, i.ALU64):
            state.registers[one.dst] = self._computed(at, one, state)
        elif kind == i.LD:
            state.registers[one.dst] = NUMBER
        elif kind == i.LDX:
            state.registers[one.dst] = self._loaded(at, one, state)
        elif kind in (i.ST, i.STX):
            self._stored(at, one, state)
        elif one.code == i.CALL:
            self._called(at, one, state)

    def _computed(self, at: int, one: Instruction, state: State) -> Value:
        """ALU: a pointer stays one, however it is turned; but the difference of two is a number."""
        operation, by_register = one.code & 0xF0, one.code & 8 and one.code & 0xF0 != 0xD0
        old = state.registers[one.dst]
        given = state.registers[one.src] if by_register else NUMBER
        if one.dst == i.FRAME:
            raise Refused("it moves its stack", at)
        if operation == 0xB0:  # MOV
            return given
        if (old.what | given.what) & CONTEXT:
            raise Refused("it computes with the context's address", at)
        if operation in (0x80, 0xD0):  # NEG, END
            return Value(old.what)
        if operation == 0x10 and old.what == given.what == PACKET:
            return NUMBER
        if old.at is not None and not by_register and operation in (0x00, 0x10):
            return Value(FRAME, old.at + (one.imm if operation == 0x00 else -one.imm))
        return Value(old.what | given.what)

    def _loaded(self, at: int, one: Instruction, state: State) -> Value:
        base, width = state.registers[one.src], _width(one)
        if base.what & CONTEXT:
            if base.what != CONTEXT or one.offset not in self._fields or width != 4:
                names = ", ".join(self._fields.values())
                raise Refused("a field of the context that is not its business", at,
                              f"there are {names}, and all that mesh_view has")  # fmt: skip
            return Value(PACKET) if one.offset in self._pointers else NUMBER
        if not base.what & FRAME:
            return NUMBER
        if base.at is None:
            return Value(OTHER | _all(state.slots.values()))
        place = base.at + one.offset
        if -Stack.CONTEXT <= place < -Stack.LOAD:
            raise Refused("it reads what the mesh keeps on the stack", at)
        held = [state.slots.get(slot, NUMBER) for slot in _slots(place, width)]
        return held[0] if len(held) == 1 and width == SLOT else Value(_all(held))

    def _stored(self, at: int, one: Instruction, state: State) -> None:
        base = state.registers[one.dst]
        atomic = one.kind == i.STX and one.code & 0xE0 == ATOMIC
        value = state.registers[one.src] if one.kind == i.STX else NUMBER
        if base.what & PACKET:
            raise Refused("it writes to the packet", at, "edits are asked for by the verdict")
        if base.what & CONTEXT:
            raise Refused("it writes to the packet's context", at,
                          "edits are asked for by the verdict")  # fmt: skip
        pointer = value.what & (CONTEXT | PACKET)
        fetched = Value(OTHER | _all(state.slots.values())) if base.what & FRAME else NUMBER
        if base.what & FRAME:
            self._stored_to_stack(at, one, state, base, value)
        elif pointer:
            raise Refused("it stores a pointer where the kernel's addresses do not belong", at)
        if atomic and one.imm & 1:  # fetches what was there: a pointer too, if it is whole
            state.registers[0 if one.imm == 0xF1 else one.src] = fetched

    @staticmethod
    def _stored_to_stack(
        at: int, one: Instruction, state: State, base: Value, value: Value
    ) -> None:
        if base.at is None:
            if value.what & (CONTEXT | PACKET | FRAME):
                raise Refused("it stores a pointer somewhere on the stack", at)
            return
        place, width = base.at + one.offset, _width(one)
        if place < -STACK and not one.asks_to_write:
            raise Refused(f"more than {STACK} bytes of stack", at)
        for slot in _slots(place, width):
            whole = width == SLOT and place % SLOT == 0 and one.code & 0xE0 != ATOMIC
            state.slots[slot] = value if whole else NUMBER

    def _called(self, at: int, one: Instruction, state: State) -> None:
        to = state.registers[3]
        if one.imm in LOAD_BYTES:
            if to.what & (CONTEXT | PACKET):
                raise Refused("it writes to the packet", at)
            if to.at is not None and to.at < -STACK and to.at != -Stack.LOAD:
                raise Refused(f"more than {STACK} bytes of stack", at)
        for number in range(6):
            state.registers[number] = NUMBER if number == 0 else NOTHING


def _width(one: Instruction) -> int:
    return {0x00: 4, 0x08: 2, 0x10: 1, 0x18: 8}[one.code & 0x18]


def _slots(place: int, width: int) -> range:
    return range(place // SLOT, (place + width - 1) // SLOT + 1)


def _all(values: Collection[Value]) -> int:
    what = 0
    for value in values:
        what |= value.what
    return what
