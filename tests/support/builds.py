# SPDX-License-Identifier: BSD-2-Clause
"""Other builds of ebpfmesh: copies of this one with a change, and their own command line."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import build
from ebpfmesh.compile.source import bpf_dir, flatten
from ebpfmesh.kernel import bpf, private, programs
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from support.command import ROOT, SECONDS
from support.topology import SLOWER, unavailable

ENTRY = re.compile(r"^(int mesh_\w+\(struct \w+ \*ctx\)\n\{\n)", re.MULTILINE)
NOTHING = "\tbpf_ktime_get_ns();\n"
"""A call more, which changes nothing."""
WIDER = (
    (
        "\t__u32 seen;\t\t     /* tick of the last packet */\n};",
        "\t__u32 seen;\n\t__u32 more[2];\n};",
    ),
    ("sizeof(struct mesh_flow) == 64", "sizeof(struct mesh_flow) == 72"),
    ("sizeof(struct mesh_counted_flow) == 88", "sizeof(struct mesh_counted_flow) == 96"),
    ("sizeof(struct mesh_entries) == 256", "sizeof(struct mesh_entries) == 272"),
)
"""A larger entry of a flow: (what stands in mesh_abi.h, what takes its place)."""


def other_build(directory: Path) -> Path:
    """A build whose programs differ, each by an instruction; their layouts do not."""
    _copy(directory)
    for name in programs.by_file(programs.MESH):
        source = directory / "bpf" / name
        text, changed = ENTRY.subn(rf"\1{NOTHING}", source.read_text())
        assert changed, source
        source.write_text(text)
    return directory


def broken_build(directory: Path) -> Path:
    """A build that does not compile."""
    _copy(directory)
    with (directory / "bpf/mesh_slow.c").open("a") as source:
        source.write("no C\n")
    return directory


def other_layout(directory: Path) -> Path:
    """A build whose entries of flows are larger."""
    _copy(directory)
    header = directory / "bpf/include/mesh_abi.h"
    text = header.read_text()
    for old, new in WIDER:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    header.write_text(text)
    _run(directory, "ebpfmesh.abi")
    return directory


@contextmanager
def build_with(mesh: Mesh, program: programs.Program, call: str, place: Path) -> Iterator[None]:
    """A build to revert to, for the ``with`` block: behind ``call`` in a program another one."""
    text, own = flatten(bpf_dir() / program.file), Pins(mesh.name)
    assert call in text
    source = place / program.file
    source.write_text(text.replace(call, call + NOTHING.strip()))
    there = own.build("another")
    private.directory(there)
    for path in own.progs.iterdir():
        if path.name not in {program.name, *programs.EARLY}:
            with bpf.obj_get(path) as known:
                bpf.obj_pin(known, there / path.name)
    defines = compiled.defines(own.maps, count_flows=False)
    build(source, [program], pin_to=there, defines=defines)
    try:
        yield
    finally:
        shutil.rmtree(there)


def early_tag(mesh: Mesh) -> bytes:
    """Which program is at XDP of uplink u0."""
    with bpf.obj_get(Pins(mesh.name).links / "@u0-xdp") as link:
        number = bpf.link_program(link)
    with bpf.prog_by_id(number) as program:
        return bytes(bpf.prog_info(program).tag)


@contextmanager
def in_c(name: str, *flags: str) -> Iterator[Callable[[Path], Path]]:
    """Compiles programs with ports or pools, for the ``with`` block, to where commands see them."""
    compiler = shutil.which("cc") or shutil.which("clang")
    if compiler is None:
        unavailable("there is no C compiler")
    place = ROOT / ".cache" / name
    place.mkdir(parents=True, exist_ok=True)
    words = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", *flags]
    words.append(f"-I{ROOT}/ebpfmesh/port/include")

    def compile_it(source: Path) -> Path:
        target = place / source.stem
        subprocess.run([str(compiler), *words, source, "-o", target], check=True)
        return target

    try:
        yield compile_it
    finally:
        shutil.rmtree(place)


def command_of(build: Path, *words: object, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run a build's command; the test fails if its exit code is another than ``code``."""
    return _run(build, "ebpfmesh", *words, code=code)


UP = """
import sys
from ebpfmesh import apply
from ebpfmesh.model import Mesh
apply.up(Mesh.model_validate_json(sys.stdin.read()))
"""


def up_by(build: Path, mesh: Mesh) -> None:
    """Have a build make a mesh as it is here."""
    _start(build, ["-c", UP], said=mesh.model_dump_json())


def _copy(directory: Path) -> None:
    for name in ("ebpfmesh", "bpf"):
        skipped = shutil.ignore_patterns("__pycache__", ".*_cache")
        shutil.copytree(ROOT / name, directory / name, ignore=skipped)


def _run(
    build: Path, module: str, *words: object, code: int = 0
) -> "subprocess.CompletedProcess[str]":
    return _start(build, ["-m", module, *map(str, words)], code=code)


def _start(
    build: Path, words: Sequence[str], *, said: str = "", code: int = 0
) -> "subprocess.CompletedProcess[str]":
    own = {"PYTHONPATH": str(build)}
    if build != ROOT:
        own["EBPFMESH_COMPILED"] = str(build / "compiled")
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, input=said,
        cwd=build, timeout=SECONDS * SLOWER, env=os.environ | own,
    )  # fmt: skip
    if done.returncode != code:
        answer = f"{done.stdout}{done.stderr}"
        pytest.fail(f"{' '.join(words)}: exit {done.returncode}\n{answer}")
    return done
