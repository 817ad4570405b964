# SPDX-License-Identifier: BSD-2-Clause
"""A flow outlives its first packet, and every change of the mesh reaches it with its next one."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from scapy.packet import Packet

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Function
from prog import changes
from prog.lab import MESH, NOBODY, TC, TO_FN, Drop, Hook, Lab, Seen, peer, policy, service
from support.packets import Peer, ping, pong, received, sent, tcp, udp

A, B, C, D = (peer(name) for name in "abcd")
WEB = service("web")
LATE = Function(
    name="late",
    tenant="late",
    address4=IPv4Address("198.18.0.9"),
    address6=IPv6Address("2001:db8::9"),
)
BESIDE_WEB = {"name": "beside", "port": 81}
BOTH = pytest.mark.parametrize("v", [4, 6], ids=["v4", "v6"])


def send(lab: Lab, hook: Hook, sender: Peer, packet: Packet) -> Seen:
    return lab.run(hook, sender.name, bytes(sent(sender, packet)))


def arrives(
    lab: Lab, hook: Hook, sender: Peer, packet: Packet, receiver: Peer, out: Packet
) -> None:
    seen = send(lab, hook, sender, packet)
    assert (seen.verdict, seen.frame.hex()) == ("forward", bytes(received(receiver, out)).hex())


def dropped(lab: Lab, hook: Hook, sender: Peer, packet: Packet, reason: Reason) -> None:
    seen = send(lab, hook, sender, packet)
    where = Drop(sender.name, Direction.FROM_FN, reason)
    assert (seen.verdict, seen.counted) == ("drop", {where: (1, len(sent(sender, packet)))})


def open_direct(lab: Lab, hook: Hook, v: int, there: Peer = B, port: int = 80) -> None:
    """A TCP connection from a, as far as its handshake."""
    assert send(lab, hook, A, tcp(v, A, there, 1000, port)).verdict == "forward"
    assert send(lab, hook, there, tcp(v, there, A, port, 1000, "SA")).verdict == "forward"


# Policy


@BOTH
def test_a_new_deny_ends_an_open_flow(lab: Lab, v: int) -> None:
    open_direct(lab, TC, v)
    lab.change(changes.policies(policy("function:a", "function:b", "tcp", "deny")))
    dropped(lab, TC, A, tcp(v, A, B, 1000, 80, "A"), Reason.POLICY)
    dropped(lab, TC, B, tcp(v, B, A, 80, 1000, "A"), Reason.POLICY)


@BOTH
def test_an_allow_that_goes_ends_an_open_flow(lab: Lab, v: int) -> None:
    open_direct(lab, TC, v, C, 443)
    lab.change(changes.no_policy(policy("function:a", "function:c", "tcp/443")))
    dropped(lab, TC, C, tcp(v, C, A, 443, 1000, "A"), Reason.POLICY)
    dropped(lab, TC, A, tcp(v, A, C, 1000, 443, "A"), Reason.POLICY)


@BOTH
@pytest.mark.parametrize("flags", ["A", "SA", "FA", "RA"])
def test_other_changes_leave_a_flow_alone(lab: Lab, v: int, flags: str) -> None:
    """Judged again, a flow is still the flow it was: every packet of it passes, either way."""
    open_direct(lab, TC, v, C, 443)
    ways = [(C, A, 443, 1000), (A, C, 1000, 443)]
    for number in (1, 2):
        lab.change(changes.policies(policy("tenant:blue", "tenant:red", f"udp/{number}")))
        for here, there, sport, dport in ways:
            out = tcp(v, here, there, sport, dport, flags, ttl=63)
            arrives(lab, TC, here, tcp(v, here, there, sport, dport, flags), there, out)
        ways.reverse()


def test_a_reply_needs_no_rule_and_a_request_does(lab: Lab) -> None:
    open_direct(lab, TC, 4, C, 443)
    dropped(lab, TC, C, tcp(4, C, A, 443, 1001), Reason.POLICY)
    dropped(lab, TC, C, tcp(4, C, A, 444, 1000), Reason.POLICY)
    dropped(lab, TC, C, udp(4, C, A, 443, 1000), Reason.POLICY)


@BOTH
@pytest.mark.parametrize("number", [0, 8, 128, 0xFF, 0xFFFF])
def test_a_ping_is_not_its_own_reply(lab: Lab, v: int, number: int) -> None:
    """Who was pinged may answer, but not ping back where a rule lets only the other ping.

    The identifiers are those that a type or an end of the numbers could be taken for.
    """
    lab.change(changes.policies(policy("function:a", "function:c", "icmp")))
    arrives(lab, TC, A, ping(v, A, C, number), C, ping(v, A, C, number, ttl=63))
    dropped(lab, TC, C, ping(v, C, A, number), Reason.POLICY)
    for other in (number ^ 1, (number + 1) & 0xFFFF, (number - 1) & 0xFFFF):
        dropped(lab, TC, C, pong(v, C, A, other), Reason.NO_FLOW)
        dropped(lab, TC, C, ping(v, C, A, other), Reason.POLICY)
    arrives(lab, TC, C, pong(v, C, A, number), A, pong(v, C, A, number, ttl=63))


@BOTH
def test_another_tenant_ends_an_open_flow(lab: Lab, v: int) -> None:
    open_direct(lab, TC, v)
    lab.change(changes.set_function("b", tenant="blue"))
    dropped(lab, TC, A, tcp(v, A, B, 1000, 80, "A"), Reason.POLICY)
    dropped(lab, TC, B, tcp(v, B, A, 80, 1000, "A"), Reason.POLICY)


# The outside


def from_host(lab: Lab, function: Peer, packet: Packet) -> Seen:
    return lab.run(TO_FN, function.name, bytes(received(function, packet)))


@BOTH
def test_a_flow_to_the_outside(lab: Lab, v: int) -> None:
    """It is judged again like any other, whoever is first."""
    on, back = tcp(v, A, NOBODY, 1000, 80, "A"), tcp(v, NOBODY, A, 80, 1000, "A")
    assert send(lab, TC, A, tcp(v, A, NOBODY, 1000, 80)).verdict == "pass"
    assert from_host(lab, A, back).verdict == "pass"
    lab.change(changes.policies(policy("function:a", "outside", "udp", "deny")))
    assert from_host(lab, A, back).verdict == "pass"
    lab.change(changes.policies(policy("function:b", "outside", "tcp", "deny")))
    assert send(lab, TC, A, on).verdict == "pass"
    lab.change(changes.policies(policy("function:a", "outside", "tcp", "deny")))
    dropped(lab, TC, A, on, Reason.POLICY)
    where = Drop("a", Direction.TO_FN, Reason.POLICY)
    assert from_host(lab, A, back).counted == {where: (1, len(received(A, back)))}


@BOTH
def test_a_flow_from_the_outside(lab: Lab, v: int) -> None:
    """The answers of a function that a rule lets the outside reach need no rule, and no TTL."""
    answer = tcp(v, A, NOBODY, 22, 5000, "SA", ttl=1)
    dropped(lab, TC, A, answer, Reason.NO_FLOW)
    assert from_host(lab, A, tcp(v, NOBODY, A, 5000, 22)).verdict == "pass"
    seen = send(lab, TC, A, answer)
    assert (seen.verdict, seen.frame) == ("pass", bytes(sent(A, answer)))
    assert set(seen.counted) == {("a", "outside"), ("outside", "red")}
    lab.change(changes.no_policy(policy("outside", "function:a", "tcp/22")))
    dropped(lab, TC, A, answer, Reason.POLICY)
    assert from_host(lab, A, tcp(v, NOBODY, A, 5000, 22, "A")).verdict == "drop"


# Audit


@BOTH
def test_audit_counts_and_its_end_drops(lab: Lab, v: int) -> None:
    syn, more = tcp(v, A, D, 1000, 80), tcp(v, A, D, 1000, 80, "A")
    seen = send(lab, TC, A, syn)
    where = Drop("d", Direction.TO_FN, Reason.POLICY, audited=True)
    assert seen.verdict == "forward"
    assert seen.counted.pop(where) == (1, len(sent(A, syn)))
    assert set(seen.counted) == {("a", "blue"), ("d", "red")}
    assert send(lab, TC, D, tcp(v, D, A, 80, 1000, "SA")).verdict == "forward"
    lab.change(changes.set_function("d", audit=False))
    dropped(lab, TC, A, more, Reason.POLICY)
    dropped(lab, TC, D, tcp(v, D, A, 80, 1000, "A"), Reason.POLICY)


def test_audit_forgives_nothing_but_policy(lab: Lab) -> None:
    lab.change(changes.policies(policy("function:a", "function:d", "tcp/1")))
    assert set(send(lab, TC, A, tcp(4, A, D, 1000, 1)).counted) == {("a", "blue"), ("d", "red")}
    dropped(lab, TC, A, tcp(4, A, D, 1000, 80, "RA"), Reason.NO_FLOW)
    dropped(lab, TC, D, tcp(4, A, B, 1000, 80), Reason.SPOOF_IP)
    dropped(lab, TC, D, tcp(4, D, A, 1000, 80), Reason.POLICY)  # what it sends is not audited


@BOTH
def test_audit_of_what_the_outside_sends(lab: Lab, v: int) -> None:
    frame = bytes(received(D, tcp(v, NOBODY, D, 1000, 80)))
    assert lab.run(TO_FN, "d", frame).verdict == "pass"
    lab.change(changes.set_function("d", audit=False))
    assert lab.run(TO_FN, "d", frame).verdict == "drop"


# Services


def open_web(lab: Lab, hook: Hook, v: int) -> None:
    """A TCP connection from a to the service web, which b answers."""
    asked, answer = tcp(v, A, WEB, 1000, 80), tcp(v, B, A, 8080, 1000, "SA")
    arrives(lab, hook, A, asked, B, tcp(v, A, B, 1000, 8080, ttl=63))
    arrives(lab, hook, B, answer, A, tcp(v, WEB, A, 80, 1000, "SA", ttl=63))


def still_open(lab: Lab, hook: Hook, v: int) -> None:
    """Both sides of open_web go on talking, whoever is first."""
    on, back = tcp(v, A, WEB, 1000, 80, "A"), tcp(v, B, A, 8080, 1000, "A")
    for _ in range(2):
        arrives(lab, hook, B, back, A, tcp(v, WEB, A, 80, 1000, "A", ttl=63))
        arrives(lab, hook, A, on, B, tcp(v, A, B, 1000, 8080, "A", ttl=63))


@BOTH
@pytest.mark.parametrize("functions", [("b", "c"), ("c", "d"), ("c",), ()], ids=len)
def test_a_flow_keeps_its_backend(lab: Lab, v: int, functions: tuple[str, ...]) -> None:
    """Whatever functions its service has now, as long as that one lives."""
    open_web(lab, TC, v)
    lab.change(changes.set_service("web", functions=functions))
    still_open(lab, TC, v)
    if not functions:
        dropped(lab, TC, A, tcp(v, A, WEB, 1001, 80), Reason.NO_BACKEND)


@BOTH
def test_a_flow_keeps_its_port(lab: Lab, v: int) -> None:
    open_web(lab, TC, v)
    lab.change(changes.set_service("web", target_port=9090))
    still_open(lab, TC, v)
    new = tcp(v, A, WEB, 1001, 80)
    arrives(lab, TC, A, new, B, tcp(v, A, B, 1001, 9090, ttl=63))


@BOTH
def test_a_flow_leaves_a_function_that_goes(lab: Lab, v: int) -> None:
    """To another one of its service, even when somebody new has the old one's id."""
    open_web(lab, TC, v)
    number = lab.ids["b"]
    lab.change(changes.policies(policy("function:a", "any", priority=1)))
    lab.change(changes.set_service("web", functions=("b", "c")))
    lab.change(changes.no_function("b"))
    lab.change(changes.add_function(LATE))
    assert lab.ids["late"] == number
    on = tcp(v, A, WEB, 1000, 80, "A")
    arrives(lab, TC, A, on, C, tcp(v, A, C, 1000, 8080, "A", ttl=63))
    assert MESH.function("c").tenant != LATE.tenant


