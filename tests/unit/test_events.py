# SPDX-License-Identifier: BSD-2-Clause
"""Events from the bytes of a record, and captured packets as other programs read them."""

import ctypes
import socket
import time
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.utils import PcapNgReader, RawPcapNgReader

from ebpfmesh import _abi
from ebpfmesh._abi import EventKind, Reason
from ebpfmesh.cli import events as cli
from ebpfmesh.errors import UsageError
from ebpfmesh.kernel.keys import packed
from ebpfmesh.observe.capture import Capture, comment
from ebpfmesh.observe.events import Event, Stream

FRAME = bytes(
    Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02")
    / IP(src="198.18.0.1", dst="198.18.0.2")
    / UDP()
)
RULE = "function:phone → service:portal deny"


class Names:
    """What a record answers."""

    def names(self, kind: str) -> dict[int, str]:
        return {"function": {1: "phone", 2: "web"}, "service": {7: "portal"}}[kind]

    def hosts(self) -> list[tuple[str, str]]:
        return [("198.18.0.1", "phone"), ("198.18.0.2", "web"), ("2001:db8::2", "web")]

    def functions(self) -> list[Any]:
        places = (SimpleNamespace(ifindex=11), "phone"), (SimpleNamespace(ifindex=12), "web")
        return [SimpleNamespace(attachment=p, function=SimpleNamespace(name=n)) for p, n in places]

    def injections(self) -> list[Any]:
        return [SimpleNamespace(injection=SimpleNamespace(name="bucket"), programs={4, 5})]

    def policies(self) -> list[tuple[int, str]]:
        return [(3, RULE)]

    def version(self) -> int:
        return 1


class Ring:
    """A ring buffer with these records in it."""

    def __init__(self, *records: bytes) -> None:
        self.records = records

    def skip(self) -> None:
        pass

    def read(self, _seconds: float) -> list[bytes]:
        found, self.records = list(self.records), ()
        return found


def record(
    kind: EventKind, *, ends: tuple[str, str] = ("198.18.0.1", "198.18.0.2"),
    ports: tuple[int, int] = (40000, 80), protocol: int = 6, frame: bytes = FRAME, **fields: int,
) -> bytes:  # fmt: skip
    """A record as the programs send it."""
    event = _abi.Event(
        time=time.monotonic_ns(), ifindex=11, kind=kind, length=len(FRAME), captured=len(frame)
    )
    source, destination = (packed(ip_address(end)) for end in ends)
    event.tuple = _abi.Tuple(
        source=source, destination=destination, source_port=ports[0], destination_port=ports[1],
        protocol=protocol,
    )  # fmt: skip
    for name, value in fields.items():
        setattr(event, name, value)
    return bytes(event) + frame


def read(*records: bytes) -> list[tuple[Event, bytes]]:
    counts = SimpleNamespace(get=lambda _: None)
    nobody = SimpleNamespace(filled=tuple)
    maps = {"mesh_counts": counts, "mesh_event_room": nobody}
    view = SimpleNamespace(record=Names(), maps=maps)
    view.record.is_current = False  # type: ignore[attr-defined]
    return list(Stream(cast(Any, view), cast(Any, Ring(*records))).read())


def one(kind: EventKind, **fields: Any) -> Event:
    ((event, _),) = read(record(kind, **fields))
    return event


def test_a_drop_has_names_a_reason_and_the_rule() -> None:
    event = one(EventKind.DROP, reason=Reason.POLICY, sender=1, receiver=2, rule=3, service=7)
    assert (event.kind, event.reason, event.number) == ("drop", "POLICY", 12)
    assert (event.function, event.sender, event.receiver) == ("phone", "phone", "web")
    assert (event.service, event.rule, event.rule_text) == ("portal", 3, RULE)
    assert (event.source, event.source_port) == ("198.18.0.1", 40000)
    assert (event.destination, event.destination_port) == ("198.18.0.2", 80)
    assert (event.protocol, event.echo_id, event.length) == ("tcp", None, len(FRAME))
    assert event.time.startswith("20")
    assert event.time.endswith("Z")


def test_a_receiver_that_was_not_looked_up_is_known_by_its_address() -> None:
    assert one(EventKind.VERDICT, sender=1).receiver == "web"
    ends = ("198.18.0.1", "203.0.113.9")
    assert one(EventKind.VERDICT, sender=1, ends=ends).receiver == "outside"


def test_ipv6_and_an_id_that_is_gone() -> None:
    event = one(EventKind.FLOW, ends=("2001:db8::1", "2001:db8::2"), sender=5, receiver=2)
    assert (event.source, event.destination) == ("2001:db8::1", "2001:db8::2")
    assert (event.sender, event.receiver, event.reason) == ("#5", "web", "")


@pytest.mark.parametrize("protocol", [1, 58])
@pytest.mark.parametrize("identifier", [7, 255, 256, 65280, 65535])
def test_an_echo_has_an_identifier(protocol: int, identifier: int) -> None:
    after = socket.ntohs((socket.htons(identifier) + 1) & 0xFFFF)
    for ports in ((identifier, after), (after, identifier)):
        event = one(EventKind.FLOW, protocol=protocol, ports=ports)
        assert (event.protocol, event.source_port, event.destination_port) == ("icmp", None, None)
        assert event.echo_id == identifier


