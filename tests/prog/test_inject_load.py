# SPDX-License-Identifier: BSD-2-Clause
"""Functions of others where they run, in a chain, and where they are compiled: nowhere."""

import ctypes
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from ebpfmesh import _abi, apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.compile import compiled
from ebpfmesh.compile.build import instructions
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import FunctionRefused
from ebpfmesh.inject.build import build, load
from ebpfmesh.kernel.pins import Pins
from prog.lab import NAME, TC, Drop, Lab, peer
from prog.table_hostile import HOSTILE
from support import topology
from support.inject import FUNCTIONS, counters, set_parameter, write
from support.packets import sent, udp

A, B = peer("a"), peer("b")
HEAD = 16 + _abi.CHAIN_MAX


@pytest.fixture
def end(lab: Lab) -> Iterator[bytes]:
    """What stands behind each program of a chain; nothing is injected afterwards."""
    with ExitStack() as stack:
        defines = compiled.defines(Pins(NAME).maps, count_flows=False)
        code, held = instructions(bpf_dir() / "mesh_chain.c", "mesh_chain_end", defines=defines)
        for one in held:
            stack.enter_context(one)
        yield code
    lab.maps["mesh_chain"].set(ctypes.c_uint32(lab.ids["a"]), _abi.Chain())
    for slot in (HEAD, HEAD - 1):
        lab.maps["mesh_injected"].delete(ctypes.c_uint32(slot))


@pytest.mark.parametrize("v", [4, 6])
def test_functions_in_a_chain(lab: Lab, end: bytes, v: int) -> None:
    """Two of them, one behind the other: the first marks, the second drops what is too long."""
    table = lab.maps["mesh_injected"]
    with (
        build(FUNCTIONS / "dscp.c") as dscp,
        build(FUNCTIONS / "template.c") as template,
    ):
        for place, built in enumerate((template, dscp)):
            slot = HEAD - place
            following = 0 if place else slot - 1
            with load(built, end, number=place + 1, following=following,
                      tables=lab.injected) as program:  # fmt: skip
                table.set(ctypes.c_uint32(slot), ctypes.c_uint32(program.fileno()))
        row = _abi.Chain()
        row.head[Direction.FROM_FN] = HEAD
        lab.maps["mesh_chain"].set(ctypes.c_uint32(lab.ids["a"]), row)
        with apply.opened(NAME) as live:
            live.control.commit()
        set_parameter(dscp, "other", 46)
        set_parameter(template, "limit", 200)
        short, long = (bytes(sent(A, udp(v, A, B, 1000, 53, bytes(n)))) for n in (10, 300))
        for _ in range(2):
            passed, dropped = lab.run(TC, "a", short), lab.run(TC, "a", long)
            assert passed.verdict == "forward"
            marked = int.from_bytes(passed.frame[14:16], "big") >> (0 if v == 4 else 4) & 0xFF
            assert marked == 46 << 2
            where = Drop("a", Direction.FROM_FN, Reason.INJECTED)
            assert (dropped.verdict, list(dropped.counted)) == ("drop", [where])
        assert counters(template) == {"seen": 4}
        assert counters(dscp) == {}


def compilers() -> list[Path]:
    """Compilers for code of others that are shut in, by their directories in /proc."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = b"ebpfmesh.inject.compiler" in (process / "cmdline").read_bytes()
            status = (process / "status").read_text()
        except OSError:
            continue
        parent = f"PPid:\t{threading.main_thread().native_id}\n"
        if ours and parent in status and "\nSeccomp:\t2\n" in status:
            found.append(process)
    return found


def test_the_compiler_can_do_nothing_but_compute(tmp_path: Path) -> None:
    """Seen from outside, while it works on a text that takes seconds."""
    bomb = next(row for row in HOSTILE if row.name == "a bomb of macros")
    file, refused = write(tmp_path, bomb.text), []

    def compile_it() -> None:
        with pytest.raises(FunctionRefused) as error:
            build(file)
        refused.append(error.value)

    thread = threading.Thread(target=compile_it)
    thread.start()
    try:
        assert topology.poll(lambda: bool(compilers()), seconds=20)
        [process] = compilers()
        lines = (process / "status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines)
        assert status["Uid"] == status["Gid"] == "\t".join(["65534"] * 4)
        assert {status[f"Cap{which}"] for which in ("Eff", "Prm", "Inh", "Amb")} == {"0" * 16}
        assert status["NoNewPrivs"] == "1"
        assert status["Groups"].strip() == ""
        assert [path.name for path in (process / "root").iterdir()] == ["headers"]
        assert (process / "ns/net").readlink() != Path("/proc/self/ns/net").readlink()
        limits = (process / "limits").read_text().splitlines()
        [memory] = [line.split()[3:5] for line in limits if line.startswith("Max address space")]
        assert memory == [str(1 << 30)] * 2
    finally:
        thread.join()
    assert not compilers()
    refused[0].log.unlink()
