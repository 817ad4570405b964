# SPDX-License-Identifier: BSD-2-Clause
"""What instructions of others may do: pointers are followed wherever they go.

Instructions by hand, since no compiler writes most of these.
"""

import pytest

from ebpfmesh.inject.check import Refused, check
from ebpfmesh.inject.instructions import Instruction, encode, may_write

I = Instruction  # noqa: E741
RETURN = (I(0xB7), I(0x95))
DATA, END = I(0x61, 2, 1, 76), I(0x61, 3, 1, 80)  # r2 = ctx->data, r3 = ctx->data_end
MAP, VALUE, SIZE = 900, 901, 16


def verdict(*code: Instruction, hook: str = "tc") -> str:
    """Why it is refused; empty if it is not."""
    try:
        check((*code, *RETURN), hook=hook, maps={MAP}, values={VALUE: SIZE})
    except Refused as error:
        return error.message
    return ""


def spill(register: int, at: int) -> Instruction:
    return I(0x7B, 10, register, at)


def fill(register: int, at: int) -> Instruction:
    return I(0x79, register, 10, at)


def store(register: int, width: int = 0x62) -> Instruction:
    return I(width, register, imm=1)


WRITES, CONTEXT = "it writes to the packet", "it writes to the packet's context"

LAUNDERED = {
    "as it is": (),
    "moved": (I(0xBF, 4, 2), I(0xBF, 2, 4)),
    "moved by 32 bits": (I(0xBC, 2, 2),),
    "added to": (I(0x07, 2, imm=14),),
    "added to a number": (I(0xB7, 4, imm=3), I(0x0F, 4, 2), I(0xBF, 2, 4)),
    "number taken off": (I(0x17, 2, imm=1),),
    "masked": (I(0x57, 2, imm=-8),),
    "multiplied": (I(0x27, 2, imm=1),),
    "shifted there and back": (I(0x67, 2, imm=32), I(0x77, 2, imm=32)),
    "negated twice": (I(0x87, 2), I(0x87, 2)),
    "swapped": (I(0xDC, 2, imm=64), I(0xDC, 2, imm=64)),
    "divided": (I(0x37, 2, imm=1),),
    "xored with another": (I(0xB7, 4), I(0xAF, 4, 2), I(0xBF, 2, 4)),
    "spilled": (spill(2, -8), I(0xB7, 2), fill(2, -8)),
    "spilled by another name": (
        I(0xBF, 5, 10), I(0x07, 5, imm=-16), I(0x7B, 5, 2, 8), I(0xB7, 2), fill(2, -8),
    ),
    "one way of two": (I(0x15, 3, offset=1), I(0xB7, 2)),
    "filled from somewhere": (
        spill(2, -8), I(0xBF, 5, 10), I(0x0F, 5, 3), I(0xB7, 2), I(0x79, 2, 5, -8),
    ),
    "kept over a call": (I(0xBF, 6, 2), I(0x85, imm=5), I(0xBF, 2, 6)),
    "fetched": (spill(2, -8), I(0xB7, 4), I(0xDB, 10, 4, -8, 1), I(0xBF, 2, 4)),
    "exchanged": (spill(2, -8), I(0xB7, 4), I(0xDB, 10, 4, -8, 0xE1), I(0xBF, 2, 4)),
    "compared and exchanged": (
        spill(2, -8), I(0xB7, 4), I(0xB7, 0), I(0xDB, 10, 4, -8, 0xF1), I(0xBF, 2, 0),
    ),
    "in a loop": (
        I(0xB7, 5), I(0x15, 5, offset=4), I(0xBF, 2, 5), I(0xBF, 5, 4), I(0xBF, 4, 3),
        I(5, offset=-5),
    ),
}  # fmt: skip


@pytest.mark.parametrize("how", LAUNDERED)
@pytest.mark.parametrize("width", [0x62, 0x6A, 0x72, 0x7A])
def test_a_packet_is_not_written(how: str, width: int) -> None:
    assert verdict(DATA, END, *LAUNDERED[how], store(2, width)) == WRITES


