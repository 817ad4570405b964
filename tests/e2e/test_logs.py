# SPDX-License-Identifier: BSD-2-Clause
"""The logs command, and stop, start and restart, as they are typed."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest

from support.command import COMMAND, ROOT, complaint, data, ebpfmesh
from support.topology import poll, running, wait_until

SLOW = 30.0  # a look by the command line takes a second or two on a busy machine
# A shell that waits for another program may have more to say when both are asked to end.
SAYS = "echo begin; read -r n </n; for i in $(seq $n); do echo line $i of $1; done; exec sleep 1000"
MESH = f"""
[mesh]
name = "says"
[[function]]
name = "one"
command = ["sh", "-c", "{SAYS}", "sh", "one"]
volumes = ["FILE:/n"]
[[function]]
name = "w"
replicas = 2
command = ["sh", "-c", "echo I am $(cat /etc/hostname; hostname); exec sleep 1000"]
"""


@pytest.fixture
def count(tmp_path: Path) -> Iterator[Path]:
    """The mesh, up; the file says how many lines one's next run says."""
    file = tmp_path / "n"
    file.write_text("3\n")
    with running(MESH.replace("FILE", str(file))):
        wait_until(lambda: texts("one")[-1:] == ["line 3 of one"], what="all is said", seconds=SLOW)
        yield file


def lines(*words: object) -> list[dict[str, str]]:
    out = ebpfmesh("--json", "logs", *words).stdout
    return [json.loads(line) for line in out.splitlines()]


def texts(*words: object) -> list[str]:
    return [line["text"] for line in lines(*words)]


def test_this_run_and_the_one_before(count: Path) -> None:
    first = ["begin", *(f"line {n} of one" for n in (1, 2, 3))]
    assert ebpfmesh("logs", "one").stdout.splitlines() == first
    count.write_text("2\n")
    done = data("restart", "one")["operations"]
    assert [step["kind"] for step in done] == ["roll-function"]
    wait_until(
        lambda: texts("one") == [*first, "begin", *first[1:3]], what="both are there", seconds=SLOW
    )
    moments = [datetime.fromisoformat(line["time"]) for line in lines("one")]
    assert moments == sorted(moments)
    ebpfmesh("restart", "one")
    wait_until(
        lambda: texts("one") == ["begin", *first[1:3]] * 2, what="the first is gone", seconds=SLOW
    )


@pytest.mark.usefixtures("count")
def test_fewer_lines() -> None:
    whole = lines("one")
    assert lines("one", "-n", 2) == whole[-2:]
    assert lines("one", "-n", 0) == []
    assert lines("one", "--since", "1h") == whole
    last = whole[-1]["time"]
    assert lines("one", "--since", last) == [line for line in whole if line["time"] == last]
    assert lines("one", "--since", "2100-01-01") == []
    assert "is neither as 90s" in str(complaint("logs", "one", "--since", "soon", code=2))
    assert "no function nobody" in str(complaint("logs", "nobody", code=3))


@pytest.mark.usefixtures("count")
def test_replicas_in_one() -> None:
    wait_until(lambda: len(lines("w")) == 2, what="both have spoken", seconds=SLOW)
    assert {line["function"] for line in lines("w")} == {"w-0", "w-1"}
    for line in ebpfmesh("logs", "w", "--times").stdout.splitlines():
        time, name, text = line.split(maxsplit=2)
        assert datetime.fromisoformat(time).tzinfo
        assert text.endswith(name)


def test_what_is_followed_goes_on_through_a_restart(count: Path, tmp_path: Path) -> None:
    """It has each line once, and ends with the function."""
    out = tmp_path / "out"
    with out.open("w") as stdout:
        process = subprocess.Popen([*COMMAND, "logs", "one", "-f"], stdout=stdout, cwd=ROOT)
    try:
        wait_until(
            lambda: len(out.read_text().splitlines()) == 4, what="what there is", seconds=SLOW
        )
        count.write_text("5000\n")
        ebpfmesh("restart", "one")
        wanted = ["begin", *(f"line {n} of one" for n in (1, 2, 3)), "begin",
                  *(f"line {n} of one" for n in range(1, 5001))]  # fmt: skip
        wait_until(lambda: out.read_text().splitlines() == wanted, what="all of it", seconds=SLOW)
        ebpfmesh("detach", "one")
        assert process.wait(20) == 0
        assert out.read_text().splitlines() == wanted
    finally:
        process.kill()
        process.wait()


@pytest.mark.usefixtures("count")
def test_ctrl_c_ends_it() -> None:
    process = subprocess.Popen(
        [*COMMAND, "logs", "one", "-f", "-n", "1"], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout
    assert process.stdout.readline() == "line 3 of one\n"
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(20) == 0
    process.stdout.close()


@pytest.mark.usefixtures("count")
def test_stop_is_told_by_up_and_plan(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(MESH.replace("FILE", str(tmp_path / "n")))
    wait_until(lambda: len(lines("w")) == 2, what="both have spoken", seconds=SLOW)
    ebpfmesh("stop", "w")
    rows = {row["name"]: row for row in data("show", "functions")["functions"]}
    assert {rows[name]["command_state"] for name in ("w-0", "w-1")} == {"stopped"}
    assert "stopped" in ebpfmesh("show", "functions").stdout
    for command in ("plan", "up"):
        found = data(command, file)
        assert found["operations"] == []
        assert [text.split(":")[0] for text in found["warnings"]] == [
            "function w-0 is stopped", "function w-1 is stopped",
        ]  # fmt: skip
    assert "nothing to do" in ebpfmesh("stop", "w-0").stdout
    ebpfmesh("start", "w")
    assert poll(lambda: len(lines("w")) == 4, seconds=SLOW)
    assert data("plan", file)["warnings"] == []
