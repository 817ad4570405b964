# SPDX-License-Identifier: BSD-2-Clause
"""Keys of the control maps, from what the model calls them."""

import socket
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from ebpfmesh import _abi
from ebpfmesh.kernel import prefixes
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.model import Address, Service, Uplink, port_prefixes

PROTOCOL = {
    "any": 0,
    "icmp": socket.IPPROTO_ICMP,
    "tcp": socket.IPPROTO_TCP,
    "udp": socket.IPPROTO_UDP,
}


def prefix_key(name: str) -> _abi.PrefixKey:
    """The key of a prefix in mesh_prefix."""
    length, first = block_of(name)
    return _abi.PrefixKey(length=length, address=_abi.Address.from_buffer_copy(first))


def packed(address: Address) -> _abi.Address:
    """An address as the programs have it: IPv4 as ::ffff:a.b.c.d."""
    return _abi.Address.from_buffer_copy(prefixes.packed(address))


Places = Mapping[str, tuple[int, Sequence[Address]]]
"""Uplinks by name: index of the interface, and the host's addresses on it."""


class Frontend(NamedTuple):
    """An entry of a service in mesh_service: its key, and what of the value is its own.

    ``own`` makes the service's port of a published one; only packets of interface ``uplink`` reach
    it, 0: of functions.
    """

    key: _abi.ServiceKey
    own: int
    uplink: int


def frontends(service: Service, uplinks: Places) -> list[Frontend]:
    """Entries of a service: for each address and port one or, of a range, some.

    It is published by addresses of the families that it has itself.
    """
    families = {address.version for address in service.addresses}
    ends = [(address, 0, service.port, service.last_port) for address in service.addresses]
    for name, first, last in service.published:
        index, addresses = uplinks.get(name, (0, ()))
        ends += [(one, index, first, last) for one in addresses if one.version in families]
    protocol = PROTOCOL[service.protocol]
    return [
        Frontend(
            _abi.ServiceKey(address=packed(address), port=port, protocol=protocol, depth=bits),
            service.port - first & 0xFFFF,
            index,
        )
        for address, index, first, last in ends
        for port, bits in port_prefixes(first, last)
    ]


def masquerade(uplink: Uplink, addresses: Iterable[Address]) -> _abi.Masquerade:
    """What flows are translated to that leave by an uplink which has these addresses."""
    first, last = uplink.ports
    address = next((int(one) for one in addresses if one.version == 4), 0)
    return _abi.Masquerade(address4=address, first=first, count=last - first + 1)
