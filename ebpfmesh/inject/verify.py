# SPDX-License-Identifier: BSD-2-Clause
"""Programs of others, checked and loaded; what the verifier says of them, at the author's line."""

import ctypes
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from ebpfmesh.errors import FunctionRefused, MeshError, MissingPrivilege
from ebpfmesh.inject import check
from ebpfmesh.inject.budget import Budget
from ebpfmesh.inject.compile import Compiled, keep_log
from ebpfmesh.inject.compose import prologue
from ebpfmesh.inject.instructions import decode
from ebpfmesh.inject.measure import KINDS
from ebpfmesh.inject.source import Source
from ebpfmesh.kernel import bpf, libc

LOG_BYTES = 16 << 20
NET_ADMIN, BPF = 12, 39  # linux/include/uapi/linux/capability.h


@contextmanager
def without_addresses() -> Iterator[None]:
    """The calling thread may load programs, but none that learns the kernel's addresses."""
    before = libc.set_effective(1 << BPF | 1 << NET_ADMIN)
    try:
        yield
    finally:
        libc.set_effective(before)


def running(*, guarded: bool) -> AbstractContextManager[None]:
    """How what runs is loaded: ``guarded`` by the verifier's barriers against speculation, or not.

    It leaves them out for whom it trusts with the kernel's memory (bpf_bypass_spec_v1() and
    bpf_bypass_spec_v4() in linux/include/linux/bpf.h, Linux 6.18).
    """
    return without_addresses() if guarded else nullcontext()


def checked(
    source: Source,
    program: Compiled,
    hook: str,
    budget: Budget,
    *,
    maps: Collection[int],
    values: Mapping[int, int],
) -> None:
    """Raise FunctionRefused unless ``check`` takes the instructions, which are not too many."""
    code = decode(program.instructions)
    if len(code) > budget.instructions:
        what = f"{len(code)} instructions, of {budget.instructions} it may have"
        raise source.refuse(what, program.line(budget.instructions))
    try:
        check.check(code, hook=hook, maps=maps, values=values)
    except check.Refused as error:
        raise source.refuse(error.message, program.line(error.at), error.hint) from error


def loaded(source: Source, program: Compiled, code: bytes, hook: str) -> bpf.Fd:
    """The program of ``code``, which is that of ``program`` with maps, and between ours at tc.

    Raises FunctionRefused with what the verifier says, MissingPrivilege, OSError.
    """
    name = re.sub(r"\W", "_", source.path.stem)
    with suppress(OSError, MissingPrivilege):
        return bpf.prog_load(KINDS[hook], name, code)
    log = ctypes.create_string_buffer(LOG_BYTES)
    try:
        return bpf.prog_load(KINDS[hook], name, code, log=log)
    except (OSError, MissingPrivilege) as error:
        said = log.value.decode(errors="replace")
        if not said:
            raise
        before = prologue(program.instructions) if hook == "tc" else 0
        raise _refused(source, program, said, before) from error


_BESIDE = ("processed ", "cur state: ", "old state: ")
_INSTRUCTION = re.compile(r"^(\d+): \([0-9a-f]{2}\)", re.M)
_NAMED = re.compile(r"\binsn (\d+)")


def _refused(source: Source, program: Compiled, said: str, before: int) -> MeshError:
    """What the verifier says, at the author's line of the instruction where it stopped."""
    lines = [line for line in said.splitlines() if line and not line.startswith(_BESIDE)]
    last = lines[-1] if lines else "the verifier says nothing"
    places = _NAMED.findall(last) or _INSTRUCTION.findall(said)
    at = int(places[-1]) - before if places else 0
    line, hint = program.line(at), _hint(last)
    if at >= len(program.lines):
        line, hint = None, "its verdict, or what it did to the stack, is not what the mesh can use"
    return FunctionRefused(
        f"the verifier: {last}", file=source.path, line=line, log=keep_log(source, said), hint=hint
    )


HINTS: Sequence[tuple[str, str]] = (
    (r"map_value_or_null|invalid mem access", "is a look-up's result compared with NULL first?"),
    (
        r"invalid access to packet|outside of the packet",
        "look first whether there is as much of the packet: mesh_read(), or data_end at XDP",
    ),
    (r"infinite loop|back-edge|too (complex|large)", "loops are unrolled: #pragma unroll"),
    (
        r"prohibited for !root|leaks addr|pointer comparison",
        "compute with values, no pointers",
    ),
    (r"invalid read from stack|uninit|!read_ok", "set it before it is read: struct x = {};"),
    (r"stack", f"at most {check.STACK} bytes of stack"),
)


def _hint(said: str) -> str:
    return next((hint for pattern, hint in HINTS if re.search(pattern, said)), "")
