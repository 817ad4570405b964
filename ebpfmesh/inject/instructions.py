# SPDX-License-Identifier: BSD-2-Clause
"""BPF instructions as values, to be read.

Source: linux/Documentation/bpf/standardization/instruction-set.rst.
"""

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ebpfmesh._abi import Stack

SIZE = 8  # bytes
WRITE_WORDS = range(-Stack.WRITE, -Stack.AUTHOR, 4)
"""Where mesh_write() stores, below the top of the stack."""

# Classes and what is in them.
LD, LDX, ST, STX, ALU, JMP, JMP32, ALU64 = range(8)
LD_IMM64 = 0x18
STORE_WORD = 0x63
JA, CALL, EXIT = 0x05, 0x85, 0x95
PSEUDO_MAP_FD, PSEUDO_MAP_VALUE, PSEUDO_CALL = 1, 2, 1
CONTEXT, FRAME = 1, 10  # registers: the first argument, and the stack's top


@dataclass(frozen=True)
class Instruction:
    """One of 8 bytes; the second half of a LD_IMM64 has code 0."""

    code: int
    dst: int = 0
    src: int = 0
    offset: int = 0
    imm: int = 0

    def __bytes__(self) -> bytes:
        return struct.pack("=BBhi", self.code, self.dst | self.src << 4, self.offset, self.imm)

    @property
    def kind(self) -> int:
        """Its class: LD to ALU64."""
        return self.code & 7

    @property
    def jumps(self) -> bool:
        """Whether it may go on elsewhere: no call, no exit."""
        return self.kind in (JMP, JMP32) and self.code & 0xF0 not in (0x80, 0x90)

    @property
    def asks_to_write(self) -> bool:
        """Whether it stores one of the words of mesh_write(), as that does: 32 bits, by r10."""
        return self.code == STORE_WORD and self.dst == FRAME and self.offset in WRITE_WORDS


def decode(code: bytes) -> tuple[Instruction, ...]:
    """The instructions of a program; ValueError if bytes are left."""
    if len(code) % SIZE:
        raise ValueError(f"{len(code)} bytes are no instructions")
    return tuple(
        Instruction(opcode, registers & 15, registers >> 4, offset, imm)
        for opcode, registers, offset, imm in struct.iter_unpack("=BBhi", code)
    )


def encode(instructions: Sequence[Instruction]) -> bytes:
    """The bytes of instructions."""
    return b"".join(bytes(one) for one in instructions)


def halves(instructions: Sequence[Instruction]) -> set[int]:
    """Where the second halves of LD_IMM64 stand, which are no instructions themselves."""
    found: set[int] = set()
    for at, one in enumerate(instructions):
        if one.code == LD_IMM64 and at not in found:
            found.add(at + 1)
    return found


def with_maps(code: bytes, numbers: Mapping[int, int]) -> bytes:
    """The same program with other numbers for its maps (descriptors); KeyError if one has none."""
    instructions = list(decode(code))
    inner = halves(instructions)
    for at, one in enumerate(instructions):
        if at not in inner and one.code == LD_IMM64 and one.src:
            instructions[at] = replace(one, imm=numbers[one.imm])
    return encode(instructions)


def may_write(code: bytes) -> bool:
    """Whether a program may ask for a write: whether mesh_write() stands in it anywhere."""
    return any(one.asks_to_write for one in decode(code))
