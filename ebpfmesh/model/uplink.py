# SPDX-License-Identifier: BSD-2-Clause
"""Uplinks: interfaces of the host's to the outside, and the ports of services on them."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address
from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

from ebpfmesh.model.base import Address, Invalid, Model, Name, check_address, repeated, show
from ebpfmesh.model.ports import parse_ports, ports_text

UPLINKS = 16
"""The most that a mesh can have."""
DENIED = 1 << 20
"""The most prefixes that it can deny."""
MASQUERADE_PORTS = "61000-65535"
"""Behind those that Linux takes for sockets of its own (net.ipv4.ip_local_port_range)."""
UPLINK_IN_PLACE = ("masquerade", "masquerade_ports")
"""What of an uplink changes while packets pass."""
Interface = Annotated[
    str,
    Field(pattern=r"^[^\s/:.][^\s/:]{0,14}$", description="the name of an interface, such as eth0"),
]


def _check_range(text: str) -> str:
    """``text`` if it is a range of ports, in the one way to write it."""
    return ports_text(*parse_ports(text))


PortRange = Annotated[
    str,
    AfterValidator(_check_range),
    Field(description='a port or a range, such as "61000-65535"'),
]


class Uplink(Model):
    """An interface by which packets from outside come in, a NIC or a veth that plays one.

    It stays the host's: what is not for the mesh passes. ``xdp`` is there if its driver has it, at
    a veth while it is needed; or always, or never. ``address4`` and ``address6`` are where services
    are published on it; None: the first one it has of that family. With ``masquerade`` what
    functions open to the outside leaves by it at once, IPv4 as that address, each flow by a port of
    ``masquerade_ports``.
    """

    name: Name
    interface: Interface
    xdp: Literal["auto", "native", "generic", "off"] = "auto"
    address4: Annotated[IPv4Address, AfterValidator(check_address)] | None = None
    address6: Annotated[IPv6Address, AfterValidator(check_address)] | None = None
    masquerade: bool = False
    masquerade_ports: PortRange = MASQUERADE_PORTS

    @property
    def ports(self) -> tuple[int, int]:
        """The first and the last of ``masquerade_ports``."""
        return parse_ports(self.masquerade_ports)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """Those that it says, IPv4 first."""
        return tuple(a for a in (self.address4, self.address6) if a is not None)


class Published(NamedTuple):
    """A port of an uplink behind which a service is, or a range of them."""

    uplink: str
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Published":
        """What an element of ``publish`` says; raises Invalid."""
        uplink, colon, ports = text.rpartition(":")
        hint = 'the name of an uplink and a port, such as "uplink0:80" or "uplink0:8000-8099"'
        if not (colon and uplink):
            raise Invalid(f"a service cannot be published at {show(text)}", hint=hint)
        try:
            first, last = parse_ports(int(ports) if ports.isdecimal() else ports)
        except Invalid as fault:
            raise Invalid(f"{show(text)}: {fault.message}", hint=hint) from None
        return cls(uplink, first, last)

    def __str__(self) -> str:
        return f"{self.uplink}:{ports_text(self.first, self.last)}"


def check_published(texts: tuple[str, ...]) -> tuple[str, ...]:
    """``texts`` if each says where a service is published, in the one way to write it."""
    found = []
    for index, text in enumerate(texts):
        try:
            found.append(str(Published.parse(text)))
        except Invalid as fault:
            fault.path = (index,)
            raise
    for index, _, text in repeated(found):
        raise Invalid(f"{text} is there twice", path=(index,), hint="name it once")
    return tuple(found)


def on(publish: Iterable[str], uplinks: Iterable[str]) -> tuple[str, ...]:
    """What of ``publish`` is on one of these uplinks."""
    names = set(uplinks)
    return tuple(text for text in publish if Published.parse(text).uplink in names)
