# SPDX-License-Identifier: BSD-2-Clause
"""A function's interface: a veth pair between its namespace and the host's, without a bridge.

The host side has the same MAC for every function and answers to nothing; inside, the gateway is a
link-local address with a permanent neighbour, so that neither side ever asks by ARP or ND. Each
address stands alone (/32, /128). No link-local IPv6 address is made, and so no router solicitation
is sent; the MLD reports of an IPv6 address are dropped as MULTICAST. Works from the host's
namespace, which is the calling thread's.
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
from ebpfmesh.model import Address, Function, Mesh, Network

GATEWAY_MAC = "02:eb:9f:00:00:01"
GATEWAY4, GATEWAY6 = "169.254.1.1", "fe80::1"
LOOPBACK = 1  # its index in every namespace
PERMANENT = 0x80  # NUD_PERMANENT
IFA_F_NODAD = 0x02
RT_SCOPE_LINK = 253
IN6_ADDR_GEN_MODE_NONE = 1
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
    mac = mac_of(mesh, function)
    with namespace.open() as target:
        try:
            ip.link(
                "add", ifname=host, kind="veth", address=GATEWAY_MAC,
                peer={
                    "ifname": _free_name(namespace),
                    "net_ns_fd": target.fileno(),
                    "address": mac,
                },
            )  # fmt: skip
        except NetlinkError as error:
            what = f"interface {host} cannot be made: {error.args[1]}"
            raise MeshError(
                what, hint="ip link shows it; ebpfmesh gc removes what is ours"
            ) from error
    ifindex = socket.if_nametoindex(host)
    ip.link("set", index=ifindex, ifalias=alias(mesh, function), **_no_link_local())
    return Plugged(ifindex, mac, GATEWAY_MAC, namespace)


def _free_name(namespace: Path) -> str:
    with netns.entered(namespace):
        return "mesh0" if "eth0" in (name for _, name in socket.if_nameindex()) else "eth0"


def find(ip: IPRoute, name: str) -> int | None:
    """Index of an interface of this namespace, or None."""
    try:
        return int(ip.link("get", ifname=name)[0]["index"])
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def configure_inside(namespace: Path, function: Function, mesh: Mesh) -> None:
    """Addresses, permanent neighbours, routes; loopback and the interface up."""
    with netns.rtnetlink(namespace) as ip:
        index = ip.link_lookup(address=mac_of(mesh.name, function.name))[0]
        ip.link("set", index=LOOPBACK, state="up")
        ip.link("set", index=index, state="up", **_no_link_local())
        for address, gateway, prefix in (
            (function.address4, GATEWAY4, mesh.prefix4),
            (function.address6, GATEWAY6, mesh.prefix6),
        ):
            if address is None:
                continue
            try:
                _address_inside(ip, index, address, gateway, prefix)
            except NetlinkError as error:
                what = f"function {function.name}: {address} cannot be set in {namespace}"
                raise MeshError(
                    f"{what}: {error.args[1]}",
                    hint=f"is IPv{address.version} switched off there, or in use already?",
                ) from error


def _address_inside(
    ip: IPRoute, index: int, address: Address, gateway: str, prefix: Network
) -> None:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    # A container that has a way out already keeps it; only the mesh goes through us.
    has_default = any(ip.get_default_routes(family=family))
    no_dad = {"flags": IFA_F_NODAD} if address.version == 6 else {}
    ip.addr("add", index=index, address=str(address), prefixlen=address.max_prefixlen, **no_dad)
    ip.neigh("replace", dst=gateway, lladdr=GATEWAY_MAC, ifindex=index, state=PERMANENT)
    if address.version == 4:
        ip.route("replace", dst=f"{gateway}/32", oif=index, scope=RT_SCOPE_LINK)
    to = str(prefix) if has_default else "default"
    ip.route("replace", dst=to, gateway=gateway, oif=index, family=family)


def _no_link_local() -> dict[str, Any]:
    """What a link message says to have no link-local IPv6 address made."""
    if not Path("/proc/sys/net/ipv6").exists():
        return {}
    mode = {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", IN6_ADDR_GEN_MODE_NONE)]}
    return {"IFLA_AF_SPEC": {"attrs": [("AF_INET6", mode)]}}


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
