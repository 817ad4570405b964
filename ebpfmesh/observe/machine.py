# SPDX-License-Identifier: BSD-2-Clause
"""What the machine has and lacks for a mesh: the checks of ``ebpfmesh doctor``."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pyroute2.nftables.main import NFTables

from ebpfmesh.compile import headers
from ebpfmesh.errors import MeshError, MissingPrivilege
from ebpfmesh.kernel import bpf, links, pins, probe, rcu
from ebpfmesh.kernel.cgroup import Hierarchies
from ebpfmesh.observe import privilege
from ebpfmesh.runtime import sandbox

Status = Literal["ok", "note", "missing", "unknown"]
TOOLS = {
    "ip": "iproute2",
    "iperf3": "iperf3",
    "sockperf": "sockperf",
    "iptables": "iptables",
    "nft": "nftables",
    "ethtool": "ethtool",
    "bpftool": "bpftool",
    "podman": "podman",
}
"""Programs that people use with a mesh, or that its benchmark needs; by Debian package."""


@dataclass(frozen=True)
class Check:
    """Something that was looked at. Only what is ``missing`` keeps a mesh from working."""

    topic: str
    status: Status
    text: str
    hint: str = ""


def check() -> Iterator[Check]:
    """All checks of the machine; what needs privileges this process lacks is ``unknown``."""
    for topic, look in (
        ("privileges", _privileges),
        ("btf", _btf),
        ("jit", _jit),
        ("tc hook", _hook),
        ("redirect_peer", _redirect_peer),
        ("xdp", _xdp),
        ("bcc", _bcc),
        ("headers", _headers),
        ("bpffs", _bpffs),
        ("cgroups", _cgroups),
        ("sandbox", _sandbox),
        ("grace periods", _grace_periods),
        ("netfilter", _netfilter),
    ):
        yield _guarded(topic, look)
    yield from _tools()


def _guarded(topic: str, look: Callable[[str], Check]) -> Check:
    try:
        return look(topic)
    except MissingPrivilege as error:
        return Check(topic, "unknown", error.message, error.hint)
    except MeshError as error:
        return Check(topic, "missing", error.message, error.hint)
    except OSError as error:
        return Check(topic, "unknown", str(error))


def _privileges(topic: str) -> Check:
    if lacking := privilege.missing(privilege.CHANGE):
        return Check(topic, "missing", f"lacking {', '.join(lacking)}", "run it as root")
    return Check(topic, "ok", ", ".join(privilege.CHANGE))


def _btf(topic: str) -> Check:
    path = Path("/sys/kernel/btf/vmlinux")
    if path.exists():
        return Check(topic, "ok", str(path))
    return Check(topic, "note", "the kernel has none", "only tools such as bpftool would use it")


def _jit(topic: str) -> Check:
    setting = Path("/proc/sys/net/core/bpf_jit_enable")
    value = setting.read_text().strip() if setting.exists() else "1"
    if value == "0":
        return Check(topic, "note", "programs are interpreted: slow", f"echo 1 >{setting}")
    return Check(topic, "ok", "programs are compiled")


def _hook(topic: str) -> Check:
    privilege.require(privilege.READ, "asking the kernel")
    if not probe.has_program(bpf.PROG_TYPE_SCHED_CLS):
        return Check(topic, "missing", "no tc programs", "a kernel with CONFIG_NET_CLS_BPF")
    if links.has_tcx():
        return Check(topic, "ok", "TCX links")
    return Check(topic, "ok", "clsact filters (the kernel has no TCX)")


def _redirect_peer(topic: str) -> Check:
    privilege.require(privilege.READ, "asking the kernel")
    if probe.has_redirect_peer():
        return Check(topic, "ok", "packets go straight into containers")
    return Check(topic, "missing", "the helper bpf_redirect_peer", "Linux 5.10 or later has it")


def _xdp(topic: str) -> Check:
    privilege.require(privilege.READ, "asking the kernel")
    if probe.has_program(bpf.PROG_TYPE_XDP):
        return Check(topic, "ok", "XDP programs load")
    return Check(topic, "note", "no XDP programs", "not needed by functions on tc")


def _bcc(topic: str) -> Check:
    command = [sys.executable, "-P", "-c", "import bcc; bcc.BPF; print(bcc.__version__)"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode == 0:
        return Check(topic, "ok", f"BCC {done.stdout.strip()}")
    hint = "apt install python3-bpfcc (PyPI's bcc is something else)"
    last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
    return Check(topic, "missing", f"python cannot import BCC: {last}", hint)


def _headers(topic: str) -> Check:
    headers.header_links()
    return Check(topic, "ok", "user-space headers are there; the kernel's own are not needed")


def _bpffs(topic: str) -> Check:
    if pins.is_bpffs():
        return Check(topic, "ok", f"mounted at {pins.BPFFS}")
    if not pins.BPFFS.is_dir():
        return Check(topic, "missing", f"no {pins.BPFFS}", "a kernel with CONFIG_BPF_SYSCALL")
    return Check(topic, "ok", f"not mounted at {pins.BPFFS}: the first up mounts it")


def _cgroups(topic: str) -> Check:
    found = Hierarchies.mounted()
    found.tracking()
    layout = "v2" if not found.v1 else "v1 and v2" if found.unified else "v1"
    lacking = [name for name in ("cpu", "memory") if found.hierarchy_of(name) is None]
    if lacking:
        hint = "functions cannot have these limits"
        return Check(topic, "note", f"{layout}, without {' and '.join(lacking)}", hint)
    return Check(topic, "ok", f"{layout}, with cpu and memory")


def _sandbox(topic: str) -> Check:
    try:
        sandbox.check_installed()
    except MeshError as error:
        return Check(topic, "note", error.message, error.hint)
    return Check(topic, "ok", "bubblewrap, with system calls filtered by libseccomp")


def _grace_periods(topic: str) -> Check:
    if rcu.is_left():
        what = f"a change that was killed left {rcu.SETTING} set: CPUs are interrupted for each"
        hint = "the next change of any mesh puts it back, and so does ebpfmesh gc"
        return Check(topic, "note", what, hint)
    return Check(topic, "ok", "no change left them expedited")


def _netfilter(topic: str) -> Check:
    """Rules of the host that mesh traffic, which never meets netfilter, does not obey."""
    privilege.require(("CAP_NET_ADMIN",), "asking for host rules")
    with NFTables() as nft:
        rules = sum(1 for _ in nft.get_rules())
    legacy = [
        line
        for name in ("ip_tables_names", "ip6_tables_names")
        if (path := Path("/proc/net") / name).exists() and os.access(path, os.R_OK)
        for line in path.read_text().split()
    ]
    if not rules and not legacy:
        return Check(topic, "ok", "the host has no rules; traffic between functions meets none")
    what = [f"{rules} nftables rules"] if rules else []
    what += [f"legacy iptables tables {', '.join(sorted(set(legacy)))}"] if legacy else []
    text = f"the host has {' and '.join(what)}: they do not see traffic between functions"
    return Check(topic, "note", text, "what they are for is said by policies: ebpfmesh policy")


def _tools() -> Iterator[Check]:
    missing = [name for name in TOOLS if shutil.which(name) is None]
    there = ", ".join(name for name in TOOLS if name not in missing)
    yield Check("tools", "ok", there)
    if missing:
        packages = " ".join(dict.fromkeys(TOOLS[name] for name in missing))
        what = f"not installed: {', '.join(missing)}"
        yield Check("tools", "note", what, f"apt install {packages}")
