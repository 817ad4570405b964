# SPDX-License-Identifier: BSD-2-Clause
"""The programs and Mesh.decide say the same of every flow, whatever the rules."""

import functools
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from ebpfmesh._abi import Direction, Reason
from ebpfmesh.model import Function, Mesh, Policy
from packets import Peer, ping, received, sent, tcp, udp
from prog.lab import MESH, NOBODY, TC, TO_FN, XDP_FN, Drop, Hook, Lab, peer, policy
from prog.lab import service as service_peer

SENDERS = ("function:a", "tenant:red", "any", "outside")
RECEIVERS = ("function:c", "function:b", "tenant:blue", "service:shop", "any", "outside")
DEPTHS = ("any", "tcp", "tcp/80", "tcp/8080", "udp", "udp/53", "icmp")
PORTS = {"tcp": (80, 8080), "udp": (53,), "icmp": (0,)}
MAKE = {"tcp": tcp, "udp": udp}
HOOKS = pytest.mark.parametrize("hook", [TC, XDP_FN], ids=["tc", "xdp"])


@dataclass(frozen=True)
class Question:
    """May ``source`` open this flow? None is the outside."""

    source: str | None
    destination: str | None
    service: str | None
    protocol: str
    port: int
    v: int = 4

    def decided(self, mesh: Mesh) -> str:
        """What the model says."""
        return mesh.decide(
            _function(mesh, self.source),
            _function(mesh, self.destination),
            mesh.service(self.service) if self.service else None,
            self.protocol,
            self.port,
        ).action

    @functools.cached_property
    def frame(self) -> bytes:
        """Its first packet."""
        source, there = _peer(self.source), _peer(self.destination)
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
        seen = lab.run(hook, at, self.frame)
        if seen.verdict == "drop":
            assert seen.counted == {Drop(at, hook.direction, Reason.POLICY): (1, len(self.frame))}
            return "deny"
        audited = Drop(self.destination or "", Direction.TO_FN, Reason.POLICY, audited=True)
        return "deny" if audited in seen.counted else "allow"


def _function(mesh: Mesh, name: str | None) -> Function | None:
    return mesh.function(name) if name else None


def _peer(name: str | None) -> Peer:
    return peer(name) if name else NOBODY


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
            if source != backend:
                yield Question(source, backend, service.name, service.protocol, service.port)


QUESTIONS = tuple(_questions())


def agrees(lab: Lab, hook: Hook, mesh: Mesh, questions: tuple[Question, ...]) -> None:
    for question in questions:
        assert question.answered(lab, hook) == question.decided(mesh), (
            question,
            [str(rule) for rule in mesh.policies],
        )


@HOOKS
def test_no_rule(lab: Lab, hook: Hook) -> None:
    agrees(lab, hook, lab.set_policies(), QUESTIONS)


@HOOKS
def test_the_rules_of_the_tables(lab: Lab, hook: Hook) -> None:
    agrees(lab, hook, MESH, QUESTIONS)


@pytest.mark.parametrize("destination", RECEIVERS)
@pytest.mark.parametrize("source", SENDERS)
def test_every_shape_of_rule(lab: Lab, source: str, destination: str) -> None:
    """One rule alone, of each shape; the program is now this one, now that."""
    hooks = itertools.cycle((TC, XDP_FN))
    chosen = random.Random(f"{source} {destination}")
    for match, action in itertools.product(DEPTHS, ("allow", "deny")):
        mesh = lab.set_policies(policy(source, destination, match, action))
        agrees(lab, next(hooks), mesh, tuple(chosen.sample(QUESTIONS, 25)))


def _random_rules(chosen: random.Random) -> tuple[Policy, ...]:
    identities = [
        *(f"function:{function.name}" for function in MESH.functions),
        *(f"tenant:{tenant}" for tenant in MESH.tenants),
        "any",
        "outside",
    ]
    receivers = [*identities, *(f"service:{service.name}" for service in MESH.services)]
    rules = [
        policy(
            chosen.choice(identities),
            chosen.choice(receivers),
            chosen.choice(DEPTHS),
            chosen.choice(("allow", "deny")),
            priority=chosen.choice((1, 100, 65535)),
        )
        for _ in range(chosen.randint(2, 14))
    ]
    return tuple({rule.match: rule for rule in rules}.values())


@HOOKS
@pytest.mark.parametrize("seed", range(30))
def test_random_rules(lab: Lab, hook: Hook, seed: int) -> None:
    chosen = random.Random(seed)
    mesh = lab.set_policies(*_random_rules(chosen))
    agrees(lab, hook, mesh, tuple(chosen.sample(QUESTIONS, 60)))


def test_the_questions_reach_every_service() -> None:
    assert {q.service for q in QUESTIONS} >= {s.name for s in MESH.services if s.functions}
