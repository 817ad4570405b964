# SPDX-License-Identifier: BSD-2-Clause
"""Deny lists as they are published: an address or a prefix a line, # begins a comment."""

from collections.abc import Collection, Iterable
from ipaddress import IPv6Network, ip_network
from pathlib import Path

from ebpfmesh.errors import ConfigError
from ebpfmesh.model import DENIED, Invalid, Network, show

LONGEST = 4096
"""Characters of a line, with its comment."""
LINES = 8 * DENIED
TOLD = 20
"""Lines that are told of, of those that are wrong."""
_MAPPED = IPv6Network("::ffff:0:0/96")
_HINT = "give an address or a prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"


def parse_denied(text: str) -> Network:
    """The prefix written as ``text``, or that of one address alone; raises Invalid."""
    try:
        prefix = ip_network(text)
    except ValueError:
        raise _fault(text) from None
    if prefix.version == 6 and prefix.prefixlen >= 96 and prefix.subnet_of(_MAPPED):
        hint = "write it as IPv4: no packet has such an address"
        raise Invalid(f"{show(text)} is an IPv4-mapped prefix", hint=hint)
    return prefix


def _fault(text: str) -> Invalid:
    try:
        prefix = ip_network(text, strict=False)
    except ValueError:
        return Invalid(f"{show(text)} is neither an address nor a prefix", hint=_HINT)
    hint = f'did you mean "{prefix}", or "{text.partition("/")[0]}"?'
    return Invalid(f"{show(text)} has bits after the prefix", hint=hint)


def read_denied(lines: Iterable[str], file: Path) -> set[Network]:
    """The prefixes of a list; raises ConfigError, of all lines that are wrong.

    Of a line no more than a character over LONGEST is needed to refuse it.
    """
    found: set[Network] = set()
    faults: list[ConfigError] = []
    more = 0
    for number, line in enumerate(lines, start=1):
        try:
            if text := line.partition("#")[0].strip():
                found.add(parse_denied(text))
        except Invalid as fault:
            more += len(faults) == TOLD
            if len(faults) < TOLD:
                faults.append(_at(file, number, fault))
        if fault_of_all := _too_much(number, line, found):
            faults.append(_at(file, number, fault_of_all))
            break
    if faults:
        faults[0].others, faults[0].more = tuple(faults[1:]), more
        raise faults[0]
    return found


def _at(file: Path, number: int, fault: Invalid) -> ConfigError:
    return ConfigError(fault.message, file=file, line=number, hint=fault.hint)


def _too_much(number: int, line: str, found: Collection[Network]) -> Invalid | None:
    """Why no more is read."""
    if len(line) > LONGEST:
        return Invalid(f"a line of more than {LONGEST} characters", hint="one prefix a line")
    if len(found) > DENIED:
        return Invalid(f"more than {DENIED} prefixes", hint="join neighbours to shorter ones")
    if number > LINES:
        return Invalid(f"more than {LINES} lines", hint="is it a list of prefixes?")
    return None
