# SPDX-License-Identifier: BSD-2-Clause
"""Offloads of both ends of a veth pair that raw frames go through.

Three things hold there (linux/drivers/net/veth.c):

- A frame that XDP sends into an interface, by XDP_TX at the other end or by a redirect, is taken
  there by NAPI alone: without it the frame is lost (ENXIO). GRO has veth use NAPI, whether XDP runs
  there or not.
- XDP at one end sees what the other sends, and can complete no checksum: it has to be complete.
  Without that offload the kernel completes it first, and cuts what is GSO.
- The offloads of an end are its namespace's to change; none is needed for the host's safety.

So a pair for raw frames has GRO, and no offloaded checksums, at both ends. Works on interfaces of
the calling thread's network namespace.
"""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.ethtool.ioctl import IoctlEthtool, NoSuchDevice, NotSupportedError
from pyroute2.netlink.exceptions import NetlinkError

from ebpfmesh.errors import NotFound
from ebpfmesh.kernel import netns

GRO, CHECKSUMS = "generic-receive-offload", "tx-checksumming"
"""As ethtool calls them, in long."""
MERGED = "rx-gro-hw"  # NETIF_F_GRO_HW: virtio_net has it where its host may send large segments


@dataclass(frozen=True)
class Offloads:
    """What an end has: whether it merges what comes, and leaves checksums of what it sends."""

    gro: bool
    checksums: bool

    def __str__(self) -> str:
        return f"gro {_WORDS[self.gro]} tx {_WORDS[self.checksums]}"


_WORDS = {False: "off", True: "on"}
FOR_FRAMES = Offloads(gro=True, checksums=False)


@dataclass(frozen=True)
class Pair:
    """The offloads of both ends: of the host's, and of the function's own."""

    host: Offloads
    inner: Offloads

    def dump(self) -> str:
        """As text that ``load`` reads."""
        both = (self.host.gro, self.host.checksums, self.inner.gro, self.inner.checksums)
        return "".join(str(int(one)) for one in both)

    @classmethod
    def load(cls, text: str) -> "Pair":
        """What ``dump`` wrote."""
        one, two, three, four = (letter == "1" for letter in text)
        return cls(Offloads(one, two), Offloads(three, four))


@contextlib.contextmanager
def _ethtool(name: str) -> Iterator[Any]:
    with contextlib.closing(IoctlEthtool(name)) as made:
        yield made


def read(name: str) -> Offloads:
    """Of one interface."""
    with _ethtool(name) as ethtool:
        found = ethtool.get_offload_flags()
    return Offloads(gro=found[GRO], checksums=found[CHECKSUMS])


def write(name: str, wanted: Offloads) -> None:
    """To one interface, what of it is otherwise."""
    found = read(name)
    with _ethtool(name) as ethtool:
        if found.checksums != wanted.checksums:
            ethtool.set_offload_flag(CHECKSUMS, int(wanted.checksums))
        if found.gro != wanted.gro:
            ethtool.set_offload_flag(GRO, int(wanted.gro))


def merges(name: str) -> bool:
    """Whether an interface's driver hands on merged segments of TCP; False if there is none."""
    try:
        with _ethtool(name) as ethtool:
            return bool(ethtool.get_features().is_active(MERGED))
    except (NotSupportedError, NoSuchDevice, OSError, KeyError):
        return False


@contextlib.contextmanager
def inner(ip: IPRoute, ifindex: int, namespace: Path) -> Iterator[str]:
    """Name of the other end, in whose namespace the ``with`` block is.

    Raises NotFound if there is none, or not there: its root may have moved it, and the path may be
    that of another namespace by now.
    """
    what = f"the other end of interface number {ifindex} is not in {namespace}"
    try:
        link: Any = ip.link("get", index=ifindex)[0]
        with namespace.open() as target:
            there = ip.get_netnsid(fd=target.fileno()).get("nsid")
    except (NetlinkError, OSError) as error:
        raise NotFound(what, hint="ip link shows it") from error
    peer, nsid = link.get_attr("IFLA_LINK"), link.get_attr("IFLA_LINK_NETNSID")
    if nsid is None or nsid != there:
        raise NotFound(what, hint="has it been moved? ip link shows it")
    with netns.entered(namespace):
        try:
            name = socket.if_indextoname(peer or 0)
        except (OSError, OverflowError) as error:
            raise NotFound(what, hint="has it been moved? ip link shows it") from error
        yield name


def pair(ip: IPRoute, ifindex: int, namespace: Path) -> Pair:
    """Both ends of a pair, given by the host's. Raises NotFound."""
    with inner(ip, ifindex, namespace) as name:
        own = read(name)
    return Pair(read(socket.if_indextoname(ifindex)), own)


def set_pair(ip: IPRoute, ifindex: int, namespace: Path, wanted: Pair) -> None:
    """Have both ends be as wanted. Raises NotFound. Twice is fine."""
    write(socket.if_indextoname(ifindex), wanted.host)
    with inner(ip, ifindex, namespace) as name:
        write(name, wanted.inner)


RIGHT = Pair(FOR_FRAMES, FOR_FRAMES)
"""For raw frames."""
