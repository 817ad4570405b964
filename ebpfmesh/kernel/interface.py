# SPDX-License-Identifier: BSD-2-Clause
"""A function's interface: a veth pair between its namespace and the host's, without a bridge.

The host side has the same MAC for every function and answers to nothing; inside, the gateway is a
link-local address with a permanent neighbour, so that neither side ever asks by ARP or ND. What the
host sends carries the host side's own MAC until mesh_to_fn has let it in: without that program the
function's stack takes it for another's. Each address stands alone (/32,
/128). No link-local IPv6 address is made, and so no router solicitation is sent; the MLD reports of
an IPv6 address are dropped as MULTICAST. Works from the host's namespace, which is the calling
thread's.
"""

import contextlib
import hashlib
import itertools
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fcntl import ioctl
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh import _abi
from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import netns, rtnl
from ebpfmesh.model import Address, Function, Mesh, Network

GATEWAY_MAC = "02:eb:9f:00:00:01"
GATEWAY4 = IPv4Address(_abi.GATEWAY4)
GATEWAY6 = IPv6Address(_abi.GATEWAY6_FIRST << 96 | _abi.GATEWAY6_LAST)
DEFAULT: dict[int, Network] = {4: IPv4Network("0.0.0.0/0"), 6: IPv6Network("::/0")}
LOOPBACK = 1  # its index in every namespace
GROUPS = 0x65620000  # the first interface group that may be ours for a moment
ALIAS = "ebpfmesh:"
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40  # of linux/sockios.h and linux/if.h
ARPHRD_ETHER, IFF_UP = 1, 1
RT_TABLE_MAIN = 254
_NOT_USABLE = {socket.AF_INET: 0, socket.AF_INET6: 0x01 | 0x08 | 0x20 | 0x40}
"""Flags of an address, linux/if_addr.h: temporary, DAD failed, deprecated, tentative."""


@dataclass(frozen=True)
class Plugged:
    """The host-side interface of a function, and the two MACs its packets are checked by."""

    ifindex: int
    mac: str
    gateway: str
    netns: Path
    addresses: tuple[Address, ...] = ()
    inner: str = ""
    """Name of the other end, if it was made by us."""


def host_name(mesh: str, number: int) -> str:
    """Name of the host-side interface of function ``number``; at most 15 characters."""
    return f"em{hashlib.sha256(mesh.encode()).hexdigest()[:4]}.{number}"


def alias(mesh: str, function: str) -> str:
    """What ``ip link`` shows beside the host-side interface; marks it as ours."""
    return f"{ALIAS}{mesh}/{function}"


def mac_of(mesh: str, function: str) -> str:
    """A locally administered MAC (RFC 7042, 2.1) that is always the same for a function."""
    tail = hashlib.sha256(f"{mesh}/{function}".encode()).digest()[:5]
    return ":".join(f"{byte:02x}" for byte in b"\x02" + tail)


def create(mesh: str, function: str, host: str, namespace: Path, *, queues: int = 1) -> Plugged:
    """Make the veth pair, both ends down; the inner one is eth0, or mesh0 where eth0 is taken."""
    mac, inner = mac_of(mesh, function), _free_name(namespace)
    with namespace.open() as target, rtnl.Socket() as ip:
        try:
            ip.do(rtnl.add_veth(host, GATEWAY_MAC, inner, mac, target.fileno(), queues))
        except NetlinkError as error:
            what = f"interface {host} cannot be made: {error.args[1]}"
            raise MeshError(
                what, hint="ip link shows it; ebpfmesh gc removes what is ours"
            ) from error
        ifindex = socket.if_nametoindex(host)
        ip.do(rtnl.set_link(ifindex, alias=alias(mesh, function), link_local=not _has_ipv6()))
    return Plugged(ifindex, mac, GATEWAY_MAC, namespace, inner=inner)


def made(mesh: str, function: str, ifindex: int, namespace: Path) -> Plugged:
    """What ``create`` said of an interface that is there."""
    return Plugged(ifindex, mac_of(mesh, function), GATEWAY_MAC, namespace)


def _free_name(namespace: Path) -> str:
    with netns.entered(namespace):
        return "eth0" if find("eth0") is None else "mesh0"


def find(name: str) -> int | None:
    """Index of an interface of this namespace, or None."""
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return None


