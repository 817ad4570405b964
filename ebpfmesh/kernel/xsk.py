# SPDX-License-Identifier: BSD-2-Clause
"""AF_XDP: a function's packets in memory that it shares with the kernel.

``attach`` has every frame that comes to the function's own interface, where XDP runs native, go to
the socket in an XSKMAP, or past it to the function's stack while there is none. ``Handed`` makes
such a socket and its memory for a command, which inherits both: neither needs a privilege to be
used. The kernel copies (veth has no zero-copy), and XDP sees whole frames only: the host side of
the pair is told to offer neither checksums nor segmentation, so that the kernel does both before.
libxdp is not used: its dispatcher needs programs of type EXT, which not every kernel has.

Layouts: linux/if_xdp.h; the rules are in linux/Documentation/networking/af_xdp.rst.
"""

import array
import contextlib
import ctypes
import errno
import fcntl
import functools
import mmap
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ebpfmesh.errors import MeshError, MissingPrivilege, NotFound, Unsupported
from ebpfmesh.kernel import bpf, libc, netns, private
from ebpfmesh.model import FRAME

AF_XDP, SOL_XDP = 44, 283
MMAP_OFFSETS, UMEM_REG, MAX_TX_BUDGET = 1, 4, 9
RX_RING, TX_RING, FILL_RING, COMPLETION_RING = 2, 3, 5, 6
AT_FILL = 0x100000000  # XDP_UMEM_PGOFF_FILL_RING
SHARED_UMEM, COPY, NEED_WAKEUP = 1 << 0, 1 << 1, 1 << 3
BUDGET = 256  # packets that one system call sends, of 32 before Linux 6.18
VARIABLE = "EBPFMESH_PORT"
"""What a command knows them by: descriptor of the memory, that of the socket of the first queue,
bytes of a frame; then descriptors of the sockets of other queues. Where the memory is a pool's,
pool:NAME stands in the place of the first."""
SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
SIOCETHTOOL, SET_CHECKSUMS = 0x8946, 0x17  # linux/sockios.h; ETHTOOL_STXCSUM of linux/ethtool.h
XDP_REDIRECT = 4  # linux/bpf.h
RELEASE_SECONDS = 20.0
NEEDED = 'which datapath = "af_xdp" needs'


def _program(xskmap: bpf.Fd) -> bytes:
    """A redirect to what the map has for the packet's queue, or XDP_PASS if that is nothing.

    With a map of its own for each function it is made here, and nothing is compiled.
    """
    instructions = (
        (0x61, 2, 1, 16, 0),  # r2 = ctx->rx_queue_index
        (0x18, 1, 1, 0, xskmap.fileno()),  # r1 = the map
        (0x00, 0, 0, 0, 0),
        (0xB7, 3, 0, 0, 2),  # r3 = XDP_PASS, where the slot is empty
        (0x85, 0, 0, 0, 51),  # BPF_FUNC_redirect_map
        (0x95, 0, 0, 0, 0),
    )
    return b"".join(
        struct.pack("=BBhi", code, to | source << 4, offset, value)
        for code, to, source, offset, value in instructions
    )


@functools.cache
def check_supported() -> None:
    """Raise Unsupported if the kernel has no sockets of this kind, or none that can be handed over.

    Whoever inherits one maps its rings when it is bound, which Linux lets only since 6.4 ("xsk:
    allow remap of fill and/or completion rings"); asked in a namespace that nobody else has.
    """
    try:
        with netns.unnamed() as namespace, netns.entered(namespace), _socket() as one:
            if not _is_mapped_when_bound(one):
                what = "the kernel maps no rings of a bound AF_XDP socket (before Linux 6.4)"
                raise Unsupported(f"{what}, {NEEDED}", hint='another kernel, or datapath = "xdp"')
    except PermissionError as error:
        raise MissingPrivilege("AF_XDP: CAP_NET_RAW is needed", hint="run as root") from error
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT):
            raise
        what = f"the kernel has no AF_XDP sockets (CONFIG_XDP_SOCKETS), {NEEDED}"
        raise Unsupported(what, hint='another kernel, or datapath = "tc"') from error


