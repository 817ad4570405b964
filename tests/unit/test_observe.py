# SPDX-License-Identifier: BSD-2-Clause
"""What is shown, as far as it needs no kernel; and that the documents say the same."""

import ctypes
import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from ebpfmesh import _abi, errors
from ebpfmesh.cli import output
from ebpfmesh.cli.mesh import CHANGES
from ebpfmesh.kernel import clock
from ebpfmesh.kernel.keys import packed
from ebpfmesh.model import Identity, Mesh, Policy
from ebpfmesh.observe import counters, flows, mesh, objects, privilege
from ebpfmesh.observe.view import View
from support.policy import decide

ROOT = Path(__file__).parents[2]
NAMES = {
    "function": {1: "phone", 2: "web"},
    "tenant": {1: "operator", 2: "vendor"},
    "service": {7: "portal"},
}


@pytest.fixture(autouse=True)
def _no_tick_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flow that was seen now is so when it is read, too."""
    now = clock.now()
    monkeypatch.setattr(clock, "now", lambda: now)


TIMEOUTS = (ctypes.c_uint32 * 5)(*(100 * (n + 1) for n in range(5)))


def view(**maps: list[tuple[Any, Any]]) -> View:
    """A view of these maps, in which functions 1 and 2 are behind interfaces 11 and 12."""
    numbers: dict[str, list[tuple[Any, Any]]] = {
        "mesh_flow4": [],
        "mesh_flow6": [],
        "mesh_xdp_drops": [],
        "mesh_iface": [(SimpleNamespace(value=10 + n), _abi.Iface(id=n)) for n in (1, 2)],
        **maps,
    }
    tables = {name: SimpleNamespace(items=lambda rows=rows: rows, filled=lambda rows=rows: rows)
              for name, rows in numbers.items()}  # fmt: skip
    shown = View.__new__(View)
    shown.record = cast(
        Any, SimpleNamespace(names=lambda kind: NAMES[kind], places=dict, remotes=list)
    )
    shown.maps = cast(Any, tables)
    shown.__dict__["config"] = _abi.Config(judged=5, tenants=3, timeouts=TIMEOUTS)
    shown.__dict__["functions"] = ()
    return shown


def flow4(protocol: int, source_port: int, destination_port: int, ifindex: int) -> _abi.Flow4Key:
    return _abi.Flow4Key(
        source=int(IPv4Address("198.18.0.1")),
        destination=int(IPv4Address("198.19.0.1")),
        source_port=source_port,
        destination_port=destination_port,
        origin=ifindex << 8 | protocol,
    )


def test_a_flow_through_a_service() -> None:
    entry = _abi.Flow(epoch=5, output=12, flags=_abi.FlowFlag.NAT_DST, port=8080, service=7,
                      address=packed(IPv4Address("198.18.0.2")), seen=clock.now())  # fmt: skip
    (row,) = flows.read(view(mesh_flow4=[(flow4(6, 40000, 80, 11), entry)]))
    assert row == flows.Flow(
        protocol="tcp", source="198.18.0.1", source_port=40000, destination="198.19.0.1",
        destination_port=80, echo_id=None, sender="phone", receiver="web", direction="forward",
        service="portal", nat="198.18.0.2:8080", epoch=5, current=True, state="established",
        idle=0, timeout=round(200 * 256 / clock.hz()),
    )  # fmt: skip


def test_a_flow_that_is_counted() -> None:
    """What it is stays the same; a tick in the future is one that the two clocks differ by."""
    key, made = flow4(6, 40000, 80, 11), clock.now() - 50
    flow = _abi.Flow(epoch=5, output=12, seen=clock.now())
    counts = _abi.FlowCounts(packets=3, bytes=1 << 40, made=made)
    (plain,) = flows.read(view(mesh_flow4=[(key, flow)]))
    assert (plain.packets, plain.bytes, plain.age) == (None, None, None)
    (row,) = flows.read(view(mesh_flow4=[(key, _abi.CountedFlow(flow=flow, counts=counts))]))
    assert row.age is not None
    assert row.age == round(50 * 256 / clock.hz())
    assert row == replace(plain, packets=3, bytes=1 << 40, age=row.age)


@pytest.mark.parametrize(
    ("order", "ports"),
    [(None, [1, 2, 3]), ("bytes", [3, 1, 2]), ("age", [2, 3, 1]), ("idle", [1, 3, 2])],
)
def test_flows_in_order(order: flows.Order | None, ports: list[int]) -> None:
    """The most bytes, the oldest, or who spoke last first."""
    now = clock.now()
    entries = [
        (
            flow4(17, port, 53, 11),
            _abi.CountedFlow(
                flow=_abi.Flow(seen=now - idle * 100),
                counts=_abi.FlowCounts(bytes=length, made=now - age * 100),
            ),
        )
        for port, length, age, idle in ((1, 20, 4, 0), (2, 10, 9, 9), (3, 30, 5, 5))
    ]
    shown = view(mesh_flow4=entries)
    shown.maps = cast(Any, Counted(cast(Any, shown.maps)))
    assert [row.source_port for row in flows.read(shown, order=order)] == ports


class Counted(dict[str, Any]):
    """Maps of a mesh that counts its flows."""

    count_flows = True


@pytest.mark.parametrize(
    ("protocol", "flags", "state", "timeout"),
    [
        (6, _abi.FlowFlag.HALF, "opening", 1),
        (6, _abi.FlowFlag.REPLIED, "established", 2),
        (6, _abi.FlowFlag.FIN, "closing", 2),
        (6, _abi.FlowFlag.FIN | _abi.FlowFlag.CLOSING, "closed", 3),
        (6, _abi.FlowFlag.HALF | _abi.FlowFlag.CLOSING, "closed", 3),
        (17, 0, "", 4),
        (1, 0, "", 5),
    ],
)
def test_the_state_of_a_flow_and_how_long_it_lives(
    protocol: int, flags: int, state: str, timeout: int
) -> None:
    seen = clock.now() - 50
    entry = _abi.Flow(flags=flags, seen=seen)
    (row,) = flows.read(view(mesh_flow4=[(flow4(protocol, 1, 2, 11), entry)]))
    tick = 256 / clock.hz()
    assert (row.state, row.timeout) == (state, round(timeout * 100 * tick))
    assert row.idle == round(50 * tick)
    assert row.source == "198.18.0.1"


def test_flows_that_are_wanted() -> None:
    """By who has a part in it, at either end; by service, protocol and either port."""
    entry = _abi.Flow(epoch=5, output=12, flags=_abi.FlowFlag.NAT_DST, port=8080, service=7,
                      address=packed(IPv4Address("198.18.0.2")))  # fmt: skip
    own = _abi.Flow(epoch=5, output=11)
    shown = view(mesh_flow4=[(flow4(6, 40000, 80, 11), entry), (flow4(1, 7, 8, 11), own)])
    shown.__dict__["functions"] = ()
    both, web, echo = [40000, None], [40000], [None]
    for wanted, ports in (
        ({}, both),
        ({"function": "phone"}, both),
        ({"function": "web"}, web),
        ({"function": "phone", "peer": "web"}, web),
        ({"function": "web", "peer": "phone"}, web),
        ({"function": "phone", "peer": "phone"}, echo),
        ({"service": "portal"}, web),
        ({"protocol": "icmp"}, echo),
        ({"port": 40000}, web),
        ({"port": 80}, web),
        ({"port": 8080}, web),
        ({"port": 8}, []),
        ({"function": "outside"}, []),
    ):
        found = filter(flows.Wanted(**wanted).matches, flows.read(shown))  # type: ignore[arg-type]
        assert [row.source_port for row in found] == ports, wanted


def test_a_stale_reply_to_the_outside_over_ipv6() -> None:
    key = _abi.Flow6Key(source_port=80, destination_port=40000, origin=12 << 8 | 17)
    address = IPv6Address("2001:db8:1::10")
    key.source[:] = packed(IPv6Address("2001:db8::2")).word[:]
    flags = _abi.FlowFlag.REPLY | _abi.FlowFlag.NAT_SRC
    entry = _abi.Flow(epoch=4, flags=flags, port=53, address=packed(address))
    (row,) = flows.read(view(mesh_flow6=[(key, entry)]))
    assert (row.protocol, row.source, row.destination) == ("udp", "2001:db8::2", "::")
    assert (row.sender, row.receiver, row.direction) == ("web", "outside", "reply")
    assert (row.nat, row.current) == (f"[{address}]:53", False)


@pytest.mark.parametrize(("flags", "ports"), [(0, (77, 8)), (_abi.FlowFlag.REPLY, (8, 77))])
def test_an_echo_has_an_identifier_and_no_ports(flags: int, ports: tuple[int, int]) -> None:
    (row,) = flows.read(view(mesh_flow4=[(flow4(1, *ports, 11), _abi.Flow(flags=flags))]))
    assert (row.protocol, row.echo_id) == ("icmp", 77)
    assert (row.source_port, row.destination_port) == (None, None)


def test_meters_by_function_and_peer() -> None:
    slots = [(1 * 3 + 2, (1, 2, 3, 4)), (0 * 3 + 1, (5, 6, 7, 8)), (2 * 3 + 0, (9, 9, 9, 9))]
    rows = counters.read_meters(
        view(mesh_meter=[(SimpleNamespace(value=n), _abi.Meter(*v)) for n, v in slots])
    )
    assert rows == [
        counters.Meter("outside", "operator", 5, 6, 7, 8),
        counters.Meter("phone", "vendor", 1, 2, 3, 4),
        counters.Meter("web", "outside", 9, 9, 9, 9),
    ]


def test_drops_have_reasons_and_the_most_come_first() -> None:
    few = _abi.DropKey(function=1, reason=12, direction=_abi.Direction.TO_FN, audited=1)
    many = _abi.DropKey(function=0, reason=2, direction=_abi.Direction.FROM_FN)
    drops = [(few, _abi.Drop(1, 60)), (many, _abi.Drop(2, 120))]
    first, second = counters.read_drops(view(mesh_drops=drops))
    assert (first.function, first.reason, first.number) == ("unknown", "NO_FUNCTION", 2)
    assert (second.function, second.direction) == ("phone", "to function")
    assert (second.text, second.audited) == (_abi.REASON_TEXT[_abi.Reason.POLICY], True)


def test_an_id_that_nothing_has_any_more_is_still_told() -> None:
    assert view().name_of("tenant", 9) == "#9"
    assert view().function_at(99) == "ifindex 99"


def test_a_map_that_keeps_what_is_over_is_never_full() -> None:
    assert not objects.Map("mesh_flow4", 1, "hash", 100, 100, 0, "").is_full
    assert objects.Map("m", 1, "hash", 80, 100, 0, "").is_full


def test_the_defaults_shown_are_those_of_the_model() -> None:
    any_, some = Identity("any"), Identity.parse("outside:192.0.2.0/24")
    tcp = Policy(source=some, destination=any_, protocol="tcp", port=8, port_end=9)
    echo = Policy(source=any_, destination=any_, protocol="icmp", icmp_type=8)
    rules = [(1, Policy(source=any_, destination=any_)), (2, tcp), (3, echo)]
    shown = view()
    shown.record = cast(Any, SimpleNamespace(policies=lambda: rules))
    rows = mesh.read_policies(shown)
    assert [(row.id, row.source, row.what) for row in rows[:3]] == [
        (1, "any", "any"),
        (2, "outside:192.0.2.0/24", "tcp/8-9"),
        (3, "any", "icmp/8"),
    ]
    assert [(row.source, row.destination, row.action) for row in rows[3:]] == [
        ("any", "same tenant", "allow"),
        ("any function", "outside", "allow"),
        ("any", "any", "deny"),
    ]
    assert decide(Mesh(name="m"), None, None, None, "tcp", 1).action == "deny"
    shown.config.reject = 1
    assert mesh.read_policies(shown)[-1].action == "reject"


@pytest.mark.parametrize(
    ("held", "lacking"),
    [
        (0, ["CAP_BPF", "CAP_NET_ADMIN", "CAP_SYS_ADMIN"]),
        (1 << 12, ["CAP_BPF", "CAP_SYS_ADMIN"]),
        (1 << 12 | 1 << 39, ["CAP_SYS_ADMIN"]),
        (1 << 21, ["CAP_NET_ADMIN"]),  # stands for CAP_BPF
        (1 << 12 | 1 << 21, []),
    ],
)
def test_missing_capabilities_are_named(held: int, lacking: list[str]) -> None:
    status = f"Name:\tx\nCapPrm:\t{0:016x}\nCapEff:\t{held:016x}\n"
    assert privilege.missing(privilege.CHANGE, status) == lacking


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (23 << 20, "23 MiB"), (3 << 40, "3072 GiB")],
)
def test_sizes_for_people(value: int, text: str) -> None:
    assert output.size(value) == text


def test_the_table_of_reasons_in_the_readme_is_that_of_the_programs() -> None:
    text = (ROOT / "bpf" / "README.md").read_text()
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \| (.*?) \| ([\w., ]+) \|$", text, re.MULTILINE)
    assert [(int(n), name, why) for n, name, why, _ in rows] == [
        (reason.value, reason.name, why) for reason, why in _abi.REASON_TEXT.items()
    ]
    for _, name, _, files in rows:
        for file in files.split(", ") if files != "the kernel" else ():
            code = (ROOT / "bpf" / "lib" / file).read_text()
            assert f"MESH_{name}" in code, f"{file} does not decide {name}"


def test_the_table_of_maps_in_the_readme_has_every_map() -> None:
    text = (ROOT / "bpf" / "README.md").read_text()
    rows = re.findall(r"^\| `(mesh_\w+)` \| ([\w -]+) \|", text, re.MULTILINE)
    kinds = {
        "LPM trie": "lpm_trie",
        "array of maps": "array_of_maps",
        "per-CPU array": "percpu_array",
        "per-CPU hash": "percpu_hash",
        "programs": "prog",
        "ring buffer": "ringbuf",
        "socket storage": "sk_storage",
    }
    told = [(name, kinds.get(kind, kind)) for name, kind in rows]
    assert told == [(spec.name, spec.kind) for spec in _abi.MAPS]


def test_the_exit_codes_in_the_docs_are_those_of_the_errors() -> None:
    table = (ROOT / "docs/commands.md").read_text().partition("## Exit codes")[2]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    classes = [c for c in vars(errors).values() if isinstance(c, type)]
    raised = {c.exit_code for c in classes if issubclass(c, errors.MeshError)}
    assert told == raised | {0, CHANGES, 130}
