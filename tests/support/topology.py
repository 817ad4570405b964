# SPDX-License-Identifier: BSD-2-Clause
"""Meshes for tests: bring one up, run programs in its functions, read what it counted.

Whatever has to become true is polled with a deadline; nothing here waits for a time to pass.
"""

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from ebpfmesh import apply, config
from ebpfmesh._abi import Direction, Reason
from ebpfmesh.errors import Unsupported
from ebpfmesh.kernel import cgroup, netns, pins
from ebpfmesh.kernel.maps import Maps, tenant_ids
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.xsk import check_supported
from ebpfmesh.model import Mesh
from ebpfmesh.observe.counters import counted
from ebpfmesh.state.files import RUN, all_records
from ebpfmesh.state.record import Record
from kernels.matrix import may_skip

SESSION = "EBPFMESH_TEST_SESSION"
"""Environment variable of this process and of every process it starts."""
REQUIRE = "EBPFMESH_REQUIRE_KERNEL"
SLOWER = float(os.environ.get("EBPFMESH_SLOWER", "1"))
"""How much slower than a machine this one is: under emulation all deadlines are longer."""
SECONDS = 60.0
"""The deadline of what must come about: nobody waits for it unless that does not."""
LISTEN = {"tcp": "0A", "udp": "07"}  # states of /proc/net/tcp and udp


@functools.cache
def cannot_run() -> str:
    """Why the kernel tiers cannot run here; empty if they can."""
    if os.geteuid() != 0:
        return "not root"
    if not Path("/sys/fs/bpf").is_dir():
        return "the kernel has no BPF file system"
    bcc = [shutil.which("python3", path="/usr/bin") or "python3", "-c", "import bcc"]
    if subprocess.run(bcc, capture_output=True, check=False).returncode != 0:
        return "BCC is missing: apt install python3-bpfcc"
    return ""


def unavailable(reason: str) -> None:
    """Skip the running test; fail it where everything was promised to be there.

    What the matrix of kernels lists as missing on the running one was not promised.
    """
    test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition(" ")[0]
    if os.environ.get(REQUIRE) and not may_skip(test, reason):
        pytest.fail(f"{REQUIRE} is set, but: {reason}", pytrace=False)
    pytest.skip(reason)


def needs(*programs: str) -> None:
    """Skip (or fail) the running test unless these programs are installed."""
    for program in programs:
        if shutil.which(program) is None:
            unavailable(f"{program} is not installed")


def needs_ports() -> None:
    """Skip (or fail) the running test unless the kernel has sockets for datapath = "af_xdp"."""
    try:
        check_supported()
    except Unsupported as error:
        unavailable(error.message)


def poll(condition: Callable[[], object], *, seconds: float = SECONDS) -> bool:
    """Wait for a condition; False if the deadline, times SLOWER, came first."""
    deadline = time.monotonic() + seconds * SLOWER
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def wait_until(condition: Callable[[], object], *, what: str, seconds: float = SECONDS) -> None:
    """Wait for a condition; fail the test if the deadline comes first."""
    if not poll(condition, seconds=seconds):
        pytest.fail(f"not within {seconds} s: {what}")


def mesh_of(text: str) -> Mesh:
    """The mesh that a mesh file of this text describes."""
    with tempfile.NamedTemporaryFile("w", suffix=".toml") as file:
        file.write(text)
        file.flush()
        return config.load(Path(file.name))


@contextlib.contextmanager
def running(wanted: Mesh | str, *, wait: float | None = None) -> Iterator[Mesh]:
    """A mesh, up for the ``with`` block; ``wait`` as ``apply.up`` has it."""
    mesh = mesh_of(wanted) if isinstance(wanted, str) else wanted
    try:
        apply.up(mesh, wait=wait)
        yield mesh
    finally:
        apply.down(mesh.name)


def _enter(mesh: Mesh, function: str | None) -> Callable[[], None] | None:
    if function is None:
        return None
    with apply.opened(mesh.name) as live:
        return live.home(function).enter


def in_network(mesh: Mesh, function: str, command: Sequence[object]) -> list[object]:
    """The command, to run at the host: in the function's network, but not in its cgroup.

    Its sockets speak to a service's own address, and the packets are translated.
    """
    with apply.opened(mesh.name) as live:
        return ["nsenter", f"--net={live.home(function).netns}", *command]


