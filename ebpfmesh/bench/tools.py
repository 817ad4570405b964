# SPDX-License-Identifier: BSD-2-Clause
"""Programs of others, run inside a network namespace: bounded in time, ended by their own pid.

All of them run on one core, the last, as the packet generator does, unless told otherwise.
"""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ebpfmesh.errors import CommandFailed, Unsupported
from ebpfmesh.kernel import netns

READY_SECONDS = 20.0
STOP_SECONDS = 2.0
LISTEN = "0A"
"""TCP_LISTEN in /proc/net/tcp."""
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
PACKAGES = {"iperf3": "iperf3", "sockperf": "sockperf", "wrk": "wrk", "nginx": "nginx-light"}


Pick = Callable[[set[int]], int]
"""Chooses one of the cores we may use: ``max``, or ``min`` for another where there is one."""


def cores() -> int:
    """How many cores we may use."""
    return len(os.sched_getaffinity(0))


def core(pick: Pick) -> int:
    """The number of the core that ``pick`` chooses."""
    return pick(os.sched_getaffinity(0))


@contextmanager
def one_core(pick: Pick = max) -> Iterator[None]:
    """Keep the calling thread, what it starts and the softirqs it raises on one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {pick(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


def start(
    command: Sequence[str], namespace: Path, output: int, pick: Pick = max
) -> "subprocess.Popen[bytes]":
    """Start a program in a namespace; its output goes to the descriptor ``output``.

    It does not outlive this process, however that ends. Raises Unsupported if it is missing.
    """
    if shutil.which(command[0]) is None:
        package = PACKAGES.get(command[0], command[0])
        raise Unsupported(f"{command[0]} is missing", hint=f"apt-get install {package}")
    with netns.entered(namespace), one_core(pick):  # the child inherits both
        return subprocess.Popen(
            [*DIES_WITH_US, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def stop(process: "subprocess.Popen[bytes]") -> None:
    """End a program, first by asking."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def run(command: Sequence[str], namespace: Path, *, seconds: float, pick: Pick = max) -> str:
    """Output of a program run in a namespace; CommandFailed if it fails or takes too long."""
    with tempfile.TemporaryFile() as output:
        process = start(command, namespace, output.fileno(), pick)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            stop(process)
            raise CommandFailed(
                f"{command[0]}: not done after {seconds} s: {tail(output.fileno())}"
            ) from None
        except BaseException:
            stop(process)
            raise
        if process.returncode:
            raise CommandFailed(f"{command[0]}: exit {process.returncode}: {tail(output.fileno())}")
        return _read(output.fileno())


@contextmanager
def server(
    command: Sequence[str], namespace: Path, port: int
) -> Iterator["subprocess.Popen[bytes]"]:
    """Keep a TCP server running in a namespace while the block runs; it listens by then."""
    with tempfile.TemporaryFile() as output:
        process = start(command, namespace, output.fileno())
        try:
            deadline = time.monotonic() + READY_SECONDS
            while not _is_listening(namespace, port):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise CommandFailed(
                        f"{command[0]}: not listening on port {port}: {tail(output.fileno())}"
                    )
                time.sleep(0.005)
            yield process
        finally:
            stop(process)


def _is_listening(namespace: Path, port: int) -> bool:
    with netns.entered(namespace):
        tables = [Path(f"/proc/thread-self/net/{name}").read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for table in tables for line in table.splitlines()[1:]]
    return any(row[1].endswith(f":{port:04X}") and row[3] == LISTEN for row in rows)


def _read(output: int) -> str:
    return os.pread(output, os.fstat(output).st_size, 0).decode(errors="replace")


def tail(output: int) -> str:
    """The last lines of what a program wrote to a file that is still open."""
    lines = _read(output).strip().splitlines()
    return " / ".join(lines[-3:]) or "no output"
