# SPDX-License-Identifier: BSD-2-Clause
"""How numbers, places and paths are written in the report and on a terminal: pure text."""

import math

from ebpfmesh.bench.kinds import AXES

THIN = "\u202f"
"""A narrow space that does not break: between thousands, and before a unit."""
PREFIXES = ((10**9, "G"), (10**6, "M"), (10**3, "k"))
COMPACT_FROM = 1_000_000
PREFIXED_FROM = 100_000
"""Places from which their number has a prefix."""
SHORT_FROM = 10_000
"""Counts from which the ticks of a picture have a prefix."""


def number(value: float) -> str:
    """Three significant digits, without an exponent, thousands apart; two below 0.01."""
    size = abs(value)
    if size in (0, math.inf):
        return "∞" if size else "0"
    if size >= 1:
        digits = max(0, 3 - len(f"{size:.0f}"))
    elif size >= 0.01:
        digits = 3
    else:
        digits = min(1 - math.floor(math.log10(size)), 12)
    return f"{value:,.{digits}f}".replace(",", THIN)


def compact(value: float) -> str:
    """A number in three digits with a prefix from a million on: 500 M."""
    for size, prefix in PREFIXES if abs(value) >= COMPACT_FROM else ():
        if abs(value) >= size:
            return f"{number(value / size)}{THIN}{prefix}"
    return number(value)


def count(value: int) -> str:
    """A whole number with its thousands apart."""
    return f"{value:,}".replace(",", THIN)


def short(value: int) -> str:
    """A whole number as a tick has it: 1 000, 100 k, 1 M."""
    for size, prefix in PREFIXES if value >= SHORT_FROM else ():
        if value >= size:
            return f"{value / size:g}{THIN}{prefix}"
    return count(value)


def place(axis: str, at: int) -> str:
    """A place on an axis: 1 000 services, 1 flow, 1 M flows."""
    title = AXES[axis].title
    if at == 1:
        first, space, rest = title.partition(" ")
        title = first.removesuffix("s") + space + rest
    return f"{short(at) if at >= PREFIXED_FROM else count(at)} {title}"


def capital(text: str) -> str:
    """A text that begins with a capital letter, and is else as it was."""
    return text[:1].upper() + text[1:]


def between(low: float, high: float) -> str:
    """Both ends of an interval: 1.2–1.35, or one number if they look the same."""
    first, last = number(low), number(high)
    return first if first == last else f"{first}–{last}"


def percent(part: float) -> str:
    """A part of a whole: 97 %."""
    return f"{part:.0%}".replace("%", f"{THIN}%")


def plain(text: str) -> str:
    """A text without the marks of what is typed."""
    return text.replace("`", "")
