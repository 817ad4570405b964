# SPDX-License-Identifier: BSD-2-Clause
"""A row of the tables: a packet in, and all that must come of it.

The tables are table_*.py; test_tables.py sends each row through every program it is about. A
packet is given from its IP header on, and its frame is then that of its sender; or as a frame.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from scapy.layers.l2 import Ether
from scapy.packet import Packet

from ebpfmesh._abi import IFINDEX_BITS, Direction, OutputKind, Reason
from prog.lab import MESH, NOBODY, TC, TO_FN, Counters, Drop, Hook, Lab, peer
from support.packets import Peer, dissect, received, sent


@dataclass(frozen=True)
class Step:
    """A packet and the function at whose interface it is seen."""

    function: Peer
    frame: bytes


@dataclass(frozen=True)
class Row:
    """What happens to a packet after the packets of ``given``."""

    text: str
    step: Step
    verdict: str
    out: bytes
    counted: Counters
    given: tuple[Step, ...] = ()


def step(sender: Peer, packet: Packet | bytes) -> Step:
    """A packet that a function sends."""
    if isinstance(packet, bytes):
        return Step(sender, packet)
    return Step(sender, bytes(packet if isinstance(packet, Ether) else sent(sender, packet)))


def tenant_of(peer: Peer) -> str:
    """The tenant of a function, or ``outside``."""
    tenants = {function.name: function.tenant for function in MESH.functions}
    return tenants.get(peer.name, "outside")


def carried(sender: Peer, receiver: Peer, length: int, packets: int = 1) -> Counters:
    """What the meters show for packets of ``length`` bytes altogether."""
    there = (sender.name, tenant_of(receiver)), (receiver.name, tenant_of(sender))
    if there[0] == there[1]:
        return {there[0]: (packets, length, packets, length)}
    return {there[0]: (packets, length, 0, 0), there[1]: (0, 0, packets, length)}


def forward(
    text: str, sender: Peer, packet: Packet, receiver: Peer, out: Packet, *,
    given: Iterable[Step] = (), also: Counters | None = None,
) -> Row:  # fmt: skip
    """It reaches ``receiver`` as ``out``; ``also`` is counted beside the meters."""
    here = step(sender, packet)
    after = bytes(out if isinstance(out, Ether) else received(receiver, out))
    counted = carried(sender, receiver, len(here.frame)) | (also or {})
    return Row(text, here, "forward", after, counted, tuple(given))


def to_host(text: str, sender: Peer, packet: Packet, *, given: Iterable[Step] = ()) -> Row:
    """It goes to the host's stack as it came, and is counted as traffic with the outside."""
    here = step(sender, packet)
    counted = carried(sender, NOBODY, len(here.frame))
    return Row(text, here, "pass", here.frame, counted, tuple(given))


def ignored(text: str, sender: Peer, packet: Packet) -> Row:
    """It goes to the host's stack as it came, and nothing is counted."""
    here = step(sender, packet)
    return Row(text, here, "pass", here.frame, {})


def drop(
    text: str, sender: Peer, packet: Packet | bytes, reason: Reason, *, given: Iterable[Step] = ()
) -> Row:
    """It is dropped as it came, and counted by its reason."""
    here = step(sender, packet)
    where = Drop(sender.name, Direction.FROM_FN, reason)
    return Row(text, here, "drop", here.frame, {where: (1, len(here.frame))}, tuple(given))


def expired(
    text: str, sender: Peer, packet: Packet, answer: Packet, *, given: Iterable[Step] = ()
) -> Row:
    """Its TTL has run out."""
    return rejected(text, sender, packet, answer, reason=Reason.TTL, given=given)


def rejected(
    text: str, sender: Peer, packet: Packet, answer: Packet, *,
    reason: Reason = Reason.POLICY, given: Iterable[Step] = (),
) -> Row:  # fmt: skip
    """It is counted as dropped, and its sender gets ``answer``."""
    row = drop(text, sender, packet, reason, given=given)
    return replace(row, verdict="forward", out=bytes(received(sender, answer)))


def name(row: Row) -> str:
    """What pytest calls the row."""
    return row.text.replace(" ", "-")


def prepare(lab: Lab, hook: Hook, given: Iterable[Step]) -> None:
    """Send the packets a row needs before it; none of them may be dropped."""
    for one in given:
        seen = lab.run(hook, one.function.name, one.frame)
        assert seen.verdict != "drop", f"given: {seen.counted}\n{dissect(one.frame)}"


def check(lab: Lab, hook: Hook, row: Row) -> None:
    """Send the row's packet, after its given ones, and compare everything."""
    # What comes from the host goes through its own program; what prepares it does not.
    prepare(lab, TC if hook is TO_FN else hook, row.given)
    compare(lab, hook, row)


def compare(lab: Lab, hook: Hook, row: Row) -> None:
    """Send the row's packet alone, and compare everything."""
    flows = set(lab.flows())
    seen = lab.run(hook, row.step.function.name, row.step.frame)
    assert (seen.verdict, seen.counted) == (row.verdict, row.counted)
    if seen.frame != row.out:
        assert dissect(seen.frame) == dissect(row.out)
        assert seen.frame.hex() == row.out.hex()
    if not opens(row):
        assert set(lab.flows()) == flows
    check_outputs(lab)


def check_outputs(lab: Lab) -> None:
    """A test run sends nothing; where a packet would go is in its entry, and fits the new MAC."""
    outputs = {peer(f.name).mac: lab.ifindex[f.name] for f in MESH.functions}
    for entry in lab.flows().values():
        mac = bytes(entry.ethernet)[:6]
        stack = OutputKind.STACK << IFINDEX_BITS
        assert entry.output == (outputs[mac.hex(":")] if any(mac) else stack)


def opens(row: Row) -> bool:
    """Whether the packet may leave flow entries; a TTL runs out when the flow is found already."""
    dropped = {w.reason for w in row.counted if isinstance(w, Drop) and not w.audited}
    return not dropped or Reason.TTL in dropped
