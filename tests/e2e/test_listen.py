# SPDX-License-Identifier: BSD-2-Clause
"""events, capture and policy test as a user types them."""

import contextlib
import json
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from ebpfmesh.kernel.maps import Maps
from ebpfmesh.kernel.pins import Pins
from support.command import COMMAND, ROOT, complaint, data, ebpfmesh, lines
from support.topology import needs, wait_until

MESH = """
[mesh]
name = "edge"
[[function]]
name = "phone"
tenant = "operator"
address = ["198.18.0.1", "2001:db8::1"]
[[function]]
name = "camera"
tenant = "operator"
address = "198.18.0.2"
[[function]]
name = "web"
tenant = "vendor"
address = ["198.18.0.3", "2001:db8::3"]
audit = false
[[service]]
name = "portal"
address = ["198.19.0.1", "2001:db8:1::1"]
port = 80
target_port = 8080
functions = ["web"]
[[policy]]
from = "function:phone"
to = "service:portal"
protocol = "tcp"
port = 80
[[policy]]
from = "outside"
to = "function:phone"
protocol = "tcp"
port = 22
"""
RULE = "function:phone → service:portal tcp/80 allow"


@pytest.fixture(scope="module", autouse=True)
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    file = tmp_path_factory.mktemp("edge") / "edge.toml"
    file.write_text(MESH)
    ebpfmesh("up", file)
    yield
    ebpfmesh("down")


def ping(sender: str, address: str, *, code: int) -> None:
    wait = 0.2 if code else 20
    ebpfmesh("exec", sender, "--", "ping", "-c", 1, "-W", wait, address, code=code)


