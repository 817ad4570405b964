# SPDX-License-Identifier: BSD-2-Clause
"""From a C file to pinned programs: at once where they are kept, else in a child (``loader``)."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, Self, cast

from ebpfmesh.compile import compiled, kept
from ebpfmesh.compile.source import flatten
from ebpfmesh.errors import MeshError, MissingPrivilege, Unsupported, VerifierRejected
from ebpfmesh.kernel import bpf
from ebpfmesh.kernel.programs import Program

NO_BCC = 5  # exit code of the loader
COMPILE_SECONDS = 900  # under emulation two minutes are not enough


class Build:
    """A build that has begun, beside the caller; its arguments are those of ``build``.

    What is kept is loaded by a thread, which costs less than an interpreter; with ``code_to``, or
    where that fails, a process of its own does all and has the log.
    """

    def __init__(
        self,
        source: Path,
        programs: Sequence[Program],
        *,
        pin_to: Path,
        defines: Mapping[str, str] | None = None,
        pin_maps: Sequence[str] = (),
        code_to: Path | None = None,
    ) -> None:
        compiled.directory()  # its errors are reported here, not by the child
        self._source = source
        self._request = {
            "parent": os.getpid(),
            "source": str(source),
            "programs": [asdict(program) for program in programs],
            "pin_to": str(pin_to),
            "defines": dict(defines or {}),
            "pin_maps": list(pin_maps),
            "code_to": str(code_to or ""),
        }
        self._loader: subprocess.Popen[str] | None = None
        self._thread: ThreadPoolExecutor | None = None
        store = None
        if defines and not pin_maps and not code_to:
            store = compiled.Store.of(flatten(source), defines)
        if store and kept.has(store, programs):
            self._thread = ThreadPoolExecutor(1)
            self._pinned = self._thread.submit(_pin, store, programs, pin_to)
        else:
            self._start()

    def _start(self) -> None:
        self._loader = subprocess.Popen(  # -P: no module of the working directory
            [sys.executable, "-P", "-m", "ebpfmesh.compile.loader"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        with cast(IO[str], self._loader.stdin) as to_loader:
            to_loader.write(json.dumps(self._request))
        self._loader.stdin = None

    def wait(self) -> None:
        """Until the programs are pinned; raises what ``build`` does."""
        if self._thread:
            try:
                return self._pinned.result()
            except (OSError, MeshError):  # the child says more of it
                self._start()
        loader = cast("subprocess.Popen[str]", self._loader)
        log, _ = loader.communicate(timeout=COMPILE_SECONDS)
        if loader.returncode != 0:
            raise _error(self._source, loader.returncode, log)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._thread:
            self._thread.shutdown()
        if self._loader:
            self._loader.kill()
            self._loader.communicate()


def _pin(store: compiled.Store, programs: Sequence[Program], pin_to: Path) -> None:
    kept.pin(kept.load(store, programs, kept.quietly), pin_to)


def build(
    source: Path,
    programs: Sequence[Program],
    *,
    pin_to: Path,
    defines: Mapping[str, str] | None = None,
    pin_maps: Sequence[str] = (),
) -> None:
    """Compile ``source``, load ``programs`` and pin each as ``pin_to/NAME``.

    ``pin_maps`` are maps the file itself declares, pinned beside the programs. ``pin_to`` must be
    an existing directory of a BPF file system; on failure it holds no more than before.
    Raises VerifierRejected with the log's path, Unsupported without BCC, UsageError as
    ``compiled.directory`` does.
    """
    with Build(source, programs, pin_to=pin_to, defines=defines, pin_maps=pin_maps) as begun:
        begun.wait()


def instructions(
    source: Path, name: str, *, defines: Mapping[str, str]
) -> tuple[bytes, list[bpf.Fd]]:
    """The instructions of a function of ``source`` and the maps they name.

    Compiled if they are not kept; nothing is loaded. Raises what ``build`` does.
    """
    maps = Path(defines[compiled.PINS].strip('"'))
    store = compiled.Store.of(flatten(source), defines)
    if store and store.has(name):
        code, opened = store.code(name)
        return bytes(code), opened
    with tempfile.TemporaryDirectory(prefix="ebpfmesh-") as there:
        place = Path(there) / "code"
        program = Program(name, "tc", source.name)
        with Build(source, [program], pin_to=place, defines=defines, code_to=place) as begun:
            begun.wait()
        code, opened = compiled.Store(place, maps).code(name)
        return bytes(code), opened


def _error(source: Path, code: int, log: str) -> MeshError:
    last = log.strip().rsplit("\n", 1)[-1]
    if code == NO_BCC:
        return Unsupported(last, hint="apt install python3-bpfcc (PyPI's bcc is something else)")
    if "Operation not permitted" in last:
        return MissingPrivilege(
            f"loading {source.name}: CAP_BPF and CAP_NET_ADMIN are needed", hint="run as root"
        )
    if "CAP_SYS_ADMIN" in last:
        return MissingPrivilege(last, hint="run as root")
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"ebpfmesh-{source.stem}-", suffix=".log", delete=False
    ) as file:
        file.write(log)
    return VerifierRejected(f"{source.name} was refused: {last}", log=Path(file.name))
