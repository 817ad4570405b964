# SPDX-License-Identifier: BSD-2-Clause
"""A mesh's policy as iptables would have it, as text for iptables-nft-restore.

The rules stand in FORWARD of the filter table, ordered as they win: by priority, deny before
reject before allow; after them what holds without a rule, and last a policy of DROP. Identities
become addresses. Two ways to say the same, for what stands before the rules and how they match:

``first``  As people write it. What belongs to a connection is accepted, INVALID is dropped, and the
           rules match the packet that opens one. A change does not touch open connections.
``every``  What the mesh does: any packet is judged by the connection it belongs to, as that was
           opened (--ctorigsrc, --ctreplsrc and so on match opener and receiver whichever way the
           packet at hand is going, ICMP errors about it too). A change holds from the next packet
           on.

What is published at an uplink is a DNAT; rules about a service match what was asked for.

What a function must not send is dropped in the raw table: another's MAC or address; and what
comes from outside with a function's address.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from ebpfmesh.model import Function, Identity, Mesh, Network, Policy
from equivalence.network import EVERYWHERE, FRONTS, HOST, OUTSIDE, UPLINK

Judged = Literal["first", "every"]
ICMP = {4: "icmp", 6: "ipv6-icmp"}
SAYS_PROHIBITED = {4: "-m icmp --icmp-type 3/13", 6: "-m icmp6 --icmpv6-type 1/1"}
PROHIBITED = {4: "icmp-admin-prohibited", 6: "icmp6-adm-prohibited"}
ECHO_REQUEST = {4: "-m icmp --icmp-type 8", 6: "-m icmp6 --icmpv6-type 128"}


@dataclass(frozen=True)
class Words:
    """How a rule matches: by the packet's own headers or by those that opened its connection."""

    source: str
    destination: str
    protocol: str
    port: str


PACKET = Words("-s", "-d", "-p", "--dport")
CONNECTION = Words("--ctorigsrc", "--ctreplsrc", "--ctproto", "--ctreplsrcport")
"""Who answers is the receiver, also of what is translated."""


INVALID_DSCP = 0x3F
MARK_INVALID = f"""*mangle
-A PREROUTING -p tcp -m conntrack --ctstate INVALID -j DSCP --set-dscp {INVALID_DSCP}
COMMIT
"""
"""Shows what conntrack took for INVALID, where that is let pass to be looked at."""


def filter_table(mesh: Mesh, version: int, judged: Judged, *, show_invalid: bool = False) -> str:
    """The whole filter table of one IP version; ``show_invalid``: TCP that is INVALID passes."""
    lines = ["*filter", ":FORWARD DROP [0:0]"]
    if show_invalid:
        lines.append("-A FORWARD -p tcp -m conntrack --ctstate INVALID -j ACCEPT")
    lines.append("-A FORWARD -m conntrack --ctstate INVALID -j DROP")
    if judged == "first":
        lines.append("-A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT")
    for rule in sorted(mesh.policies, key=lambda rule: rule.precedence):
        for match in _matches(rule, mesh, version, judged):
            lines += (f"-A FORWARD {line}" for line in _verdicts(rule, match, version))
    lines += (f"-A FORWARD {match} -j ACCEPT" for match in _defaults(mesh, version, judged))
    return "\n".join([*lines, "COMMIT", ""])


def _verdicts(rule: Policy, match: str, version: int) -> list[str]:
    """What becomes of what a rule matches; TCP is rejected in another way than all else."""
    if rule.action != "reject":
        return [f"{match} -j {'ACCEPT' if rule.action == 'allow' else 'DROP'}"]
    other = f"{match} -j REJECT --reject-with {PROHIBITED[version]}"
    if rule.protocol not in ("tcp", "any"):
        return [other]
    tcp = match if " -p " in f" {match}" else f"-p tcp {match}"
    return [f"{tcp} -j REJECT --reject-with tcp-reset", other]


def raw_table(mesh: Mesh, version: int, interfaces: dict[str, str], macs: dict[str, str]) -> str:
    """Who may send what; ``interfaces`` and ``macs`` by function, and "outside"."""
    # The router itself has nothing else to say, as that a fragment was waited for in vain.
    lines = ["*raw", ":OUTPUT DROP [0:0]", "-A OUTPUT -p tcp --tcp-flags RST RST -j ACCEPT"]
    lines.append(f"-A OUTPUT -p {ICMP[version]} {SAYS_PROHIBITED[version]} -j ACCEPT")
    for function in mesh.functions:
        interface, address = interfaces[function.name], _address(function, version)
        lines += [
            f"-A PREROUTING -i {interface} ! -s {address} -j DROP",
            f"-A PREROUTING -i {interface} -m mac ! --mac-source {macs[function.name]} -j DROP",
            f"-A PREROUTING -i {interfaces['outside']} -s {address} -j DROP",
        ]
    return "\n".join([*lines, "COMMIT", ""])


