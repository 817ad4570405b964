# SPDX-License-Identifier: BSD-2-Clause
"""XDP in front of tc at an uplink: packets for a function that has its own by XDP, and all others.

client ═══ up0 ── host ─┬─ far    af_xdp: a mirror, or what records packets; service echo at up0:7
                        └─ web    a socket
"""

import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel.programs import CARRY
from ebpfmesh.model import Mesh
from ebpfmesh.observe import uplinks
from ebpfmesh.observe.view import opened
from support.beyond import Beyond, beyond
from support.sockets import made
from support.topology import mesh_of, meters, running

ROOT = Path(__file__).parents[2]
TOOL, EXAMPLES = ROOT / "tests/support/port_tool.py", ROOT / "examples/port"
BEGIN = '[mesh]\nname = "early"\n[[function]]\nname = "web"\ntenant = "one"\n'
UPLINK = '[[uplink]]\nname = "u0"\ninterface = "up0"\n'
FAR = """
[[function]]
name = "far"
tenant = "two"
datapath = "af_xdp"
command = {command}
volumes = ["{root}"]
memory = "256M"
[[service]]
name = "echo"
address = ["198.19.0.7", "2001:db8:1::7"]
port = 7
target_port = 7
protocol = "udp"
functions = ["far"]
publish = ["u0:7"]
[[policy]]
from = "outside"
to = "service:echo"
"""
Up = Callable[..., Mesh]


@pytest.fixture(scope="module")
def outside() -> Iterator[Beyond]:
    with beyond() as found:
        yield found


@pytest.fixture(scope="module")
def empty(outside: Beyond) -> Iterator[Mesh]:
    assert outside.interface == "up0"
    with running(BEGIN + UPLINK) as mesh:
        apply.up(mesh_of(BEGIN + UPLINK + FAR.format(command='["sleep", "60"]', root=ROOT)))
        assert seen().xdp == CARRY.name  # the program stays when the function goes
        apply.up(mesh)
        assert seen().xdp == ""
        yield mesh


@pytest.fixture
def mesh_up(empty: Mesh) -> Iterator[Up]:
    def up(what: str = "echo", more: str = "") -> Mesh:
        script = EXAMPLES / "echo.py" if what == "echo" else TOOL
        command = [sys.executable, str(script), *([] if what == "echo" else [what])]
        wanted = mesh_of(BEGIN + UPLINK + FAR.format(command=command, root=ROOT) + more)
        apply.up(wanted)
        return wanted

    yield up
    apply.up(empty)


def offload(outside: Beyond, value: str) -> None:
    """Whether the client's interface leaves checksums to whoever takes its frames."""
    words = ["ip", "netns", "exec", outside.client.name, "ethtool", "-K", "eth0", "tx", value]
    subprocess.run(words, check=True, capture_output=True)


def redirected() -> int:
    """Frames that XDP at the uplink has sent on to another interface so far."""
    text = subprocess.run(["ethtool", "-S", "up0"], check=True, capture_output=True, text=True)
    return sum(int(n) for n in re.findall(r"rx_queue_\d+_xdp_redirect: (\d+)", text.stdout))


def seen() -> uplinks.Uplink:
    with opened("early") as view:
        (found,) = uplinks.read_uplinks(view)
    return found


def asks(mesh: Mesh, outside: Beyond, family: int, count: int) -> None:
    """So many datagrams to the service at the uplink, each answered before the next."""
    kind = (socket.AF_INET, socket.AF_INET6)[family]
    with made(mesh, outside.client, kind, socket.SOCK_DGRAM) as one:
        one.connect((str(outside.host[family]), 7))
        for number in range(count):
            one.send(b"%d" % number)
            assert one.recv(100) == b"%d" % number


@pytest.mark.parametrize("family", [0, 1], ids=["ipv4", "ipv6"])
def test_packets_of_established_flows_go_by_xdp(mesh_up: Up, outside: Beyond, family: int) -> None:
    mesh = mesh_up()
    offload(outside, "off")
    before, taken = meters(mesh).get(("far", "outside")), redirected()
    assert before is None or not before.rx_packets
    asks(mesh, outside, family, 50)
    assert redirected() - taken == 49  # tc has judged the first
    counted = meters(mesh)["far", "outside"]
    assert (counted.rx_packets, counted.tx_packets) == (50, 50)
    offload(outside, "on")  # now their checksums are partial: tc has them completed
    taken = redirected()
    asks(mesh, outside, family, 10)
    assert redirected() == taken
