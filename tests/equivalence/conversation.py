# SPDX-License-Identifier: BSD-2-Clause
"""Conversations, the same between any two, and what of them has to be equal.

What has to be: all but four things about TCP, in which the mesh does not follow conntrack.

- conntrack calls INVALID what does not fit the state that a connection is in; the mesh asks only
  whether there is a flow. Such a segment is not compared if the mesh has the flow.
- Of a connection whose first answer is a reset conntrack keeps nothing, the mesh a flow that is
  closing. Until the next SYN nothing is compared.
- conntrack learns from segments that rules then drop, the mesh only from those that pass. So a
  connection that ends, or begins anew, in segments that were dropped is another one for each.
- A SYN of the side that was called, and has answered, is judged by the mesh as what opens another
  connection. To conntrack it is INVALID, unless the answers were none to it (they fit no SYN).

Where that has made a difference the rest of that conversation is not compared either.
"""

from dataclasses import dataclass, replace

from ebpfmesh.model import Mesh
from equivalence.compare import Packets, allowed, arrived, difference, fail_if, same
from equivalence.network import FRONTS, OUTSIDERS, PAIRS, Front
from equivalence.ruleset import INVALID_DSCP
from equivalence.shots import Shot
from equivalence.strategies import Step
from equivalence.world import World

IDENTIFIER, OPENER_PORT = 7000, 40000
FRONT_PORT = 40001
"""Of who speaks with what is published: to its backend itself it is another's."""


def shots_of(
    step: Step, turn: int, port: int, pairs: tuple[tuple[str, str], ...] = PAIRS
) -> list[Shot]:
    """A step, of everybody with everybody."""
    return [_shot(step, turn, port, version, *pair) for version in (4, 6) for pair in pairs]


def front_shots(step: Step, turn: int, begun: set[str], mesh: Mesh) -> list[Shot]:
    """A step, of everybody outside with what is published of its protocol.

    None before a first packet, which makes ``begun`` have the protocol, and none of those whom the
    mesh lets open nothing: the backend's answers would open a flow of its own.
    """
    kind = step.quotes or ("udp" if step.what == "udp" else "tcp")
    if step.forged or kind == "request" or step.what in ("request", "reply"):
        return []
    first = step.way == "there" and step.what in ("udp", "S") and step.form == "plain"
    if first:
        begun.add(kind)
    if kind not in begun:
        return []
    found = []
    for version in (4, 6):
        for one in OUTSIDERS:
            for name, front in FRONTS.items():
                opener = _there(version, one, name, front, "S" * (kind == "tcp"))
                if front.protocol == kind and (allowed(mesh, opener) or first):
                    found.append(_front_shot(step, turn, version, one, name))
    return found


def _there(version: int, one: str, name: str, front: Front, flags: str) -> Shot:
    kind = front.protocol
    return Shot(version, kind, one, name, FRONT_PORT, front.port, flags)  # type: ignore[arg-type]


def _front_shot(step: Step, turn: int, version: int, one: str, name: str) -> Shot:
    front = FRONTS[name]
    if step.quotes:
        there = _there(version, one, name, front, "A" * (step.quotes == "tcp"))
        if step.way == "there":  # about what its sender outside got, as from the host
            about, ends = there.answer(), (one, name)
        else:  # about what the function got
            about = replace(there, destination=front.function, dport=front.target_port)
            ends = front.function, one
        return Shot(version, step.what, *ends, 0, about=about, turn=turn)  # type: ignore[arg-type]
    flags = "" if step.what == "udp" else step.what.removeprefix("-")
    there = replace(_there(version, one, name, front, flags), turn=turn, form=step.form)
    if step.way == "there":
        return there
    return replace(there.answer(), source=front.function, sport=front.target_port)


def _shot(step: Step, turn: int, port: int, version: int, one: str, other: str) -> Shot:
    if step.quotes:
        return _error(step, turn, port, version, one, other)
    if step.what in ("request", "reply"):
        there = Shot(version, step.what, one, other, IDENTIFIER, turn=turn)  # type: ignore[arg-type]
    elif step.what == "udp":
        there = Shot(version, "udp", one, other, OPENER_PORT, port, turn=turn)
    else:
        flags = step.what.removeprefix("-")
        there = Shot(version, "tcp", one, other, OPENER_PORT, port, flags, turn=turn)
    there = replace(there, form=step.form)
    return there if step.way == "there" else there.answer()