def nat_table(mesh: Mesh, version: int) -> str:
    """What is published at the uplink."""
    lines = ["*nat"]
    for front in FRONTS.values() if mesh.uplinks else ():
        to = _address(mesh.function(front.function), version).network_address
        place = f"{to}:{front.target_port}" if version == 4 else f"[{to}]:{front.target_port}"
        lines.append(
            f"-A PREROUTING -i {UPLINK} -d {HOST[version]} -p {front.protocol} "
            f"--dport {front.port} -j DNAT --to-destination {place}"
        )
    return "\n".join([*lines, "COMMIT", ""])


def _service_matches(rule: Policy, mesh: Mesh, version: int) -> Iterator[str]:
    """What a rule about a service matches: translated connections, by what was asked for."""
    front = FRONTS[rule.destination.name]
    if rule.protocol not in ("any", front.protocol):
        return
    if rule.port and not rule.port <= front.own_port <= rule.last_port:
        return
    asked = f"--ctproto {front.protocol} --ctorigdst {HOST[version]} --ctorigdstport {front.port}"
    for source in _networks(rule.source, mesh, version):
        who = f" --ctorigsrc {source}" if source != EVERYWHERE[version] else ""
        yield f"-m conntrack --ctstate DNAT {asked}{who}"


def _matches(rule: Policy, mesh: Mesh, version: int, judged: Judged) -> Iterator[str]:
    """What a rule matches, a line each; none if it can match nothing in this network."""
    if rule.destination.kind == "service":
        yield from _service_matches(rule, mesh, version)
        return
    words = PACKET if judged == "first" else CONNECTION
    tail = _protocol(rule, version, words)
    if tail is None:
        return
    sources = _networks(rule.source, mesh, version)
    destinations = _networks(rule.destination, mesh, version)
    for source, destination in product(sources, destinations):
        yield _match(words, source, destination, version, tail)


def _match(words: Words, source: Network, destination: Network, version: int, tail: str) -> str:
    parts = [
        f"{word} {network}"
        for word, network in ((words.source, source), (words.destination, destination))
        if network != EVERYWHERE[version]
    ]
    parts += [tail] if tail else []
    if words is PACKET:
        return " ".join(parts)
    return f"-m conntrack {' '.join(parts)}" if parts else ""


def _protocol(rule: Policy, version: int, words: Words) -> str | None:
    """Protocol and port of a rule; None if nothing that opens a connection has them."""
    if rule.protocol == "any":
        return ""
    if rule.protocol == "icmp":
        # Of what conntrack takes for a beginning, the mesh knows the echo request.
        if rule.icmp_type not in (None, 8):
            return None
        what = f"{words.protocol} {ICMP[version]}"
        return what if words is CONNECTION else f"{what} {ECHO_REQUEST[version]}"
    if not rule.port:
        return f"{words.protocol} {rule.protocol}"
    ports = f"{rule.port}:{rule.port_end}" if rule.port_end else f"{rule.port}"
    return f"{words.protocol} {rule.protocol} {words.port} {ports}"


def _networks(identity: Identity, mesh: Mesh, version: int) -> list[Network]:
    """Where those live that an identity speaks of."""
    if identity.kind == "any":
        return [EVERYWHERE[version]]
    if identity.kind == "outside":
        return _outside(identity, version)
    return [
        _address(function, version)
        for function in mesh.functions
        if identity.name == (function.name if identity.kind == "function" else function.tenant)
    ]


def _outside(identity: Identity, version: int) -> list[Network]:
    """The outside, or as much of it as is in a prefix."""
    outside, prefix = OUTSIDE[version], identity.prefix
    if prefix is None or (prefix.version == version and prefix.supernet_of(outside)):
        return [outside]
    return [prefix] if prefix.version == version and prefix.subnet_of(outside) else []


def _address(function: Function, version: int) -> Network:
    address = function.address4 if version == 4 else function.address6
    return type(OUTSIDE[version])(str(address))


def _defaults(mesh: Mesh, version: int, judged: Judged) -> Iterator[str]:
    """What may pass without a rule: to one's own tenant, and to the outside."""
    words = PACKET if judged == "first" else CONNECTION
    for source in mesh.functions:
        yield _match(words, _address(source, version), OUTSIDE[version], version, "")
        for destination in mesh.functions:
            if source != destination and source.tenant == destination.tenant:
                ends = (_address(source, version), _address(destination, version))
                yield _match(words, *ends, version, "")