def in_fn(
    mesh: Mesh, function: str | None, command: Sequence[object], *, check: bool = True,
    seconds: float = 60.0, stdin: str = "",
) -> subprocess.CompletedProcess[str]:  # fmt: skip
    """Run a command in a function, None: in the host's namespace; its output with the error."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words, input=stdin, capture_output=True, text=True, check=False, timeout=seconds * SLOWER,
        preexec_fn=_enter(mesh, function),
    )  # fmt: skip
    if check and done.returncode != 0:
        pytest.fail(f"{words} in {function}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


@contextlib.contextmanager
def background(
    mesh: Mesh, function: str | None, command: Sequence[object], *,
    ready: Callable[[int], object] | None = None, seconds: float = SECONDS,
) -> Iterator["subprocess.Popen[str]"]:  # fmt: skip
    """A command that runs in a function for the ``with`` block, with all that it starts.

    ``ready`` is given the process id and polled until it is true; see ``listening``.
    """
    words = [str(word) for word in command]
    process = subprocess.Popen(
        words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
        preexec_fn=_enter(mesh, function),  # noqa: PLW1509  (this process has one thread)
    )  # fmt: skip
    try:
        if ready:
            what = f"{words} in {function}"
            ended_or_ready = lambda: process.poll() is not None or ready(process.pid)  # noqa: E731
            wait_until(ended_or_ready, what=f"{what} is ready", seconds=seconds)
            if process.poll() is not None:
                pytest.fail(f"{what} ended: {process.communicate()[0]}")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def listening(port: int, protocol: str = "tcp") -> Callable[[int], bool]:
    """For ``background``: something in the process's namespace listens on this port."""

    def check(pid: int) -> bool:
        files = [Path(f"/proc/{pid}/net/{protocol}{family}") for family in ("", "6")]
        lines = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
        return any(
            int(local.rpartition(":")[2], 16) == port and state == LISTEN[protocol]
            for _, local, _, state, *_ in lines
        )

    return check


class Meter(NamedTuple):
    """What a function sent to and received from one tenant."""

    tx_packets: int
    tx_bytes: int
    rx_packets: int
    rx_bytes: int


def _names(mesh: Mesh, kind: str) -> dict[int, str]:
    record = Record(mesh.name)
    try:
        return {0: "outside"} | record.names(kind)  # type: ignore[arg-type]
    finally:
        record.close()


def drops(mesh: Mesh, *, audited: bool = False) -> dict[tuple[str, Direction, Reason], int]:
    """Packets dropped by (function, direction, reason), or with ``audited`` let pass all the same.

    The function is ``outside`` where the interface was nobody's.
    """
    names = _names(mesh, "function")
    return {
        (names[key.function], Direction(key.direction), Reason(key.reason)): drop.packets
        for key, drop in counted(Maps(Pins(mesh.name)))
        if bool(key.audited) == audited
    }


def lost(mesh: Mesh) -> dict[tuple[str, Direction, Reason], int]:
    """What was dropped, but for what stacks say to groups by themselves, at any time."""
    return {key: count for key, count in drops(mesh).items() if key[2] != Reason.MULTICAST}


def meters(mesh: Mesh) -> dict[tuple[str, str], Meter]:
    """What was counted, by (function, tenant of its peer); ``outside`` for both; no zeros."""
    functions, tenants = _names(mesh, "function"), _names(mesh, "tenant")
    stride = tenant_ids(mesh.limits)
    found = {}
    for key, value in Maps(Pins(mesh.name))["mesh_meter"].items():
        meter = Meter(*(getattr(value, field) for field in Meter._fields))
        if any(meter):
            function, tenant = divmod(key.value, stride)
            found[functions[function], tenants[tenant]] = meter
    return found


def collected(mesh: str) -> list[str]:
    """What ``gc`` removes of one mesh; it also removes what others left on this machine."""
    return [line for line in apply.gc() if mesh in line]


def leftovers() -> set[str]:
    """All that a mesh, or a process of this test session, could leave: a word for each."""
    found = {f"pin {path}" for path in _below(pins.BPFFS)}
    found |= {f"file {path}" for path in _below(RUN)}
    found |= {f"namespace {path.name}" for path in netns.RUN.glob("*")}
    devices = Path("/proc/thread-self/net/dev").read_text().splitlines()[2:]
    found |= {f"interface {line.partition(':')[0].strip()}" for line in devices}
    found |= {f"cgroup {g.group}/{g.function}" for g in cgroup.groups(netns.current())}
    found |= {f"process {pid}" for pid in _processes()}
    return found


def _below(top: Path) -> Iterator[str]:
    """Paths of all that is in a directory; some may go meanwhile, which rglob does not take."""
    for place, directories, files in os.walk(top):
        yield from (f"{place}/{name}" for name in (*directories, *files))


def _processes() -> Iterator[str]:
    """Processes of this session besides this one: by the variable they inherited, or by cgroup.

    A command in its sandbox inherits none.
    """
    mark, own = f"{SESSION}={os.getpid()}".encode(), str(os.getpid())
    inside = {str(p) for group in cgroup.groups(netns.current()) for p in group.processes()}
    for pid in os.listdir("/proc"):  # noqa: PTH208  (read after every test)
        if not pid.isdigit() or pid == own:
            continue
        with contextlib.suppress(OSError):  # it ended meanwhile
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if mark in environment or pid in inside:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                yield f"{pid} {words[0]}"


def clear(keep: set[str]) -> None:
    """Take down what a failed test left, so that the next one starts clean."""
    for mesh in {*all_records(), *pins.all_meshes()}:
        if f"file {RUN / mesh}" not in keep:
            apply.down(mesh)
    for pid in _processes():
        if f"process {pid}" not in keep:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid.split()[0]), signal.SIGKILL)
    apply.gc()
