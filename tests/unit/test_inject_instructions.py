# SPDX-License-Identifier: BSD-2-Clause
"""Instructions as values: what is decoded, and maps that are named in them."""

import pytest

from ebpfmesh.inject.instructions import EXIT, Instruction, decode, encode, with_maps


def test_what_is_encoded_is_decoded() -> None:
    code = (Instruction(0x61, 2, 1, -8), Instruction(0x18, 1, 1, 0, 5), Instruction(0, imm=-1))
    assert decode(encode(code)) == code
    with pytest.raises(ValueError, match="9 bytes"):
        decode(bytes(9))


def test_maps_are_named_by_descriptors() -> None:
    number, half = Instruction(0x18, 2, imm=900), Instruction(0)
    code = encode((Instruction(0x18, 1, 1, imm=900), half, number, half, Instruction(EXIT)))
    assert [one.imm for one in decode(with_maps(code, {900: 5}))] == [5, 0, 900, 0, 0]
    with pytest.raises(KeyError):
        with_maps(code, {})
