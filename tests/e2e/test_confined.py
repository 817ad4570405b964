# SPDX-License-Identifier: BSD-2-Clause
"""What `exec` and a privileged command may do: run servers, and nothing to the host's interfaces.

Both are root, in the host's user namespace; what they lack are capabilities. test_sandboxed.py is
about commands that are not privileged.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel import interface
from ebpfmesh.state.place import exit_file
from support.command import data, ebpfmesh, lines
from support.topology import mesh_of, needs, poll, running, wait_until

ESCAPE = Path(__file__).parents[1] / "support/escape.py"
MESH = """
[mesh]
name = "confined"
[[function]]
name = "one"
tenant = "t"
[[function]]
name = "two"
tenant = "u"
{command}
[[policy]]
from = "function:two"
to = "function:one"
"""


@pytest.fixture(scope="module", autouse=True)
def _up() -> Iterator[None]:
    with running(MESH.format(command="")):
        yield


@contextlib.contextmanager
def two_runs(*command: str) -> Iterator[None]:
    """Function two has this command for the block."""
    apply.up(mesh_of(MESH.format(command=f"command = {json.dumps(command)}\nprivileged = true")))
    try:
        yield
    finally:
        apply.up(mesh_of(MESH.format(command="")))


def host_sides() -> list[int]:
    """Interfaces at the host of both functions, those that are up."""
    rows = data("show", "functions")["functions"]
    return [row["ifindex"] for row in rows if row["state"] == "up"]


def inside(*words: object, code: int = 0) -> str:
    return ebpfmesh("exec", "two", "--", *words, code=code).stdout


def refused(text: str) -> None:
    """Everything was tried, and not permitted."""
    found = json.loads(text)
    assert len(found) == 5
    assert set(found.values()) == {"Operation not permitted"}, found


def test_exec_cannot_touch_the_hosts_interfaces() -> None:
    before = host_sides()
    refused(inside(sys.executable, ESCAPE, *before))
    assert host_sides() == before


def test_a_command_cannot_touch_the_hosts_interfaces(tmp_path: Path) -> None:
    """Not its own host side, not that of another tenant's function."""
    one = next(row for row in data("show", "functions")["functions"] if row["name"] == "one")
    said = tmp_path / "said"
    host = interface.host_name("confined", 2)
    script = (
        f"cat /sys/class/net/eth0/iflink > {said}.own;"
        f" {sys.executable} {ESCAPE} {one['ifindex']} $(cat {said}.own) > {said}.new;"
        f" mv {said}.new {said}; sleep 100"
    )
    with two_runs("sh", "-c", script):
        wait_until(said.exists, what="the command has tried")
        assert interface.find(host) == int(Path(f"{said}.own").read_text())
        refused(said.read_text())
        assert len(host_sides()) == 2
        with apply.opened("confined") as live:
            assert exit_file(live.record, "two").read_text() == ""


@pytest.mark.parametrize(
    "words",
    [
        ("nsenter", "--net=/run/netns/ebpfmesh.confined.one", "true"),
        ("unshare", "-Ur", "nsenter", "--net=/run/netns/ebpfmesh.confined.one", "true"),
        ("ls", "/proc/1/root/"),
        ("ip", "link", "set", "eth0", "address", "02:00:00:00:00:01"),
        ("umount", "/run/ebpfmesh"),
        ("umount", "/sys"),
        ("unshare", "-Urm", "umount", "/run/ebpfmesh"),
        ("unshare", "-Urm", "umount", "/sys"),
        ("mount", "-t", "bpf", "bpf", "/mnt"),
        ("iptables", "-L"),
    ],
)
def test_ways_out_are_closed(words: tuple[str, ...]) -> None:
    script = '"$@" >/dev/null 2>&1 && exit 1 || exit 0'
    inside("sh", "-c", script, "sh", *words)


def test_pins_and_records_are_not_to_be_seen() -> None:
    assert inside("sh", "-c", "ls -A /run/ebpfmesh /sys/fs/bpf").split() == [
        "/run/ebpfmesh:", "/sys/fs/bpf:",
    ]  # fmt: skip


def test_what_users_run_works(tmp_path: Path) -> None:
    """Low ports, raw and packet sockets, giving up being root."""
    inside("ping", "-c", "1", "-W", "20", "one")
    inside("ping", "-6", "-c", "1", "-W", "20", "one")
    raw = (
        "import socket as s; s.socket(s.AF_INET, s.SOCK_RAW, 1); s.socket(s.AF_PACKET, s.SOCK_RAW)"
    )
    inside(sys.executable, "-c", raw)
    low = "import socket; print(socket.create_server(('', 80)).getsockname()[1])"
    assert inside(sys.executable, "-c", low) == "80\n"
    inside(sys.executable, "-c", "import os; os.setgroups([]); os.setuid(65534)")
    file = tmp_path / "file"
    inside("sh", "-c", f"echo mine > {file}; chown 65534 {file}; cat {file}")
    assert file.stat().st_uid == 65534


@pytest.mark.parametrize(
    ("program", "words", "port"),
    [
        ("nginx", ("nginx", "-c", "{conf}", "-g", "daemon off;"), 80),
        ("dnsmasq", ("dnsmasq", "-k", "-C", "/dev/null", "--pid-file", "-R"), 53),
        ("iperf3", ("iperf3", "-s", "-p", "443"), 443),
    ],
)
def test_servers_on_low_ports(
    tmp_path: Path, program: str, words: tuple[str, ...], port: int
) -> None:
    needs(program)
    conf = tmp_path / "nginx.conf"
    conf.write_text(
        f"pid {tmp_path}/pid; error_log stderr; events {{}}\n"
        "http { access_log off; server { listen 80; location / { return 204; } } }\n"
    )
    command = [word.format(conf=conf) for word in words]
    with two_runs(*command):
        probe = f"import socket; socket.create_connection(('two', {port}), 2)"

        def answers() -> bool:
            done = ebpfmesh("exec", "two", "--", sys.executable, "-c",
                            f"try:\n {probe}\nexcept OSError: print('no')")  # fmt: skip
            return not done.stdout

        assert poll(answers), lines("show", "functions")


def test_tcpdump_sees_what_a_function_gets() -> None:
    needs("tcpdump")
    script = (
        "ping -4 -c 50 -i 0.2 one >/dev/null &"
        " tcpdump -Z root -i eth0 -c 1 -w /dev/null icmp 2>&1; kill $!"
    )
    assert "1 packet captured" in inside("sh", "-c", script)
