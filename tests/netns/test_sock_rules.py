# SPDX-License-Identifier: BSD-2-Clause
"""Sockets that name a service meet the rules that packets to it do; by the mesh of serving.py."""

import socket

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Mesh
from support import serving
from support.serving import (
    ADDRESSES,
    BOTH,
    Maker,
    accepted,
    age,
    answered_by,
    at,
    backends,
    family,
    listeners,
    only,
    rule,
    set_rules,
    told,
)
from support.sockets import BLOCKED_SECONDS, SECONDS, listener
from support.topology import drops, poll

pytestmark = pytest.mark.usefixtures("at_sockets", "restored")
MESH = serving.MESH


RULES = {
    "none": ((), (False, False, False)),
    "service": ((rule("tenant:one", "service:web"),), (True, False, False)),
    "service and port": (
        (rule("tenant:one", "service:web", protocol="tcp", port=80),),
        (True, False, False),
    ),
    "service, not its functions' port": (
        (rule("tenant:one", "service:web", protocol="tcp", port=8080),),
        (False, False, False),
    ),
    "another service": ((rule("tenant:one", "service:pinned"),), (False, True, False)),
    "functions": ((rule("tenant:one", "tenant:two"),), (True, True, True)),
    "functions' port": (
        (rule("any", "tenant:two", protocol="tcp", port=8080),),
        (True, True, True),
    ),
    "functions, not the service's port": (
        (rule("any", "tenant:two", protocol="tcp", port=80),),
        (False, False, False),
    ),
    "all but the service": (
        (
            rule("function:client", "service:web", "deny", priority=1),
            rule("function:client", "any", priority=2),
        ),
        (False, True, True),
    ),
    "nothing but the service": (
        (
            rule("function:client", "service:web", priority=1),
            rule("function:client", "any", "deny", priority=2),
        ),
        (True, False, False),
    ),
}


@BOTH
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("case", RULES)
def test_rules_hold_for_both(mesh: Mesh, case: str, version: int, maker: Maker) -> None:
    """web through its service, through another one with the same functions, and directly."""
    rules, expected = RULES[case]
    only(mesh, "web", "web-0")
    only(mesh, "pinned", "web-0")
    set_rules(mesh, *rules)
    targets = [(ADDRESSES["web"][version == 6], 80), ("198.19.0.3", 80)]
    targets.append((str(at(mesh, "web-0", version)), 8080))
    found = []
    with (
        listener(mesh, "web-0", at(mesh, "web-0", 4), 8080),
        listener(mesh, "web-0", at(mesh, "web-0", 6), 8080),
    ):
        for address, port in targets:
            with maker(mesh, "client", family(address), socket.SOCK_STREAM) as sock:
                sock.settimeout(SECONDS if expected[len(found)] else BLOCKED_SECONDS)
                try:
                    sock.connect((address, port))
                    found.append(True)
                except TimeoutError:
                    found.append(False)
    assert tuple(found) == expected


DATAGRAMS = {
    "a service, and its backend itself": ("service ok", "itself no", "service ok"),
    "the same, connected": ("connect service", "send ok", "itself no", "send ok"),
    "connected to the one, then to the other": (
        *("connect service", "send ok", "connect itself", "send no"),
        *("connect service", "send ok"),
    ),
    "its backend leaves the service": ("service ok", "leave", "service ok"),
    "and long after": ("service ok", "leave", "service ok", "later", "service moved"),
    "connected": ("connect service", "send ok", "leave", "send ok", "later", "send moved"),
    "the backend is not in the way of the service": ("itself no", "service ok", "itself no"),
}
"""What a socket does, and what becomes of the datagram: "ok" to web-0, "moved" to web-1."""


@BOTH
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("case", DATAGRAMS)
def test_datagrams_meet_the_same(mesh: Mesh, case: str, version: int, maker: Maker) -> None:
    """Whoever may use the service alone may not, by a socket that did, do anything else."""
    only(mesh, "names", "web-0")
    set_rules(mesh, rule("tenant:one", "service:names"))
    targets = {
        "service": (ADDRESSES["names"][version == 6], 53),
        "itself": (str(at(mesh, "web-0", version)), 5353),
    }
    with (
        backends(mesh, version) as socks,
        maker(mesh, "client", family(targets["service"][0]), socket.SOCK_DGRAM) as sock,
    ):
        for number, step in enumerate(DATAGRAMS[case]):
            match step.split():
                case ["connect", to]:
                    sock.connect(targets[to])
                case ["leave"]:
                    only(mesh, "names", "web-1")
                case ["later"]:
                    age(mesh, sock.getsockname()[1])
                case [to, what]:
                    question = b"question %d" % number
                    if to == "send":
                        sock.send(question)
                    else:
                        sock.sendto(question, targets[to])
                    expected = {"ok": "web-0", "moved": "web-1", "no": ""}[what]
                    seconds = SECONDS if expected else BLOCKED_SECONDS
                    assert answered_by(socks, question, seconds=seconds) == expected, step


@BOTH
def test_a_stream_long_after_its_backend_left(mesh: Mesh, maker: Maker) -> None:
    """Its flow is forgotten: another backend gets what comes then, and does not know it."""
    only(mesh, "web", "web-0")
    with (
        listeners(mesh, 4) as servers,
        maker(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock,
    ):
        sock.connect(("198.19.0.1", 80))
        name, there, _ = accepted(servers)
        with there:
            only(mesh, "web", "web-1")
            sock.sendall(b"question")
            assert (name, there.recv(64)) == ("web-0", b"question")
            age(mesh, sock.getsockname()[1])
            sock.sendall(b"question")
            with pytest.raises(ConnectionResetError):
                sock.recv(64)


@BOTH
def test_a_stream_that_may_not(mesh: Mesh, maker: Maker) -> None:
    """Asked before the socket is told anything: it names the service, as its packets do."""
    set_rules(mesh, rule("tenant:one", "service:pinned"))
    key = ("client", Direction.FROM_FN, Reason.POLICY)
    before = drops(mesh).get(key, 0)
    with maker(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(BLOCKED_SECONDS)
        with pytest.raises(TimeoutError):
            sock.connect(("198.19.0.1", 80))
        assert not told(mesh, sock)
    assert drops(mesh)[key] > before


@BOTH
def test_a_rule_made_later_holds_for_what_is_open(mesh: Mesh, maker: Maker) -> None:
    key = ("client", Direction.FROM_FN, Reason.POLICY)
    with (
        listeners(mesh, 4) as servers,
        maker(mesh, "client", socket.AF_INET, socket.SOCK_STREAM) as sock,
    ):
        sock.connect(("198.19.0.1", 80))
        _, there, _ = accepted(servers)
        with there:
            set_rules(mesh, rule("tenant:one", "service:web"))
            sock.sendall(b"question")
            assert there.recv(64) == b"question"
            before = drops(mesh).get(key, 0)
            set_rules(mesh, rule("tenant:one", "service:pinned"))
            sock.sendall(b"question")
            assert poll(lambda: drops(mesh).get(key, 0) > before)
