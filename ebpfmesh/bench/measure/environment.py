# SPDX-License-Identifier: BSD-2-Clause
"""What the figures depend on besides the code: the machine, its kernel, the tools, its load."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path

TOOLS = {
    "iperf3": ["iperf3", "--version"],
    "sockperf": ["sockperf", "--version"],
    "wrk": ["wrk", "--version"],
    "nginx": ["nginx", "-v"],
    "iptables": ["iptables-nft", "--version"],
    "nftables": ["nft", "--version"],
    "Open vSwitch": ["ovs-vswitchd", "--version"],
}
CPU = Path("/sys/devices/system/cpu")
CPUINFO = Path("/proc/cpuinfo")


def describe_machine() -> dict[str, str]:
    """The environment of a run, as texts by name; what a machine does not tell is left out."""
    found = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine_id(),
        "kernel": f"{platform.release()} {platform.machine()}",
        "cpu": _field(CPUINFO, "model name"),
        "cpus": str(len(os.sched_getaffinity(0))),
        "memory": _field(Path("/proc/meminfo"), "MemTotal"),
        "governor": _text(CPU / "cpu0/cpufreq/scaling_governor"),
        "mitigations": _mitigations(),
        "clock": _text(Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")),
        "virtual machine": "yes" if "hypervisor" in _field(CPUINFO, "flags").split() else "no",
        "tcp": _text(Path("/proc/sys/net/ipv4/tcp_congestion_control")),
        "load before": " ".join(_text(Path("/proc/loadavg")).split()[:3]),
        "python": platform.python_version(),
        **{name: _version(command) for name, command in TOOLS.items()},
    }
    return {name: value for name, value in found.items() if value}


def _machine_id() -> str:
    """Tells machines apart in comparisons; nothing else is known of it."""
    return _text(Path("/etc/machine-id"))[:12]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _field(path: Path, name: str) -> str:
    """The value of the first ``name : value`` line."""
    for line in _text(path).splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def _mitigations() -> str:
    """The processor weaknesses the kernel works around, which costs time."""
    directory = CPU / "vulnerabilities"
    names = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
    return ", ".join(n for n in names if _text(directory / n).startswith("Mitigation"))


def _version(command: list[str]) -> str:
    """First line a tool prints about itself."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].strip() if lines else ""
