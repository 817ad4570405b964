# SPDX-License-Identifier: BSD-2-Clause
"""What once told the two apart, made as small as it gets, and what chance meets too rarely."""

from collections.abc import Callable
from typing import Any, TypeVar

from hypothesis import example

from ebpfmesh.model import Policy
from equivalence.strategies import ENDS, HANDSHAKE, Step

Test = TypeVar("Test", bound=Callable[..., Any])
CONNECTION = (*HANDSHAKE, *ENDS[1])
CLOSED_BACK = (*HANDSHAKE, *ENDS[2])


def rule(source: str, destination: str, action: str = "allow", **more: object) -> Policy:
    """A rule as in a mesh file."""
    return Policy.model_validate(
        {"source": source, "destination": destination, "action": action, **more}
    )


RULES: list[dict[str, Any]] = [
    {"rules": rules}
    for rules in (
        # Equally strong, of one key: the range's prefix and the single port; one of them goes.
        (
            rule("any", "function:a1", protocol="tcp", port=8000, port_end=8001),
            rule("any", "function:a1", "deny", protocol="tcp", port=8000),
        ),
        (rule("any", "function:a1", protocol="tcp", port=8000, port_end=8001),),
        # All ports in a range are not any port: ICMP is another matter.
        (rule("any", "any", protocol="udp", port=1, port_end=65535),),
        (rule("any", "any", "deny", protocol="tcp", port=2, port_end=65534),),
        # The narrower prefix does not win, the stronger rule does.
        (
            rule("outside:198.19.1.129/32", "any"),
            rule("outside:198.19.1.128/25", "any", "deny", priority=99),
            rule("outside:198.19.0.0/16", "any", priority=101),
            rule("outside", "function:b1", "deny", priority=98),
        ),
        (
            rule("any", "any", protocol="icmp", icmp_type=13),
            rule("outside", "any", protocol="icmp"),
        ),
    )
]
ANSWERS: list[dict[str, Any]] = [
    {"rules": rules, "port": 80}
    for rules in (
        (rule("any", "any", "reject"),),
        (rule("any", "any", "reject", protocol="tcp"), rule("any", "any", protocol="udp")),
        # Of one priority: deny before reject before allow.
        (
            rule("any", "any", "reject", protocol="udp", port=80),
            rule("any", "any", protocol="udp"),
            rule("outside", "any", "deny", protocol="udp"),
        ),
    )
]
CONVERSATIONS: list[dict[str, Any]] = [
    {"rules": (), "port": 80, "steps": steps}
    for steps in (
        # Who was called may not call back with the ports of a connection that is over.
        (*CONNECTION, Step("back", "S")),
        (*CLOSED_BACK, Step("back", "S")),
        # Nor one that is still open, as far as the mesh can tell: a FIN was sent twice.
        (
            Step("back", "A"),
            *(Step("there", flags) for flags in ("FA", "FA", "A", "S")),
        ),
        # A connection with the ports of one that is over is another one from its first packet on.
        (*CONNECTION, Step("there", "S"), Step("back", "S")),
        (*CONNECTION, *CONNECTION, Step("back", "A")),
    )
]
CHANGES: list[dict[str, Any]] = [
    {"port": 80, "phases": phases}
    for phases in (
        # What was open is closed by a rule, both ways, and open again when it goes.
        [
            ((), (*HANDSHAKE, Step("there", "udp"), Step("there", "request"))),
            (
                (rule("any", "any", "deny"),),
                (
                    Step("back", "PA"),
                    Step("back", "udp"),
                    Step("back", "reply"),
                    Step("there", "A"),
                ),
            ),
            ((), (Step("back", "PA"), Step("back", "udp"), Step("back", "reply"))),
        ],
        # Who was called is judged as that, also when it speaks first after the change.
        [
            ((rule("tenant:a", "tenant:b"),), (*HANDSHAKE, Step("there", "udp"))),
            ((rule("tenant:b", "tenant:a"),), (Step("back", "PA"), Step("back", "udp"))),
        ],
        # Connections that are over, before and after a change.
        [((), CONNECTION), ((), CLOSED_BACK)],
        [
            ((), (*HANDSHAKE, Step("there", "udp"))),
            (
                (rule("any", "any", "deny"),),
                (Step("back", "unreachable", "udp"), Step("back", "too-big", "tcp")),
            ),
        ],
    )
]


WEB = rule("outside", "service:web", protocol="tcp", port=80)
UPLINKED_RULES: list[dict[str, Any]] = [
    {"rules": rules}
    for rules in (
        (WEB,),
        # Rules about services speak of their own ports, those about functions of theirs.
        (rule("outside", "service:web", protocol="tcp", port=8081), rule("any", "service:talk")),
        (rule("outside", "function:b1", protocol="tcp", port=18001),),
        (WEB, rule("outside:198.19.1.128/25", "tenant:b", "deny", priority=99)),
    )
]
FRONTED: list[dict[str, Any]] = [
    {"rules": (rule("any", "service:web"), rule("any", "service:talk")), "port": 80, "steps": steps}
    for steps in (
        (*CONNECTION, *(Step(way, "udp") for way in ("there", "back", "there"))),
        (
            *HANDSHAKE,
            Step("there", "udp"),
            *(
                Step(way, what, about)
                for what in ("unreachable", "too-big", "exceeded")
                for about in ("tcp", "udp")
                for way in ("there", "back")
            ),
            *ENDS[2],
        ),
        (*HANDSHAKE, *(Step(way, "PA", form="fragments") for way in ("there", "back"))),
    )
]


def examples(rows: list[dict[str, Any]]) -> Callable[[Test], Test]:
    """Try these rows before all others."""

    def decorate(test: Test) -> Test:
        for row in reversed(rows):
            test = example(**row)(test)  # type: ignore[assignment]
        return test

    return decorate