def _error(step: Step, turn: int, port: int, version: int, one: str, other: str) -> Shot:
    """An error that goes ``way``, about a packet that went the other."""
    way = "back" if step.way == "there" else "there"
    if step.quotes == "request":
        quoted = Step(way, "request" if way == "there" else "reply")
    else:
        quoted = Step(way, "A" if step.quotes == "tcp" else "udp")
    about = _shot(quoted, 0, port + (1 if port < 65535 else -1) * step.forged, version, one, other)
    if step.forged and step.quotes == "request":
        about = Shot(version, about.kind, about.source, about.destination, IDENTIFIER + 1)
    ends = about.destination, about.source
    return Shot(version, step.what, *ends, 0, about=about, turn=turn)  # type: ignore[arg-type]


@dataclass
class Talk:
    """What is known of the TCP between two."""

    opener: str = ""
    """Who sent the first segment that passed."""
    answered: bool = False
    forgotten: bool = False
    """By conntrack, after a reset that was the first answer, or came before any."""
    ending: bool = False
    apart: bool = False
    """No longer compared."""

    def passed(self, shot: Shot) -> None:
        """Learn from a segment that passed on both sides."""
        again = (self.forgotten or self.ending) and _is_syn(shot)
        if not self.opener or again:
            self.opener, self.answered, self.forgotten = shot.source, False, False
            self.ending = False
        self.ending = self.ending or bool(set(shot.flags) & set("FR"))
        if "R" in shot.flags and not self.answered:
            self.forgotten = True
        self.answered = self.answered or shot.source != self.opener

    def calls_back(self, shot: Shot) -> bool:
        """Whether it is a SYN of the called side, which has answered."""
        return _is_syn(shot) and shot.source != self.opener and self.answered and not self.ending

    def dropped(self, shot: Shot) -> None:
        """Learn from a segment that was dropped on both sides."""
        if self.opener and set(shot.flags) & set("SFR" if self.ending else "FR"):
            self.apart = True


class Talks:
    """All conversations of an example, and whether both sides agree on them."""

    def __init__(self) -> None:
        self._tcp: dict[tuple[int, frozenset[tuple[str, int]]], Talk] = {}

    def check(self, world: World, shots: list[Shot], rules: Mesh) -> None:
        """Send packets into both sides, which have these rules; the same pass, as far as said."""
        through_mesh, through_iptables = world.send(shots)
        differences = []
        for shot in shots:
            here, there = through_mesh.get(shot), through_iptables.get(shot)
            if (shot.about or shot).kind == "tcp":
                agreed = self._segment(shot, here, there, rules)
            else:
                agreed = same(shot, here, there)
            if not agreed:
                differences.append(difference(shot, here, there))
        fail_if(differences)

    def _segment(self, shot: Shot, here: Packets, there: Packets, rules: Mesh) -> bool:
        """Whether both agree on a TCP segment, or an error about one, if they have to."""
        talk = self._talk(shot.about or shot)
        if talk.apart:
            return True
        if shot.about:
            return talk.forgotten or same(shot, here, there)
        if talk.forgotten and not _is_syn(shot):
            talk.apart = True
            return True
        if there is not None and _invalid(there[0]):
            if talk.opener:
                talk.apart = here is not None and bool(set(shot.flags) & set("SFR"))
                return True
            there = None
        mesh, iptables = arrived(shot, here), arrived(shot, there)
        if mesh and not iptables and talk.opener and shot.destination in FRONTS:
            talk.apart = True  # INVALID is not translated, and so nothing shows that it was
            return True
        if iptables != mesh and talk.calls_back(shot):
            talk.apart = True
            return not mesh or allowed(rules, shot)
        if mesh and iptables:
            talk.passed(shot)
        elif not mesh and not iptables:
            talk.dropped(shot)
        return same(shot, here, there)

    def _talk(self, shot: Shot) -> Talk:
        ends = frozenset({_end(shot.source, shot.sport), _end(shot.destination, shot.dport)})
        return self._tcp.setdefault((shot.version, ends), Talk())


def _end(party: str, port: int) -> tuple[str, int]:
    """One end of a connection; of one that is translated, as it is behind that."""
    if front := FRONTS.get(party):
        return front.function, front.target_port
    return party, port


def _is_syn(shot: Shot) -> bool:
    return "S" in shot.flags and not set(shot.flags) & set("AFR")


def _invalid(packet: bytes) -> bool:
    """Whether the mark of what conntrack calls INVALID is on it."""
    first = int.from_bytes(packet[:2], "big")
    return (first >> (2 if packet[0] >> 4 == 4 else 6)) & 0x3F == INVALID_DSCP
