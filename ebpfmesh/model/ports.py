# SPDX-License-Identifier: BSD-2-Clause
"""Ports and ranges of them: how they are written, and the prefixes a map has of them."""

import re

from ebpfmesh.model.base import Invalid, show

BITS = 16
_ALLOWED = 'a port from 1 to 65535, or a range such as "8000-8099"'


def parse_ports(value: object) -> tuple[int, int]:
    """First and last port of what is written as ``80`` or ``"8000-8099"``; raises ``Invalid``."""
    if isinstance(value, str):
        match = re.fullmatch(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", value)
        ends = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        shown = show(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        ends = value, value
        shown = str(value) if value.bit_length() <= 64 else "an integer of more than 64 bits"
    else:
        raise Invalid("a port must be an integer or a string", hint=f"allowed: {_ALLOWED}")
    if not all(1 <= port <= 65535 for port in ends):
        raise Invalid(f"a port cannot be {shown}", hint=f"allowed: {_ALLOWED}")
    first, last = ends
    if last < first:
        what = f"the range {shown} ends before it begins"
        raise Invalid(what, hint=f'did you mean "{last}-{first}"?')
    return first, last


def ports_text(first: int, last: int) -> str:
    """A port or a range as people write it."""
    return str(first) if last == first else f"{first}-{last}"


def port_prefixes(first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The fewest (port, leading bits) that are together the ports from ``first`` to ``last``."""
    found = []
    while first <= last:
        bits = BITS  # the widest prefix that begins at first and does not pass last
        while bits and not first & (1 << (BITS - bits)) and first | _below(bits - 1) <= last:
            bits -= 1
        found.append((first, bits))
        first += _below(bits) + 1
    return tuple(found)


def _below(bits: int) -> int:
    """The highest port that can follow so many leading bits."""
    return (1 << (BITS - bits)) - 1
