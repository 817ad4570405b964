# SPDX-License-Identifier: BSD-2-Clause
"""Every path of the benchmark: traffic passes, is counted, is refused where a policy says so.

A path that cannot be had is skipped if its reason is in MAY_BE_MISSING; any other is a failure
where everything was promised to be there.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.bench import workload
from ebpfmesh.bench.measure import changes, pps, traffic
from ebpfmesh.bench.measure.pps import PacketRate, entry_of, frames_for
from ebpfmesh.bench.packets import sink
from ebpfmesh.bench.packets.frames import from_member
from ebpfmesh.bench.packets.sink import at_eth0, send_burst
from ebpfmesh.bench.paths import PATHS, DataPath, base, ovs_switch
from ebpfmesh.bench.paths.base import try_in_namespace
from ebpfmesh.bench.paths.other_build import OtherBuild, beside
from ebpfmesh.bench.paths.ovs import Ovs
from ebpfmesh.bench.topology import Member, make_namespace
from ebpfmesh.bench.workload import Scale, Target
from ebpfmesh.errors import CommandFailed, Unsupported, UsageError
from ebpfmesh.kernel import netns
from ebpfmesh.model import Identity, Policy, Service
from support import topology
from support.sockets import ready

CHECKOUT = Path(__file__).parents[2]
OTHER = beside(CHECKOUT)
"""This very build once more, as another one is measured."""
OF_A_WIRE = {"wire", "consumers", "floods", "itself"}
FROM_FUNCTIONS = {n: p for n, p in PATHS.items() if not p.carries <= OF_A_WIRE}
"""What is from outside alone is in test_bench_wire.py."""
ALL = {**FROM_FUNCTIONS, OTHER.name: OTHER}
SCALE = Scale(services=3, rules=2)
MAY_BE_MISSING = {"ovs-kernel": "this kernel has no openvswitch module"}
DATAGRAMS = 20
BURSTS, FRAMES = 4, 32
NOISE = 8
"""Packets beside a program's own at most: ARP, ND."""
TIMEOUT = 20.0
BLOCKED_SECONDS = 0.5
QUIET_SECONDS = 1.5  # stacks announce their IPv6 addresses again after 1 s
TRIED_PORT, OWN_PORT = 81, 8181
WITH_SOCKETS = [name for name, path in ALL.items() if "sockets" in path.carries]
WITH_FRAMES = [name for name, path in ALL.items() if "frames" in path.carries]
WITH_CHANGES = [name for name, path in ALL.items() if "changes" in path.carries]
WITH_SWAPS = [name for name, path in ALL.items() if "swaps" in path.carries]
DUMPS = {
    "iptables-legacy": ["iptables-legacy-save"],
    "iptables": ["iptables-nft-save"],
    "nftables": ["nft", "list", "ruleset"],
}


def built(name: str, stack: ExitStack, scale: Scale = SCALE) -> DataPath:
    """A path, until ``stack`` is unwound; or the test is skipped, or fails."""
    if reason := ALL[name].missing():
        if MAY_BE_MISSING.get(name, "\0") in reason:
            pytest.skip(reason)
        topology.unavailable(f"{name}: {reason}")
    path = ALL[name](workload.load(), scale)
    path.build(stack)
    return path


@pytest.fixture(scope="module")
def path(request: pytest.FixtureRequest) -> Iterator[DataPath]:
    with ExitStack() as stack:
        yield built(request.param, stack)


@pytest.fixture(scope="module")
def rate() -> Iterator[PacketRate]:
    with ExitStack() as stack:
        yield PacketRate(workload.load(), stack)


