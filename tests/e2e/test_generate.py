# SPDX-License-Identifier: BSD-2-Clause
"""ebpfmesh bench generate, over routed veths: what it tells, what it refuses, what it leaves."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from ebpfmesh.bench import workload
from ebpfmesh.bench.topology import Host, build_host
from ebpfmesh.kernel import bpf, netns
from support.command import COMMAND, ROOT, complaint, data, ebpfmesh, lines
from support.topology import in_fn, leftovers, poll, running

MESH = """[mesh]
name = "generate"
[[function]]
name = "one"
address = ["198.18.0.1", "2001:db8::1"]
[[function]]
name = "two"
address = ["198.18.0.2", "2001:db8::2"]
[[service]]
name = "web"
address = "198.18.128.1"
port = 80
target_port = 8080
functions = ["two"]
"""
CHECK = "ebpfmesh.generate.two:eth0"


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    with ExitStack() as stack:
        yield build_host("lab", workload.load(), stack)


@pytest.fixture(scope="module")
def words(host: Host) -> list[str]:
    """The command, from radio to the first decoder."""
    with netns.entered(host.netns):
        names = dict(links())
    client, server = host.members["radio"], host.members["decode-0"]
    return [
        "bench", "generate", "--netns", "bench.lab", "--dev", names[client.ifindex],
        "--from", str(client.address), "--to", f"{server.address}:5201",
    ]  # fmt: skip


def links() -> list[tuple[int, str]]:
    """Index and name of the interfaces of this namespace."""
    with netns.rtnetlink() as ip:
        found: Any = ip.get_links()
        return [(link["index"], link.get_attr("IFLA_IFNAME")) for link in found]


RECEIVER = ("--check", "bench.lab.decode-0:eth0")


def test_all_arrives(words: list[str]) -> None:
    told = data(*words, *RECEIVER, "--count", 5000, "--flows", 70)
    assert (told["sent"], told["size"]) == (5000, 64)
    assert told["ns_per_frame"] > 0
    check = told["check"]
    counts = {"arrived": 5000, "bytes": 5000 * 64, "flows": 70}
    assert {name: check[name] for name in counts} == counts
    assert not any(check[n] for n in ("lost", "duplicated", "reordered", "old", "foreign"))


def test_a_table_for_people(words: list[str]) -> None:
    told = lines(*words, *RECEIVER, "--count", 1001, "--size", 1514, "--syn")
    rows = dict(line.rsplit("  ", 1) for line in told[1:])
    rows = {name.strip(): figure.strip() for name, figure in rows.items()}
    assert (rows["frames sent"], rows["bytes of a frame"]) == ("1 001", "1514")
    assert (rows["arrived"], rows["lost"], rows["flows seen"]) == ("1 001", "0", "1")


def test_at_a_rate(words: list[str]) -> None:
    told = data(*words, *RECEIVER, "--rate", 2000, "--seconds", 0.3)
    assert 1 <= told["sent"] <= 602
    assert told["check"]["arrived"] == told["sent"]
    assert told["ns_per_frame"] is None


def test_time_ends_it(words: list[str]) -> None:
    told = data(*words, "--count", 100_000_000, "--seconds", 0.2)
    assert 4096 <= told["sent"] < 100_000_000
    assert told["check"] is None


def test_redirected_to_an_xdp_program(host: Host, words: list[str]) -> None:
    with netns.entered(host.netns):
        names = dict(links())
    out = names[host.members["decode-0"].ifindex]
    told = data(*words, *RECEIVER, "--count", 5000, "--redirect", out)
    assert (told["check"]["arrived"], told["check"]["lost"]) == (5000, 0)


def test_without_a_receiver_all_is_lost(words: list[str]) -> None:
    done = ebpfmesh(*words, "--check", "bench.lab.guest:eth0", "--count", 100)
    assert "nothing arrived" in done.stderr
    assert ["lost", "100"] in [line.split() for line in done.stdout.splitlines()]


def test_through_a_mesh() -> None:
    """The MACs are found, so that the mesh takes them for its function's own; --check-port."""
    with running(MESH) as mesh:
        names = [name for _, name in links() if name.startswith("em")]
        device = min(names)  # of the first function
        told = data(
            "bench", "generate", "--dev", device, "--from", "2001:db8::1", "--to",
            "[2001:db8::2]:9000", "--count", 100, "--check", CHECK,
        )  # fmt: skip
        assert (told["size"], told["check"]["arrived"]) == (70, 100)
        told = data(
            "bench", "generate", "--dev", device, "--from", "198.18.0.1", "--to",
            "198.18.128.1:80", "--syn", "--flows", 10, "--count", 100, "--check-port", 8080,
            "--check", CHECK,
        )  # fmt: skip
        assert (told["check"]["arrived"], told["check"]["flows"]) == (100, 10)
        assert in_fn(mesh, "one", ["ping", "-c", 1, "-W", 20, "two"]).returncode == 0