@pytest.mark.parametrize("code", [0x63, 0x6B, 0x73, 0x7B])
def test_nor_from_a_register(code: int) -> None:
    assert verdict(DATA, I(0xB7, 4), I(code, 2, 4)) == WRITES


@pytest.mark.parametrize("operation", [0x00, 0x40, 0x50, 0xA0, 0x01, 0xE1, 0xF1])
def test_nor_by_atomics(operation: int) -> None:
    assert verdict(DATA, I(0xB7, 4), I(0xDB, 2, 4, 0, operation)) == WRITES


def test_nor_by_a_helper() -> None:
    load = (I(0xBF, 3, 2), I(0xB7, 2), I(0xB7, 4, imm=4), I(0x85, imm=26))
    assert verdict(DATA, *load) == WRITES


@pytest.mark.parametrize(("field", "width"), [(8, 0x62), (48, 0x62), (64, 0x62), (56, 0x7A)])
def test_the_context_is_not_written(field: int, width: int) -> None:
    assert verdict(I(width, 1, 0, field, 1)) == CONTEXT
    assert verdict(spill(1, -8), fill(4, -8), I(width, 4, 0, field, 1)) == CONTEXT


@pytest.mark.parametrize(
    "load", [I(0x61, 2, 1, 8), I(0x61, 2, 1, 48), I(0x79, 2, 1, 168), I(0x61, 2, 1, 140)]
)
def test_of_the_context_what_is_given_is_read(load: Instruction) -> None:
    assert "not its business" in verdict(load)


def test_the_other_hooks_context_is_another() -> None:
    assert "not its business" in verdict(DATA, hook="xdp")
    assert verdict(I(0x61, 2, 1, 0), I(0x61, 3, 1, 4), hook="xdp") == ""
    assert verdict(I(0x61, 2, 1, 0), store(2), hook="xdp") == WRITES
    assert verdict(I(0x61, 2, 1, 0), store(2)) == ""  # a length: the verifier's business


def test_the_contexts_address_is_not_computed_with() -> None:
    for how in (I(0x07, 1, imm=8), I(0x0F, 1, 10), I(0x57, 1, imm=-1)):
        assert verdict(how) == "it computes with the context's address"


def test_pointers_are_stored_on_the_stack_alone() -> None:
    lookup = (I(0xB7, 4), I(0x63, 10, 4, -4), I(0x18, 1, 1, 0, MAP), I(0), I(0xBF, 2, 10),
              I(0x07, 2, imm=-4), I(0x85, imm=1), I(0x15, 0, offset=1))  # fmt: skip
    assert verdict(DATA, I(0xBF, 6, 2), *lookup, I(0x7B, 0, 6)).startswith("it stores a pointer")
    assert verdict(DATA, I(0xBF, 6, 2), *lookup, I(0x7B, 0, 4)) == ""
    assert verdict(DATA, I(0xBF, 5, 10), I(0x0F, 5, 2), I(0x7B, 5, 2, -8)) == WRITES
    somewhere = (I(0xB7, 4), I(0x0F, 4, 10), I(0x0F, 4, 0))
    assert verdict(DATA, I(0xB7, 0), *somewhere, I(0x7B, 4, 2, -8)).endswith("on the stack")


def test_what_is_no_pointer_any_more_may_be_used() -> None:
    assert verdict(DATA, END, I(0x1F, 3, 2), I(0xBF, 5, 10), I(0x1F, 5, 3), store(5)) == ""
    assert (
        verdict(DATA, spill(2, -8), I(0x62, 10, 0, -8), fill(4, -8), I(0x0F, 4, 10), store(4)) == ""
    )
    assert verdict(DATA, I(0x69, 4, 2, 12), I(0x0F, 4, 10), store(4)) == ""


