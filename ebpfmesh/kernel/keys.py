# SPDX-License-Identifier: BSD-2-Clause
"""Keys of the control maps, from what the model calls them."""

import socket

from ebpfmesh import _abi
from ebpfmesh.kernel import prefixes
from ebpfmesh.kernel.prefixes import block_of
from ebpfmesh.model import Address, Service, port_prefixes

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


def service_keys(service: Service) -> list[_abi.ServiceKey]:
    """Keys of a service in mesh_service, for each of its addresses one or, of a range, some."""
    return [
        _abi.ServiceKey(address=packed(address), port=port, protocol=PROTOCOL[protocol], depth=bits)
        for address, first, last, protocol in service.frontends
        for port, bits in port_prefixes(first, last)
    ]