def _is_mapped_when_bound(one: socket.socket) -> bool:
    with mmap.mmap(-1, FRAME) as memory:
        _register(one, memory)
        for ring in (RX_RING, FILL_RING, COMPLETION_RING):
            one.setsockopt(SOL_XDP, ring, 1)
        _bind(one, (socket.if_nametoindex("lo"), 0), COPY, 0, 0)
    try:
        mmap.mmap(one.fileno(), mmap.PAGESIZE).close()
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return False
    return True


def _register(one: socket.socket, memory: mmap.mmap) -> None:
    """Have a socket's packets be in this memory."""
    start = ctypes.addressof(keep := ctypes.c_char.from_buffer(memory))
    try:
        one.setsockopt(
            SOL_XDP, UMEM_REG, struct.pack("=QQIIII", start, len(memory), FRAME, 0, 0, 0)
        )
    finally:
        del keep


def _socket() -> socket.socket:
    return socket.socket(AF_XDP, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)


def attach(host: int, namespace: Path, inner: str, place: Path, queues: int) -> None:
    """Have frames that come to ``inner`` in a namespace go to sockets; ``host`` is its other end.

    ``place`` is a new directory of a BPF file system, for the pins of map and link. Raises
    Unsupported.
    """
    private.directory(place)
    _complete(host)
    with bpf.map_create(bpf.MAP_TYPE["xskmap"], "mesh_xsk", 4, 4, queues) as xskmap:
        bpf.obj_pin(xskmap, place / "map")
        program = bpf.prog_load(bpf.PROG_TYPE_XDP, "mesh_to_port", _program(xskmap))
        with program, netns.entered(namespace):
            index = socket.if_nametoindex(inner)
            try:
                link = bpf.link_create(program, index, bpf.XDP, bpf.XDP_NATIVE)
            except OSError as error:
                if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                    raise
                what = f"the kernel has no native XDP for veth, {NEEDED}"
                raise Unsupported(what, hint='another kernel, or datapath = "tc"') from error
        with link:
            bpf.obj_pin(link, place / "link")


def _complete(host: int) -> None:
    """Have the kernel complete checksums and cut what is GSO before an interface sends it."""
    name = socket.if_indextoname(host).encode()
    value = ctypes.create_string_buffer(struct.pack("=II", SET_CHECKSUMS, 0))
    request = struct.pack("16sP16x", name, ctypes.addressof(value))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCETHTOOL, request)


def detach(place: Path) -> None:
    """Forget map and link of ``attach``. Twice is fine."""
    shutil.rmtree(place, ignore_errors=True)


def interface(place: Path) -> int:
    """Index, in its namespace, of the interface of ``attach``; 0 if nothing is attached."""
    with contextlib.suppress(FileNotFoundError), bpf.obj_get(place / "link") as link:
        return bpf.link_interface(link)
    return 0


def is_taken(place: Path) -> bool:
    """Whether a socket gets the frames of the first queue; a process has those of all, or none.

    The program of ``attach`` is asked, which redirects nothing then: the kernel tells nobody what
    an XSKMAP has in it.
    """
    try:
        with bpf.obj_get(place / "link") as link, bpf.prog_by_id(bpf.link_program(link)) as program:
            return bpf.prog_test_run(program, bytes(64)).verdict == XDP_REDIRECT
    except FileNotFoundError:
        return False


def lost(host: str, namespace: Path, place: Path) -> int:
    """Frames that could not be given to a function's socket since its interface was made.

    The kernel counts them, at the one end what the other took too slowly, at the other what found
    no free place in the function's memory, or was longer than one (veth_get_stats64() in
    linux/drivers/net/veth.c).
    """
    outside = unsent(host)
    with contextlib.suppress(NotFound, OSError), netns.entered(namespace):
        return outside + _counted(socket.if_indextoname(interface(place)))[CAME_DROPPED]
    return outside


def unsent(host: str) -> int:
    """Frames that an interface could not give to its other end, of those it was to send."""
    return _counted(host)[SENT_DROPPED]


CAME_DROPPED, SENT_DROPPED = 3, 11


def _counted(name: str) -> list[int]:
    """The counters of an interface of this thread's namespace, in the order of proc(5)."""
    lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    found = (line.partition(":") for line in lines)
    rows = (numbers.split() for one, _, numbers in found if one.strip() == name)
    return [int(number) for number in next(rows, ["0"] * 16)]


class Room(NamedTuple):
    """Memory of frames: ``size`` bytes of what a descriptor is of, from byte ``begin`` on.

    ``pool``: what it is called, if others share it.
    """

    memory: int
    begin: int
    size: int
    pool: str = ""