@contextlib.contextmanager
def listening(
    *words: object, stdout: IO[bytes] | int = subprocess.PIPE
) -> "Iterator[subprocess.Popen[str]]":
    """A command that listens, once it does."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, words)], stdout=stdout, stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        config = Maps(Pins("edge")).config
        wait_until(
            lambda: process.poll() is not None or any(c.events for _, c in config.items()),
            what="it listens",
        )
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """What it said, once it is told to end."""
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)
    assert process.returncode == 0
    return said


def test_events_are_lines() -> None:
    with listening("events", "--function", "web", "--reason", "POLICY", "--count", 1) as process:
        ping("phone", "198.18.0.2", code=0)
        ping("camera", "198.18.0.3", code=1)
        out, err = process.communicate(timeout=60)
    (line,) = out.splitlines()
    words = " ".join(line.split())
    assert words[15:].startswith(" drop POLICY (12) camera → web icmp 198.18.0.2 → 198.18.0.3 id ")
    assert (process.returncode, err) == (0, "1 events\n")


def test_events_are_lines_of_json() -> None:
    options = ("--kind", "drop", "--reason", "policy", "--count", 2, "--json", "-q")
    with listening("events", *options) as process:
        for _ in range(2):
            ping("camera", "198.18.0.3", code=1)
        out, err = process.communicate(timeout=60)
    assert err == ""
    rows: list[dict[str, Any]] = [json.loads(line) for line in out.splitlines()]
    for row in rows:
        assert row["schema"] == 1
        assert (row["kind"], row["reason"], row["number"]) == ("drop", "POLICY", 12)
        assert (row["sender"], row["receiver"], row["protocol"]) == ("camera", "web", "icmp")
        assert row["source_port"] is None
    assert len(rows) == 2


def test_a_rule_rejects() -> None:
    """The ping ends at once, and every command says why."""
    rule = ("function:camera", "function:web", "--protocol", "icmp")
    ebpfmesh("policy", "add", *rule, "--action", "reject", "--priority", 5)
    try:
        with listening("events", "--reason", "POLICY", "--count", 1) as process:
            done = ebpfmesh("exec", "camera", "--", "ping", "-c", 1, "-W", 20, "web", code=1)
            out, _ = process.communicate(timeout=60)
        asked = ebpfmesh("policy", "test", "camera", "web", code=1).stdout
        answer = json.loads(ebpfmesh("policy", "test", "camera", "web", "--json", code=1).stdout)
        shown = ebpfmesh("show", "policies").stdout.splitlines()[1]
    finally:
        ebpfmesh("policy", "del", *rule)
    assert "Packet filtered" in done.stdout
    assert out.split()[1:4] == ["rejected", "POLICY", "(12)"]
    assert asked.splitlines()[0].split()[1:4] == ["drop,", "rejected", "POLICY"]
    assert answer["rejected"]
    assert shown.split()[-1] == "reject"


def test_events_end_after_some_seconds() -> None:
    done = ebpfmesh("events", "--reason", "VLAN", "--seconds", 0.1)
    assert (done.stdout, done.stderr) == ("", "0 events\n")


def test_what_there_is_not_is_refused() -> None:
    error, hint = complaint("events", "--reason", "POLICE", code=2)
    assert (error, hint) == ('there is no reason "POLICE"', 'did you mean "POLICY"?')
    error, _ = complaint("events", "--reason", "", code=2)
    assert error == 'there is no reason ""'
    complaint("events", "--function", "", code=3)
    error, hint = complaint("events", "--function", "phne", code=3)
    assert hint == 'did you mean "phone"?'
    complaint("--mesh", "other", "events", code=3)


def test_a_second_listener_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    file.write_text("precious")
    with listening("events") as process:
        error, _ = complaint("capture", "-w", file, code=1)
    assert error == f"process {process.pid} listens to mesh edge already"
    assert file.read_text() == "precious"


def tshark(file: Path, *fields: str) -> list[list[str]]:
    """What tshark reads of a capture; of each packet these fields."""
    needs("tshark")
    options = [word for field in fields for word in ("-e", field)]
    done = subprocess.run(
        ["tshark", "-r", file, "-T", "fields", *options],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [line.split("\t") for line in done.stdout.splitlines()]


def test_tshark_reads_a_capture(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    with listening("capture", "-w", file, "--function", "camera") as process:
        ping("phone", "198.18.0.2", code=0)
        ping("camera", "198.18.0.3", code=1)
        wait_until(lambda: "camera → web".encode() in file.read_bytes(), what="all are written")
        ended(process)
    fields = ("frame.interface_name", "ip.src", "ip.dst", "icmp.type", "frame.comment")
    passes, no = "pass\\nphone → camera", "drop POLICY (12): the policy forbids it\\ncamera → web"
    assert [row for row in tshark(file, *fields) if row[1]] == [
        ["phone", "198.18.0.1", "198.18.0.2", "8", passes],
        ["camera", "198.18.0.2", "198.18.0.1", "0", "pass\\ncamera → phone"],
        ["camera", "198.18.0.2", "198.18.0.3", "8", no],
    ]


def test_only_drops_are_captured_as_far_as_wanted(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    options = ("--drops-only", "--function", "camera", "--snap", 40)
    with listening("capture", "-w", file, *options) as process:
        ping("phone", "198.18.0.2", code=0)
        ping("camera", "198.18.0.3", code=1)
        wait_until(lambda: "camera → web".encode() in file.read_bytes(), what="it is written")
        ended(process)
    rows = tshark(file, "frame.cap_len", "frame.len", "ip.dst")
    assert [row for row in rows if row[2]] == [["40", "98", "198.18.0.3"]]


def test_a_capture_goes_to_stdout(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    words = ("capture", "-w", "-", "--function", "camera", "-q")
    with file.open("wb") as out, listening(*words, stdout=out) as process:
        ping("phone", "198.18.0.2", code=0)
        wait_until(lambda: "camera → phone".encode() in file.read_bytes(), what="all are written")
        _, said = ended(process)
    assert said == ""
    sources = [row for row in tshark(file, "ip.src") if row[0]]
    assert sources == [["198.18.0.1"], ["198.18.0.2"]]


def test_a_capture_ends_after_some_seconds(tmp_path: Path) -> None:
    """What the functions' kernels announce by themselves, over IPv6, may come meanwhile."""
    file = tmp_path / "a.pcapng"
    with file.open("wb") as out:
        done = subprocess.run(
            [*COMMAND, "capture", "-w", "-", "--seconds", "0.1", "-q"],
            stdout=out, stderr=subprocess.PIPE, check=True, cwd=ROOT,
        )  # fmt: skip
    assert done.stderr == b""
    assert [row for row in tshark(file, "ip.src") if row[0]] == []


