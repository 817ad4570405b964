# SPDX-License-Identifier: BSD-2-Clause
"""What the kernel gets for an injected program: the author's instructions between ours.

    keep the context; clear the place of mesh_write(), where the author's have that
    its circuit breaker is open? a tail call to the next, or to mesh_chain_end
    the packet is sampled? the time of now into mesh_sampling
    the author's, which end in a verdict and nowhere else
    passed on, not the last of its chain, and not sampled? a tail call to the next
    else verdict, id and place into cb[], and on to mesh_chain_end (bpf/mesh_chain.c), or
    mesh_chain_write where the author's have mesh_write()

The author's part needs no trust for that: where it spoils what is kept, the verifier refuses the
whole, and what is measured is out of its reach. The place is a constant, since a tail call to one
is a jump (and four times as fast as one that goes through a retpoline,
linux/arch/x86/net/bpf_jit_comp.c). The breaker is read by its address.
"""

import ctypes
import struct
from dataclasses import dataclass

from ebpfmesh import _abi
from ebpfmesh.errors import UsageError
from ebpfmesh.inject.instructions import may_write
from ebpfmesh.kernel.programs import CHAIN_END, CHAIN_LEAVE, CHAIN_LEAVE_WRITE, CHAIN_WRITE, Program

INSTRUCTION = 8  # bytes
CB = 48  # offset of cb[] in struct __sk_buff
OUTPUT = CB + 4 * _abi.ChainWord.OUTPUT
R0, R1, R2, R3, R10 = 0, 1, 2, 3, 10
LD_IMM64, PSEUDO_MAP_FD, PSEUDO_MAP_VALUE = 0x18, 1, 2
CALL, EXIT, JA = 0x85, 0x95, 0x05
LOOKUP, CLOCK, TAIL_CALL = 1, 5, 12  # enum bpf_func_id in linux/include/uapi/linux/bpf.h
KEPT = -_abi.Stack.CONTEXT  # where on the stack the context is: the author's grows down to there
SPARE = -_abi.Stack.LOAD
ID_SHIFT = 16
MOST = 0x7F00  # instructions of an author: a jump crosses no more than 0x7FFF, some of them ours
SAMPLED = _abi.OutputKind.SAMPLED << _abi.IFINDEX_BITS


@dataclass(frozen=True)
class Tables:
    """Descriptors of maps of a mesh: mesh_injected, mesh_breaker, mesh_sampling."""

    chain: int
    breaker: int
    sampling: int


def end_of(author: bytes, *, guarded: bool) -> Program:
    """What must stand behind an author's instructions: where they may write, what does that.

    ``guarded``: they run with barriers against speculation, and the mesh's do not need them.
    """
    if guarded:
        return CHAIN_LEAVE_WRITE if may_write(author) else CHAIN_LEAVE
    return CHAIN_WRITE if may_write(author) else CHAIN_END


