# SPDX-License-Identifier: BSD-2-Clause
"""The generator by itself, for `ebpfmesh bench generate`: frames into any interface, and a report.

Its pins stand in a mount namespace of this process and its programs hang on descriptors, so that
nothing is left however the process ends; only where the kernel has no TCX does a sink's filter
stay after SIGKILL.
"""

import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.rtnl.ifinfmsg import IFF_UP

from ebpfmesh.bench.packets.frames import Frames, Protocol, least_size
from ebpfmesh.bench.packets.generator import MAX_RUN, Entry, Generator
from ebpfmesh.bench.packets.hooks import Place, index_of
from ebpfmesh.bench.packets.paced import Pace, running
from ebpfmesh.bench.packets.sink import Checker, Report, drained
from ebpfmesh.bench.tools import one_core
from ebpfmesh.bench.workload import Target
from ebpfmesh.errors import MeshError, NotFound, UsageError
from ebpfmesh.kernel import interface, netns
from ebpfmesh.kernel.pins import BPFFS
from ebpfmesh.model import Address

VIRTUAL = ("veth", "tun", "netkit")
"""Kinds of interfaces that lead to containers, not to a network."""
NOBODY = "02:eb:9f:00:00:fe"
"""Source of frames into an interface whose other end is not to be found."""
FIRST = Path("/proc/1/ns/net")

FIRST_RUN = 4096
RUN_SECONDS = 0.1
"""What a system call should take, so that time is kept and Ctrl-C is heard."""
Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Request:
    """What to send, into which interface, until when, and where to look what arrives.

    It ends after ``count`` frames or ``seconds``, whichever is first. ``rate`` is in frames per
    second, None as fast as it goes; ``size`` None is the smallest that can be checked.
    ``check_port`` is the port frames arrive at, where that is another than the target's.
    """

    device: str
    source: Address
    target: Target
    netns: Path | None = None
    flows: int = 1
    size: int | None = None
    protocol: Protocol = "udp"
    count: int = 1_000_000
    seconds: float = 10.0
    rate: float | None = None
    source_mac: str | None = None
    target_mac: str | None = None
    redirect: str | None = None
    check: tuple[Place, ...] = ()
    check_port: int | None = None
    force: bool = False


@dataclass(frozen=True)
class Outcome:
    """What was sent in how long, and what became of it if somebody looked.

    ``ns_per_frame`` is what the kernel measured, the whole way of a frame on that core included;
    None where frames had to wait for their time.
    """

    sent: int
    size: int
    seconds: float
    ns_per_frame: float | None
    report: Report | None


@dataclass(frozen=True)
class Device:
    """The interface frames enter, as its namespace has it."""

    index: int
    mac: str
    peer_mac: str | None
    mtu: int
    kind: str | None
    up: bool


def generate(request: Request, tell: Tell) -> Outcome:
    """Send what is asked for; the process gets a mount namespace of its own.

    ``tell`` is called with what was done so far. Raises UsageError for what cannot be sent or
    should not be: into the machine's own interfaces, unless ``force``.
    """
    where = request.netns or netns.OWN
    with netns.entered(where), netns.rtnetlink() as ip:
        device = look_up(ip, request.device, where)
        out = index_of(request.redirect, where) if request.redirect else 0
    if not request.force:
        refuse_outside(request.device, device.kind, initial=_is_initial(where))
    if not device.up:
        hint = f"ip link set {request.device} up"
        raise MeshError(f"interface {request.device} is down", hint=hint)
    frames = frames_of(request, device, out)
    entry: Entry = "redirect" if request.redirect else "stack"
    netns.own_pins()
    pins = BPFFS / "bench_generate"
    pins.mkdir()
    with ExitStack() as stack:
        tell("compiling")
        generator = Generator(pins, stack)
        generator.load(frames)
        checker = None
        if request.check:
            port = request.check_port or request.target.port
            checker = Checker(port, frames.targets, frames.flows, pins, stack)
            stack.enter_context(checker.on(request.check, "xdp" if out else "tc"))
        stack.enter_context(netns.entered(where))
        begin = time.monotonic()
        send = _at_once if request.rate is None else _paced
        nanoseconds = send(generator, device.index, request, entry, tell)
        seconds, sent = time.monotonic() - begin, generator.sent()
        if checker:
            drained(checker.packets, sent)
        report = checker.report(sent) if checker else None
    return Outcome(sent, frames.size, seconds, nanoseconds, report)


