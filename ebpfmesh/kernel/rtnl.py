# SPDX-License-Identifier: BSD-2-Clause
"""rtnetlink requests in batches: what makes and removes a function, and nothing else.

Through pyroute2 a request takes a third of a millisecond, nearly all of it outside the kernel, and
a function needs twenty; here many go in one system call. What is only read, or done seldom, goes
through pyroute2. Layouts: linux/rtnetlink.h, linux/if_link.h, linux/pkt_sched.h, linux/pkt_cls.h.
"""

import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeAlias

from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.model import Address, Network

NEW_LINK, DELETE_LINK, GET_LINK = 16, 17, 18
NEW_ADDRESS, NEW_ROUTE, GET_ROUTE, NEW_NEIGHBOUR = 20, 24, 26, 28
NEW_QDISC, NEW_FILTER = 36, 44
REQUEST, ACK, DUMP = 0x1, 0x4, 0x300
REPLACE, EXCLUSIVE, CREATE = 0x100, 0x200, 0x400
ERROR, DONE = 2, 3
SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
BUFFER = 1 << 16
BATCH = 64  # requests whose answers surely fit into a socket
UP = 1  # IFF_UP
NO_DAD = 0x02  # IFA_F_NODAD
PERMANENT = 0x80  # NUD_PERMANENT
MAIN_TABLE, STATIC, UNICAST, LINK_SCOPE = 254, 4, 1, 253
CLSACT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
DIRECT_ACTION = 1
# IFLA_AF_SPEC: an address generation mode of none.
NO_LINK_LOCAL: "Attribute" = (26, [(socket.AF_INET6, [(8, b"\x01")])])

Value: TypeAlias = "int | str | bytes | list[Attribute]"
Attribute: TypeAlias = "tuple[int, Value]"


@dataclass(frozen=True)
class Request:
    """One message: its kind, flags, and what follows the netlink header."""

    kind: int
    flags: int
    body: bytes