def over(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("path", names, indirect=True, scope="module")


def make_socket(member: Member, kind: socket.SocketKind) -> socket.socket:
    with netns.entered(member.netns):
        made = socket.socket(socket.AF_INET, kind)
    made.settimeout(TIMEOUT)
    return made


def exchange_datagrams(path: DataPath) -> int:
    """Send datagrams from the client to the service of ``pps`` and have each sent back; packets."""
    target, port = path.target("pps"), workload.backend_target(path.mesh, "pps").port
    with ExitStack() as stack:
        servers = [
            stack.enter_context(closing(make_socket(member, socket.SOCK_DGRAM)))
            for member in path.receivers("pps")
        ]
        for server, member in zip(servers, path.receivers("pps"), strict=True):
            server.bind((str(member.address), port))
        client = stack.enter_context(closing(make_socket(path.client, socket.SOCK_DGRAM)))
        client.connect((str(target.address), target.port))
        for number in range(DATAGRAMS):
            client.send(b"%d" % number)
            found = ready(servers, TIMEOUT)
            assert found, "no backend got the datagram"
            data, sender = found[0].recvfrom(64)
            assert sender[0] == str(path.client.address)
            found[0].sendto(data, sender)
            assert client.recv(64) == b"%d" % number
    return 2 * DATAGRAMS


def connect(
    path: DataPath, target: Target, servers: list[Member], port: int, seconds: float = TIMEOUT
) -> bool:
    """Open a connection from the client to any of ``servers``; False if there is no answer.

    If it opens, a few bytes go there and back.
    """
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(closing(make_socket(member, socket.SOCK_STREAM)))
            for member in servers
        ]
        for listener, member in zip(listeners, servers, strict=True):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((str(member.address), port))
            listener.listen()
        client = stack.enter_context(closing(make_socket(path.client, socket.SOCK_STREAM)))
        client.settimeout(seconds)
        try:
            client.connect((str(target.address), target.port))
        except OSError:  # no answer, or the host has no way to the address
            return False
        peer, address = ready(listeners, TIMEOUT)[0].accept()
        with peer:
            assert address[0] == str(path.client.address)
            client.sendall(b"ping")
            assert peer.recv(4) == b"ping"
            peer.sendall(b"pong")
            assert client.recv(4) == b"pong"
    return True


def settled(path: DataPath) -> int:
    """What a path has carried, once nothing more comes of its having been built."""
    deadline, before, since = time.monotonic() + 20, path.packets(), time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        assert time.monotonic() < deadline, "packets come all the time"
        time.sleep(0.05)
        if (now := path.packets()) != before:
            before, since = now, time.monotonic()
    return before


@over(*WITH_SOCKETS)
def test_datagrams_pass_and_are_counted(path: DataPath) -> None:
    before = settled(path)
    sent = exchange_datagrams(path)
    assert sent <= path.packets() - before <= sent + NOISE


@over(*WITH_SOCKETS)
def test_connection_passes_and_is_counted(path: DataPath) -> None:
    before = path.packets()
    port = workload.backend_target(path.mesh, "crr").port
    assert connect(path, path.target("crr"), path.receivers("crr"), port)
    assert path.packets() - before >= 6  # three to open it, data and its ACK each way


