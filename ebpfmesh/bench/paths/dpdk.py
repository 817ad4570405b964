# SPDX-License-Identifier: BSD-2-Clause
"""DPDK as a path: testpmd takes frames from one veth and sends them out of another.

What a veth lets it have are the drivers net_af_packet and net_af_xdp; both copy each packet, and
neither is what DPDK is made for, a driver that polls a NIC. net_null is testpmd by itself: frames
that nobody made go nowhere. It has no services and no policy.
"""

import os
import re
import shutil
import subprocess
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from ebpfmesh.bench import tools
from ebpfmesh.bench.paths.base import DataPath, counted
from ebpfmesh.bench.topology import INSIDE, Member, build_host, set_offload
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns

TESTPMD = "dpdk-testpmd"
HINT = "scripts/setup.sh dpdk"
MEMORY = 512
"""MiB that it is given, of ordinary pages."""
BUFFERS = 32768
READY_SECONDS = 60.0
PROMPT = "testpmd> "


class Testpmd:
    """A testpmd that forwards between two devices on the last core, and can be asked."""

    def __init__(
        self,
        namespace: Path,
        devices: list[str],
        peers: Sequence[str],
        label: str,
        stack: ExitStack,
    ) -> None:
        self._output: BinaryIO = stack.enter_context(tempfile.TemporaryFile())  # noqa: SIM115
        reader, self._input = os.pipe()
        stack.callback(os.close, self._input)
        cores = os.sched_getaffinity(0)
        command = [
            "stdbuf", "--output=L",  # or nothing is told before it ends
            TESTPMD, f"--lcores=0@{min(cores)},1@{max(cores)}", "--no-huge", f"-m{MEMORY}",
            "--no-pci", "--no-telemetry", f"--file-prefix={label}",
            *(f"--vdev={device}" for device in devices),
            "--", "--interactive", "--forward-mode=mac", "--no-lsc-interrupt",
            f"--total-num-mbufs={BUFFERS}",
            *(f"--eth-peer={port},{mac}" for port, mac in enumerate(peers)),
        ]  # fmt: skip
        with netns.entered(namespace):
            self._process = subprocess.Popen(
                [*tools.DIES_WITH_US, *command],
                stdin=reader, stdout=self._output, stderr=subprocess.STDOUT,
            )  # fmt: skip
        os.close(reader)
        stack.callback(self._stop)
        self._read = 0
        self._await(PROMPT)

    @contextmanager
    def forwarding(self) -> Iterator[None]:
        """Have it forward while the block runs: else its core is free for what else is measured."""
        self.ask("start")
        try:
            yield
        finally:
            self.ask("stop")

    @property
    def process(self) -> int:
        """Its id."""
        return self._process.pid

    def ask(self, command: str) -> str:
        """What it says to a command."""
        os.write(self._input, f"{command}\n".encode())
        return self._await(PROMPT)

    def sent(self) -> int:
        """Packets that it has sent, out of both devices."""
        found = re.findall(r"TX-packets: (\d+)", self.ask("show port stats all"))
        if len(found) != 2:
            raise CommandFailed(f"{TESTPMD} does not tell what it sent")
        return sum(map(int, found))

    def _await(self, text: str) -> str:
        """What was written since, to the end of ``text``."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            size = os.fstat(self._output.fileno()).st_size
            said = os.pread(self._output.fileno(), size - self._read, self._read).decode()
            if text in said:
                end = said.index(text) + len(text)
                self._read += len(said[:end].encode())
                return said[:end]
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise CommandFailed(f"{TESTPMD}: {tools.tail(self._output.fileno())}")
            time.sleep(0.01)

    def _stop(self) -> None:
        """End it by asking; it takes its XDP programs along then."""
        with suppress(subprocess.TimeoutExpired, BrokenPipeError):
            os.write(self._input, b"quit\n")
            self._process.wait(tools.READY_SECONDS)
        tools.stop(self._process)


class Dpdk(DataPath):
    """What the paths with testpmd have in common."""

    has_services = False

    @classmethod
    def missing(cls) -> str:
        """See DataPath."""
        if shutil.which(TESTPMD) is None:
            return f"{TESTPMD} is missing: {HINT}"
        return ""

    def processes(self) -> tuple[int, ...]:
        """See DataPath."""
        return (self.testpmd.process,)

    testpmd: Testpmd


class DpdkWire(Dpdk):
    """Between the uplink and the first backend's veth."""

    carries = frozenset({"wire"})

    @abstractmethod
    def _device(self, number: int, interface: str) -> str:
        """A device of testpmd's that has an interface."""

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack, forwarding=False)
        receiver = self.receivers("pps")[0]
        set_offload(receiver.netns, INSIDE, "rx-gro", on=True)  # or nothing counts at the veth
        names = self.wire[1], self.host.interface(receiver)
        devices = [self._device(*pair) for pair in enumerate(names)]
        peers = self.client.mac, receiver.mac
        self.testpmd = Testpmd(self.host.netns, devices, peers, self.label, stack)

    def receivers(self, traffic: str) -> list[Member]:
        """See DataPath."""
        return super().receivers(traffic)[:1]

    def packets(self) -> int:
        """See DataPath; what came out of the receiver's interface: the host does not forward."""
        return counted(self.receivers("pps")[0].netns, "rx", [INSIDE])


class DpdkAfPacket(DpdkWire):
    """With a packet socket and rings that the kernel shares (TPACKET_V2)."""

    name = "dpdk-af-packet"

    def _device(self, number: int, interface: str) -> str:
        return f"net_af_packet{number},iface={interface},framecnt=4096,blocksz=4096,framesz=2048"

    def describe(self) -> str:
        """See DataPath."""
        return "testpmd forwards from the uplink's veth to the function's, by packet sockets"


class DpdkAfXdp(DpdkWire):
    """With AF_XDP, in copy mode: a veth has no other."""

    name = "dpdk-af-xdp"

    def _device(self, number: int, interface: str) -> str:
        return f"net_af_xdp{number},iface={interface}"

    def describe(self) -> str:
        """See DataPath."""
        return "testpmd forwards from the uplink's veth to the function's, by AF_XDP"


class DpdkNull(Dpdk):
    """Testpmd's own limit: no packet is real, and no kernel is asked."""

    name = "dpdk-null"
    carries = frozenset({"itself"})

    def build(self, stack: ExitStack) -> None:
        """See DataPath."""
        self.host = build_host(self.label, self.filled(), stack, forwarding=False)
        self.testpmd = Testpmd(self.host.netns, ["net_null0", "net_null1"], (), self.label, stack)

    def describe(self) -> str:
        """See DataPath."""
        return "testpmd forwards between two devices that make frames up and throw them away"

    def packets(self) -> int:
        """See DataPath."""
        return self.testpmd.sent()
