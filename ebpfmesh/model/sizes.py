# SPDX-License-Identifier: BSD-2-Clause
"""Bytes and numbers as people write them."""

import re

from pydantic import ValidationInfo, WithJsonSchema

from ebpfmesh.model.base import Invalid, show

BYTES = WithJsonSchema(
    {
        "anyOf": [
            {"type": "integer", "minimum": 4096},
            {"type": "string", "pattern": "^[0-9]+[KMGT]?$"},
        ]
    }
)
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_bytes(value: object, info: ValidationInfo) -> object:
    """Bytes of a text such as ``64M``; anything but a string is left to the field's own checks."""
    if not isinstance(value, str):
        return value
    if not (match := re.fullmatch(r"([0-9]{1,15})([KMGT]?)", value)):
        hint = 'a number of bytes, or a string such as "512K", "64M" or "1G"'
        raise Invalid(f'"{info.field_name}" cannot be {show(value)}', hint=hint)
    return int(match[1]) * _UNITS[match[2]]


def memory_text(size: int) -> str:
    """Bytes as people write them, exactly: ``64M``."""
    unit = max((u for u in _UNITS if size % _UNITS[u] == 0), key=_UNITS.__getitem__)
    return f"{size // _UNITS[unit]}{unit}"


def power_of_two(number: int) -> int:
    """The number, if it is one; raises Invalid."""
    if number & number - 1:
        hint = f"{1 << number.bit_length() - 1} or {1 << number.bit_length()}"
        raise Invalid(f"{number} is no power of two", hint=hint)
    return number
