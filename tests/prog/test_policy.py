# SPDX-License-Identifier: BSD-2-Clause
"""The programs and support.policy say the same of every flow, whatever the rules."""

import functools
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Function, Mesh, Policy
from prog.lab import MESH, NOBODY, TC, TO_FN, Drop, Hook, Lab, peer, policy
from prog.lab import service as service_peer
from support.packets import Peer, ping, received, sent, tcp, udp
from support.policy import Party, decide

SENDERS = ("function:a", "tenant:red", "group:left", "any", "outside", "outside:203.0.113.0/24")
RECEIVERS = ("function:c", "function:b", "tenant:blue", "group:right", "service:shop", "any",
             "outside", "outside:2001:db8:ffff::/48")  # fmt: skip
DEPTHS = ("any", "tcp", "tcp/80", "tcp/79-8080", "tcp/81-65535", "udp", "udp/53", "udp/1-1023",
          "icmp", "icmp/8", "icmp/13")  # fmt: skip
PORTS = {"tcp": (80, 8080), "udp": (53,), "icmp": (0,)}
PREFIXES = (
    "203.0.112.0/20", "203.0.113.0/24", "203.0.113.0/25", "203.0.113.8/29", "203.0.113.9/32",
    "198.51.100.0/24", "2001:db8:fff0::/44", "2001:db8:ffff::/48", "2001:db8:ffff::/64",
    "2001:db8:ffff::8/125", "2001:db8:ffff::9/128", "2001:db8:ee00::/40",
)  # fmt: skip
"""Five that hold one another, and one that none of them holds, of each family."""

OUTSIDERS = tuple(
    Peer("outside", *addresses)
    for addresses in (
        (NOBODY.address4, NOBODY.address6),
        ("203.0.113.8", "2001:db8:ffff::8"),
        ("203.0.113.16", "2001:db8:ffff::10"),
        ("203.0.113.200", "2001:db8:ffff:1::1"),
        ("203.0.114.1", "2001:db8:fff1::1"),
        ("198.51.100.7", "2001:db8:ee01::7"),
        ("192.0.2.1", "2001:db8:dd::1"),
    )
)
MAKE = {"tcp": tcp, "udp": udp}


@dataclass(frozen=True)
class Question:
    """May ``source`` open this flow? None is the outside."""

    source: str | None
    destination: str | None
    service: str | None
    protocol: str
    port: int
    v: int = 4
    outsider: Peer = NOBODY

    def decided(self, mesh: Mesh) -> str:
        """What the model says; of whom a function in audit gets a packet, nobody is rejected."""
        receiver = self._party(mesh, self.destination)
        action = decide(
            mesh,
            self._party(mesh, self.source),
            receiver,
            mesh.service(self.service) if self.service else None,
            self.protocol,
            self.port,
        ).action
        audited = isinstance(receiver, Function) and receiver.audit
        return "deny" if audited and action == "reject" else action

    def _party(self, mesh: Mesh, name: str | None) -> Party:
        return mesh.function(name) if name else ip_address(self.outsider.at(self.v))

    def _peer(self, name: str | None) -> Peer:
        return peer(name) if name else self.outsider

    @functools.cached_property
    def frame(self) -> bytes:
        """Its first packet."""
        source, there = self._peer(self.source), self._peer(self.destination)
        to = service_peer(self.service) if self.service else there
        packet = (
            MAKE[self.protocol](self.v, source, to, 1000, self.port)
            if self.port
            else ping(self.v, source, to)
        )
        return bytes(sent(source, packet) if self.source else received(there, packet))

    def answered(self, lab: Lab, hook: Hook) -> str:
        """What the program says; nothing but the policy may stop the flow."""
        at, hook = (self.source, hook) if self.source else (self.destination, TO_FN)
        lab.forget_answers()
        seen = lab.run(hook, at, self.frame)
        if (dropped := Drop(at, hook.direction, Reason.POLICY)) in seen.counted:
            assert seen.counted == {dropped: (1, len(self.frame))}
            return "deny" if seen.verdict == "drop" else "reject"
        audited = Drop(self.destination or "", Direction.TO_FN, Reason.POLICY, audited=True)
        return "deny" if audited in seen.counted else "allow"


def _questions() -> Iterator[Question]:
    """Every pair that can talk, and every service; d is in audit."""
    names = (*(function.name for function in MESH.functions), None)
    for protocol, ports in PORTS.items():
        for source, destination, port in itertools.product(names, names, ports):
            if source != destination:
                six = "e" not in (source, destination)
                for v in (4, 6) if six else (4,):
                    yield Question(source, destination, None, protocol, port, v)
    for service in MESH.services:
        for source, backend in itertools.product(names[:-1], service.functions):
            yield Question(source, backend, service.name, service.protocol, service.port)
    for name, out, v in itertools.product(names[:-2], OUTSIDERS[1:], (4, 6)):
        for ends in ((name, None), (None, name)):
            yield Question(*ends, None, "tcp", 80, v, out)
            yield Question(*ends, None, "icmp", 0, v, out)


QUESTIONS = tuple(_questions())


def agrees(lab: Lab, hook: Hook, mesh: Mesh, questions: tuple[Question, ...]) -> None:
    for question in questions:
        assert question.answered(lab, hook) == question.decided(mesh), (
            question,
            [str(rule) for rule in mesh.policies],
        )


@pytest.mark.parametrize("reject", [False, True], ids=["deny", "reject"])
def test_no_rule(lab: Lab, reject: bool) -> None:
    mesh = MESH.model_copy(update={"policies": (), "reject": reject})
    lab.change(lambda _: mesh)
    agrees(lab, TC, mesh, QUESTIONS)