@pytest.mark.parametrize("at", [-512, -508, -505])
def test_what_is_the_meshs_on_the_stack_is_left_alone(at: int) -> None:
    assert verdict(I(0x72, 10, 0, at, 1)).endswith("bytes of stack")
    assert verdict(I(0x71, 2, 10, at)) == "it reads what the mesh keeps on the stack"
    assert verdict(I(0xBF, 5, 10), I(0x07, 5, imm=at), I(0x72, 5)).endswith("bytes of stack")


def test_the_last_bytes_of_the_stack_are_the_authors() -> None:
    assert verdict(I(0x7A, 10, 0, -480)) == ""
    assert verdict(I(0x7A, 10, 0, -488)).endswith("bytes of stack")


def test_a_write_is_asked_for_word_by_word() -> None:
    """By the frame's register, 32 bits of a register that holds any number."""
    for at in range(-512, -479):
        taken = at in (-496, -492, -488, -484, -480)
        assert (verdict(I(0x63, 10, 0, at)) == "") == taken
    for code in (0x62, 0x6B, 0x73, 0x7B, 0xC3):
        assert verdict(I(0xB7), I(code, 10, 0, -496)).endswith("bytes of stack")
    assert verdict(I(0xBF, 5, 10), I(0x63, 5, 0, -496)).endswith("bytes of stack")
    assert may_write(encode((I(0x63, 10, 0, -484), *RETURN)))
    assert not may_write(encode((I(0x63, 10, 0, -480), I(0x63, 5, 0, -496), *RETURN)))


@pytest.mark.parametrize(
    ("instruction", "why"),
    [
        (I(0x85, imm=9), "bpf_skb_store_bytes() may not be called"),
        (I(0x85, imm=12), "bpf_tail_call() may not be called"),
        (I(0x85, imm=23), "bpf_redirect() may not be called"),
        (I(0x85, imm=6), "bpf_trace_printk() may not be called"),
        (I(0x85, imm=200), "helper 200 may not be called"),
        (I(0x85, imm=189), "helper 189 may not be called"),
        (I(0x85, 0, 1, 0, 5), "a call of another function"),
        (I(0x85, 0, 2, 0, 5), "a call of a kernel function"),
        (I(0x8D, 0, 0, 0, 1), "a call through a pointer"),
        (I(0x20, imm=14), "a load of the old kind, from the packet"),
        (I(0x40, 0, 2), "a load of the old kind, from the packet"),
        (I(0xE5, offset=0), "the instruction 0xe5 is not among those that are followed"),
        (I(0x06, imm=0), "the instruction 0x6 is not among those that are followed"),
        (I(0xDB, 10, 1, -8, 0x110), "the instruction 0xdb is not among those that are followed"),
        (I(0xBF, 2, 2, 1, 1), "a cast of an address space"),
        (I(0xBF, 11, 2), "there is no such register"),
        (I(0x05, offset=5), "a jump out of the program"),
        (I(0x15, offset=-2), "a jump out of the program"),
    ],
)
def test_what_is_not_followed_is_not_taken(instruction: Instruction, why: str) -> None:
    assert verdict(instruction) == why


@pytest.mark.parametrize(
    ("kind", "number", "inside", "taken"),
    [
        (0, 5, 0, True),
        (1, MAP, 0, True),
        (1, 5, 0, False),
        (1, VALUE, 0, False),
        (2, VALUE, 8, True),
        (2, VALUE, SIZE, False),
        (2, VALUE, -1, False),
        (2, MAP, 0, False),
        (3, MAP, 0, False),
        (4, 1, 0, False),
        (5, 0, 0, False),
    ],
)
def test_maps_are_its_own(kind: int, number: int, inside: int, taken: bool) -> None:
    said = verdict(I(0x18, 2, kind, 0, number), I(0, imm=inside))
    assert said == ("" if taken else "a map that is not its own")


def test_it_says_where() -> None:
    with pytest.raises(Refused) as error:
        check((DATA, I(0xBF, 4, 2), store(4), *RETURN), hook="tc", maps=(), values={})
    assert error.value.at == 2
