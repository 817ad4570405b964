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
from typing import Any, Self, TypeAlias

from pyroute2.netlink import (
    NETLINK_EXT_ACK,
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    NLMSG_DONE,
    NLMSG_ERROR,
)
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl import (
    RTM_DELLINK,
    RTM_DELQDISC,
    RTM_GETQDISC,
    RTM_GETROUTE,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWNEIGH,
    RTM_NEWQDISC,
    RTM_NEWROUTE,
    RTM_NEWTFILTER,
)
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import sched_bpf, tcmsg

from ebpfmesh.model import Address, Network

SOL_NETLINK, NETLINK_CAP_ACK = 270, 10
BUFFER = 1 << 16
BATCH = 64  # requests whose answers surely fit into a socket
UP = 1  # IFF_UP
NO_DAD = 0x02  # IFA_F_NODAD
PERMANENT = 0x80  # NUD_PERMANENT
MAIN_TABLE, STATIC, UNICAST, LINK_SCOPE = 254, 4, 1, 253
CLSACT, CLSACT_HANDLE = 0xFFFFFFF1, 0xFFFF0000
DIRECT_ACTION = 1
ROOT, TBF_HANDLE, LINKLAYER_ETHERNET = 0xFFFFFFFF, 0xEB9F0000, 1
TBF_PARMS, TBF_RATE64, TBF_BURST = 1, 4, 6
VETH_INFO_PEER = 1  # linux/veth.h
NO_ADDRESS = b"\x01"  # IN6_ADDR_GEN_MODE_NONE
REASON = 1  # NLMSGERR_ATTR_MSG
ERROR_BYTES = 20  # struct nlmsgerr without the request's body


def _numbers(message: Any) -> dict[str, int]:
    """The attributes of a message of pyroute2, by name."""
    return {name: number for number, (name, *_) in enumerate(message.nla_map)}


