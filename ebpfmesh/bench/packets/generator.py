# SPDX-License-Identifier: BSD-2-Clause
"""Packets without a NIC: a generator in the kernel (bpf/bench/generate.c).

BPF_PROG_TEST_RUN with live frames makes the packets. They enter an interface of the host as if its
NIC had received them, or are redirected out of one as an XDP program on the NIC would; they pass
through whatever is attached and configured there, and end in a sink (``packets.sink``).
Everything runs on the caller's core.
"""

import ctypes
import struct
from contextlib import ExitStack
from pathlib import Path
from typing import Literal

from ebpfmesh.bench._abi import Template
from ebpfmesh.bench.packets.frames import Frames
from ebpfmesh.bench.packets.hooks import Hook, build_pinned
from ebpfmesh.kernel import bpf, netns
from ebpfmesh.kernel.interface import LOOPBACK

BATCH = 64
"""Frames the kernel makes before it hands them on."""
MAX_RUN = 1 << 20
"""Frames of one system call."""
Entry = Literal["stack", "redirect", "discard"]
PROGRAMS: dict[Entry, str] = {
    "stack": "bench_generate",
    "redirect": "bench_redirect",
    "discard": "bench_discard",
}
XDP_MD = struct.Struct("=IIIIII")
"""struct xdp_md: data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex."""
ZERO = bytes(4)


class Generator:
    """The generator's programs, loaded and pinned below ``pins`` for as long as ``stack`` lives."""

    def __init__(self, pins: Path, stack: ExitStack) -> None:
        names: dict[str, Hook] = dict.fromkeys(PROGRAMS.values(), "xdp")
        self._fds = build_pinned("generate.c", names, ("bench_template",), pins, stack)
        self._stack = stack
        self._kept: set[Entry] = set()
        self._frame = b""
        self._flows = 1

    def load(self, frames: Frames) -> None:
        """Set what is sent from now on, beginning with number 0 of flow 0."""
        bpf.map_update(self._fds["bench_template"], ZERO, frames.template())
        self._frame, self._flows = frames.first(), frames.flows

    def send(self, ifindex: int, packets: int, entry: Entry = "stack") -> int:
        """Send frames into an interface of the current namespace until the kernel has taken all.

        ``redirect`` sends them on to the ``ifindex`` of the Frames at once, ``discard`` throws
        them away. Returns nanoseconds per frame as the kernel measured the run; it leaves out the
        times the run gave way to others. Raises ValueError beyond MAX_RUN, InterruptedError if a
        signal came; ``sent`` knows how many there were.
        """
        if not 1 <= packets <= MAX_RUN:
            raise ValueError(f"packets: {packets} is not in 1..{MAX_RUN}")
        self.prepare(entry)
        run = bpf.prog_test_run(
            self._fds[PROGRAMS[entry]],
            self._frame,
            context=XDP_MD.pack(0, len(self._frame), 0, ifindex, 0, 0),
            repeat=packets,
            flags=bpf.TEST_XDP_LIVE_FRAMES,
            batch=BATCH,
        )
        return run.duration_ns

    def prepare(self, entry: Entry) -> None:
        """Have the kernel keep its direct call to a program; ``send`` does it by itself.

        Each run would otherwise put the program into the XDP dispatcher and take it out again,
        which waits for a grace period both times: 24 ms instead of 0.03. Attached somewhere it
        stays there; so it is, where no packet ever comes: at the loopback of a namespace that
        nobody can enter and that is gone with this process.
        """
        if entry in self._kept:
            return
        nowhere = self._stack.enter_context(netns.unnamed())
        program = self._fds[PROGRAMS[entry]]
        with netns.entered(nowhere):
            link = bpf.link_create(program, LOOPBACK, bpf.XDP, bpf.XDP_GENERIC)
        self._stack.enter_context(link)
        self._kept.add(entry)

    def sent(self) -> int:
        """Frames made since ``load``."""
        raw = bpf.map_lookup(self._fds["bench_template"], ZERO, ctypes.sizeof(Template)) or b""
        template = Template.from_buffer_copy(raw)
        return template.sequence * self._flows + template.next_flow