@BOTH
def test_a_service_that_goes_ends_its_flows(lab: Lab, v: int) -> None:
    open_web(lab, TC, v)
    lab.change(changes.no_service("web"))
    dropped(lab, TC, A, tcp(v, A, WEB, 1000, 80, "A"), Reason.NO_SERVICE)
    dropped(lab, TC, B, tcp(v, B, A, 8080, 1000, "A"), Reason.NO_SERVICE)


@BOTH
def test_one_of_two_services_of_an_address_goes(lab: Lab, v: int) -> None:
    """The address is the other's still: nothing sent to it reaches the host's stack."""
    lab.change(changes.add_service(MESH.service("web").model_copy(update=BESIDE_WEB)))
    on, out = tcp(v, A, WEB, 1000, 81), tcp(v, A, B, 1000, 8080, ttl=63)
    arrives(lab, TC, A, on, B, out)
    lab.change(changes.no_service("web"))
    arrives(lab, TC, A, tcp(v, A, WEB, 1001, 81), B, tcp(v, A, B, 1001, 8080, ttl=63))
    dropped(lab, TC, A, tcp(v, A, WEB, 1000, 80), Reason.NO_SERVICE)
    lab.change(changes.no_service("beside"))
    assert send(lab, TC, A, tcp(v, A, WEB, 1001, 80)).verdict == "pass"


# Established packets


def _behind_its_back(lab: Lab) -> None:
    """Empty every map that says who and what there is, and tell nobody."""
    for name in ("mesh_iface", "mesh_address", "mesh_service", "mesh_policy"):
        for key, _ in list(lab.maps[name].items()):
            lab.maps[name].delete(key)
    for name in ("mesh_function", "mesh_maglev"):
        table = lab.maps[name]
        for key, _ in list(table.items()):
            table.set(key, table.spec.value())


@BOTH
def test_an_established_packet_needs_its_entry_alone(lab: Lab, v: int) -> None:
    open_web(lab, TC, v)
    still_open(lab, TC, v)  # the handshake is over
    _behind_its_back(lab)
    try:
        still_open(lab, TC, v)
        dropped_now = send(lab, TC, A, tcp(v, A, WEB, 1001, 80))
        assert dropped_now.verdict == "drop"
    finally:
        lab.rebuild()
