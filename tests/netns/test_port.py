# SPDX-License-Identifier: BSD-2-Clause
"""Functions with AF_XDP: what their commands get and send, and what is left when they end."""

import errno
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from ebpfmesh import apply
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.kernel import xsk
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.model import Mesh
from ebpfmesh.observe import counters, functions, logs
from ebpfmesh.observe.view import opened
from ebpfmesh.runtime.logs import read
from support.builds import in_c
from support.command import COMMAND
from support.frames import PACKET_VNET_HDR, SOL_PACKET, segments_of_tcp
from support.meshes import function, mesh_file, rule, service
from support.outside import Outside, addressed, beyond
from support.processes import workers
from support.sockets import BLOCKED_SECONDS, SECONDS, Place, made, ready, send_segments
from support.topology import drops, mesh_of, meters, needs_ports, running, wait_until

ROOT = Path(__file__).parents[2]
TOOL, EXAMPLES = ROOT / "tests/support/port_tool.py", ROOT / "examples/port"
HEADER = ROOT / "ebpfmesh/port/include"
Up = Callable[..., Mesh]
Example = Callable[[str], tuple[str, ...]]
PORT = 7
ONWARD = rule("function:far", "function:client")
INJECTED = """
[[inject]]
name = "short"
at = "far/ingress"
source = '''
#include "mesh_function.h"
MESH_REASON(0, "long");
MESH_FUNCTION(p)
{
        return p->length > 200 ? mesh_drop(0) : mesh_next();
}
'''
"""
OF_NEAR = rule("function:near", "service:echo")
OF_NEAR += rule("function:near", "outside:198.51.100.0/24", action="reject")


def whole(*command: object, more: str = "", **keys: object) -> str:
    """The mesh, far running this; ``keys`` are of far."""
    own = {"command": list(map(str, command)), "volumes": [str(ROOT)], "memory": "256M"}
    rules = rule("function:client", "service:echo"), rule("function:client", "function:far")
    return mesh_file(
        "port",
        function("client", "one"),
        function("stranger", "three"),
        function("far", "two", datapath="af_xdp", **(own | keys)),
        service("echo", 7, "far", number=7, target_port=7, protocol="udp"),
        *rules,
        rule("outside", "function:far"),
        more,
    )


@pytest.fixture(scope="module")
def empty() -> Iterator[Mesh]:
    """A mesh whose programs are there, so that a test need not compile them."""
    needs_ports()
    with running('[mesh]\nname = "port"\n') as mesh:
        yield mesh


@pytest.fixture
def mesh_up(empty: Mesh) -> Iterator[Up]:
    def up(*command: object, more: str = "", **keys: object) -> Mesh:
        wanted = mesh_of(whole(*command, more=more, **keys))
        apply.up(wanted)
        return wanted

    yield up
    apply.up(empty)


def tool(what: str) -> tuple[str, ...]:
    return sys.executable, str(TOOL), what


@pytest.fixture(scope="module")
def compiled() -> Iterator[Callable[[Path], Path]]:
    with in_c("port") as compiles:
        yield compiles


@pytest.fixture(params=["Python", "C"])
def example(request: pytest.FixtureRequest) -> Example:
    """The command line of an example, in either language."""
    if request.param == "C":
        compiled = request.getfixturevalue("compiled")
        return lambda name: (str(compiled(EXAMPLES / f"{name}.c")),)
    return lambda name: (sys.executable, str(EXAMPLES / f"{name}.py"))


def said(function: str = "far") -> list[dict[str, Any]]:
    """What the tool said, a dict a line."""
    with opened("port") as view:
        lines = [line.text for line in read([logs.log(view, function)], rest=False)]
    assert not any("Traceback" in line for line in lines), lines
    return [json.loads(line) for line in lines]


def worker() -> int:
    wait_until(lambda: len(workers("port", "far")) == 1, what="the command runs")
    (pid,) = workers("port", "far")
    return pid