class Handed:
    """Sockets and the memory of their packets, on their way to a command; use ``handed``.

    All queues have one memory, each its own part of it; of a pool's the command itself says which
    places are to be filled, when it knows what it has.
    """

    def __init__(
        self, sockets: Sequence[socket.socket], room: Room, xskmap: bpf.Fd, index: int
    ) -> None:
        self._sockets, self._room, self._map, self._index = sockets, room, xskmap, index

    @property
    def descriptors(self) -> Sequence[int]:
        """What the command inherits."""
        own = () if self._room.pool else (self._room.memory,)
        return *own, *(one.fileno() for one in self._sockets)

    @property
    def env(self) -> dict[str, str]:
        """And the variable that says so."""
        memory = f"pool:{self._room.pool}" if self._room.pool else self._room.memory
        first, *others = (one.fileno() for one in self._sockets)
        return {VARIABLE: " ".join(map(str, (memory, first, FRAME, *others)))}

    def bind(self, seconds: float = RELEASE_SECONDS) -> None:
        """Have packets come. In a process of the function's cgroup, to which the memory is charged.

        OSError or MeshError if that is not possible, as while another has them after so long.
        """
        (memory, begin, size, pool), first = self._room, self._sockets[0]
        with mmap.mmap(memory, size, offset=begin) as shared:
            _register(first, shared)
        part = size // len(self._sockets)
        for queue, one in enumerate(self._sockets):
            if not pool:
                _fill(one, range(queue * part, queue * part + part // 2, FRAME))
            how = (SHARED_UMEM, first.fileno()) if queue else (COPY | NEED_WAKEUP, 0)
            _bind(one, (self._index, queue), *how, seconds)
            bpf.map_update(self._map, struct.pack("=I", queue), struct.pack("=I", one.fileno()))


def _fill(one: socket.socket, frames: Sequence[int]) -> None:
    """Have these places wait for packets, from now on: the first half of a queue's memory."""
    raw = one.getsockopt(SOL_XDP, MMAP_OFFSETS, 128)
    producer, _, start, _ = struct.unpack_from("=4Q", raw, 64)  # of xdp_mmap_offsets.fr
    addresses = array.array("Q", frames).tobytes()
    with mmap.mmap(one.fileno(), start + 2 * len(addresses), offset=AT_FILL) as ring:
        ring[start : start + len(addresses)] = addresses
        struct.pack_into("=I", ring, producer, len(frames))


def _bind(
    one: socket.socket, place: tuple[int, int], flags: int, shared: int, seconds: float
) -> None:
    """A socket of before may hold the queue for a moment after it was closed."""
    address = struct.pack("=HHIII", AF_XDP, flags, *place, shared)
    deadline = time.monotonic() + seconds
    while True:
        try:
            libc.bind(one.fileno(), address)
            return
        except OSError as error:
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                what = f"its AF_XDP socket cannot be bound: {os.strerror(error.errno or 0)}"
                raise MeshError(what) from error
        time.sleep(0.001)


@contextlib.contextmanager
def handed(
    namespace: Path, place: Path, frames: int, queues: int, room: Room | None = None
) -> Iterator[Handed]:
    """A socket for each queue of a function's interface, with room for so many packets.

    Each of its rings has room for them all, so that only memory can be short. Without ``room``
    that is made here, ``frames`` for each queue.
    """
    with contextlib.ExitStack() as stack:
        xskmap = stack.enter_context(bpf.obj_get(place / "map"))
        with netns.entered(namespace):
            sockets = [stack.enter_context(_socket()) for _ in range(queues)]
        for one in sockets:
            for ring in (RX_RING, TX_RING, FILL_RING, COMPLETION_RING):
                one.setsockopt(SOL_XDP, ring, frames)
            with contextlib.suppress(OSError):  # before Linux 6.18
                one.setsockopt(SOL_XDP, MAX_TX_BUDGET, BUDGET)
        room = room or _room(stack, queues * frames * FRAME)
        yield Handed(sockets, room, xskmap, interface(place))


def _room(stack: contextlib.ExitStack, size: int) -> Room:
    """Memory of a function's own, open until ``stack`` ends."""
    memory = os.memfd_create("ebpfmesh-port", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    stack.callback(os.close, memory)
    os.truncate(memory, size)
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
    return Room(memory, 0, size)
