# SPDX-License-Identifier: BSD-2-Clause
"""The compiler, as a process of its own: ``python -m ebpfmesh.compile.loader``.

The only module that imports bcc. LLVM is a hundred megabytes that would never leave a process, and
BCC is not thread-safe, so ``ebpfmesh.compile.build`` runs this once for each source file. It reads
a Request as JSON from stdin, compiles, loads and pins, and exits 0; on failure the last line of
stderr is the error, and what precedes it the log of clang or the verifier. With ``code_to`` it
writes the instructions there too (as ``compiled.Store`` does) and loads nothing.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ebpfmesh.compile import compiled, kept
from ebpfmesh.compile.headers import CFLAGS, SOURCE_VARIABLE, header_tree
from ebpfmesh.compile.source import flatten
from ebpfmesh.kernel import bpf, libc
from ebpfmesh.kernel.programs import Program

NO_BCC = 5

Request = dict[str, Any]
"""What ``build.Build`` writes."""


def main() -> int:
    """Serve one request; the exit code is 0, 1, or NO_BCC where BCC is not installed."""
    request = json.load(sys.stdin)
    libc.prctl(libc.PR_SET_PDEATHSIG, signal.SIGKILL)  # nobody wants the programs then
    if os.getppid() != request["parent"]:  # killed before that
        return 1
    try:
        _build(request)
    except ImportError as error:
        sys.stderr.write(f"BCC is not installed: {error}\n")
        return NO_BCC
    except Exception as error:  # noqa: BLE001  (BCC raises bare Exception)
        sys.stderr.write(f"\n{error}\n")
        return 1
    return 0


def _build(request: Request) -> None:
    """Load and pin, compiled if they are not kept; what was pinned before a failure is unpinned."""
    text, defines = flatten(Path(request["source"])), request["defines"]
    programs = [Program(**one) for one in request["programs"]]
    if request["code_to"]:
        to = compiled.Store(Path(request["code_to"]), Path(defines[compiled.PINS].strip('"')))
        module, names = _module(text, defines), [program.name for program in programs]
        _keep(module, names, to)
        _keep_if_possible(module, names, compiled.Store.of(text, defines))
        return
    store = None if request["pin_maps"] else compiled.Store.of(text, defines)
    if store and kept.has(store, programs):
        loaded = kept.load(store, programs, kept.with_log)
    else:
        module = _module(text, defines)
        loaded = {program.name: _loaded(module, program) for program in programs}
        _keep_if_possible(module, loaded, store)
        for name in request["pin_maps"]:
            loaded[name] = bpf.Fd(os.dup(module[name].map_fd))
    kept.pin(loaded, Path(request["pin_to"]))


def _loaded(module: Any, program: Program) -> bpf.Fd:
    """A program of a module; BCC knows no flags of programs."""
    if kept.flags(program):
        return kept.with_log(program, module.dump_func(program.name))
    return bpf.Fd(os.dup(module.load_func(program.name, **kept.KINDS[program.type]).fd))


def _module(text: str, defines: dict[str, str]) -> Any:
    """What BCC makes of a text."""
    os.environ[SOURCE_VARIABLE] = str(header_tree(libc.detached_tmpfs()))
    from bcc import BPF  # noqa: PLC0415  (reads the environment when imported)

    options = [f"-D{name}={value}" for name, value in defines.items()]
    return BPF(text=text, cflags=[*CFLAGS, "-O2", *options])


def _keep_if_possible(module: Any, names: Iterable[str], store: compiled.Store | None) -> None:
    if store:
        with contextlib.suppress(OSError):  # full, read-only: then it is compiled the next time too
            _keep(module, names, store)


def _keep(module: Any, names: Iterable[str], store: compiled.Store) -> None:
    for name in names:
        store.keep(name, module.dump_func(name))


if __name__ == "__main__":
    status = main()
    sys.stderr.flush()
    os._exit(status)  # without LLVM freeing all its memory first: the parent waits
