# SPDX-License-Identifier: BSD-2-Clause
"""The benchmark's own programs: compiled, pinned for as long as a stack lives, and attached."""

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal, TypeAlias

from ebpfmesh.bench.topology import attach_at
from ebpfmesh.compile import build
from ebpfmesh.compile.source import bpf_dir
from ebpfmesh.errors import ForeignProgram, NotFound
from ebpfmesh.kernel import bpf, netns
from ebpfmesh.kernel.programs import Program

Hook = Literal["tc", "xdp"]
Place: TypeAlias = tuple[Path, str]
"""A network namespace and the name of an interface in it."""


def build_pinned(
    source: str,
    programs: Mapping[str, Hook],
    tables: Sequence[str],
    pins: Path,
    stack: ExitStack,
    defines: Mapping[str, str] | None = None,
) -> dict[str, bpf.Fd]:
    """Compile, load and pin programs of bpf/bench and their maps: all of them, open, by name.

    Pins and descriptors go with ``stack``.
    """
    build.build(
        bpf_dir() / "bench" / source,
        [Program(name, hook) for name, hook in programs.items()],
        pin_to=pins,
        defines=defines or {},
        pin_maps=tables,
    )
    for name in (*programs, *tables):
        stack.callback((pins / name).unlink)
    return {name: stack.enter_context(bpf.obj_get(pins / name)) for name in (*programs, *tables)}


@contextmanager
def put_on(places: Iterable[Place], program: bpf.Fd, hook: Hook, pin: Path) -> Iterator[None]:
    """Keep a program at tc ingress or XDP of interfaces while the block runs.

    ``pin`` is where links at tc go, with a number behind it. Raises NotFound without the
    interface, ForeignProgram where another XDP program is.
    """
    with ExitStack() as stack:
        for number, (namespace, name) in enumerate(places):
            with netns.entered(namespace):
                ifindex = index_of(name, namespace)
                if hook == "xdp":
                    stack.enter_context(_attach_xdp(program, ifindex, name))
            if hook == "tc":
                attach_at(namespace, ifindex, program, Path(f"{pin}{number}"), stack)
        yield


def index_of(name: str, namespace: Path) -> int:
    """Index of an interface of the calling thread's namespace, which is ``namespace``."""
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        where = "here" if namespace == netns.OWN else f"in {namespace}"
        raise NotFound(
            f"there is no interface {name} {where}", hint="ip link, or ip -n NETNS link, lists them"
        ) from error


def _attach_xdp(program: bpf.Fd, ifindex: int, name: str) -> bpf.Fd:
    """A link that detaches when it is closed."""
    try:
        return bpf.link_create(program, ifindex, bpf.XDP)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EEXIST):
            raise
        raise ForeignProgram(
            f"interface {name} has an XDP program already", hint="ip link set dev IFACE xdp off"
        ) from error