@contextlib.contextmanager
def while_there(ifindex: int) -> Iterator[None]:
    """Raise NotFound for what fails because the interface went meanwhile."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        if exists(ifindex):
            raise
        what = f"interface number {ifindex} went while it was being set up"
        raise NotFound(what, hint="who removes it? ip monitor link") from error


def configure_inside(plugged: Plugged, function: Function, mesh: Mesh) -> None:
    """Addresses, permanent neighbours, routes; loopback and the interface up."""
    with while_there(plugged.ifindex), netns.entered(plugged.netns), rtnl.Socket() as ip:
        index = socket.if_nametoindex(plugged.inner)
        ip.do(
            rtnl.set_link(LOOPBACK, up=True),
            rtnl.set_link(index, up=True, link_local=not _has_ipv6()),
        )
        # A container that has a way out already keeps it; only the mesh goes through us.
        taken = rtnl.default_routes(ip)
        for address, gateway, prefix in (
            (function.address4, GATEWAY4, mesh.prefix4),
            (function.address6, GATEWAY6, mesh.prefix6),
        ):
            if address is None:
                continue
            to = prefix if address.version in taken else DEFAULT[address.version]
            try:
                ip.do(*_address_inside(index, address, gateway, to))
            except NetlinkError as error:
                what = f"function {function.name}: {address} cannot be set in {plugged.netns}"
                raise MeshError(
                    f"{what}: {error.args[1]}",
                    hint=f"is IPv{address.version} switched off there, or in use already?",
                ) from error


def _address_inside(
    index: int, address: Address, gateway: Address, to: Network
) -> Iterator[rtnl.Request]:
    yield rtnl.add_address(index, address)
    yield rtnl.set_neighbour(index, gateway, GATEWAY_MAC)
    if address.version == 4:
        yield rtnl.set_route(index, _alone(gateway), on_link=True)
    yield rtnl.set_route(index, to, gateway)


def _alone(address: Address) -> Network:
    return ip_network(address)


def _has_ipv6() -> bool:
    return Path("/proc/sys/net/ipv6").exists()


def configure_host(ifindex: int, mac: str, addresses: tuple[Address, ...]) -> None:
    """Interface up; the host's own way to the function, by route and permanent neighbour."""
    requests = [rtnl.set_link(ifindex, up=True)]
    for address in addresses:
        requests.append(rtnl.set_neighbour(ifindex, address, mac))
        requests.append(rtnl.set_route(ifindex, _alone(address)))
    with while_there(ifindex), rtnl.Socket() as ip:
        ip.do(*requests)


def remove(ip: IPRoute, owners: Mapping[str, str]) -> set[str]:
    """Delete interfaces of ours, given by name with their MESH/FUNCTION; the names that stay.

    One without our alias is left alone. Many go as a group: the kernel waits once for all of them.
    """
    indices = [index for name, owner in owners.items() if (index := _ours(ip, name, owner))]
    with rtnl.Socket() as raw, contextlib.suppress(NetlinkError):
        if len(indices) > 1:
            group = _free_group(ip)
            raw.do(*(rtnl.set_link(index, group=group) for index in indices))
            raw.do(rtnl.delete_group(group))
        elif indices:
            raw.do(rtnl.delete_link(indices[0]))
    return {name for name in owners if find(name) is not None}


def _ours(ip: IPRoute, name: str, owner: str) -> int | None:
    """Index of an interface that carries our alias, or did not get one yet."""
    index = find(name)
    if index is None:
        return None
    try:
        link: Any = ip.link("get", index=index)[0]
    except NetlinkError:  # it went meanwhile: the kernel removes a dead namespace's by and by
        return None
    return index if link.get_attr("IFLA_IFALIAS") in (ALIAS + owner, None) else None


def _free_group(ip: IPRoute) -> int:
    links: Any = ip.get_links()
    taken = {link.get_attr("IFLA_GROUP") for link in links}
    return next(group for group in itertools.count(GROUPS) if group not in taken)


def ours(ip: IPRoute, unnamed: str = "") -> dict[str, str]:
    """Interfaces that carry our alias: name → MESH/FUNCTION.

    And those of the mesh ``unnamed`` that did not get theirs yet, known by their names alone.
    """
    links: Any = ip.get_links()
    found, prefix = {}, host_name(unnamed, 0).removesuffix("0")
    for link in links:
        name, text = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_IFALIAS")
        if text and text.startswith(ALIAS):
            found[name] = text.removeprefix(ALIAS)
        elif unnamed and not text and name.startswith(prefix):
            found[name] = f"{unnamed}/"
    return found


def exists(ifindex: int) -> bool:
    """Whether there is an interface of this index here."""
    try:
        return bool(socket.if_indextoname(ifindex))
    except (OSError, OverflowError):
        return False


def set_down(ifindex: int) -> str:
    """Have an interface carry nothing any more; its name."""
    with rtnl.Socket() as ip:
        ip.do(rtnl.set_link(ifindex, down=True))
    return socket.if_indextoname(ifindex)


def without_carrier(ip: IPRoute) -> frozenset[int]:
    """Indices of interfaces that are down, or whose other end is."""
    links: Any = ip.get_links()
    return frozenset(link["index"] for link in links if link.get_attr("IFLA_CARRIER") == 0)


@dataclass(frozen=True)
class Outer:
    """An interface of the host's: whether it has Ethernet frames, and its usable addresses.

    ``kind`` is that of a virtual one, such as veth. IPv4 first, in the kernel's order; none that is
    link-local, deprecated, temporary (RFC 8981) or not yet known to be free.
    """

    ethernet: bool
    alias: str
    up: bool
    mtu: int
    addresses: tuple[Address, ...]
    kind: str