def state(process: int) -> str:
    """R: it runs; S: it sleeps."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


def stop(process: int) -> None:
    """Have it do nothing from now on, not even to the end of what it was at."""
    os.kill(process, signal.SIGSTOP)
    wait_until(lambda: state(process) == "T", what="it has stopped")


def client(mesh: Mesh, address: str = "198.19.0.7", function: Place = "client") -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    one = made(mesh, function, family, socket.SOCK_DGRAM)
    one.connect((address, PORT))
    return one


def address(mesh: Mesh, name: str) -> str:
    (found,) = (str(one.address4) for one in mesh.functions if one.name == name)
    return found


def ring_full() -> int:
    with opened("port") as view:
        rows = [row for row in counters.read_drops(view) if row.reason == "RING_FULL"]
    assert all((row.function, row.direction) == ("far", "to function") for row in rows)
    return sum(row.packets for row in rows)


def echoed(one: socket.socket, numbers: range, window: int = 64) -> list[int]:
    """What came back of numbered datagrams, of which so many are on their way at a time."""
    back: list[int] = []
    for number in numbers:
        one.send(struct.pack(">I", number))
        if number % window == window - 1:
            back += [struct.unpack(">I", one.recv(100))[0] for _ in range(window)]
    return back


def test_no_packet_through_a_service_is_lost_or_doubled(mesh_up: Up, example: Example) -> None:
    mesh = mesh_up(*example("echo"), frames=512)
    count = 20 * 1024  # forty times as many as there are frames
    for front in ("198.19.0.7", "2001:db8:1::7"):
        with client(mesh, front) as one:
            assert sorted(echoed(one, range(count))) == list(range(count))
            assert not ready([one], 0)
    sent = meters(mesh)["client", "two"]
    assert sent.tx_packets == sent.rx_packets == 2 * count
    assert ring_full() == 0


def test_flows_are_spread_over_queues(mesh_up: Up, example: Example) -> None:
    """None is lost, and each goes back by the memory of the queue that it came by."""
    mesh = mesh_up(*example("echo"), frames=64, queues=3)
    with ExitStack() as stack:
        many = [stack.enter_context(client(mesh)) for _ in range(16)]
        for turn in range(40):  # 640 packets, where there are 192 frames
            for one in many:
                one.send(struct.pack(">I", turn))
            assert {one.recv(100) for one in many} == {struct.pack(">I", turn)}
    assert ring_full() == 0


@pytest.mark.parametrize("what", ["queues", "apart"])
def test_a_flow_comes_by_one_queue(mesh_up: Up, what: str) -> None:
    """Be it that one process takes from all, or that each has its own."""
    mesh = mesh_up(*tool(what), frames=256, queues=2)
    with ExitStack() as stack:
        many = [stack.enter_context(client(mesh)) for _ in range(32)]
        for one in many * 3:
            one.send(b"hello")
        for one in many:
            assert [one.recv(100) for _ in range(3)] == [b"hello"] * 3
        wanted = {one.getsockname()[1] for one in many}
    wait_until(lambda: len(said()) == 96, what="all has been said", seconds=20)
    by_queue = [{row["port"] for row in said() if row["queue"] == queue} for queue in (0, 1)]
    assert by_queue[0] | by_queue[1] == wanted
    assert all(by_queue)
    assert not by_queue[0] & by_queue[1]


def test_a_server_of_udp(mesh_up: Up, example: Example) -> None:
    mesh = mesh_up(*example("udp_server"))
    with made(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as one:
        for port in (5001, 5000):  # the first is nobody's
            for number in range(20):
                one.sendto(b"how many?" * number, (address(mesh, "far"), port))
        assert [int(one.recv(100).rstrip(b"\0")) for _ in range(20)] == list(range(20))
        assert not ready([one], 0)


def test_what_is_in_gtp_is_sent_on(mesh_up: Up, example: Example) -> None:
    """With extension headers too; what is cut short, or holds no UDP, is not."""
    mesh = mesh_up(*example("gtp"), more=ONWARD)
    target = socket.inet_aton(address(mesh, "client"))
    inner = struct.pack(">BBHHHBBH", 0x45, 0, 33, 1, 0, 64, 17, 0)
    inner += socket.inet_aton("198.51.100.1") + target + struct.pack(">HHHH", 99, 9000, 13, 77)
    packets = [inner + b"text%d" % number for number in range(3)]
    headers = [b"\x30", b"\x32", b"\x34"], [b"", bytes(4), bytes(3) + b"\x85\x01\x00\x01\x00"]
    with made(mesh, "client", socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.bind((address(mesh, "client"), 9000))
        for packet, flags, more in zip(packets, *headers, strict=True):
            for body in (packet[:-1], b"\x60" + packet[1:], packet):
                size = struct.pack(">H", len(more + body))
                gtp = flags + b"\xff" + size + bytes(4) + more + body
                one.sendto(gtp, (address(mesh, "far"), 2152))
        got = [one.recvfrom(100) for _ in range(3)]
        assert not ready([one], BLOCKED_SECONDS)
    assert got == [(b"text%d" % n, (address(mesh, "far"), 99)) for n in range(3)]


@pytest.fixture
def of_host() -> Iterator[None]:
    """Addresses of the host's own, which it sends from."""
    with addressed("198.19.0.9", "2001:db8:9::9"):
        yield