def compose(
    author: bytes,
    end: bytes,
    *,
    number: int,
    following: int,
    tables: Tables | None,
    detour: int = 0,
) -> bytes:
    """One program of a chain.

    ``author`` are its instructions, ``end`` those of ``end_of`` them, ``number`` its id,
    ``following`` the slot of the next one in mesh_injected, 0: there is none. Packets go to the
    slot ``detour`` instead while its circuit breaker is open, 0: to the next. Without ``tables``
    it is in no mesh. Raises UsageError if the author's are more than a jump can cross.
    """
    if tables is None:
        return _framed(author, b"", b"", 0, 0, end)
    onward = _next(following, tables.chain) if following else b""
    before = _before(number, detour or following, tables, len(author + onward) // INSTRUCTION)
    return _framed(author, before, onward, number, following, end)


def split(author: bytes, end: bytes, *, stable: int, canary: int, chain: int) -> bytes:
    """A program that sends a packet on to one of two slots: ``canary`` if the author's answer 1."""
    calls = b"".join(
        (
            _op(0x79, R1, R10, KEPT),
            _map(chain),
            _op(0x15, R0, 0, 3),  # if r0 == 0 goto stable
            _call(canary),
            _op(JA, 0, 0, 2),
            _call(stable),
            _op(0xB7, R0, 0, 0, _abi.InjectedAction.NEXT),  # it is not there, and will not be
        )
    )
    return _framed(author, b"", calls, 0, stable, end)


def _framed(
    author: bytes, before: bytes, onward: bytes, number: int, following: int, end: bytes
) -> bytes:
    count = len(author) // INSTRUCTION
    if count > MOST:
        hint = f"a program has at most {MOST}"
        raise UsageError(f"{count} instructions are too many", hint=hint)
    ours = _prologue(author) + before
    return ours + _without_exits(author) + onward + _tell(number, following) + end


def _prologue(author: bytes) -> bytes:
    """Keep the context; clear what mesh_write() stores, or somebody else's may be read there."""
    places = range(-_abi.Stack.WRITE, -_abi.Stack.AUTHOR, 8) if may_write(author) else ()
    kept = _op(0x7B, R10, R1, KEPT)  # *(u64 *)(r10 + KEPT) = r1
    return kept + b"".join(_op(0x7A, R10, 0, place) for place in places)  # = 0


def prologue(author: bytes) -> int:
    """How many instructions of ours stand before the author's, where it is in no mesh."""
    return len(_prologue(author)) // INSTRUCTION


def _before(number: int, bypass: int, tables: Tables, behind: int) -> bytes:
    """On to the author's instructions, but for a packet that is sampled or is to pass them by.

    ``bypass`` is a slot for these, or 0, and ``behind`` how many instructions are the author's and
    what comes between them and ``_tell``.
    """
    clock = _clock(tables.sampling)
    call = _map(tables.chain) + _call(bypass) if bypass else b""
    over = (len(clock) // INSTRUCTION) + behind
    away = call + _op(0xB7, R0, 0, 0, _abi.InjectedAction.NEXT) + _op(JA, 0, 0, over)
    rare = _op(0x15, R2, 0, len(away) // INSTRUCTION) + away + clock  # if r2 == 0 goto clock
    place = number * ctypes.sizeof(_abi.Breaker) + _offset(_abi.Breaker, "open")
    return b"".join(
        (
            _op(LD_IMM64, R2, PSEUDO_MAP_VALUE, 0, tables.breaker) + _op(0, 0, 0, 0, place),
            _op(0x61, R2, R2),  # r2 = *(u32 *)r2
            _op(0x61, R3, R1, OUTPUT),
            _op(0x54, R3, 0, 0, SAMPLED),
            _op(0x4F, R3, R2),  # r3 |= r2
            _op(0x15, R3, 0, len(rare) // INSTRUCTION),  # if r3 == 0 goto the author's
            rare,
        )
    )


def _clock(sampling: int) -> bytes:
    """The time into mesh_sampling; the author's instructions find nothing but the context."""
    return b"".join(
        (
            _op(0x62, R10, 0, SPARE, 0),  # *(u32 *)(r10 + SPARE) = 0, the key
            _op(LD_IMM64, R1, PSEUDO_MAP_FD, 0, sampling) + _op(0, 0, 0),
            _op(0xBF, R2, R10),
            _op(0x07, R2, 0, 0, SPARE),
            _op(CALL, 0, 0, 0, LOOKUP),
            _op(0x15, R0, 0, 5),  # if r0 == 0 goto the last
            _op(0x7B, R10, R0, SPARE),
            _op(CALL, 0, 0, 0, CLOCK),
            _op(0x79, R1, R10, SPARE),
            _op(0x7B, R1, R0, _offset(_abi.Sampling, "start")),
            _op(0x7A, R10, 0, SPARE, 0),  # *(u64 *)(r10 + SPARE) = 0
            _op(0x79, R1, R10, KEPT),
        )
    )


def _offset(struct: type[ctypes.Structure], field: str) -> int:
    found: int = getattr(struct, field).offset
    return found


def _without_exits(author: bytes) -> bytes:
    """Instructions that go on behind their last one, where they ended before."""
    code, count = bytearray(author), len(author) // INSTRUCTION
    place = 0
    while place < count:
        at = place * INSTRUCTION
        if code[at] == EXIT:
            code[at : at + INSTRUCTION] = _op(JA, 0, 0, count - place - 1)
        place += 2 if code[at] == LD_IMM64 else 1
    return bytes(code)


def _next(slot: int, chain: int) -> bytes:
    """A packet that passes goes on to the next of the chain; others stay, as sampled ones do."""
    failed = _op(0xB7, R0, 0, 0, _abi.InjectedAction.NEXT)  # and will once more
    call = _map(chain) + _call(slot) + failed
    unless = b"".join(
        (
            _op(0x79, R1, R10, KEPT),
            _op(0x61, R2, R1, OUTPUT),
            _op(0x45, R2, 0, len(call) // INSTRUCTION, SAMPLED),  # if r2 & SAMPLED goto behind
        )
    )
    return _op(0x55, R0, 0, len(unless + call) // INSTRUCTION) + unless + call


def _map(descriptor: int) -> bytes:
    """A map as the second argument."""
    return _op(LD_IMM64, R2, PSEUDO_MAP_FD, 0, descriptor) + _op(0, 0, 0)


def _call(slot: int) -> bytes:
    """A tail call; context and map are there."""
    return _op(0xB7, R3, 0, 0, slot) + _op(CALL, 0, 0, 0, TAIL_CALL)


def _tell(number: int, following: int) -> bytes:
    """The verdict in r0 and the id, and where the packet is, for mesh_chain_end."""
    verdict, place = (CB + 4 * word for word in (_abi.ChainWord.VERDICT, _abi.ChainWord.NEXT))
    return b"".join(
        (
            _op(0x79, R1, R10, KEPT),
            _op(0x54, R0, 0, 0, (1 << ID_SHIFT) - 1),
            _op(0x44, R0, 0, 0, _signed(number << ID_SHIFT)),
            _op(0x63, R1, R0, verdict),
            _op(0x61, R2, R1, place),
            _op(0x54, R2, 0, 0, _signed(0xFFFF0000)),
            _op(0x44, R2, 0, 0, following),
            _op(0x63, R1, R2, place),
        )
    )


def _signed(word: int) -> int:
    """A word as an immediate has it."""
    return word - (1 << 32) if word >> 31 else word


def _op(code: int, to: int, source: int = 0, offset: int = 0, immediate: int = 0) -> bytes:
    """An instruction (linux/Documentation/bpf/standardization/instruction-set.rst)."""
    return struct.pack("=BBhi", code, source << 4 | to, offset, immediate)
