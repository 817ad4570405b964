# SPDX-License-Identifier: BSD-2-Clause
"""Every example of --help, line of README's quick start and of the walk does what it is for.

They are run by a shell, as typed, in the sandbox. What takes hours or another run's results is only
taken apart (tests/unit/test_cli.py): bench run, bench report, demo.
"""

import contextlib
import ctypes
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from ebpfmesh import apply
from ebpfmesh.cli.main import cli
from ebpfmesh.kernel import netns
from ebpfmesh.state import listener, serving
from support import containers
from support.builds import command_of, other_build
from support.command import ROOT, ebpfmesh, install
from support.outside import beyond
from support.topology import SLOWER, background, mesh_of, needs, poll

BARE = (ROOT / "examples/edge.toml").read_text()
FUNCTIONS = f"""{BARE}
[[function]]
name = "cache"
tenant = "operator"
[[function]]
name = "probe"
[[function]]
name = "visitor"
tenant = "guest"
"""
FULL = f"""{FUNCTIONS}
[[service]]
name = "redis"
address = "198.19.0.9"
port = 6379
functions = ["cache"]
[[service]]
name = "api"
address = "198.19.0.8"
port = 80
target_port = 8080
functions = ["web"]
[[service]]
name = "dns"
address = "198.19.0.53"
port = 53
protocol = "udp"
functions = ["probe"]
[[policy]]
from = "tenant:guest"
to = "any"
action = "deny"
[[policy]]
from = "outside:192.0.2.0/24"
to = "function:web"
protocol = "tcp"
port = "8000-8099"
"""
BEGIN = {
    "attach": BARE,
    "service": FUNCTIONS,
    "service add": FUNCTIONS,
    "policy": FUNCTIONS,
    "policy add": FUNCTIONS,
    "deny": BARE,
    "deny add": BARE,
    "deny del": BARE,
    "deny show": BARE,
}
"""The mesh that the examples of a command begin with, where it is not FULL."""
ONLY_PARSED = ("bench run", "bench report", "demo", "bench")
INJECT = "ebpfmesh inject greeter.c --at phone/egress"
INJECTED = {
    "inject": (),
    "inject file": (INJECT,),
    "inject set": (INJECT,),
    "swap": (INJECT,),
    "promote": tuple(
        line
        for name in ("greeter", "second", "third")
        for line in (f"{INJECT} --name {name}", f"ebpfmesh swap {name} new.c --canary 50%")
    ),
    "show canary": (INJECT, "ebpfmesh swap greeter new.c --canary 10%"),
    "rollback": (INJECT, "ebpfmesh swap greeter new.c"),
    "inject reset": (INJECT, f"{INJECT} --name second", f"{INJECT} --name third"),
    "eject": (INJECT, f"{INJECT} --name second", f"{INJECT} --name third"),
    "show injected": (INJECT,),
    "policy test": (
        "ebpfmesh attach uplink0 --uplink up0",
        "ebpfmesh service set api --publish uplink0:80",
    ),
}
UPLINK = "ebpfmesh attach uplink0 --uplink up0"
DENY = "ebpfmesh deny add 192.0.2.7 198.51.100.0/24 2001:db8:bad::/48"
DENIES = {
    "deny": (UPLINK,),
    "deny add": (UPLINK,),
    "deny del": (UPLINK, DENY, f"{DENY} --uplink uplink0"),
    "deny show": (UPLINK, DENY),
    "remote": (UPLINK,),
    "remote add": (UPLINK,),
    "remote del": (
        UPLINK,
        *(f"ebpfmesh remote add db-{n} --address 192.0.2.2{n} --uplink uplink0" for n in range(3)),
    ),
    "port": ("ip netns add relay && ebpfmesh attach relay --netns relay --datapath af_xdp",),
}
"""What is done before the examples about deny lists, remotes and ports; list.txt is there."""
"""What is done before the examples of a command; for the first one there is no file yet."""
MAY_DENY = ("policy test", "doctor")
"""Commands whose exit code 1 is an answer."""