@pytest.mark.parametrize(
    ("more", "code", "about"),
    [
        (["--dev", "em99"], 3, "no interface em99"),
        (["--netns", "nowhere"], 3, "nowhere"),
        (["--redirect", "em99"], 3, "no interface em99"),
        (["--check", "bench.lab.guest:eth9"], 3, "no interface eth9"),
        (["--check", "nowhere:eth0"], 3, "nowhere"),
        (["--check", "guest"], 2, "NETNS:IFACE"),
        (["--from", "198.18.0"], 2, "no IP address"),
        (["--to", "2001:db8::1:80"], 2, "[ADDR]:PORT"),
        (["--to", "198.18.0.1"], 2, "ADDR:PORT"),
        (["--to", "[2001:db8::1]:80"], 2, "two IP versions"),
        (["--to", "198.18.0.1:65535", "--flows", "50001"], 2, "2 ports from 65535"),
        (["--size", "1515"], 2, "MTU is 1500"),
        (["--size", "63"], 2, "63"),
        (["--count", "100000001"], 2, "100000001"),
        (["--src-mac", "02:00"], 2, "no MAC address"),
    ],
)
def test_what_is_refused(words: list[str], more: list[str], code: int, about: str) -> None:
    error, _ = complaint(*words, *more, code=code)
    assert about in error


def test_the_machines_own_interfaces_are_refused(words: list[str]) -> None:
    """Wherever it cannot be told that the namespace is not the first one."""
    bare = ["bench", "generate", "--dev", "lo", *words[words.index("--from") :], "--count", "1"]
    if first_is_ours():
        error, hint = complaint(*bare, code=2)
        assert "lo" in error
        assert "--force" in hint
    assert data(*bare, "--force")["sent"] == 1


def first_is_ours() -> bool:
    from ebpfmesh.bench.packets import send  # noqa: PLC0415  (private, on purpose)

    return send._is_initial(netns.OWN)


def test_a_number_needs_room(host: Host, words: list[str]) -> None:
    six = [str(host.members[name].address6) for name in ("radio", "decode-0")]
    ends = ["--from", six[0], "--to", f"[{six[1]}]:80", "--size", "64"]
    error, hint = complaint(*words, *RECEIVER, *ends, code=2)
    assert "room" in error
    assert "70" in hint
    assert data(*words, *ends, "--count", 10)["sent"] == 10


def test_an_interface_that_is_down(words: list[str]) -> None:
    with netns.entered(netns.find("bench.lab")), netns.rtnetlink() as ip:
        ip.link("add", ifname="w1", kind="veth", peer="w2")
        try:
            error, hint = complaint(*words, "--dev", "w1", code=1)
        finally:
            ip.link("del", ifname="w1")
    assert "w1 is down" in error
    assert "ip link set w1 up" in hint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("how", [(), ("--rate", "1000")])
def test_nothing_is_left(
    host: Host, words: list[str], number: signal.Signals, how: tuple[str, ...]
) -> None:
    """However it ends: no program at the receiver, no pin, no process."""
    before = leftovers()
    line = [*COMMAND, *words, *RECEIVER, *how, "--count", "100000000", "--seconds", "60"]
    process = subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        assert poll(lambda: at_receiver(host), seconds=30)
    finally:
        os.kill(process.pid, number)
        code = process.wait(20)
    assert code == {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGKILL: -9}[number]
    assert poll(lambda: not at_receiver(host))
    assert poll(lambda: not leftovers() - before)


def at_receiver(host: Host) -> list[int]:
    """Programs at tc ingress of the receiver."""
    with netns.entered(host.members["decode-0"].netns):
        (index,) = [index for index, name in links() if name == "eth0"]
        return bpf.attached(index, bpf.TCX_INGRESS)