def outer(ip: IPRoute, ifindex: int) -> Outer:
    """What there is to know of an interface of the host's."""
    link: Any = ip.link("get", index=ifindex)[0]
    rows: Any = ip.get_addr(index=ifindex)
    found = [
        _address(row.get_attr("IFA_LOCAL") or row.get_attr("IFA_ADDRESS"))
        for row in rows
        if row["scope"] == 0 and not (row.get_attr("IFA_FLAGS") or 0) & _NOT_USABLE[row["family"]]
    ]
    return Outer(
        ethernet=link["ifi_type"] == ARPHRD_ETHER and bool(link.get_attr("IFLA_ADDRESS")),
        alias=link.get_attr("IFLA_IFALIAS") or "",
        up=bool(link["flags"] & IFF_UP) and link.get_attr("IFLA_CARRIER") != 0,
        mtu=link.get_attr("IFLA_MTU"),
        addresses=tuple(sorted(found, key=lambda one: one.version)),
        kind=about.get_attr("IFLA_INFO_KIND") if (about := link.get_attr("IFLA_LINKINFO")) else "",
    )


def local(ip: IPRoute) -> set[Address]:
    """All addresses of the host, of whichever interface."""
    rows: Any = ip.get_addr()
    return {_address(row.get_attr("IFA_LOCAL") or row.get_attr("IFA_ADDRESS")) for row in rows}


def kind(ifindex: int) -> str:
    """What a virtual interface is, such as veth; empty for others, and where there is none."""
    try:
        with IPRoute() as ip:
            link: Any = ip.link("get", index=ifindex)[0]
    except NetlinkError:
        return ""
    about = link.get_attr("IFLA_LINKINFO")
    return str(about.get_attr("IFLA_INFO_KIND")) if about else ""


def gateways(ip: IPRoute, ifindex: int) -> list[Address]:
    """Whom the host's routes send by an interface, each once."""
    found = {}
    for family in (socket.AF_INET, socket.AF_INET6):
        rows: Any = ip.get_routes(family=family, oif=ifindex, table=RT_TABLE_MAIN)
        for row in rows:
            if row.get_attr("RTA_OIF") == ifindex and (text := row.get_attr("RTA_GATEWAY")):
                found[_address(text)] = True
    return list(found)


def route_to(ip: IPRoute, address: Address) -> tuple[int, Address | None] | None:
    """Where the host sends to an address: interface, and router if there is one; None: nowhere."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        rows: Any = ip.route("get", dst=str(address), family=family)
    except NetlinkError:
        return None
    router = rows[0].get_attr("RTA_GATEWAY")
    return rows[0].get_attr("RTA_OIF") or 0, _address(router) if router else None


def runs(asked: socket.socket, name: str) -> bool | None:
    """Whether an interface and its other end are up; None if there is none of this name.

    For who asks often: a microsecond, by any socket of the namespace (netdevice(7)).
    """
    try:
        found = ioctl(asked, SIOCGIFFLAGS, struct.pack("16sH14x", name.encode(), 0))
    except OSError:
        return None
    return bool(struct.unpack_from("16xH", found)[0] & IFF_RUNNING)


def frames() -> dict[str, tuple[int, int]]:
    """Frames that came out of each interface here, and that were sent into it (proc(5)).

    Of a host-side veth: what the function sent, and what the host's stack sent to it; one for a GSO
    packet, and nothing for what is redirected into the function.
    """
    text = Path("/proc/thread-self/net/dev").read_text()
    rows = (line.split(None, 11) for line in text.splitlines()[2:])
    return {row[0][:-1]: (int(row[2]), int(row[10])) for row in rows}


def adopt(ip: IPRoute, name: str) -> Plugged:
    """What is to know of an existing host-side veth: read from it and from its peer."""
    index = find(name)
    if index is None:
        raise NotFound(f"there is no interface {name} here", hint="ip link lists them")
    link = ip.link("get", index=index)[0]
    peer, nsid = link.get_attr("IFLA_LINK"), link.get_attr("IFLA_LINK_NETNSID")
    if peer is None or nsid is None:
        what = f"interface {name} is not a veth whose other end is in a container"
        raise NotFound(what, hint="name the host side of a veth pair")
    namespace = _namespace_of(ip, nsid, name)
    with netns.rtnetlink(namespace) as inner:
        mac = inner.link("get", index=peer)[0].get_attr("IFLA_ADDRESS")
        found = [row.get_attr("IFA_ADDRESS") for row in inner.get_addr(index=peer)]
    addresses = tuple(_address(text) for text in found if not text.startswith("fe80:"))
    return Plugged(index, mac, link.get_attr("IFLA_ADDRESS"), namespace, addresses)


def _address(text: str) -> Address:
    return IPv6Address(text) if ":" in text else IPv4Address(text)


def _namespace_of(ip: IPRoute, nsid: int, interface: str) -> Path:
    """The namespace the kernel calls ``nsid`` here: looked for among names and processes."""
    places = [*netns.RUN.glob("*"), *Path("/proc").glob("[0-9]*/ns/net")]
    for place in places:
        with contextlib.suppress(OSError, NetlinkError), place.open() as target:
            reply = ip.get_netnsid(fd=target.fileno())
            if reply.get("nsid") == nsid:
                return place
    raise NotFound(
        f"interface {interface}: the namespace of its other end has no process and no name",
        hint="attach by --netns PATH instead",
    )