IFLA, IFA, NDA, RTA, TCA = map(_numbers, (ifinfmsg, ifaddrmsg, ndmsg, rtmsg, tcmsg))
IFLA_INFO, IFLA_INET6, BPF = map(
    _numbers, (ifinfmsg.ifinfo, ifinfmsg.af_spec_inet.inet6, sched_bpf.options)
)
# An address generation mode of none.
NO_LINK_LOCAL: "Attribute" = (
    IFLA["IFLA_AF_SPEC"],
    [(socket.AF_INET6, [(IFLA_INET6["IFLA_INET6_ADDR_GEN_MODE"], NO_ADDRESS)])],
)

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
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK):
            self._socket.setsockopt(SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def do(self, *requests: Request) -> None:
        """Have them all done, in order; NetlinkError of the first that failed, after the last."""
        failed: NetlinkError | None = None
        for start in range(0, len(requests), BATCH):
            part = requests[start : start + BATCH]
            self._send(part, NLM_F_ACK)
            left = len(part)
            while left:
                for kind, body in self._receive():
                    if kind == NLMSG_ERROR:
                        left -= 1
                        failed = failed or _error(body)
        if failed:
            raise failed

    def dump(self, request: Request) -> Iterator[bytes]:
        """Bodies of all messages that answer a question."""
        self._send((request,), NLM_F_DUMP)
        while True:
            for kind, body in self._receive():
                if kind == NLMSG_DONE:
                    return
                if kind == NLMSG_ERROR and (failed := _error(body)):
                    raise failed
                yield body

    def _send(self, requests: tuple[Request, ...], flags: int) -> None:
        parts = []
        for one in requests:
            self._sequence += 1
            flag = NLM_F_REQUEST | flags | one.flags
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


def _error(body: bytes) -> NetlinkError | None:
    """What an answer says that went wrong, in the kernel's own words if it has some."""
    code = -struct.unpack_from("=i", body)[0]
    if not code:
        return None
    said, start = os.strerror(code), ERROR_BYTES
    while start + 4 <= len(body):
        length, kind = struct.unpack_from("=HH", body, start)
        if kind == REASON:
            said += f" ({body[start + 4 : start + length].rstrip(bytes(1)).decode()})"
        start += max(4, -(-length // 4) * 4)
    return NetlinkError(code, said)


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


def add_veth(
    name: str, mac: str, peer: str, peer_mac: str, namespace: int, queues: int = 1
) -> Request:
    """A veth pair, the peer in the namespace behind a descriptor; both are down.

    Each end has so many queues, both ways: where XDP runs, as many come in as its peer sends by.
    """
    many: list[Attribute] = [
        (IFLA["IFLA_NUM_TX_QUEUES"], queues),
        (IFLA["IFLA_NUM_RX_QUEUES"], queues),
    ]
    many = many if queues > 1 else []
    inside: list[Attribute] = [
        (IFLA["IFLA_IFNAME"], peer),
        (IFLA["IFLA_ADDRESS"], _mac(peer_mac)),
        (IFLA["IFLA_NET_NS_FD"], namespace),
        *many,
    ]
    info: list[Attribute] = [
        (IFLA_INFO["IFLA_INFO_KIND"], "veth"),
        (IFLA_INFO["IFLA_INFO_DATA"], [(VETH_INFO_PEER, _link() + _packed(inside))]),
    ]
    attributes: list[Attribute] = [
        (IFLA["IFLA_IFNAME"], name),
        (IFLA["IFLA_ADDRESS"], _mac(mac)),
        (IFLA["IFLA_LINKINFO"], info),
        *many,
    ]
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, _link() + _packed(attributes))


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
    attributes: list[Attribute] = [(IFLA["IFLA_IFALIAS"], alias)] if alias else []
    attributes += [(IFLA["IFLA_GROUP"], group)] if group else []
    attributes += [] if link_local else [NO_LINK_LOCAL]
    body = _link(index, UP if up else 0, UP if up or down else 0)
    return Request(RTM_NEWLINK, 0, body + _packed(attributes))


def delete_link(index: int) -> Request:
    """Delete an interface."""
    return Request(RTM_DELLINK, 0, _link(index))


def delete_group(group: int) -> Request:
    """Delete all interfaces of a group, which takes little longer than deleting one."""
    return Request(RTM_DELLINK, 0, _link() + _packed([(IFLA["IFLA_GROUP"], group)]))


def add_address(index: int, address: Address) -> Request:
    """An address that stands alone; an IPv6 one is usable at once."""
    flags = NO_DAD if address.version == 6 else 0
    body = struct.pack("=BBBBI", _family(address), address.max_prefixlen, flags, 0, index)
    both: list[Attribute] = [(IFA[name], address.packed) for name in ("IFA_LOCAL", "IFA_ADDRESS")]
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + _packed(both))


def set_neighbour(index: int, address: Address, mac: str) -> Request:
    """A neighbour that is never asked for."""
    body = struct.pack("=BxxxiHBB", _family(address), index, PERMANENT, 0, 0)
    attributes: list[Attribute] = [
        (NDA["NDA_DST"], address.packed),
        (NDA["NDA_LLADDR"], _mac(mac)),
    ]
    return Request(RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body + _packed(attributes))


def set_route(
    index: int, to: Network, gateway: Address | None = None, *, on_link: bool = False
) -> Request:
    """A route of the main table; ``on_link`` is one of link scope."""
    scope = LINK_SCOPE if on_link else 0
    body = struct.pack(
        "=BBBBBBBBI", _family(to), to.prefixlen, 0, 0, MAIN_TABLE, STATIC, scope, UNICAST, 0
    )
    attributes: list[Attribute] = (
        [(RTA["RTA_DST"], to.network_address.packed)] if to.prefixlen else []
    )
    attributes += [(RTA["RTA_GATEWAY"], gateway.packed)] if gateway else []
    return Request(
        RTM_NEWROUTE,
        NLM_F_CREATE | NLM_F_REPLACE,
        body + _packed([*attributes, (RTA["RTA_OIF"], index)]),
    )


def default_routes(ip: Socket) -> set[int]:
    """IP versions for which the main table has a default route."""
    question = Request(RTM_GETROUTE, 0, struct.pack("=BBBBBBBBI", 0, 0, 0, 0, 0, 0, 0, 0, 0))
    found = set()
    for answer in ip.dump(question):
        family, length, _, _, table, _, _, kind = struct.unpack_from("=8B", answer)
        if (length, table, kind) == (0, MAIN_TABLE, UNICAST):
            found.add(4 if family == socket.AF_INET else 6)
    return found


def add_clsact(index: int) -> Request:
    """The qdisc that filters of both directions hang on."""
    body = struct.pack("=BxxxiIII", 0, index, CLSACT_HANDLE, CLSACT, 0)
    return Request(
        RTM_NEWQDISC, NLM_F_CREATE | NLM_F_EXCL, body + _packed([(TCA["TCA_KIND"], "clsact")])
    )


def add_filter(
    index: int,
    parent: int,
    info: int,
    handle: int,
    program: int,
    name: str,
    *,
    replace: bool = False,
) -> Request:
    """A BPF program as a filter that decides by itself; ``info``: priority << 16 | protocol.

    With ``replace`` it takes the place of the one of this handle in one step.
    """
    body = struct.pack("=BxxxiIII", 0, index, handle, parent, info)
    options: list[Attribute] = [
        (BPF["TCA_BPF_FD"], program),
        (BPF["TCA_BPF_NAME"], name),
        (BPF["TCA_BPF_FLAGS"], DIRECT_ACTION),
    ]
    return Request(
        RTM_NEWTFILTER,
        NLM_F_CREATE | (0 if replace else NLM_F_EXCL),
        body + _packed([(TCA["TCA_KIND"], "bpf"), (TCA["TCA_OPTIONS"], options)]),
    )


def set_tbf(index: int, rate: int, burst: int, limit: int) -> Request:
    """A token bucket filter as the queue of an interface, in the place of a plain one.

    ``rate`` in bytes a second; ``burst`` and ``limit`` in bytes: of its bucket, and of all that may
    wait. Where it is there already it changes, and keeps what waits.
    """
    least = min(rate, (1 << 32) - 1)
    spec = struct.pack("=BBHhHI", 0, LINKLAYER_ETHERNET, 0, 0, 0, least)
    options: list[Attribute] = [
        (TBF_PARMS, spec + bytes(12) + struct.pack("=III", limit, 0, 0)),
        (TBF_RATE64, struct.pack("=Q", rate)),
        (TBF_BURST, burst),
    ]
    body = struct.pack("=BxxxiIII", 0, index, TBF_HANDLE, ROOT, 0)
    return Request(
        RTM_NEWQDISC,
        NLM_F_CREATE | NLM_F_REPLACE,
        body + _packed([(TCA["TCA_KIND"], "tbf"), (TCA["TCA_OPTIONS"], options)]),
    )


def has_tbf(ip: Socket, index: int) -> bool:
    """Whether ours is there."""
    question = Request(RTM_GETQDISC, 0, struct.pack("=BxxxiIII", 0, index, 0, 0, 0))
    found = [struct.unpack_from("=iI", answer, 4) for answer in ip.dump(question)]
    return (index, TBF_HANDLE) in found


def delete_tbf(index: int) -> Request:
    """The filter goes, with what waits in it."""
    return Request(RTM_DELQDISC, 0, struct.pack("=BxxxiIII", 0, index, TBF_HANDLE, ROOT, 0))