def test_the_rules_of_the_tables(lab: Lab) -> None:
    agrees(lab, TC, MESH, QUESTIONS)


@pytest.mark.parametrize("destination", RECEIVERS)
@pytest.mark.parametrize("source", SENDERS)
def test_every_shape_of_rule(lab: Lab, source: str, destination: str) -> None:
    """One rule alone, of each shape."""
    chosen = random.Random(f"{source} {destination}")
    for match, action in itertools.product(DEPTHS, ("allow", "deny", "reject")):
        mesh = lab.set_policies(policy(source, destination, match, action))
        agrees(lab, TC, mesh, tuple(chosen.sample(QUESTIONS, 25)))


def _range(chosen: random.Random) -> str:
    """Ports around those that are asked for."""
    near = [1, 65535, *(port + by for port in (53, 80, 8080) for by in range(-2, 3))]
    first, last = sorted(chosen.sample(near, 2))
    return f"{chosen.choice(('tcp', 'udp'))}/{first}-{last}"


def _random_rules(chosen: random.Random) -> tuple[Policy, ...]:
    identities = [
        *(f"function:{function.name}" for function in MESH.functions),
        *(f"tenant:{tenant}" for tenant in MESH.tenants),
        *(f"group:{group}" for group in MESH.groups),
        "any",
        "outside",
        *(f"outside:{prefix}" for prefix in chosen.sample(PREFIXES, 6)),
    ]
    receivers = [*identities, *(f"service:{service.name}" for service in MESH.services)]
    rules = [
        policy(
            chosen.choice(identities),
            chosen.choice(receivers),
            chosen.choice((*DEPTHS, _range(chosen))),
            chosen.choice(("allow", "deny", "reject")),
            priority=chosen.choice((1, 100, 65535)),
        )
        for _ in range(chosen.randint(2, 20))
    ]
    return tuple({rule.match: rule for rule in rules}.values())


@pytest.mark.parametrize("seed", range(30))
def test_random_rules(lab: Lab, seed: int) -> None:
    chosen = random.Random(seed)
    mesh = lab.set_policies(*_random_rules(chosen))
    agrees(lab, TC, mesh, tuple(chosen.sample(QUESTIONS, 60)))


RANGES = ((1, 65535), (2, 65534), (80, 81), (81, 82), (1000, 2000), (1024, 2047), (32767, 32769),
          (65534, 65535), (1, 2), (4095, 4097))  # fmt: skip


@pytest.mark.parametrize("action", ["allow", "deny", "reject"])
@pytest.mark.parametrize("ports", RANGES, ids=str)
def test_a_range_ends_where_it_ends(lab: Lab, ports: tuple[int, int], action: str) -> None:
    """At every boundary of its parts, at tc and XDP in turn."""
    default = policy("function:a", "function:c", "tcp", "allow" if action == "deny" else "deny")
    first, last = ports
    rule = policy("function:a", "function:c", f"tcp/{first}-{last}", action, priority=1)
    mesh = lab.set_policies(default.model_copy(update={"priority": 2}), rule)
    edges = {first, last, *(port for port, _ in rule.prefixes)}
    near = {port + by for port in edges for by in (-1, 0, 1)}
    for port in sorted(near & set(range(1, 65536))):
        agrees(lab, TC, mesh, (Question("a", "c", None, "tcp", port),))


@pytest.mark.parametrize("v", [4, 6])
def test_prefixes_within_prefixes(lab: Lab, v: int) -> None:
    """As many as are looked at; each in turn decides, of what comes and of what goes."""
    nested = [prefix for prefix in PREFIXES if (":" in prefix) == (v == 6)]
    questions = tuple(q for q in QUESTIONS if None in (q.source, q.destination) and q.v == v)
    for strongest in range(len(nested)):
        rules = [
            policy(*ends, "any", ("allow", "deny")[(place + strongest) % 2],
                   priority=100 - (place == strongest))
            for place, prefix in enumerate(nested)
            for ends in ((f"outside:{prefix}", "function:b"), ("function:b", f"outside:{prefix}"))
        ]  # fmt: skip
        mesh = lab.set_policies(*rules)
        agrees(lab, TC, mesh, questions)


@pytest.mark.parametrize("v", [4, 6])
def test_as_many_pairs_as_there_can_be(lab: Lab, v: int) -> None:
    """All that a function of a group can be, with all that somebody outside can be."""
    nested = [prefix for prefix in PREFIXES if (":" in prefix) == (v == 6)][:5]
    own = ("function:a", "tenant:red", "group:left", "any")
    others = ("any", "outside", *(f"outside:{prefix}" for prefix in nested))
    pairs = [ends for one in own for other in others for ends in ((one, other), (other, one))]
    questions = tuple(
        q
        for q in QUESTIONS
        if None in (q.source, q.destination) and "a" in (q.source, q.destination)
    )
    for strongest in range(0, len(pairs), 5):
        rules = {
            rule.match: rule
            for place, ends in enumerate(pairs)
            for rule in [policy(*ends, "any", ("allow", "deny")[(place + strongest) % 2],
                                priority=100 - (place == strongest))]
        }  # fmt: skip
        agrees(lab, TC, lab.set_policies(*rules.values()), questions)


def test_the_questions_reach_every_service() -> None:
    assert {q.service for q in QUESTIONS} >= {s.name for s in MESH.services if s.functions}