@pytest.mark.usefixtures("of_host")
@pytest.mark.parametrize("place", ["client", None], ids=["a function", "the host"])
@pytest.mark.parametrize("size", [1000, 1400])
def test_segments_of_udp_arrive_whole_and_right(mesh_up: Up, place: str | None, size: int) -> None:
    """What is GSO and has no checksum yet is cut and completed, or the echo would not be taken."""
    mesh = mesh_up(sys.executable, EXAMPLES / "echo.py")
    far = next(one for one in mesh.functions if one.name == "far")
    for target in far.addresses:
        with client(mesh, str(target), place) as one:
            text = os.urandom(20 * size)
            send_segments(one, text, size)
            assert b"".join(one.recv(2000) for _ in range(20)) == text


def test_each_kind_of_checksum_and_segment_is_right_when_it_arrives(mesh_up: Up) -> None:
    """TCP too, whose segments are as long as its GSO packet says."""
    mesh = mesh_up(*tool("record"))
    with client(mesh) as one:
        one.send(b"whole")
    with made(mesh, "client", socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
        raw.bind(("eth0", 0x0800))
        raw.send(segments_of_tcp(mesh, "client", address(mesh, "far"), 1000, 10))
    wait_until(lambda: len(said()) == 11, what="all have arrived", seconds=20)
    assert {one["rest"] for one in said()} == {0}
    assert sorted(one["length"] for one in said()) == [47] + 10 * [14 + 20 + 20 + 1000]


@pytest.fixture
def slow() -> Iterator[Outside]:
    """A client beyond an uplink by which so little goes out that what is sent waits for a time."""
    with beyond() as outside:
        bucket = ["tbf", "rate", "400kbit", "burst", "1540", "limit", "1000000"]
        words = ["tc", "qdisc", "add", "dev", outside.interface, "root", *bucket]
        subprocess.run(words, check=True)
        yield outside


def test_what_is_all_on_its_way_is_waited_for(slow: Outside, mesh_up: Up, example: Example) -> None:
    """Nothing is left to be filled, so that no packet would wake the program, and none can come."""
    more = f'[[uplink]]\nname = "up"\ninterface = "{slow.interface}"\nxdp = "off"\n'
    mesh = mesh_up(*example("echo"), frames=64, more=more)
    text = bytes(1000)
    with client(mesh, address(mesh, "far"), slow.home) as one:
        one.send(text)
        assert one.recv(2000) == text
        pid = worker()
        wait_until(lambda: state(pid) == "S", what="it has taken back what it sent")
        stop(pid)
        for _ in range(40):  # more than are with the kernel
            one.send(text)
        wait_until(lambda: ring_full() == 8, what="the rest is counted")
        with made(mesh, None, socket.AF_INET, socket.SOCK_DGRAM) as host:
            for _ in range(10):  # these go first, so that none of the others does at once
                host.sendto(text, (str(slow.near[0]), 9))
        os.kill(pid, signal.SIGCONT)
        assert [one.recv(2000) for _ in range(32)] == [text] * 32
        wait_until(lambda: state(pid) == "S", what="it has made room")
        one.send(text)
        assert one.recv(2000) == text
    assert ring_full() == 8


def test_what_it_sends_is_judged_as_what_others_send(mesh_up: Up) -> None:
    mesh = mesh_up(*tool("spoof"))
    with client(mesh) as one:
        one.send(b"hello")
        assert one.recv(100) == b"hello"
        assert not ready([one], BLOCKED_SECONDS)

    def refused() -> dict[Reason, int]:
        found = {reason: n for (who, way, reason), n in drops(mesh).items() if who == "far"}
        found.pop(Reason.MULTICAST, None)  # the stack's own
        return found

    wanted = {Reason.SPOOF_MAC: 1, Reason.SPOOF_IP: 1, Reason.PROTOCOL: 1}
    wait_until(lambda: refused() == wanted, what="each is refused once", seconds=20)


def test_what_is_denied_does_not_come(mesh_up: Up) -> None:
    mesh = mesh_up(*tool("record"))
    with client(mesh, address(mesh, "far"), "stranger") as one:
        one.send(b"hello")
    with client(mesh) as one:
        one.send(b"hello")
    wait_until(said, what="what is allowed comes", seconds=20)
    assert len(said()) == 1
    assert drops(mesh)["stranger", Direction.FROM_FN, Reason.POLICY] == 1


def test_a_function_that_stops_reading_is_told_of(mesh_up: Up) -> None:
    """Every packet is either echoed or counted; what waits is echoed when it goes on."""
    mesh = mesh_up(sys.executable, EXAMPLES / "echo.py", frames=128)
    with client(mesh) as one:
        assert echoed(one, range(64)) != []
        stop(pid := worker())
        for number in range(1000):
            one.send(struct.pack(">I", number))
        wait_until(lambda: ring_full() >= 1000 - 64, what="the rest is counted", seconds=60)
        os.kill(pid, signal.SIGCONT)
        came: list[int] = []

        def each_is_told() -> bool:
            while ready([one], 0):
                came.extend(struct.unpack(">I", one.recv(100)))
            return len(came) + ring_full() == 1000

        wait_until(each_is_told, what="each is echoed or counted", seconds=60)
        assert came == sorted(came)
        assert len(came) <= 64  # it may have had some in its hands when it stopped
        wait_until(lambda: state(pid) == "S", what="it has made room, and waits for more")
        assert sorted(echoed(one, range(16), 16)) == list(range(16))
    assert ring_full() == 1000 - len(came)
    with opened("port") as view:
        (far,) = (row for row in functions.read(view) if row.name == "far")
    assert far.drops["RING_FULL"] == 1000 - len(came)


def test_a_command_that_is_killed_leaves_nothing_to_the_next(mesh_up: Up) -> None:
    """Its memory goes with it, packets in it too; meanwhile the function's own stack answers."""
    mesh = mesh_up(*tool("idle"), frames=4096, queues=2)
    wait_until(said, what="it has a port", seconds=20)
    with client(mesh) as one:
        for _ in range(100):
            one.send(b"secret" * 100)
        assert memory() > 16 << 20
        os.kill(worker(), signal.SIGKILL)
        wait_until(lambda: memory() < 8 << 20, what="its memory is free")
        with pytest.raises(ConnectionRefusedError):
            refused(one)
    apply.restart("port", "far")
    wait_until(said, what="it runs again", seconds=20)
    assert said() == [{"clean": True, "frames": 8192, "addresses": [0]}]


def refused(one: socket.socket) -> None:
    for _ in range(2):
        one.send(b"anybody?")
        ready([one], SECONDS)


def memory() -> int:
    with opened("port") as view:
        return next(row.memory or 0 for row in functions.read(view) if row.name == "far")


def test_packets_wait_for_a_command_that_is_slow_to_begin(mesh_up: Up) -> None:
    script = f"until [ -e /tmp/go ]; do sleep 0.01; done; exec {sys.executable} {EXAMPLES}/echo.py"
    mesh = mesh_up("sh", "-c", script)
    with client(mesh) as one:
        one.send(b"early")
        assert not ready([one], BLOCKED_SECONDS)
        in_sandbox = [*COMMAND, "exec", "far", "--", "touch", "/tmp/go"]
        subprocess.run(in_sandbox, check=True)
        assert one.recv(100) == b"early"


def test_wrong_use_is_told_and_harms_nothing(mesh_up: Up) -> None:
    mesh_up(*tool("misuse"), frames=64)
    wait_until(said, what="it has tried", seconds=20)
    assert said() == [{"faults": ["ValueError"] * 4, "taken": 32, "more": 0}]


def test_two_of_them_and_what_is_rejected(mesh_up: Up) -> None:
    """From one to another; and an answer of the mesh comes by the port as well."""
    own = {"address": "198.18.7.7", "command": tool("ask"), "volumes": [str(ROOT)]}
    near = function("near", "one", datapath="af_xdp", **own)
    mesh_up(sys.executable, EXAMPLES / "echo.py", more=near + OF_NEAR)
    wait_until(lambda: len(said("near")) == 2, what="both were answered", seconds=20)
    assert said("near") == [{"protocol": 17, "port": PORT}, {"protocol": 1, "port": 0}]


def test_what_is_injected_at_it_is_met(mesh_up: Up) -> None:
    """Packets for it go through its chain, and on to its port; the first of them too."""
    mesh = mesh_up(sys.executable, EXAMPLES / "echo.py", more=INJECTED)
    with client(mesh) as one:
        assert sorted(echoed(one, range(128))) == list(range(128))
        one.send(b"!" * 200)
        assert not ready([one], BLOCKED_SECONDS)
        assert sorted(echoed(one, range(64))) == list(range(64))
    assert drops(mesh)["far", Direction.TO_FN, Reason.INJECTED] == 1


def test_what_was_detached_by_others_is_made_anew(mesh_up: Up) -> None:
    mesh = mesh_up(sys.executable, EXAMPLES / "echo.py")
    (Pins("port").ports / "far/link").unlink()
    with opened("port") as view:
        (far,) = (row for row in functions.read(view) if row.name == "far")
    assert far.state == "programs missing"
    apply.up(mesh)
    with client(mesh) as one:
        one.send(b"hello")
        assert one.recv(100) == b"hello"


def without_af_xdp() -> None:
    """Have this process be as on a kernel without such sockets."""
    refuse("socket", errno.EAFNOSUPPORT, (0, xsk.AF_XDP))


def without_remap() -> None:
    """Have this process be as on a kernel that maps no rings of a bound socket."""
    refuse("mmap", errno.EBUSY, (1, mmap.PAGESIZE), (3, mmap.MAP_SHARED))


def refuse(call: str, error: int, *arguments: tuple[int, int]) -> None:
    import seccomp  # noqa: PLC0415  (Debian's)

    made = seccomp.SyscallFilter(seccomp.ALLOW)
    about = [seccomp.Arg(number, seccomp.EQ, value) for number, value in arguments]
    made.add_rule(seccomp.ERRNO(error), call, *about)
    made.load()


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    ("without", "what"),
    [(without_af_xdp, "CONFIG_XDP_SOCKETS"), (without_remap, "before Linux 6.4")],
)
def test_a_kernel_without_it_is_told_before_anything_changes(
    tmp_path: Path, without: Callable[[], None], what: str
) -> None:
    """Each command says so with exit code 5."""
    file = tmp_path / "mesh.toml"
    file.write_text(whole(*tool("idle"), volumes=[], frames=64))
    attach = "attach", "far", "--pid", str(os.getpid()), "--datapath", "af_xdp", "--mesh", "port"
    for command in (("plan", str(file)), ("up", str(file)), attach):
        done = subprocess.run(
            [*COMMAND, *command], preexec_fn=without, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 5
        assert what in done.stderr
        with opened("port") as view:
            assert not view.functions


def test_its_place_is_bounded(mesh_up: Up) -> None:
    """The memory it is handed can neither grow nor shrink."""
    mesh_up(*tool("idle"), frames=64)
    wait_until(said, what="it has a port", seconds=20)
    for name in Path(f"/proc/{worker()}/fd").iterdir():
        if "ebpfmesh-port" in str(name.readlink()):
            memory = os.open(name, os.O_RDWR)
            assert os.fstat(memory).st_size == 64 * 2048
            for size in (0, 1 << 30):
                with pytest.raises(PermissionError):
                    os.truncate(memory, size)
            os.close(memory)
            return
    pytest.fail("it has no memory")
