# SPDX-License-Identifier: BSD-2-Clause
"""Real traffic between functions: iperf3, sockperf, and wrk against nginx.

Server and client share one core, so that a figure is the cost of the whole way from socket to
socket and does not depend on how fast one core wakes another; TCP bulk is measured on two cores as
well, as it is used. Each kind gives a ``Sample``: one figure, and the tool's output as it came.
"""

import json
import re
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ebpfmesh.bench import process, workload
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.topology import Member
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns

GRACE_SECONDS = 5.0
"""What a tool may need beyond the time it was asked to run."""
TAIL = 2000
"""Characters of an output that are kept when there is no figure in it."""
CRR_CONNECTIONS = 8
BLOCK_SECONDS = 0.5
"""A connection not open by then is blocked; one that is allowed takes less than a millisecond."""
NGINX = """
daemon off; master_process off; pid {directory}/pid; error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {directory}; proxy_temp_path {directory}; fastcgi_temp_path {directory};
  uwsgi_temp_path {directory}; scgi_temp_path {directory};
  server {{ listen {port} backlog=4096; location / {{ return 200 "ok\\n"; }} }}
}}
"""


@dataclass(frozen=True)
class Sample:
    """One measurement: its figure in ``unit``, and the raw output it was read from."""

    value: float
    unit: str
    raw: str


@contextmanager
def servers(path: DataPath, traffic: str) -> Iterator[None]:
    """Keep the server of a kind of traffic running on each backend while the block runs."""
    port = workload.backend_target(path.mesh, traffic).port
    with ExitStack() as stack:
        for receiver in path.receivers(traffic):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ebpfmesh-server-"))
            command = SERVERS[traffic](receiver, port, Path(directory))
            stack.enter_context(process.server(command, receiver.netns, port))
        yield


def _iperf3_server(_receiver: Member, port: int, _directory: Path) -> list[str]:
    return ["iperf3", "--server", "--port", str(port)]


def _sockperf_server(receiver: Member, port: int, _directory: Path) -> list[str]:
    return ["sockperf", "server", "--tcp", "-i", str(receiver.address), "-p", str(port)]


def _nginx_server(_receiver: Member, port: int, directory: Path) -> list[str]:
    configuration = directory / "nginx.conf"
    configuration.write_text(NGINX.format(directory=directory, port=port))
    return ["nginx", "-p", str(directory), "-c", str(configuration)]


SERVERS: dict[str, Callable[[Member, int, Path], list[str]]] = {
    "stream": _iperf3_server,
    "rr": _sockperf_server,
    "crr": _nginx_server,
}


def _run_client(
    path: DataPath, traffic: str, command: list[str], seconds: float, pick: process.Pick = max
) -> str:
    """Output of a client against servers that are there for it alone."""
    namespace = path.client.netns
    with servers(path, traffic):
        return process.run(command, namespace, seconds=seconds + GRACE_SECONDS, pick=pick)


def stream(path: DataPath, seconds: float, pick: process.Pick = max) -> Sample:
    """TCP bulk by one connection, in Gb/s as received (iperf3)."""
    target = path.target("stream")
    raw = _run_client(
        path,
        "stream",
        ["iperf3", "--client", str(target.address), "--port", str(target.port), "--json",
         "--time", f"{seconds:g}"],
        seconds,
        pick,
    )  # fmt: skip
    return Sample(parse_iperf3(raw) / 1e9, "Gb/s", raw)


def stream_two_cores(path: DataPath, seconds: float) -> Sample:
    """The same with the sender on another core than the receiver."""
    return stream(path, seconds, min)


def parse_iperf3(text: str) -> float:
    """Bits per second as received, from the JSON of an iperf3 client that did not fail."""
    try:
        report = json.loads(text)
        bits = float(report["end"]["sum_received"]["bits_per_second"])
    except (ValueError, KeyError) as error:
        raise CommandFailed("iperf3 reported no result", hint=text.strip()[-TAIL:]) from error
    if "error" in report:
        raise CommandFailed(f"iperf3: {report['error']}", hint=text.strip()[-TAIL:])
    return bits


def rr(path: DataPath, seconds: float) -> Sample:
    """Half of a round trip over one TCP connection, median in µs (sockperf ping-pong)."""
    target = path.target("rr")
    raw = _run_client(
        path,
        "rr",
        ["sockperf", "ping-pong", "--tcp", "-i", str(target.address), "-p", str(target.port),
         "-t", f"{seconds:g}"],
        seconds,
    )  # fmt: skip
    return Sample(parse_sockperf(raw)[50.0], "µs", raw)


def parse_sockperf(text: str) -> dict[float, float]:
    """Percentiles (0–100) of half the round trip in µs, from sockperf's report."""
    rows = re.findall(r"percentile\s+([\d.]+)\s*=\s*([\d.]+)", text)
    if not rows:
        raise CommandFailed("sockperf reported no latency", hint=text.strip()[-TAIL:])
    return {float(percentile): float(latency) for percentile, latency in rows}


def crr(path: DataPath, seconds: float) -> Sample:
    """New connections per second, each with one HTTP request (wrk with nginx)."""
    target = path.target("crr")
    raw = _run_client(
        path,
        "crr",
        ["wrk", "--threads", "1", "--connections", str(CRR_CONNECTIONS),
         "--duration", f"{seconds:g}s", "--latency", "--header", "Connection: close",
         f"http://{target.address}:{target.port}/"],
        seconds,
    )  # fmt: skip
    return Sample(parse_wrk(raw), "1/s", raw)


def parse_wrk(text: str) -> float:
    """Requests per second of a run of wrk in which no request failed."""
    found = re.search(r"Requests/sec:\s*([\d.]+)", text)
    if found is None or "Socket errors" in text or "Non-2xx" in text:
        raise CommandFailed("wrk had failed requests", hint=text.strip()[-TAIL:])
    return float(found[1])


def try_connection(path: DataPath, client: str) -> Literal["open", "refused", "no answer"]:
    """What becomes of a connection from ``client`` to the service of ``crr``."""
    target = path.target("crr")
    with (
        servers(path, "crr"),
        netns.entered(path.host.members[client].netns),
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection,
    ):
        connection.settimeout(BLOCK_SECONDS)
        try:
            connection.connect((str(target.address), target.port))
        except TimeoutError:
            return "no answer"
        except OSError:
            return "refused"
        return "open"


MEASURES: dict[str, Callable[[DataPath, float], Sample]] = {
    "stream": stream,
    "stream-two-cores": stream_two_cores,
    "rr": rr,
    "crr": crr,
}
