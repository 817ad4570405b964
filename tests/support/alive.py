# SPDX-License-Identifier: BSD-2-Clause
"""Many TCP connections that are alive all the time, and what became of them.

A process of its own sends a numbered message over each and waits for it at the other end, which
sends it back; round after round, with a pause between that leaves others most of a core.
"""

import json
import os
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from ipaddress import IPv4Address
from multiprocessing.connection import wait
from pathlib import Path

from ebpfmesh.kernel import netns
from ebpfmesh.model import Mesh, Service
from support.sockets import SECONDS, accepted, connect, listener, ready
from support.topology import wait_until

SIZE = 8
PAUSE_SECONDS = 0.02
Pair = tuple[socket.socket, socket.socket]
COUNTERS = ("RetransSegs", "EstabResets", "OutRsts", "InErrs")
"""Of TCP in /proc/net/snmp: what is sent again, and what ends connections before their time."""


@dataclass
class Outcome:
    """What became of the connections; ``broken`` says which was the first that did not, and how."""

    rounds: int = 0
    longest_round_ns: int = 0
    broken: str = ""


RTO_MIN = Path("/proc/sys/net/ipv4/tcp_rto_min_us")
"""Since Linux 6.11; before, it is a fifth of a second."""
PATIENCE_SECONDS = 2


@contextmanager
def connections(
    mesh: Mesh, service: Service, count: int, client: Path, servers: Mapping[IPv4Address, Path]
) -> Iterator[list[Pair]]:
    """So many, from one namespace to a service in others; both ends of each."""
    assert service.address4
    patient([client, *servers.values()])
    with ExitStack() as stack:
        listening = [
            stack.enter_context(listener(mesh, place, own, service.target_port))
            for own, place in servers.items()
        ]
        pairs = []
        for _ in range(count):
            here = stack.enter_context(connect(mesh, client, service.address4, service.port))
            first = ready(listening, SECONDS)[0]
            pairs.append((here, stack.enter_context(accepted(first))))
        yield pairs


def patient(places: list[Path]) -> None:
    """Have TCP there send again what is lost, and not what waits with its answer for a core."""
    for place in places:
        with netns.entered(place):
            if RTO_MIN.exists():
                RTO_MIN.write_text(f"{PATIENCE_SECONDS * 1_000_000}")


@contextmanager
def alive(pairs: list[Pair]) -> Iterator[Outcome]:
    """Have all carry messages while the block runs; the outcome is filled in when it has ended."""
    outcome = Outcome()
    stop_here, stop = os.pipe()
    result, result_there = os.pipe()
    child = os.fork()
    if not child:
        os.close(stop)
        _serve(pairs, stop_here, result_there)
    os.close(stop_here)
    os.close(result_there)
    try:
        wait_until(lambda: wait([result], 0), what="a message over each connection")
        yield outcome
    finally:
        os.close(stop)
        with os.fdopen(result, "rb") as file:
            said = file.read().lstrip(b".")
        os.waitpid(child, 0)
    vars(outcome).update(json.loads(said))


def _serve(pairs: list[Pair], stop: int, result: int) -> None:
    """Be the process that speaks, until it is asked to stop or one connection is broken."""
    try:
        outcome, pause = Outcome(), 0.0
        while not outcome.broken and not wait([stop], pause):
            begin = time.monotonic_ns()
            _round(outcome, pairs)
            outcome.longest_round_ns = max(outcome.longest_round_ns, time.monotonic_ns() - begin)
            if not outcome.rounds:
                os.write(result, b".")
            outcome.rounds, pause = outcome.rounds + 1, PAUSE_SECONDS
        os.write(result, json.dumps(asdict(outcome)).encode())
    finally:
        os._exit(0)


def _round(outcome: Outcome, pairs: list[Pair]) -> None:
    """A message there and back over each."""
    message = outcome.rounds.to_bytes(SIZE, "big")
    for way in (1, -1):
        for act in (_send, _receive):
            for number, (source, sink) in enumerate(pair[::way] for pair in pairs):
                try:
                    act(source, sink, message)
                except OSError as error:
                    outcome.broken = f"connection {number}, round {outcome.rounds}: {error!r}"
                    return


def _send(source: socket.socket, sink: socket.socket, message: bytes) -> None:
    del sink
    source.sendall(message)


def _receive(source: socket.socket, sink: socket.socket, message: bytes) -> None:
    del source
    if (got := sink.recv(SIZE, socket.MSG_WAITALL)) != message:
        raise ConnectionError(f"{got.hex()} instead of {message.hex()}")


def counted(places: list[Path]) -> dict[str, int]:
    """TCP's counters of these namespaces together."""
    sums = dict.fromkeys(COUNTERS, 0)
    for place in places:
        with netns.entered(place):
            lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        names, values = (line.split() for line in lines if line.startswith("Tcp:"))
        found = dict(zip(names, values, strict=True))
        for name in COUNTERS:
            sums[name] += int(found[name])
    return sums
