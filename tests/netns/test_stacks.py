# SPDX-License-Identifier: BSD-2-Clause
"""Real programs through services, by packets and by sockets.

client ──▶ web:80 ──▶ web-0:8080 | web-1:8080 | web-2:8080     bulk:81, name:53 ──▶ web-0

A program in a function's cgroup is given the backend when it connects; one that is in its network
alone speaks to the service, packet by packet. Both must be served.
"""

import json
import re
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from ebpfmesh.model import Mesh
from support.meshes import BALANCED
from support.servers import nginx
from support.sockets import accepted, carries, connect, listener
from support.topology import (
    background,
    in_fn,
    in_network,
    listening,
    needs,
    running,
    wait_until,
)

BACKENDS = ("web-0", "web-1", "web-2")
MESH = (
    BALANCED
    + """
[[service]]
name = "bulk"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 81
target_port = 5201
functions = ["web-0"]
[[service]]
name = "half"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 82
functions = ["web-0"]
[[service]]
name = "name"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 53
protocol = "udp"
functions = ["web-0"]
"""
)
FRONT = {4: "198.19.0.1", 6: "2001:db8:1::1"}
Run = Callable[..., str]


@pytest.fixture(scope="module")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    needs("nginx", "curl", "wrk", "iperf3", "dnsmasq", "busybox", "nsenter")
    top = tmp_path_factory.mktemp("nginx")
    with running(MESH) as mesh, ExitStack() as stack:
        for name in BACKENDS:
            stack.enter_context(nginx(mesh, name, top / name))
        yield mesh


@pytest.fixture(params=["packets", "sockets"])
def run(mesh: Mesh, request: pytest.FixtureRequest) -> Run:
    """Runs a program in the client; what it prints."""
    if request.param == "sockets":
        return lambda *words: in_fn(mesh, "client", words).stdout
    return lambda *words: in_fn(mesh, None, in_network(mesh, "client", words)).stdout


def url(version: int) -> str:
    return f"http://{FRONT[4]}/" if version == 4 else f"http://[{FRONT[6]}]/"


# ---- programs


@pytest.mark.parametrize("version", [4, 6])
def test_curl(run: Run, version: int) -> None:
    script = f"for i in $(seq 60); do curl -sS --fail -m 20 '{url(version)}'; done"
    assert set(run("sh", "-c", script).split()) == set(BACKENDS)


@pytest.mark.parametrize("version", [4, 6])
def test_wrk(run: Run, version: int) -> None:
    """Many requests on 32 kept connections, and connections anew for each request."""
    for options in ([], ["-H", "Connection: close"]):
        done = [0]

        def many(done: list[int] = done, options: list[str] = options) -> bool:
            words = ("-t", 1, "-c", 32, "-d", 1, "--timeout", 20, *options, url(version))
            report = run("wrk", *words)
            requests = re.search(r"(\d+) requests in", report)
            assert requests, report
            assert not re.search(r"Socket errors|Non-2xx", report), report
            done[0] += int(requests[1])
            return done[0] > 100

        wait_until(many, what="more than 100 requests")


@pytest.mark.parametrize("version", [4, 6])
def test_iperf3_with_64_streams(mesh: Mesh, run: Run, version: int) -> None:
    with background(mesh, "web-0", ["iperf3", "-s"], ready=listening(5201)):
        options = ("--json", "--parallel", 64, "--bytes", "64M")
        report = json.loads(run("iperf3", "--client", FRONT[version], "--port", 81, *options))
    streams = report["end"]["streams"]
    assert len(streams) == 64
    assert all(stream["receiver"]["bytes"] > 0 for stream in streams)
    # The server hangs up once the client has written all: less arrives than was written.
    assert report["end"]["sum_received"]["bytes"] > 32 << 20


@pytest.mark.parametrize("version", [4, 6])
def test_names_are_resolved(mesh: Mesh, run: Run, version: int) -> None:
    """busybox asks by an unconnected socket, and takes an answer from the service alone."""
    answers = ["--address=/fn.example/198.18.0.99", "--address=/fn.example/2001:db8::99"]
    server = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--pid-file",
              "--no-resolv", "--no-hosts", "--user=root", "--bind-dynamic", *answers]  # fmt: skip
    with background(mesh, "web-0", server, ready=listening(53, "udp")):
        said = run("busybox", "nslookup", "fn.example", FRONT[version])
    assert "198.18.0.99" in said
    assert "2001:db8::99" in said


# ---- connections


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("closer", ["client", "server"])
def test_one_side_closes_and_goes_on_receiving(mesh: Mesh, closer: str, version: int) -> None:
    own = mesh.function("web-0").addresses[0 if version == 4 else 1]
    front = mesh.service("half").addresses[0 if version == 4 else 1]
    with (
        listener(mesh, "web-0", own, 82) as server,
        connect(mesh, "client", front, 82) as here,
        accepted(server) as there,
    ):
        quiet, talker = (here, there) if closer == "client" else (there, here)
        assert carries(quiet, talker)
        quiet.shutdown(socket.SHUT_WR)
        assert talker.recv(1) == b""
        for size in (1, 1 << 10, 1 << 16):
            assert carries(talker, quiet, b"x" * size)
        talker.shutdown(socket.SHUT_WR)
        assert quiet.recv(1) == b""
