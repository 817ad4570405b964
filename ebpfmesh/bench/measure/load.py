# SPDX-License-Identifier: BSD-2-Clause
"""The CPU a path takes at a load that is offered to it, and while nothing is sent.

    iperf3 -u on the first core ─▶ path ─▶ iperf3 -s on the last core

iperf3 paces datagrams by a timer that by default ticks a thousand times a second, also for ten
datagrams: 2.7 % of a core at 100 kb/s, against 0.1 % with a timer that ticks once per datagram, as
here down to LEAST_TIMER_US. Beyond that a tick sends several, without asking the clock between.

The figure is the CPU time of all that the load keeps at work: the sender, the receiver, the path's
own processes, with the softirqs they raise, and of ksoftirqd what comes on top of a window in which
nothing is sent. ``cputime`` says why processes' clocks are read. Everything is the same for
all paths but the path. In the windows nobody starts or ends, and they begin and end when
a datagram has arrived, so that few of them are counted exactly.
"""

import json
import math
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from ebpfmesh.bench import cputime, tools, workload
from ebpfmesh.bench.measure import traffic
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.errors import CommandFailed

LENGTH = 1400
"""Bytes of data in a datagram."""
BUFFER = 212992
"""Bytes of a socket; Linux allows as much by default, and doubles it."""
LEAST_TIMER_US, MOST_TIMER_US = 500, 60_000_000
MOST_BURST = 1000
"""iperf3's MAX_BURST."""
IDLE_PART = 0.3
"""Length of the window before anything is sent, of that of the load."""
SETTLE_SECONDS = 0.1
"""From the first datagrams until the window begins: a path learns of the flow, caches fill."""
START_SECONDS = 20.0
POLL_SECONDS = 0.0005
FIRST = 2
"""Datagrams until the load has begun; one is iperf3's greeting."""
SHARED = "ksoftirqd"


@dataclass(frozen=True)
class _Reading:
    """What was counted up to a time, in ns."""

    at: int
    used: Mapping[str, int]
    sent: int
    received: int


@dataclass(frozen=True)
class Window:
    """What was used in a window, in cores by who used it, and datagrams in it.

    ``machine`` is all that was busy, but for this process.
    """

    seconds: float
    cores: Mapping[str, float]
    machine: float
    sent: int
    received: int
    stat: tuple[list[str], list[str]]
    """/proc/stat before and after, in hundredths of a second."""

    @property
    def own(self) -> float:
        """Cores that the processes of the measurement used."""
        return sum(used for name, used in self.cores.items() if name != SHARED)

    def rate(self, datagrams: int) -> float:
        """Bits of data per second."""
        return datagrams * LENGTH * 8 / self.seconds


def measure(path: DataPath, seconds: float, *, load: int) -> Sample:
    """CPU used while ``load`` bits per second of data are offered, in % of one core.

    Besides "load-idle", the same before anything is sent; "load-received", the bits per second
    that arrived; "load-machine", what the machine took more than before, of whatever: the figure
    must not be far from it on a machine that does nothing else.
    """
    (receiver,), port = path.receivers("load"), workload.backend_target(path.mesh, "load").port
    command = traffic.SERVERS["load"](receiver, port, Path())
    with tools.server(command, receiver.netns, port) as listening:
        groups = {
            "receiver": (listening.pid,),
            "path": path.processes(),
            SHARED: tuple(cputime.ksoftirqd().values()),
        }
        idle = _Watch(groups, listening.pid).window(seconds * IDLE_PART, 0)
        loaded, said = _offer(path, seconds, load, groups, listening.pid)
    return _sample(idle, loaded, said)


def _offer(
    path: DataPath, seconds: float, load: int, groups: Mapping[str, tuple[int, ...]], receiver: int
) -> tuple[Window, str]:
    """A window while a load is offered, and what the sender printed."""
    interval = LENGTH * 8 / load
    arrived = _datagrams(receiver, "InDatagrams")
    with tempfile.TemporaryFile("w+") as output:
        bound = 2 * seconds + 8 * interval + START_SECONDS
        with _sender(path, load, bound, output.fileno()) as sender:
            watch = _Watch({"sender": (sender.pid,), **groups}, receiver, sender.pid)
            if not watch.wait(arrived + FIRST, START_SECONDS + 2 * interval):
                what = f"{FIRST} datagrams did not arrive over {path.name}"
                raise CommandFailed(what, hint=f"iperf3: {tools.tail(output.fileno())}")
            time.sleep(SETTLE_SECONDS)
            window = watch.window(seconds, 3 * interval)
            if sender.poll() is not None:
                raise CommandFailed(f"iperf3 ended early: {tools.tail(output.fileno())}")
        output.seek(0)
        return window, output.read()