class Socket:
    """A socket of the namespace in which the calling thread is when it is made."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(SOL_NETLINK, NETLINK_CAP_ACK, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._socket.close()

    def do(self, *requests: Request) -> None:
        """Have them all done, in order; NetlinkError of the first that failed, after the last."""
        failed = 0
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            self._send(part, ACK)
            left = len(part)
            while left:
                for kind, body in self._receive():
                    if kind == ERROR:
                        left -= 1
                        failed = failed or -struct.unpack_from("=i", body)[0]
        if failed:
            raise NetlinkError(failed, os.strerror(failed))

    def dump(self, request: Request) -> Iterator[bytes]:
        """Bodies of all messages that answer a question."""
        self._send((request,), DUMP)
        while True:
            for kind, body in self._receive():
                if kind == DONE:
                    return
                if kind == ERROR:
                    code = -struct.unpack_from("=i", body)[0]
                    raise NetlinkError(code, os.strerror(code))
                yield body

    def _send(self, requests: tuple[Request, ...], flags: int) -> None:
        parts = []
        for one in requests:
            self._sequence += 1
            flag = REQUEST | flags | one.flags
            parts.append(
                struct.pack("=IHHII", 16 + len(one.body), one.kind, flag, self._sequence, 0)
            )
            parts.append(one.body)
        self._socket.send(b"".join(parts))

    def _receive(self) -> Iterator[tuple[int, bytes]]:
        data, start = self._socket.recv(BUFFER), 0
        while start + 16 <= len(data):
            length, kind = struct.unpack_from("=IH", data, start)
            yield kind, data[start + 16 : start + length]
            start += -(-length // 4) * 4


def _packed(attributes: list[Attribute]) -> bytes:
    parts = []
    for kind, value in attributes:
        match value:
            case int():
                data = struct.pack("=I", value)
            case str():
                data = value.encode() + b"\0"
            case bytes():
                data = value
            case list():
                data = _packed(value)
        parts.append(struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4))
    return b"".join(parts)


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _family(address: Address | Network) -> int:
    return socket.AF_INET if address.version == 4 else socket.AF_INET6


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, flags, change)


def add_veth(name: str, mac: str, peer: str, peer_mac: str, namespace: int) -> Request:
    """A veth pair, the peer in the namespace behind a descriptor; both are down."""
    inner = _link() + _packed([(3, peer), (1, _mac(peer_mac)), (28, namespace)])
    attributes: list[Attribute] = [
        (3, name),
        (1, _mac(mac)),
        (18, [(1, "veth"), (2, [(1, inner)])]),
    ]
    return Request(NEW_LINK, CREATE | EXCLUSIVE, _link() + _packed(attributes))


def set_link(
    index: int,
    *,
    up: bool = False,
    down: bool = False,
    alias: str = "",
    group: int = 0,
    link_local: bool = True,
) -> Request:
    """Change an interface; what is not given stays."""
    attributes: list[Attribute] = [(20, alias)] if alias else []
    attributes += [(27, group)] if group else []
    attributes += [] if link_local else [NO_LINK_LOCAL]
    body = _link(index, UP if up else 0, UP if up or down else 0)
    return Request(NEW_LINK, 0, body + _packed(attributes))


def delete_link(index: int) -> Request:
    """Delete an interface."""
    return Request(DELETE_LINK, 0, _link(index))


def delete_group(group: int) -> Request:
    """Delete all interfaces of a group, which takes little longer than deleting one."""
    return Request(DELETE_LINK, 0, _link() + _packed([(27, group)]))


def add_address(index: int, address: Address) -> Request:
    """An address that stands alone; an IPv6 one is usable at once."""
    flags = NO_DAD if address.version == 6 else 0
    body = struct.pack("=BBBBI", _family(address), address.max_prefixlen, flags, 0, index)
    packed = address.packed
    return Request(NEW_ADDRESS, CREATE | EXCLUSIVE, body + _packed([(2, packed), (1, packed)]))


def set_neighbour(index: int, address: Address, mac: str) -> Request:
    """A neighbour that is never asked for."""
    body = struct.pack("=BxxxiHBB", _family(address), index, PERMANENT, 0, 0)
    attributes: list[Attribute] = [(1, address.packed), (2, _mac(mac))]
    return Request(NEW_NEIGHBOUR, CREATE | REPLACE, body + _packed(attributes))


def set_route(
    index: int, to: Network, gateway: Address | None = None, *, on_link: bool = False
) -> Request:
    """A route of the main table; ``on_link`` is one of link scope."""
    scope = LINK_SCOPE if on_link else 0
    body = struct.pack(
        "=BBBBBBBBI", _family(to), to.prefixlen, 0, 0, MAIN_TABLE, STATIC, scope, UNICAST, 0
    )
    attributes: list[Attribute] = [(1, to.network_address.packed)] if to.prefixlen else []
    attributes += [(5, gateway.packed)] if gateway else []
    return Request(NEW_ROUTE, CREATE | REPLACE, body + _packed([*attributes, (4, index)]))


def default_routes(ip: Socket) -> set[int]:
    """IP versions for which the main table has a default route."""
    question = Request(GET_ROUTE, 0, struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0))
    found = set()
    for answer in ip.dump(question):
        family, length, _, _, table, _, _, kind = struct.unpack_from("=8B", answer)
        if (length, table, kind) == (0, MAIN_TABLE, UNICAST):
            found.add(4 if family == socket.AF_INET else 6)
    return found


def add_clsact(index: int) -> Request:
    """The qdisc that filters of both directions hang on."""
    body = struct.pack("=BxxxiIII", 0, index, CLSACT_HANDLE, CLSACT, 0)
    return Request(NEW_QDISC, CREATE | EXCLUSIVE, body + _packed([(1, "clsact")]))


def add_filter(index: int, parent: int, info: int, handle: int, program: int, name: str) -> Request:
    """A BPF program as a filter that decides by itself; ``info``: priority << 16 | protocol."""
    body = struct.pack("=BxxxiIII", 0, index, handle, parent, info)
    options: list[Attribute] = [(6, program), (7, name), (8, DIRECT_ACTION)]
    return Request(NEW_FILTER, CREATE | EXCLUSIVE, body + _packed([(1, "bpf"), (2, options)]))
