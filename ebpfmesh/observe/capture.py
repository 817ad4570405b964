# SPDX-License-Identifier: BSD-2-Clause
"""Captured packets as pcapng, with what became of each in its comment, for Wireshark and tshark.

A packet is in the file as it reached the mesh: before addresses were translated, and once, though
it may leave by another interface.
"""

import os
from datetime import datetime
from typing import Self

from scapy.data import DLT_EN10MB
from scapy.packet import Raw
from scapy.utils import PcapNgWriter

from ebpfmesh.observe.events import Event

INBOUND, OUTBOUND = 1, 2  # flags of an enhanced packet block, seen from the host


class Capture:
    """A pcapng file that is being written; ``-`` is stdout. Whole after every packet."""

    def __init__(self, path: str) -> None:
        self._writer = PcapNgWriter(os.dup(1) if path == "-" else path)  # type: ignore[arg-type]
        self._writer.sync = True
        self._writer.linktype = DLT_EN10MB
        self._writer.write_header(None)
        self._writer.f.flush()

    def write(self, event: Event, frame: bytes) -> bool:
        """Add a packet; True: there is none that does not count."""
        packet = Raw(frame)
        packet.time = datetime.fromisoformat(event.time).timestamp()
        packet.wirelen = event.length
        packet.sniffed_on = event.function
        packet.direction = INBOUND if event.direction != "to function" else OUTBOUND
        packet.comments = [comment(event).encode()]
        self._writer.write_packet(packet)
        return True

    def close(self) -> None:
        """End the file."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def comment(event: Event) -> str:
    """What became of a packet, and who is who; a line each."""
    why = f"{event.reason} ({event.number}): {event.text}"
    drop = "reject" if event.rejected else "drop"
    verdict = f"would drop {why}" if event.audited else f"{drop} {why}" if event.reason else "pass"
    lines = [verdict, f"{event.sender} → {event.receiver or 'unknown'}"]
    if event.service:
        lines.append(f"service {event.service}")
    if event.rule is not None:
        lines.append(f"rule {event.rule}: {event.rule_text}")
    return "\n".join(lines)