def line(event: Event) -> str:
    """What `events` prints of it."""
    return "".join(part if isinstance(part, str) else part[0] for part in cli._line(event))


def test_a_packet_that_was_not_parsed_has_no_addresses() -> None:
    raw = _abi.Event(kind=EventKind.DROP, reason=Reason.VLAN, ifindex=99, length=60)
    ((event, frame),) = read(bytes(raw))
    assert (event.source, event.protocol, event.receiver) == (None, None, None)
    assert (event.function, event.sender, frame) == ("ifindex 99", "outside", b"")
    assert "VLAN (9)" in line(event)


def test_a_line_says_all_of_it() -> None:
    event = one(EventKind.DROP, reason=Reason.POLICY, sender=1, receiver=2, rule=3, audited=1)
    text = " ".join(line(event).split())
    assert "would drop" in text
    assert f"phone → web tcp 198.18.0.1:40000 → 198.18.0.2:80 rule 3: {RULE}" in text


def test_a_breaker_is_of_what_is_injected() -> None:
    numbers = {"program": 5, "cost": 812, "limit": 500, "lasted": 5321}
    event = one(EventKind.BREAKER, sender=1, receiver=2, **numbers)
    said = "circuit breaker opened, median 812 ns over its 500 ns for 5 s"
    assert (event.kind, event.injected, event.text) == ("breaker", "bucket", said)
    assert (event.cost_ns, event.limit_ns, event.seconds) == (812, 500, 5.321)
    assert line(event).endswith(f"injected bucket: {said}")
    other = one(EventKind.VERDICT, sender=1)
    assert (other.injected, other.cost_ns, other.limit_ns, other.seconds) == ("", None, None, None)


def test_a_function_has_a_part_in_what_it_sends_and_gets() -> None:
    event = one(EventKind.VERDICT, sender=1, receiver=2)
    assert event.concerns("phone")
    assert event.concerns("web")
    assert not event.concerns("camera")


def test_a_reason_is_one_that_there_is() -> None:
    assert cli._reason("policy", ("drop", "flow")) == Reason.POLICY
    with pytest.raises(UsageError, match='there is no reason "POLICE"') as caught:
        cli._reason("POLICE", ("drop",))
    assert "POLICY" in caught.value.hint
    with pytest.raises(UsageError, match="only drops"):
        cli._reason("POLICY", ("flow",))


def captured(file: Path, *records: bytes) -> list[tuple[bytes, Any]]:
    with Capture(str(file)) as capture:
        for event, frame in read(*records):
            capture.write(event, frame)
    with RawPcapNgReader(str(file)) as reader:
        return list(reader)


def test_a_captured_packet_has_its_bytes_length_and_comment(tmp_path: Path) -> None:
    part = FRAME[:20]
    drop = record(EventKind.DROP, reason=Reason.POLICY, sender=1, receiver=2, rule=3, frame=part)
    ((frame, meta),) = captured(tmp_path / "a.pcapng", drop)
    assert (frame, meta.wirelen, meta.ifname) == (part, len(FRAME), b"phone")
    (text,) = meta.comments
    assert text.decode() == (
        f"drop POLICY (12): the policy forbids it\nphone → web\nrule 3: {RULE}"
    )
    seconds = ((meta.tshigh << 32) + meta.tslow) / meta.tsresol
    assert abs(seconds - time.time()) < 60


def test_a_capture_can_be_read_as_packets(tmp_path: Path) -> None:
    file = tmp_path / "a.pcapng"
    captured(file, record(EventKind.VERDICT, sender=1, receiver=2))
    with PcapNgReader(str(file)) as reader:
        (packet,) = list(reader)
    assert packet[IP].dst == "198.18.0.2"
    assert packet.comments == ["pass\nphone → web".encode()]


def test_what_an_audit_lets_pass_says_so(tmp_path: Path) -> None:
    told = record(EventKind.DROP, reason=Reason.POLICY, sender=1, receiver=2, rule=3, audited=1)
    ((_, meta),) = captured(tmp_path / "a.pcapng", told)
    assert meta.comments[0].startswith(b"would drop POLICY")


def test_a_capture_without_packets_is_whole(tmp_path: Path) -> None:
    assert captured(tmp_path / "a.pcapng") == []


def test_what_is_not_known_is_said_so() -> None:
    raw = _abi.Event(kind=EventKind.DROP, reason=Reason.VLAN, ifindex=11)
    ((event, _),) = read(bytes(raw))
    assert comment(event) == "drop VLAN (9): a VLAN tag\noutside → unknown"


def test_the_sizes_are_those_of_the_programs() -> None:
    assert cli.SNAP_MAX == _abi.SNAP_MAX
    assert ctypes.sizeof(_abi.EventBuffer) == ctypes.sizeof(_abi.Event) + _abi.SNAP_MAX