def look_up(ip: IPRoute, name: str, namespace: Path) -> Device:
    """What is to know of an interface of the calling thread's namespace; NotFound without it."""
    link: Any = ip.link("get", index=index_of(name, namespace))[0]
    info = link.get_attr("IFLA_LINKINFO")
    return Device(
        index=link["index"],
        mac=link.get_attr("IFLA_ADDRESS") or NOBODY,
        peer_mac=_peer_mac(ip, link, name),
        mtu=link.get_attr("IFLA_MTU"),
        kind=info.get_attr("IFLA_INFO_KIND") if info else None,
        up=bool(link["flags"] & IFF_UP),
    )


def _peer_mac(ip: IPRoute, link: Any, name: str) -> str | None:
    """MAC of a veth's other end, wherever it is; None if it is not to be found."""
    peer = link.get_attr("IFLA_LINK")
    if peer is None:
        return None
    if link.get_attr("IFLA_LINK_NETNSID") is None:
        return str(ip.link("get", index=peer)[0].get_attr("IFLA_ADDRESS"))
    try:
        return interface.adopt(ip, name).mac
    except NotFound:
        return None


def _is_initial(namespace: Path) -> bool:
    """Whether a namespace is that of the first process; so it may be where that is not told."""
    try:
        return netns.inode(namespace) == netns.inode(FIRST)
    except NotFound:
        return True


def refuse_outside(name: str, kind: str | None, *, initial: bool) -> None:
    """Raise UsageError for an interface of the initial namespace that may lead to a network."""
    if initial and kind not in VIRTUAL:
        raise UsageError(
            f"{name} ({kind or 'a device'}) is the machine's own, not a container's",
            hint="send in a namespace made for it (--netns), or insist with --force",
        )


def frames_of(request: Request, device: Device, out: int) -> Frames:
    """What is sent; UsageError for what cannot be."""
    version = request.source.version
    size = request.size or least_size(version, request.protocol, tagged=True)
    if size > device.mtu + 14:
        raise UsageError(
            f"frames of {size} bytes do not come out of {request.device}: its MTU is {device.mtu}",
            hint=f"at most {device.mtu + 14} with the Ethernet header, or raise the MTU",
        )
    try:
        frames = Frames(
            source_mac=request.source_mac or device.peer_mac or NOBODY,
            target_mac=request.target_mac or device.mac,
            source=request.source,
            target=request.target,
            flows=request.flows,
            size=size,
            protocol=request.protocol,
            ifindex=out,
        )
    except ValueError as error:
        raise UsageError(str(error), hint="ebpfmesh bench generate --help") from error
    if request.check and not frames.tagged:
        least = least_size(version, request.protocol, tagged=True)
        raise UsageError(
            f"frames of {size} bytes have no room for a number to be checked by",
            hint=f"--size {least} or more, or no --check",
        )
    return frames


def _at_once(
    generator: Generator, ifindex: int, request: Request, entry: Entry, tell: Tell
) -> float | None:
    """Send as fast as it goes, in runs of about RUN_SECONDS; nanoseconds per frame."""
    end, run, sent, spent = time.monotonic() + request.seconds, FIRST_RUN, 0, 0
    with one_core():
        while sent < request.count and time.monotonic() < end:
            try:
                nanoseconds = generator.send(ifindex, min(run, request.count - sent), entry)
            except InterruptedError:  # stopped by Ctrl-Z, and going on
                continue
            finally:
                before, sent = sent, generator.sent()
            spent += (sent - before) * nanoseconds
            run = min(max(round(RUN_SECONDS * 1e9 / max(nanoseconds, 1)), 1), MAX_RUN)
            tell(f"{sent} of {request.count} frames")
    return spent / sent if sent else math.nan


def _paced(
    generator: Generator, ifindex: int, request: Request, entry: Entry, tell: Tell
) -> float | None:
    """Send at the rate asked for."""
    try:
        pace = Pace.at_rate(request.rate or 1, seconds=request.seconds, frames=request.count)
    except ValueError as error:
        raise UsageError(str(error), hint="ebpfmesh bench generate --help") from error
    with running(generator, ifindex, pace, entry=entry) as traffic:
        while not traffic.wait(RUN_SECONDS):
            tell(f"{generator.sent()} of {request.count} frames")
    return None
