# SPDX-License-Identifier: BSD-2-Clause
"""The deny list: its prefixes, what was dropped for each, and what it would shut out unmeant."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import ip_address

from ebpfmesh.kernel import deny, interface
from ebpfmesh.kernel.prefixes import Block, block_of, packed
from ebpfmesh.model import Address, Network
from ebpfmesh.observe.view import View
from ebpfmesh.state import denied, tables

LOGIN = "SSH_CONNECTION"
"""What sshd(8) tells a shell: first who is logged in by it."""


@dataclass(frozen=True)
class Denied:
    """A prefix of which nothing comes in; ``uplink`` is None where that is so at all of them.

    ``packets`` were dropped since it is denied; None where nobody asked.
    """

    prefix: str
    uplink: str | None
    packets: int | None


def read_denied(view: View, *, uplink: str = "", counters: bool = False) -> list[Denied]:
    """The whole list, or that of one uplink: IPv4 first, wide prefixes before those in them.

    Counters are read entry by entry, about a second for each million.
    """
    rows = view.record.denied()
    if counters:
        names = {ifindex: name for name, ifindex in denied.indices(view.record).items()}
        for entry, packets in deny.counts(view.maps).items():
            row = tables.Denied(names.get(entry.ifindex, "?"), entry.block)
            if row in rows:
                rows[row] += packets
    chosen = (row for row in rows if not uplink or row.uplink == uplink)
    ordered = sorted(chosen, key=lambda row: (not row.block.is4, row.block.first, row))
    return [
        Denied(str(row.block.prefix), row.uplink or None, rows[row] if counters else None)
        for row in ordered
    ]


def shut_out(view: View, prefixes: Collection[Network], uplink: str = "") -> Iterator[str]:
    """What of the host's own is in these prefixes and can be reached no more, a line each."""
    blocks = {block_of(prefix) for prefix in prefixes}
    lengths = {block.length for block in blocks}
    for what, address in _own(view, uplink):
        whole = Block(128, packed(address))
        for length in sorted(lengths):
            if (found := whole.wider(length)) in blocks and found.is4 == whole.is4:
                yield f"{found.prefix} has {address} in it, {what}"
                break


def _own(view: View, uplink: str) -> Iterator[tuple[str, Address]]:
    """Addresses by which the host is reached, and what each is."""
    for row in view.record.uplinks():
        if uplink in ("", row.name) and interface.exists(row.ifindex):
            where = f"of uplink {row.name} ({row.uplink.interface})"
            for address in interface.gateways(view.ip, row.ifindex):
                yield f"the gateway {where}", address
            for address in interface.outer(view.ip, row.ifindex).addresses:
                yield f"an address {where}: its neighbours may be in it too", address
    login = os.environ.get(LOGIN, "").partition(" ")[0]
    if login:
        yield "from where you are logged in", ip_address(login.partition("%")[0])