@over(*WITH_FRAMES)
def test_frames_pass_and_are_counted(
    rate: PacketRate, path: DataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bursts that fit into the buffer of a packet socket: Open vSwitch has some.

    The sink is at tc, behind XDP, so that redirected frames come by what the path itself has set.
    """
    monkeypatch.setattr(sink, "DRAIN_SECONDS", TIMEOUT)  # Open vSwitch may have to wait for a core
    rate.generator.load(frames_for(path))
    entry, _ = entry_of(path)
    before = settled(path)
    with rate.sink.on(at_eth0(path.receivers("pps"))), netns.entered(path.host.netns):
        bursts = [
            send_burst(rate.generator, rate.sink, path.client.ifindex, FRAMES, entry)
            for _ in range(BURSTS)
        ]
    assert [burst.delivered for burst in bursts] == [FRAMES] * BURSTS
    assert BURSTS * FRAMES <= path.packets() - before <= BURSTS * FRAMES + NOISE


@over("routed")
def test_warming_up_does_not_fail_where_nothing_arrives(
    rate: PacketRate, path: DataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = from_member(path.client, Target(IPv4Address("198.19.255.1"), 9))
    monkeypatch.setattr(pps, "frames_for", lambda *_, **__: nowhere)
    with pytest.raises(CommandFailed, match="0 of 3200 packets came through routed"):
        rate.measure(path)
    rate.warm_up(path)


@over(*ALL)
def test_nothing_is_counted_of_what_passes_elsewhere(path: DataPath) -> None:
    with ExitStack() as stack:
        other = built("bridge" if path.name == "routed" else "routed", stack)
        before, of_other = settled(path), settled(other)
        assert exchange_datagrams(other) <= other.packets() - of_other
        # Behind a bridge functions may look whether those they have spoken to are still there.
        assert path.packets() - before <= (NOISE if path.name == "bridge" else 0)


@over("redirect_peer", "xdp_redirect")
def test_what_the_programs_do_not_take_goes_nowhere(path: DataPath) -> None:
    """The guest has no program; the host's stack does not forward what it sends, nor count it."""
    before, blocked = settled(path), path.host.members[workload.BLOCKED]
    receiver = path.receivers("pps")[0]
    with (
        closing(make_socket(receiver, socket.SOCK_DGRAM)) as listener,
        closing(make_socket(blocked, socket.SOCK_DGRAM)) as sender,
    ):
        listener.bind((str(receiver.address), OWN_PORT))
        for _ in range(DATAGRAMS):
            sender.sendto(b"x", listener.getsockname())
        assert not ready([listener], 0.3)
    assert path.packets() == before


@over(*WITH_CHANGES)
def test_who_is_not_allowed_is_not_answered(path: DataPath) -> None:
    """Through the service and past it, once and again: no state of one try lets the next pass."""
    port = workload.backend_target(path.mesh, "pps").port
    blocked, servers = path.host.members[workload.BLOCKED], path.receivers("pps")
    targets = [path.target("pps"), *(Target(server.address, port) for server in servers)]
    before = settled(path)
    with ExitStack() as stack:
        listeners = [
            stack.enter_context(closing(make_socket(member, socket.SOCK_DGRAM)))
            for member in servers
        ]
        for listener, member in zip(listeners, servers, strict=True):
            listener.bind((str(member.address), port))
        sender = stack.enter_context(closing(make_socket(blocked, socket.SOCK_DGRAM)))
        sender.bind((str(blocked.address), 0))
        for target in targets:
            for _ in range(DATAGRAMS):
                sender.sendto(b"x", (str(target.address), target.port))
        arrived = ready(listeners, 0.3)
    assert not arrived
    assert path.packets() == before


def contents(path: DataPath) -> object:
    """All services and rules of a path, without what they have counted."""
    with netns.entered(path.host.netns):
        if path.name == "mesh":
            with apply.opened(path.mesh.name) as live:
                return live.record.model()
        if isinstance(path, Ovs):
            return sorted(path.flows().splitlines()[1:])
        name = path.name if path.name in DUMPS else "iptables"
        saved = subprocess.run(DUMPS[name], capture_output=True, text=True, check=True).stdout
    return [line for line in saved.splitlines() if not line.startswith(("#", ":"))]


@over(*WITH_CHANGES)
def test_what_is_added_works_and_is_taken_out_again(path: DataPath) -> None:
    backend = path.receivers("stream")[0]
    name = workload.backends(path.mesh, "stream")[0]
    service = Service(
        name="tried", address4=IPv4Address("198.19.255.2"), port=TRIED_PORT,
        target_port=OWN_PORT, functions=(name,),
    )  # fmt: skip
    rule = Policy(
        source=Identity("function", workload.CLIENT), destination=Identity("function", name),
        protocol="tcp", port=OWN_PORT,
    )  # fmt: skip
    target, direct = Target(service.address4, TRIED_PORT), Target(backend.address, OWN_PORT)
    on_service, on_rule = path.add_service(service), path.add_rule(rule)
    before = contents(path)

    def check_opens(through: bool, past: bool) -> None:
        """Whether connections do, through the service and past it; what may, may be sent again."""
        if isinstance(path, Ovs):
            path.revalidated()
        for to, opens in ((target, through), (direct, past)):
            seconds = TIMEOUT if opens else BLOCKED_SECONDS
            assert connect(path, to, [backend], OWN_PORT, seconds) == opens

    for _ in range(2):
        with netns.entered(path.host.netns):
            on_service.do()
        check_opens(False, False)
        with netns.entered(path.host.netns):
            on_rule.do()
        check_opens(True, True)
        with netns.entered(path.host.netns):
            on_service.undo()
        check_opens(False, True)
        with netns.entered(path.host.netns):
            on_rule.undo()
        check_opens(False, False)
        assert contents(path) == before


@over(*WITH_CHANGES)
def test_changes_that_are_measured_leave_nothing(path: DataPath) -> None:
    before = contents(path)
    for kind in changes.KINDS if path.name == "mesh" else ("add-service", "add-rule"):
        assert changes.measure(path, 0, kind=kind).value > 0
        assert contents(path) == before


@over(*WITH_SWAPS)
def test_a_program_is_exchanged_and_the_path_goes_on(path: DataPath) -> None:
    with netns.entered(path.host.netns):
        assert changes.times(changes.find("swap", path), 0)
    assert traffic.try_connection(path, workload.CLIENT) == "open"
    assert traffic.try_connection(path, workload.BLOCKED) != "open"


@over(*(name for name, path in ALL.items() if not path.has_services))
def test_without_services_nothing_can_be_added(path: DataPath) -> None:
    for add in (
        lambda: path.add_service(changes.new_service(path.mesh)),
        lambda: path.add_rule(changes.new_rule()),
    ):
        with pytest.raises(Unsupported, match=path.name):
            add()


def remains() -> set[str]:
    """What a path could leave, files included."""
    files = Path(tempfile.gettempdir()).iterdir()
    return topology.leftovers() | {f"file {path}" for path in files}


@pytest.mark.parametrize("name", ALL)
def test_nothing_remains(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = remains()
    with ExitStack() as stack:
        path = built(name, stack, Scale(services=2))
        assert remains() > before
        assert all(Path(f"/proc/{process}").exists() for process in path.processes())
        processes = path.processes()
    assert topology.poll(lambda: remains() <= before), remains() - before
    assert not any(Path(f"/proc/{process}").exists() for process in processes)


DYING = """
import sys
from contextlib import ExitStack
from ebpfmesh.bench import workload
from ebpfmesh.bench.paths import PATHS
from ebpfmesh.kernel import netns
netns.enter_sandbox()
with ExitStack() as stack:
    path = PATHS["ovs"](workload.load())
    path.build(stack)
    print(*path.processes(), flush=True)
    sys.stdin.read()
"""


def test_daemons_die_with_the_process_that_started_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    process = subprocess.Popen(
        [sys.executable, "-c", DYING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin
    assert process.stdout
    with process, process.stdin, process.stdout:
        daemons = [int(word) for word in process.stdout.readline().split()]
        assert len(daemons) == 2
        assert all(Path(f"/proc/{daemon}").exists() for daemon in daemons)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def gone(daemon: int) -> bool:
        try:
            return "(zombie)" in Path(f"/proc/{daemon}/status").read_text()
        except OSError:
            return True

    assert topology.poll(lambda: all(gone(daemon) for daemon in daemons))


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("iptables", "iptables"),
        ("iptables-legacy", "iptables"),
        ("nftables", "nftables"),
        ("bridge", "iproute2"),
    ],
)
def test_missing_names_the_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, package: str
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert PATHS[name].missing().endswith(f" is missing: apt-get install {package}")


def test_missing_open_vswitch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ovs_switch.missing() == "ovsdb-server is missing: apt-get install openvswitch-switch"


def test_missing_says_what_open_vswitch_could_not_open() -> None:
    subprocess.run(["mount", "-t", "tmpfs", "none", "/dev/net"], check=True)
    try:
        with ExitStack() as stack:
            place = make_namespace("test-missing", stack)
            with pytest.raises(CommandFailed, match=r"/dev/net/tun.* failed: No such file"):
                ovs_switch.Switch(place, "netdev", stack)
    finally:
        subprocess.run(["umount", "/dev/net"], check=True)


def test_missing_says_what_the_kernel_said() -> None:
    assert not try_in_namespace(["nft", "-f", "-"], "nftables", "add table ip one\n")
    reason = try_in_namespace(["nft", "-f", "-"], "nftables", "add chain ip none one\n")
    assert reason.startswith("nft does not work on this kernel: ")
    assert "No such file" in reason


def test_missing_says_what_did_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "PROBE_SECONDS", 0.1)
    assert try_in_namespace(["sleep", "60"], "coreutils") == "sleep does not end within 0.1 s"


def test_another_build_that_does_not_work_is_told(tmp_path: Path) -> None:
    """Its command is tried, with this build's packages where it has none of its own."""
    with pytest.raises(UsageError, match="there is no other build in"):
        beside(tmp_path)
    (tmp_path / "ebpfmesh").symlink_to(CHECKOUT / "ebpfmesh")
    assert beside(tmp_path).missing() == ""
    broken = tmp_path / "broken"
    (broken / "ebpfmesh").mkdir(parents=True)
    (broken / "ebpfmesh" / "__init__.py").touch()
    (broken / "ebpfmesh" / "__main__.py").write_text("raise SystemExit(3)")
    assert beside(broken).missing().endswith(f"exit 3: make setup in {broken}")


def test_another_build_fails_with_what_it_said() -> None:
    path = OTHER(workload.load())
    assert isinstance(path, OtherBuild)
    with pytest.raises(CommandFailed, match=r"show meters .* exit 3") as caught:
        path._shown("meters")
    assert "error: " in caught.value.hint