@pytest.mark.parametrize(
    ("words", "code", "expected"),
    [
        ("phone portal", 0, {"receiver": "web", "target_port": 8080, "rule_text": RULE}),
        ("phone service:portal -6", 0, {"receiver": "web", "source": "2001:db8::1"}),
        ("phone 198.19.0.1", 0, {"service": "portal", "protocol": "tcp"}),
        ("phone portal --port 81", 1, {"reason": "NO_SERVICE", "rule": None}),
        ("camera portal", 1, {"reason": "POLICY", "service": "portal", "rule": None}),
        ("function:phone function:camera", 0, {"protocol": "icmp", "source_port": None}),
        ("camera web --port 8080", 1, {"reason": "POLICY", "receiver": "web"}),
        ("phone outside", 0, {"receiver": "outside"}),
        ("phone outside:203.0.113.9 --protocol udp --port 53", 0, {"receiver": "outside"}),
        ("phone outside:2001:db8:9::9 --port 53", 0, {"receiver": "outside"}),
        ("outside phone --port 22", 0, {"receiver": "phone", "target_port": 22}),
        ("outside phone --port 23 -6", 1, {"reason": "POLICY", "receiver": "phone"}),
        ("phone phone --port 1", 1, {"reason": "HAIRPIN"}),
    ],
)
def test_policy_test_says_what_would_be(words: str, code: int, expected: dict[str, object]) -> None:
    found = json.loads(ebpfmesh("--json", "policy", "test", *words.split(), code=code).stdout)
    assert found["verdict"] == ("drop" if code else "pass")
    assert {name: found[name] for name in expected} == expected


def counted() -> list[object]:
    """What was counted, but for what the kernels send by themselves."""
    drops = [row for row in data("show", "drops")["drops"] if row["reason"] != "MULTICAST"]
    return [drops, data("show", "meters")["meters"]]


def flows() -> list[dict[str, object]]:
    return [row | {"idle": 0} for row in data("show", "flows")["flows"]]


def test_policy_test_tells_it_to_people_and_keeps_nothing() -> None:
    before, there = counted(), flows()
    told = lines("policy", "test", "phone", "portal", "--no-color")
    assert told == [
        "verdict   pass",
        "from      function:phone",
        "to        service:portal",
        "packet    tcp 198.18.0.1:49152 → 198.19.0.1:80",
        "service   portal",
        "receiver  web port 8080",
        f"rule      1: {RULE}",
    ]
    ebpfmesh("policy", "test", "camera", "portal", code=1)
    assert counted() == before
    assert [row for row in flows() if row not in there] == []  # the time of one may be over


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        ("portal phone", 2, "a service opens no flows"),
        ("outside portal", 2, "is for functions: the outside does not reach it"),
        ("outside outside", 2, "no packet meets the mesh"),
        ("phone web --protocol tcp", 2, "tcp needs a port"),
        ("phone web --protocol icmp --port 8", 2, "icmp has no port"),
        ("phone camera -6", 2, "have no addresses of version 6"),
        ("phone outside:198.18.0.2", 2, "is the address of camera"),
        ("phone outside:nobody", 2, "nobody is not an address"),
        ("phone nobody", 3, "neither a function nor a service"),
        ("phone service:nobody", 3, "there is no service nobody"),
    ],
)
def test_policy_test_of_what_cannot_be(words: str, code: int, part: str) -> None:
    error, _ = complaint("policy", "test", *words.split(), code=code)
    assert part in error


def test_policy_test_of_an_audited_function(tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(MESH.replace("audit = false", "audit = true"))
    ebpfmesh("up", file)
    found = data("policy", "test", "camera", "portal")
    assert (found["verdict"], found["audited"], found["reason"]) == ("pass", True, "POLICY")
    assert lines("policy", "test", "camera", "portal")[0].startswith("verdict   pass, would drop")


def test_rules_speak_of_names_and_addresses_as_policy_test_does() -> None:
    (told,) = lines("policy", "add", "camera", "portal")
    assert told == "+ policy function:camera → service:portal allow"
    try:
        found = data("policy", "test", "camera", "portal")
        assert (found["verdict"], found["sender"]) == ("pass", "camera")
        rows = data("show", "policies")["policies"]
        assert ("function:camera", "service:portal") in [(r["sender"], r["receiver"]) for r in rows]
    finally:
        (told,) = lines("policy", "del", "camera", "portal")
    assert told == "- policy function:camera → service:portal allow"
    address = next(row for row in data("show", "services")["services"])["addresses"][0]
    (told,) = lines("policy", "add", "198.51.100.7", "phone", "--action", "deny")
    assert told == "+ policy outside:198.51.100.7/32 → function:phone deny"
    ebpfmesh("policy", "del", "198.51.100.7", "phone")
    (told,) = lines("policy", "add", "camera", address)
    assert "→ service:portal " in told
    ebpfmesh("policy", "del", "camera", address)
    error, hint = complaint("policy", "add", "phone", "portl", code=3)
    assert error == "neither a function nor a service of mesh edge is called portl"
    assert hint == 'did you mean "portal"?'
    complaint("policy", "test", "tenant:operator", "portal", code=2)
