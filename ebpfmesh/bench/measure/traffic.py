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
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from hdrh.histogram import HdrHistogram

from ebpfmesh.bench import tools, workload
from ebpfmesh.bench.paths import DataPath
from ebpfmesh.bench.sample import Sample
from ebpfmesh.bench.topology import Member
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns

GRACE_SECONDS = 20.0
"""What a tool may need beyond the time it was asked to run."""
TAIL = 2000
"""Characters of an output that are kept when there is no figure in it."""
CRR_CONNECTIONS = 8
LONGEST_NS = 10_000_000_000
LARGEST_PACKET = 65536
"""Bytes of data a packet carries at most before it is cut into segments (GSO)."""
BLOCK_SECONDS, OPEN_SECONDS = 0.5, 20.0
"""A connection not open by then is blocked; one that is allowed takes less than a millisecond,
or as long as a path's own process is kept from its core."""
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


@contextmanager
def servers(path: DataPath, traffic: str) -> Iterator[None]:
    """Keep the server of a kind of traffic running on each backend while the block runs."""
    port = workload.backend_target(path.mesh, traffic).port
    with ExitStack() as stack:
        for receiver in path.receivers(traffic):
            directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="ebpfmesh-server-"))
            command = SERVERS[traffic](receiver, port, Path(directory))
            stack.enter_context(tools.server(command, receiver.netns, port))
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
    "load": _iperf3_server,
    "rr": _sockperf_server,
    "crr": _nginx_server,
}


def _run_client(
    path: DataPath, traffic: str, command: list[str], seconds: float, pick: tools.Pick = max
) -> str:
    """Output of a client against servers that are there for it alone."""
    namespace = path.client.netns
    with servers(path, traffic):
        return tools.run(command, namespace, seconds=seconds + GRACE_SECONDS, pick=pick)


def _whole(seconds: float) -> str:
    """Seconds as the tools take them: whole ones, at least one."""
    return str(max(round(seconds), 1))


def stream(path: DataPath, seconds: float, *, flows: int = 1, two_cores: bool = False) -> Sample:
    """TCP bulk by ``flows`` connections, in Gb/s as received (iperf3).

    With ``two_cores`` the sender is on another core than the receiver.
    """
    target = path.target("stream")
    raw = _run_client(
        path,
        "stream",
        ["iperf3", "--client", str(target.address), "--port", str(target.port), "--json",
         "--time", _whole(seconds), "--parallel", str(flows)],
        seconds,
        min if two_cores else max,
    )  # fmt: skip
    bits, received = parse_iperf3(raw)
    return Sample(bits / 1e9, raw, packets=received // LARGEST_PACKET)


def parse_iperf3(text: str) -> tuple[float, int]:
    """Bits per second, and bytes, as received: from the JSON of an iperf3 client."""
    try:
        report = json.loads(text)
        received = report["end"]["sum_received"]
        bits, size = float(received["bits_per_second"]), int(received["bytes"])
    except (ValueError, KeyError) as error:
        raise CommandFailed("iperf3 reported no result", hint=text.strip()[-TAIL:]) from error
    if "error" in report:
        raise CommandFailed(f"iperf3: {report['error']}", hint=text.strip()[-TAIL:])
    return bits, size


def rr(path: DataPath, seconds: float) -> Sample:
    """Half of a round trip over one TCP connection, median in µs (sockperf ping-pong).

    Every round trip is logged; the histogram made of the log is kept with the tool's output, in
    the compressed form of HdrHistogram (V2, base64), of nanoseconds.
    """
    target = path.target("rr")
    with tempfile.NamedTemporaryFile("r", prefix="ebpfmesh-sockperf-") as log:
        raw = _run_client(
            path,
            "rr",
            ["sockperf", "ping-pong", "--tcp", "-i", str(target.address), "-p", str(target.port),
             "-t", _whole(seconds), "--full-log", log.name],
            seconds,
        )  # fmt: skip
        times = read_sockperf_log(log)
    median = parse_sockperf(raw)[50.0]
    encoded = times.encode().decode()
    return Sample(
        median,
        f"{raw}\nHdrHistogram of half round trips in ns: {encoded}\n",
        packets=2 * times.get_total_count(),
        more={
            "rr-p99": times.get_value_at_percentile(99) / 1e3,
            "rr-p999": times.get_value_at_percentile(99.9) / 1e3,
        },
    )


def read_sockperf_log(lines: Iterable[str]) -> HdrHistogram:
    """Half round trips in ns, from the lines "number, sent, received, latency in µs" of a log."""
    times = Counter(
        line.rpartition(",")[2]
        for line in lines
        if line.partition(",")[0].isdecimal()  # the lines before are the report once more
    )
    found = HdrHistogram(1, LONGEST_NS, 3)
    for microseconds, count in times.items():  # many are the same, and recording one takes long
        found.record_value(min(max(round(float(microseconds) * 1e3), 1), LONGEST_NS), count)
    if not found.get_total_count():
        raise CommandFailed("sockperf logged no message")
    return found


def parse_sockperf(text: str) -> dict[float, float]:
    """Percentiles (0–100) of half the round trip in µs, from sockperf's report."""
    rows = re.findall(r"percentile\s+([\d.]+)\s*=\s*([\d.]+)", text)
    if not rows:
        raise CommandFailed("sockperf reported no latency", hint=text.strip()[-TAIL:])
    return {float(percentile): float(latency) for percentile, latency in rows}


def http(path: DataPath, seconds: float, *, close: bool = False) -> Sample:
    """HTTP requests per second over eight connections (wrk with nginx).

    With ``close`` every request has a connection of its own.
    """
    target = path.target("crr")
    header = ["--header", "Connection: close"] if close else []
    raw = _run_client(
        path,
        "crr",
        ["wrk", "--threads", "1", "--connections", str(CRR_CONNECTIONS),
         "--duration", f"{_whole(seconds)}s", "--latency", *header,
         f"http://{target.address}:{target.port}/"],
        seconds,
    )  # fmt: skip
    rate, requests = parse_wrk(raw)
    return Sample(rate, raw, packets=2 * requests)


def parse_wrk(text: str) -> tuple[float, int]:
    """Requests per second, and requests, of a run of wrk in which no request failed."""
    rate = re.search(r"Requests/sec:\s*([\d.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    if rate is None or requests is None or "Socket errors" in text or "Non-2xx" in text:
        raise CommandFailed("wrk had failed requests", hint=text.strip()[-TAIL:])
    return float(rate[1]), int(requests[1])


def try_connection(path: DataPath, client: str) -> Literal["open", "refused", "no answer"]:
    """What becomes of a connection from ``client`` to the service of ``crr``."""
    target = path.target("crr")
    with (
        servers(path, "crr"),
        netns.entered(path.host.members[client].netns),
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as connection,
    ):
        connection.settimeout(OPEN_SECONDS if client == workload.CLIENT else BLOCK_SECONDS)
        try:
            connection.connect((str(target.address), target.port))
        except TimeoutError:
            return "no answer"
        except OSError:
            return "refused"
        return "open"