def commands(group: click.Group = cli, path: str = "") -> Iterator[str]:
    for name, command in group.commands.items():
        yield f"{path}{name}"
        if isinstance(command, click.Group):
            yield from commands(command, f"{path}{name} ")


def examples_of(path: str) -> list[str]:
    command: click.Command = cli
    for name in path.split():
        assert isinstance(command, click.Group)
        command = command.commands[name]
    return list(command.examples)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the commands are typed: the examples are there, and ebpfmesh is in PATH."""
    top = tmp_path_factory.mktemp("typed")
    (top / "examples").symlink_to(ROOT / "examples")
    for name, text in (("bare", BARE), ("functions", FUNCTIONS), ("full", FULL)):
        (top / f"{name}.toml").write_text(text)
    (top / "etc").mkdir()
    (top / "etc/edge.toml").write_text(FULL)
    install(top / "bin")
    return top


@pytest.fixture(autouse=True)
def _down() -> Iterator[None]:
    yield
    ebpfmesh("down", "--mesh", "edge")


def typed(line: str, place: Path) -> "subprocess.Popen[str]":
    own = {"PATH": f"{place}/bin:{os.environ['PATH']}", "EBPFMESH_ETC": f"{place}/etc"}
    return subprocess.Popen(
        ["bash", "-c", line], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
        env=os.environ | own,
    )  # fmt: skip


def run(line: str, place: Path, *, codes: tuple[int, ...] = (0,), listens: bool = False) -> str:
    """What a line that is typed prints; nothing may go wrong.

    What listens is ended once it has heard something.
    """
    process = typed(line, place)
    try:
        if listens:
            assert poll(
                lambda: process.poll() is not None or somebody_listens(place), seconds=30
            ), line
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
        out, complaints = process.communicate(timeout=90 * SLOWER)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert not re.search("^(error|Traceback)", complaints, re.MULTILINE), (line, complaints)
    assert listens or process.returncode in codes, (line, process.returncode, out, complaints)
    return str(out)


def somebody_listens(place: Path) -> bool:
    with apply.opened("edge") as live:
        found = listener.find(live.record) is not None or serving.is_served(live.record)
    return found or any(place.rglob("*.sock"))


@pytest.mark.parametrize("path", ["", *(path for path in commands() if path not in ONLY_PARSED)])
def test_examples_of_help(path: str, place: Path) -> None:
    needs("pgrep", "curl", "tshark")
    begin = {BARE: "bare", FUNCTIONS: "functions", FULL: "full"}[BEGIN.get(path, FULL)]
    with surroundings(path, place):
        ebpfmesh("up", place / f"{begin}.toml")
        for line in (*INJECTED.get(path, ()), *DENIES.get(path, ())):
            run(line, place)
        if path == "inject reset":
            open_breakers()
        for line in examples_of(path):
            codes = (0, 1) if path in MAY_DENY else (0,)
            run(line, place, codes=codes, listens=path in ("events", "capture", "serve", "port"))


def open_breakers() -> None:
    """All that is injected was too slow."""
    with apply.opened("edge") as live:
        breakers = live.control.maps["mesh_breaker"]
        table = breakers.get(ctypes.c_uint32(0))
        for row in live.record.injections():
            table.of[row.program].open = 1
        breakers.set(ctypes.c_uint32(0), table)


@contextlib.contextmanager
def surroundings(path: str, place: Path) -> Iterator[None]:
    """What the examples of a command speak of, besides the mesh."""
    with contextlib.ExitStack() as stack:
        if path == "port":
            stack.callback(netns.remove, "relay")
        if path == "attach":
            stack.callback(netns.remove, "cache")
            stack.enter_context(containers.engine())
            containers.start("shop", "sleep", "1000")
            stack.enter_context(running_probe(place))
        if INJECTED.get(path):
            stack.enter_context(sources(place))
        if path == "policy test":
            stack.enter_context(beyond())
        if path == "inject":
            stack.callback((place / "greeter.c").unlink)
        if path in ("up", "plan"):  # there is something to return to
            before = other_build(Path(tempfile.mkdtemp(dir=place)))
            command_of(before, "up", place / "full.toml")
        if path == "bench generate":
            stack.enter_context(veths())
        if path in DENIES:
            stack.enter_context(beyond())
            (place / "list.txt").write_text("192.0.2.7\n198.51.100.0/24  # and a comment\n")
        yield


@contextlib.contextmanager
def sources(place: Path) -> Iterator[None]:
    """Two files to inject, unless the examples write one themselves."""
    text = (ROOT / "bpf/functions/template.c").read_text()
    files = [place / name for name in ("greeter.c", "new.c")]
    for number, file in enumerate(files):
        file.write_text(f"{text}/* {number} */\n")
    try:
        yield
    finally:
        for file in files:
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def running_probe(place: Path) -> Iterator[None]:
    """A process called probe, in a network namespace of its own."""
    program = place / "probe"
    shutil.copy("/bin/sleep", program)
    process = subprocess.Popen(["unshare", "-n", program, "1000"])
    try:
        name = Path(f"/proc/{process.pid}/comm")
        assert poll(lambda: name.read_text() == "probe\n")
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def veths() -> Iterator[None]:
    """Interface v1 here and in namespace lab, each with its other end in namespace b."""
    lines = [
        "netns add b", "netns add lab", "link add v1 type veth peer name eth0 netns b",
        "-n lab link add v1 type veth peer name eth1 netns b",
        *(f"-n b link set eth{n} up" for n in (0, 1)), "link set v1 up", "-n lab link set v1 up",
    ]  # fmt: skip
    try:
        for line in lines:
            subprocess.run(["ip", *line.split()], check=True)
        yield
    finally:
        for name in ("b", "lab"):
            netns.remove(name)
        assert poll(lambda: not Path("/sys/class/net/v1").exists())


# ---- README and docs/start.md


def quick_start() -> list[tuple[str, str]]:
    """Lines of README's quick start, and what it says that each prints."""
    text = (ROOT / "README.md").read_text()
    (block,) = re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [part.partition("\n") for part in re.split(r"^# ", block, flags=re.MULTILINE)[1:]]
    return [(line, said) for line, _, said in lines]


