# SPDX-License-Identifier: BSD-2-Clause
"""Uplinks, between the record and the kernel: a program at ingress of an interface of the host's.

The interface stays as it is, up or down, and comes from nobody here; all that is done to it is one
program, which goes again.
"""

from dataclasses import replace

from ebpfmesh.apply.control.functions import check_ifindex
from ebpfmesh.apply.held import Held
from ebpfmesh.errors import NotFound, UsageError
from ebpfmesh.kernel import interface, links
from ebpfmesh.kernel.programs import UPLINK
from ebpfmesh.model import Uplink
from ebpfmesh.state import early, local
from ebpfmesh.state.place import moved, published_at, uplink_pin, uplink_problem
from ebpfmesh.state.rows import UplinkRow


class Uplinks:
    """The uplinks of a mesh."""

    def __init__(self, mesh: Held) -> None:
        self._mesh = mesh

    def add(self, uplink: Uplink, *, force: bool = False) -> None:
        """Attach the program; undone whole if a step fails.

        Raises NotFound if there is no such interface or address, UsageError if it cannot be one,
        ForeignProgram for programs of others there unless ``force``.
        """
        row = self._look(uplink)
        there = {one.ifindex for one in self._mesh.record.uplinks()}
        there |= {one.attachment.ifindex for one in self._mesh.record.functions()}
        if row.ifindex in there:
            what = f"uplink {uplink.name}: interface {uplink.interface} is one of this mesh already"
            raise UsageError(what, hint="name another interface")
        hook = self._mesh.fixed.hook
        links.refuse_foreign(self._mesh.ip, row.ifindex, uplink.interface, hook, force=force)
        self._mesh.step(f"uplink {uplink.name}")
        self._mesh.record.put_uplink(row)
        try:
            self._mesh.step(f"uplink {uplink.name}: maps")
            self._mesh.control.functions.set_uplink(row)
            self._mesh.step(f"uplink {uplink.name}: program")
            pin = uplink_pin(self._mesh.pins, uplink.name)
            pin.unlink(missing_ok=True)
            with self._mesh.program(UPLINK) as program:
                links.attach(row.ifindex, "ingress", program, pin, hook)
        except BaseException:
            self.remove(uplink.name)
            raise
        self._mesh.record.put_uplink(replace(row, ready=True))

    def change(self, uplink: Uplink) -> None:
        """What changes in place."""
        row = self._mesh.record.uplink(uplink.name)
        if row is None:
            return
        self._mesh.step(f"uplink {uplink.name}: masquerade")
        row = replace(row, uplink=uplink)
        self._mesh.record.put_uplink(row)
        self._mesh.control.functions.set_uplink(row)

    def _look(self, uplink: Uplink) -> UplinkRow:
        """What an uplink is as it is being made."""
        ifindex = interface.find(uplink.interface)
        if ifindex is None:
            what = f"uplink {uplink.name}: there is no interface {uplink.interface} here"
            raise NotFound(what, hint="ip link lists them")
        check_ifindex(ifindex)
        found = interface.outer(self._mesh.ip, ifindex)
        if not found.ethernet:
            what = f"uplink {uplink.name}: {uplink.interface} has no Ethernet frames"
            raise UsageError(what, hint="name a NIC, a VLAN or a bond of some, or a veth")
        if found.alias.startswith(interface.ALIAS):
            what = f"uplink {uplink.name}: {uplink.interface} is the host side of a function"
            raise UsageError(what, hint="an uplink leads to the outside")
        for address in uplink.addresses:
            if address not in found.addresses:
                what = f"uplink {uplink.name}: {uplink.interface} does not have {address}"
                raise NotFound(what, hint=f"ip address show dev {uplink.interface} lists them")
        return UplinkRow(uplink, ifindex, published_at(uplink, found.addresses), ready=False)

    def remove(self, name: str) -> None:
        """Detach the program, as far as it is there. Twice is fine."""
        row = self._mesh.record.uplink(name)
        if row is None:
            return
        self._mesh.step(f"remove uplink {name}")
        self._mesh.record.put_uplink(replace(row, ready=False))
        self._mesh.step(f"remove uplink {name}: program")
        ifindex = row.ifindex if interface.exists(row.ifindex) else None
        links.detach(self._mesh.ip, ifindex, "ingress", uplink_pin(self._mesh.pins, name))
        links.detach_xdp(early.pin(self._mesh.pins, name))
        self._mesh.step(f"remove uplink {name}: maps")
        self._mesh.control.functions.remove_uplink(row.ifindex)
        self._mesh.record.delete_uplink(name)

    def broken(self) -> list[str]:
        """Names of uplinks that were cut short, or whose interface or program went."""
        rows = self._mesh.record.uplinks()
        return [row.name for row in rows if uplink_problem(self._mesh.ip, self._mesh.pins, row)]

    def know_host(self) -> None:
        """Have programs know the addresses that the host has by now (``state.local``)."""
        maps = self._mesh.control.maps
        if not local.is_drawn(self._mesh.ip, maps, self._mesh.record):
            self._mesh.step("addresses of the host")
            local.draw(self._mesh.ip, maps, self._mesh.record)

    def follow(self) -> None:
        """Have services be published at the addresses that interfaces have by now."""
        for row in self._mesh.record.uplinks():
            if (now := moved(self._mesh.ip, row)) is not None:
                self._mesh.record.put_uplink(replace(row, addresses=now))
