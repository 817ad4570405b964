# SPDX-License-Identifier: BSD-2-Clause
"""A function's interface: a veth pair between its namespace and the host's, without a bridge.

The host side has the same MAC for every function and answers to nothing; inside, the gateway is a
link-local address with a permanent neighbour, so that neither side ever asks by ARP or ND. Each
address stands alone (/32, /128). No link-local IPv6 address is made, and so no MLD or router
solicitation sent. Works from the host's namespace, which is the calling thread's.
"""

import contextlib
import errno
import hashlib
import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.errors import MeshError, NotFound
from ebpfmesh.kernel import netns
from ebpfmesh.model import Address, Function, Mesh

GATEWAY_MAC = "02:eb:9f:00:00:01"
GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"
PERMANENT = 0x80  # NUD_PERMANENT
NO_LINK_LOCAL = 1  # IN6_ADDR_GEN_MODE_NONE
ALIAS = "ebpfmesh:"


@dataclass(frozen=True)
class Plugged:
    """The host-side interface of a function, and the two MACs its packets are checked by."""

    ifindex: int
    mac: str
    gateway: str
    netns: Path
    addresses: tuple[Address, ...] = ()


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


def create(ip: IPRoute, mesh: str, function: str, host: str, namespace: Path) -> Plugged:
    """Make the veth pair, both ends down; the inner one is eth0, or mesh0 where eth0 is taken."""
    with netns.rtnetlink(namespace) as inner:
        name = "mesh0" if inner.link_lookup(ifname="eth0") else "eth0"
    mac = mac_of(mesh, function)
    with namespace.open() as target:
        try:
            ip.link(
                "add", ifname=host, kind="veth", address=GATEWAY_MAC,
                peer={"ifname": name, "net_ns_fd": target.fileno(), "address": mac},
            )  # fmt: skip
        except NetlinkError as error:
            raise MeshError(f"interface {host}: {error}", hint="ip link shows it; gc removes ours") from error
    ifindex = find(ip, host)
    if ifindex is None:
        raise MeshError(f"interface {host} vanished while it was made")
    ip.link("set", index=ifindex, ifalias=alias(mesh, function))
    _no_link_local(ip, ifindex)
    return Plugged(ifindex, mac, GATEWAY_MAC, namespace)


def find(ip: IPRoute, name: str) -> int | None:
    """Index of an interface of this namespace, or None."""
    try:
        return int(ip.link("get", ifname=name)[0]["index"])
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def configure_inside(namespace: Path, mac: str, function: Function, mesh: Mesh) -> None:
    """Addresses, permanent neighbours, routes; loopback and the interface up."""
    with netns.rtnetlink(namespace) as ip:
        index = ip.link_lookup(address=mac)[0]
        _no_link_local(ip, index)
        ip.link("set", index=socket_index(ip, "lo"), state="up")
        ip.link("set", index=index, state="up")
        for address, gateway, prefix in (
            (function.address4, GATEWAY4, mesh.prefix4),
            (function.address6, GATEWAY6, mesh.prefix6),
        ):
            if address is not None:
                _configure_family(ip, index, address, gateway, str(prefix))


def socket_index(ip: IPRoute, name: str) -> int:
    """Index of an interface that is there."""
    return int(ip.link_lookup(ifname=name)[0])


def _configure_family(ip: IPRoute, index: int, address: Address, gateway: str, prefix: str) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    bits = address.max_prefixlen
    no_dad = {"flags": 0x02} if address.version == 6 else {}  # IFA_F_NODAD
    ip.addr("add", index=index, address=str(address), prefixlen=bits, **no_dad)
    ip.neigh("replace", dst=gateway, lladdr=GATEWAY_MAC, ifindex=index, state=PERMANENT)
    if address.version == 4:
        ip.route("replace", dst=f"{gateway}/32", oif=index, scope=253)  # RT_SCOPE_LINK
    # A container that has a way out already keeps it; only the mesh goes through us.
    has_default = any(ip.get_default_routes(family=family))
    ip.route("replace", dst=prefix if has_default else "default", gateway=gateway, oif=index, family=family)


def _no_link_local(ip: IPRoute, index: int) -> None:
    with contextlib.suppress(NetlinkError):  # a kernel without IPv6 makes none anyway
        mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", NO_LINK_LOCAL)]}
        spec = {"attrs": [("AF_INET6", mode)]}
        ip.link("set", index=index, IFLA_AF_SPEC=spec)


def configure_host(ip: IPRoute, ifindex: int, mac: str, addresses: tuple[Address, ...]) -> None:
    """Interface up; the host's own way to the function, by route and permanent neighbour."""
    ip.link("set", index=ifindex, state="up")
    for address in addresses:
        ip.neigh("replace", dst=str(address), lladdr=mac, ifindex=ifindex, state=PERMANENT)
        ip.route("replace", dst=f"{address}/{address.max_prefixlen}", oif=ifindex)


def remove(ip: IPRoute, name: str, expected_alias: str) -> None:
    """Delete an interface of ours; one without our alias is left alone. Twice is fine."""
    index = find(ip, name)
    if index is None:
        return
    link = ip.link("get", index=index)[0]
    if link.get_attr("IFLA_IFALIAS") not in (expected_alias, None):
        return
    with contextlib.suppress(NetlinkError):
        ip.link("del", index=index)


def ours(ip: IPRoute) -> dict[str, str]:
    """Interfaces that carry our alias: name → MESH/FUNCTION."""
    links: Any = ip.get_links()
    return {
        link.get_attr("IFLA_IFNAME"): text.removeprefix(ALIAS)
        for link in links
        if (text := link.get_attr("IFLA_IFALIAS") or "").startswith(ALIAS)
    }


def adopt(ip: IPRoute, name: str) -> Plugged:
    """What is to know of an existing host-side veth: read from it and from its peer."""
    index = find(ip, name)
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
