# SPDX-License-Identifier: BSD-2-Clause
"""What hypothesis makes: rules, and conversations that may not go as they should."""

from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st

from ebpfmesh.model import Identity, Policy
from equivalence.network import FRONTS, FUNCTIONS, TENANTS
from equivalence.wrapping import Form

PREFIXES = (
    # Around the addresses of some outside, up to five deep; the widest hold all of it.
    "198.19.0.0/16", "198.19.0.0/17", "198.19.1.0/24", "198.19.1.128/25", "198.19.1.129/32",
    "198.19.128.0/24", "2001:db8:4::/47", "2001:db8:5::/49", "2001:db8:5:1::/64",
    "2001:db8:5:1:8000::/65", "2001:db8:5:1:8000::81/128", "2001:db8:5:8000::/64",
)  # fmt: skip
PLACES = [
    Identity("any"),
    Identity("outside"),
    *(Identity("function", name) for name in FUNCTIONS),
    *(Identity("tenant", name) for name in sorted({TENANTS[name] for name in FUNCTIONS})),
    *(Identity("outside", prefix) for prefix in PREFIXES),
]
KNOWN_PORTS = (1, 22, 53, 80, 443, 1023, 1024, 8000, 8080, 8099, 32768, 65534, 65535)
PRIORITIES = (1, 99, 100, 101, 65535)  # few, so that rules meet that are equally strong

ports = st.sampled_from(KNOWN_PORTS) | st.integers(1, 65535)


SERVED = [*PLACES, *(Identity("service", name) for name in FRONTS)] * 2


@st.composite
def rule(draw: st.DrawFn, destinations: list[Identity] = PLACES) -> Policy:
    """One rule, of any kind; about services only if there are some."""
    what: dict[str, object] = {"protocol": draw(st.sampled_from(("any", "tcp", "udp", "icmp")))}
    if what["protocol"] == "icmp" and draw(st.booleans()):
        what["icmp_type"] = draw(st.sampled_from((8, 0, 13)))
    elif what["protocol"] in ("tcp", "udp"):
        what |= draw(_ports())
    return Policy.model_validate(
        {
            "source": draw(st.sampled_from(PLACES)),
            "destination": draw(st.sampled_from(destinations)),
            "action": draw(st.sampled_from(("allow", "deny", "reject"))),
            "priority": draw(st.sampled_from(PRIORITIES)),
            **what,
        }
    )


@st.composite
def _ports(draw: st.DrawFn) -> dict[str, int]:
    """Any port, one, or a range."""
    first, last = sorted((draw(ports), draw(ports)))
    return draw(
        st.sampled_from(
            [
                {"port": first, "port_end": last} if first < last else {"port": first},
                {},
                {"port": last},
            ]
        )
    )


rules = st.lists(rule(), max_size=12, unique_by=lambda rule: rule.match).map(tuple)
uplink_rules = st.lists(rule(SERVED), max_size=12, unique_by=lambda rule: rule.match).map(tuple)

Way = Literal["there", "back"]


@dataclass(frozen=True)
class Step:
    """A packet of a conversation: which way, seen from who would open it, and what."""

    way: Way
    what: str
    """TCP flags, "udp", "request", "reply", or the kind of an ICMP error."""
    quotes: str = ""
    """What an ICMP error is about: "tcp", "udp" or "request"."""
    forged: bool = False
    """An ICMP error about a flow that there is not."""
    form: Form = "plain"


FLAGS = ("S", "SA", "A", "PA", "FA", "R", "RA")
ODD_FLAGS = ("-", "F", "SF", "SR", "FPU", "SU", "SAFR", "AU")
"""Of a port scan. No flag is written as "-"."""
ERRORS = ("unreachable", "too-big", "exceeded", "problem")
WAYS: tuple[Way, Way] = ("there", "back")
SEGMENTS = [Step(way, flags) for flags in FLAGS for way in WAYS]
ODD = [Step(way, flags) for flags in ODD_FLAGS for way in WAYS]
OTHERS = [Step(way, what) for what in ("udp", "request", "reply") for way in WAYS]
# Not the first fragment alone: it opens a flow in the mesh, and conntrack never gets to see it.
WRAPPED = [
    Step(way, what, form=form)
    for form in ("wrapped", "fragments", "later")
    for what in ("S", "PA", "udp", "request", "reply")
    for way in WAYS
]
QUOTING = [
    Step(way, what, about, forged)
    for what in ERRORS
    for about in ("tcp", "udp", "request")
    for way in WAYS
    for forged in (False, True)
]
HANDSHAKE = [Step("there", "S"), Step("back", "SA"), Step("there", "A")]
ENDS = [
    [],
    [Step("there", "FA"), Step("back", "FA"), Step("there", "A")],
    [Step("back", "FA"), Step("there", "A"), Step("there", "FA"), Step("back", "A")],
    [Step("there", "R")],
    [Step("back", "RA")],
]
any_steps = st.lists(
    st.one_of(*(st.sampled_from(kind) for kind in (SEGMENTS, OTHERS, QUOTING, WRAPPED, ODD))),
    max_size=8,
)


@st.composite
def _steps(draw: st.DrawFn) -> tuple[Step, ...]:
    """Packets in any order, or some around a connection that is as it should be."""
    if draw(st.booleans()):
        return tuple(draw(any_steps))
    end = draw(st.sampled_from(ENDS))
    return (*draw(any_steps), *HANDSHAKE, *draw(any_steps), *end, *draw(any_steps))


steps = _steps()
