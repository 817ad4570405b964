# SPDX-License-Identifier: BSD-2-Clause
"""Functions of others, run alone: their verdict of a packet, their counters and their maps."""

import struct
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh import _abi
from ebpfmesh._abi import InjectedAction, InjectedVerdict
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.inject.build import Built
from ebpfmesh.inject.maps import PARAMETER_MAP, SLOT, packed
from ebpfmesh.inject.source import COUNTERS
from ebpfmesh.kernel import bpf

FUNCTIONS = bpf_dir() / "functions"
EXAMPLES = sorted(FUNCTIONS.glob("*.c"))
CB = 48  # offset in struct __sk_buff


@dataclass(frozen=True)
class Verdict:
    """What a function wants done with a packet."""

    action: InjectedAction
    index: int = 0
    dscp: int | None = None
    ce: bool = False
    write: bool = False


NEXT = Verdict(InjectedAction.NEXT)


def drop(index: int) -> Verdict:
    return Verdict(InjectedAction.DROP, index)


def word(built: Built, frame: bytes) -> int:
    """The verdict as a number; the packet must come out as it went in."""
    if built.hook == "xdp":
        done = bpf.prog_test_run(built.alone, frame)
        found = done.verdict
    else:
        done = bpf.prog_test_run(built.alone, frame, context=bytes(192))
        found = struct.unpack_from("=I", done.context, CB + 4 * _abi.ChainWord.VERDICT)[0]
    assert done.packet == frame
    return found


def run(built: Built, frame: bytes) -> Verdict:
    """The verdict of a packet."""
    found = word(built, frame)
    given = found & InjectedVerdict.SET_DSCP
    return Verdict(
        InjectedAction(found & InjectedVerdict.ACTION),
        (found & InjectedVerdict.INDEX) >> 2,
        (found & InjectedVerdict.DSCP) >> 6 if given else None,
        bool(found & InjectedVerdict.SET_CE),
        bool(found & InjectedVerdict.WRITE),
    )


def counters(built: Built) -> dict[str, int]:
    """Counters of all CPUs, those that are not 0."""
    found = {}
    for slot, name in enumerate(built.source.counters):
        raw = bpf.map_lookup(
            built.maps[COUNTERS].fd, struct.pack("=I", slot), 8 * bpf.possible_cpus()
        )
        if total := sum(struct.unpack(f"={bpf.possible_cpus()}Q", raw or b"")):
            found[name] = total
    return found


def set_parameter(built: Built, name: str, value: int) -> None:
    """Change a parameter as a user would."""
    fd, slots = built.maps[PARAMETER_MAP].fd, list(built.parameters)
    raw = bytearray(bpf.map_lookup(fd, bytes(4), SLOT * len(slots)) or b"")
    at = SLOT * slots.index(name)
    raw[at : at + SLOT] = packed(built.parameters[name].type, value)
    bpf.map_update(fd, bytes(4), bytes(raw))


def write(directory: Path, text: str, name: str = "mine.c") -> Path:
    """An author's file; text without the include gets it as its first line."""
    file = directory / name
    head = "" if '"mesh_function.h"' in text else '#include "mesh_function.h"\n'
    file.write_text(head + text)
    return file
