# SPDX-License-Identifier: BSD-2-Clause
"""An XDP program that is all of a function: an operator's C file, checked and loaded.

One function of the file gets `struct xdp_md *` and answers with XDP_DROP, XDP_TX, XDP_PASS or
XDP_REDIRECT; it may change the frame. It is compiled where it can do no harm, calls helpers from a
list, has its own maps, and learns no address of the kernel's. What it sends is judged by the mesh
as what any function sends, so that it needs no more trust than one with a process.
"""

import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from ebpfmesh.inject import check, maps
from ebpfmesh.inject import compile as compiling
from ebpfmesh.inject import instructions as i
from ebpfmesh.inject.budget import Budget
from ebpfmesh.inject.compile import Compiled
from ebpfmesh.inject.source import Source
from ebpfmesh.inject.verify import loaded, without_addresses
from ebpfmesh.kernel import bpf

HELPERS = check.HELPERS | {
    23: "redirect", 28: "csum_diff", 44: "xdp_adjust_head", 54: "xdp_adjust_meta",
    65: "xdp_adjust_tail", 188: "xdp_get_buff_len", 189: "xdp_load_bytes", 190: "xdp_store_bytes",
}  # fmt: skip
"""What it may call, by number; bpf_redirect() finds interfaces of its own namespace alone."""
INSTRUCTIONS = 1 << 16
NAME = 255  # bytes of a pin's
BUDGET = Budget(map_bytes=1 << 30)
_ENTRY = re.compile(r"^(static\s[^\n(]*|)\bint\s+(\w+)\s*\(\s*struct\s+xdp_md\s*\*", re.M)


def entry(source: Source) -> str:
    """Name of the function that gets the frames; FunctionRefused unless there is one."""
    found = [match[2] for match in _ENTRY.finditer(source.text) if "static" not in match[1]]
    if len(found) == 1:
        return found[0]
    what = (
        f"{len(found)} functions get a struct xdp_md, of which one must"
        if found
        else ("no function gets a struct xdp_md")
    )
    line = source.line_of(found[1]) if found else None
    raise source.refuse(what, line, "int name(struct xdp_md *ctx) { return XDP_TX; }")


@contextmanager
def built(file: str, text: str) -> Iterator[tuple[bpf.Fd, dict[str, bpf.Fd]]]:
    """The program of a file's text and its maps, for the ``with`` block, or as long as pinned.

    Raises FunctionRefused, MissingPrivilege, Unsupported.
    """
    source = Source(Path(file), text)
    program = _compiled(source)
    _check(source, program)
    lines = {one.name: source.line_of(one.name) or 0 for one in program.tables}
    source = replace(source, maps=lines)
    wanted = maps.layouts(source, program, BUDGET)
    with ExitStack() as stack:
        own = maps.create(source, wanted, {}, stack)
        numbers = {one.number: one.fd.fileno() for one in own.values()}
        code = i.with_maps(program.instructions, numbers)
        with without_addresses():
            held = stack.enter_context(loaded(source, program, code, "xdp"))
        yield held, {name: one.fd for name, one in own.items()}


def _compiled(source: Source) -> Compiled:
    request = {
        "parent": os.getpid(),
        "text": f'#line 1 "{source.alias}"\n{source.text}\n#line 1 "entry"\n',
        "entries": [entry(source)],
        "flags": [],
    }
    return compiling.asked(source, request)


def _check(source: Source, program: Compiled) -> None:
    """Raise FunctionRefused for what the verifier lets root do, and no function needs."""
    code = i.decode(program.instructions)
    if len(code) > INSTRUCTIONS:
        raise source.refuse(f"{len(code)} instructions, of {INSTRUCTIONS} it may have", None)
    for table in program.tables:
        if len(os.fsencode(table.name)) > NAME:
            raise source.refuse("a map's name is too long for its pin", source.line_of(table.name))
    inner, own = i.halves(code), {table.number for table in program.tables}
    for at, one in enumerate(code):
        if at in inner:
            continue
        if one.code == i.CALL and one.src == 0 and one.imm not in HELPERS:
            name = check.FORBIDDEN.get(one.imm)
            what = f"bpf_{name}()" if name else f"helper {one.imm}"
            hint = "it may call " + ", ".join(f"bpf_{name}" for name in HELPERS.values())
            raise source.refuse(f"{what} may not be called", program.line(at), hint)
        if one.code == i.CALL and one.src not in {0, i.PSEUDO_CALL}:
            raise source.refuse("a call of a kernel function", program.line(at))
        if (
            one.code == i.LD_IMM64
            and one.src
            and (one.src != i.PSEUDO_MAP_FD or one.imm not in own)
        ):
            raise source.refuse("a map that is not its own", program.line(at))