def test_the_quick_start_prints_what_it_says(place: Path) -> None:
    needs("curl")
    assert len(quick_start()) > 5
    for line, said in quick_start():
        code = 28 if "times out" in line else int(said.startswith("verdict   drop"))
        printed = run(line.partition("  # ")[0], place, codes=(code,))
        assert re.sub(r"web-\d", "web-N", printed) == re.sub(r"web-\d", "web-N", said), line


def walk() -> list[str]:
    """Lines of docs/start.md that are about a mesh."""
    text = (ROOT / "docs/start.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if line.startswith(("ebpfmesh ", "podman "))]


def test_the_walk(place: Path) -> None:
    """In its order. The container has no network, as there, but is not from a registry."""
    needs("curl")
    assert len(walk()) > 15
    with contextlib.ExitStack() as stack:
        stack.enter_context(containers.engine())
        stack.enter_context(beyond(interface="eth0"))
        for line in walk():
            command, _, comment = line.partition(" # ")
            codes = {"times out": (28,), "by which rule": (1,)}
            expected = next((codes[words] for words in codes if words in comment), (0,))
            if command.startswith("podman run"):
                containers.start("cache", "sleep", "1000")
            elif command.startswith("ebpfmesh capture"):
                mesh = mesh_of(BARE)
                words = ["ping", "-i", "0.05", mesh.function("camera").address4]
                with background(mesh, "phone", words):
                    run(command, place, codes=expected)
            else:
                run(command, place, codes=expected)