def _sample(idle: Window, loaded: Window, said: str) -> Sample:
    shared = max(loaded.cores[SHARED] - idle.cores[SHARED], 0)
    return Sample(
        100 * (loaded.own + shared),
        json.dumps({"idle": asdict(idle), "load": asdict(loaded), "iperf3": said}, indent=1) + "\n",
        packets=loaded.received,
        more={
            "load-idle": 100 * idle.own,
            "load-received": loaded.rate(loaded.received),
            "load-machine": 100 * max(loaded.machine - idle.machine, 0),
        },
    )


def pace(load: int) -> tuple[int, int]:
    """Microseconds between two ticks of the sender's timer, and datagrams it sends at each."""
    datagram = LENGTH * 8 * 1e6 / load
    timer = min(max(datagram, LEAST_TIMER_US), MOST_TIMER_US)
    return round(timer), min(max(round(timer / datagram), 1), MOST_BURST)


@contextmanager
def _sender(
    path: DataPath, load: int, seconds: float, output: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """Offer a load while the block runs, for ``seconds`` at most."""
    target, (timer, burst) = path.target("load"), pace(load)
    command = [
        "iperf3", "--client", str(target.address), "--port", str(target.port), "--udp",
        "--length", str(LENGTH), "--bitrate", f"{load}/{burst}", "--pacing-timer", str(timer),
        "--time", str(math.ceil(seconds)), "--interval", "0", "--window", str(BUFFER),
    ]  # fmt: skip
    program = tools.start(command, path.client.netns, output, min)
    try:
        yield program
    finally:
        tools.stop(program)


class _Watch:
    """Clocks of groups of processes, and the datagrams of the namespaces of two of them."""

    def __init__(
        self, groups: Mapping[str, tuple[int, ...]], receiver: int, sender: int | None = None
    ) -> None:
        self._groups, self._receiver, self._sender = groups, receiver, sender

    def window(self, seconds: float, patience: float) -> Window:
        """What is used in ``seconds``; it may be longer by ``patience`` if nothing arrives."""
        stat, cores, own = cputime.stat(), cputime.of_cores(), time.process_time_ns()
        began = time.monotonic_ns()
        self._wait_for_next(patience)
        before = self._read()
        time.sleep(seconds)
        self._wait_for_next(patience)
        after = self._read()
        own, all_of_it = time.process_time_ns() - own, time.monotonic_ns() - began
        length = after.at - before.at
        return Window(
            seconds=length / 1e9,
            cores={name: (after.used[name] - before.used[name]) / length for name in self._groups},
            machine=cputime.busy(cores, cputime.of_cores()) - own / all_of_it,
            sent=after.sent - before.sent,
            received=after.received - before.received,
            stat=(stat, cputime.stat()),
        )

    def _wait_for_next(self, patience: float) -> None:
        if patience:
            self.wait(_datagrams(self._receiver, "InDatagrams") + 1, patience)

    def wait(self, datagrams: int, seconds: float) -> bool:
        """Wait until as many have arrived in all, for ``seconds`` at most; whether they have."""
        deadline = time.monotonic() + seconds
        while _datagrams(self._receiver, "InDatagrams") < datagrams:
            if time.monotonic() > deadline:
                return False
            time.sleep(POLL_SECONDS)
        return True

    def _read(self) -> _Reading:
        sent = 0 if self._sender is None else _datagrams(self._sender, "OutDatagrams")
        received = _datagrams(self._receiver, "InDatagrams")
        used = {name: cputime.of_processes(pids) for name, pids in self._groups.items()}
        return _Reading(time.monotonic_ns(), used, sent, received)


def _datagrams(pid: int, name: str) -> int:
    """A counter of UDP over IPv4 in the network namespace of a process."""
    try:
        lines = Path(f"/proc/{pid}/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Udp:"))
    except (OSError, ValueError) as error:
        raise CommandFailed(f"iperf3, process {pid}, is gone") from error
    return int(values[names.index(name)])
