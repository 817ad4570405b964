# SPDX-License-Identifier: BSD-2-Clause
"""From a C file to pinned programs, in a short-lived child process (see ``loader``)."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ebpfmesh.errors import MeshError, MissingPrivilege, Unsupported, VerifierRejected

NO_BCC = 5  # exit code of the loader
COMPILE_SECONDS = 120


@dataclass(frozen=True)
class Program:
    """A function of a C file that is loaded as a program of its own."""

    name: str
    type: Literal["tc", "xdp"]


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
    Raises VerifierRejected with the log's path, Unsupported without BCC.
    """
    request = {
        "parent": os.getpid(),
        "source": str(source),
        "programs": [asdict(program) for program in programs],
        "pin_to": str(pin_to),
        "defines": dict(defines or {}),
        "pin_maps": list(pin_maps),
    }
    done = subprocess.run(
        [sys.executable, "-m", "ebpfmesh.kernel.loader"],
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=COMPILE_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        raise _error(source, done.returncode, done.stdout + done.stderr)


def _error(source: Path, code: int, log: str) -> MeshError:
    last = log.strip().rsplit("\n", 1)[-1]
    if code == NO_BCC:
        return Unsupported(last, hint="apt install python3-bpfcc (PyPI's bcc is something else)")
    if "Operation not permitted" in last:
        return MissingPrivilege(
            f"loading {source.name}: CAP_BPF and CAP_NET_ADMIN are needed", hint="run as root"
        )
    with tempfile.NamedTemporaryFile(
        "w", prefix=f"ebpfmesh-{source.stem}-", suffix=".log", delete=False
    ) as file:
        file.write(log)
    return VerifierRejected(f"{source.name} was refused: {last}", log=Path(file.name))
