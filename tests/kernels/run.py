# SPDX-License-Identifier: BSD-2-Clause
"""Run the kernel tiers on the kernels of matrix.toml, each in a virtual machine (virtme-ng).

    python -m kernels.run quick|full [--kernel SERIES] [--tests ARGUMENT...]

Kernels are Debian's, downloaded and unpacked below .cache/kernels once (`make clean` removes
them); nothing is installed. The guests are emulated, so nothing is timed there. A guest sees this
machine's files read-only, has no network, and ends with this process, however that ends. It reads
this checkout as it runs, so nothing is to be edited meanwhile. What it leaves is in
.cache/kernels/out/SERIES: console (of its kernel), log (of pytest), junit, verifier/.

Exit: 0 all passed, 1 otherwise; a guest that does not boot or report has not passed.
"""

import argparse
import contextlib
import ctypes
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ebpfmesh.compile import compiled
from kernels import verifier
from kernels.fetch import CACHE, fetched
from kernels.matrix import Kernel, kernels
from kernels.report import Report, table

ROOT = Path(__file__).parents[2]
GUEST = Path(__file__).with_name("guest.sh")
COMPILED = CACHE / "compiled"
SLOWER = 10
MEMORY = "2G"
TEST_SECONDS = 1800
BOOT_SECONDS = 240
BOOTS = 3
"""How often a guest is started that does not end: now and then one hangs under emulation."""
SECONDS = {"quick": 1800, "full": 6 * 3600}
VERIFIER = "tests/prog/test_verifier.py"
TESTS = {
    # Of files that are read fast: to make all rows of test_tables.py takes a guest minutes.
    "quick": [
        VERIFIER,
        "tests/prog/test_meter.py",
        "tests/netns/test_clsact.py::test_it_carries_and_blocks",
        "tests/netns/test_sock.py::test_a_stream_meets_a_backend_and_names_the_service[198.19.0.1]",
        "tests/netns/test_reject.py::test_a_connection_is_refused_at_once[host-4]",
        "tests/netns/test_reject.py::test_a_datagram_is_told[function-6]",
        "tests/netns/test_bench_generator.py::test_connections_are_in_order[routed-auto]",
    ],
    "full": [VERIFIER, "tests/prog", "tests/netns"],
}
PYTEST = [
    ".venv/bin/python", "-m", "pytest", "-v", "--color=no", "--durations=10",
    "-p", "kernels.instant", "-p", "no:hypothesispytest", "-p", "no:xdist",  # slow to start
    "--junitxml=/run/out/junit", "-o", f"timeout={TEST_SECONDS}",
]  # fmt: skip
BOOT = [
    "mitigations=off",  # what they cost under emulation is most of the time
    "no_timer_check",  # it panics where the host is busy
    "cryptomgr.notests",  # they can take minutes
    "no5lvl", "init_on_alloc=0", "transparent_hugepage=always", "apparmor=0", "audit=0",
]  # fmt: skip
HOST = "/run/host"
START = " && ".join((  # not by its own path: virtme-ng covers /tmp, where the checkout may be
    f"mkdir {HOST}",
    f"mount -t 9p -o ro,cache=loose,trans=virtio,version=9p2000.L,msize=512000 host {HOST}",
    f"unshare --mount {HOST}{GUEST} {ROOT} {HOST}",
))  # fmt: skip
PR_SET_PDEATHSIG = 1


@dataclass
class Guest:
    """A virtual machine that runs the tests on one kernel."""

    kernel: Kernel
    image: Path
    tests: Sequence[str]
    seconds: float

    def __post_init__(self) -> None:
        self.out = CACHE / "out" / self.kernel.series
        self.ended = 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The machine, for the ``with`` block at most."""
        shutil.rmtree(self.out, ignore_errors=True)
        (self.out / "tmp").mkdir(parents=True)
        (self.out / "command").write_text(self._command())
        self._started, self.ended = time.monotonic(), 0.0
        with (self.out / "console").open("wb") as console:
            self._process = subprocess.Popen(
                self._machine(), cwd=ROOT, env=self._environment(), stdin=subprocess.DEVNULL,
                stdout=console, stderr=subprocess.STDOUT,
                preexec_fn=_die_with_us,  # noqa: PLW1509  (this process has one thread)
            )  # fmt: skip
        try:
            yield
        finally:
            self._process.kill()  # and with it all that it started
            self._process.wait()
            shutil.rmtree(self.out / "tmp", ignore_errors=True)

    def runs(self) -> bool:
        """Whether it has neither ended nor used up its time."""
        if self.ended:
            return False
        now = time.monotonic()
        seconds = self.seconds if self.booted else min(self.seconds, BOOT_SECONDS)
        if self._process.poll() is None and now < self._started + seconds:
            return True
        self.ended = now
        self._process.kill()
        return False

    @property
    def reported(self) -> bool:
        """Whether its tests came to an end."""
        return (self.out / "exit").exists()

    @property
    def booted(self) -> bool:
        """Whether its tests have begun."""
        return (self.out / "log").exists()

    def report(self) -> Report:
        """What came of it."""
        return Report.read(self.kernel, self.out, self.ended - self._started)

    def _command(self) -> str:
        """The shell script that the guest runs."""
        environment = {
            "EBPFMESH_REQUIRE_KERNEL": "1",
            "EBPFMESH_SLOWER": str(SLOWER),
            "EBPFMESH_VERIFIER": "/run/out/verifier",
            compiled.VARIABLE: str(COMPILED),
            "HOME": "/tmp",
            "PYTHONPATH": "tests",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        }
        words = [f"{name}={value}" for name, value in environment.items()]
        return shlex.join(["exec", "env", *words, *PYTEST, *self.tests])

    def _machine(self) -> list[str]:
        """The virtual machine, in a process namespace that ends with its first process."""
        options = (
            # Of virtme's five it needs one port each; QEMU polls for all that there could be.
            "-global virtio-serial-device.max_ports=2"
            " -fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
            " -device virtio-9p-pci,fsdev=host,mount_tag=host"
            f" -fsdev local,id=out,path={self.out},security_model=none"
            " -device virtio-9p-pci,fsdev=out,mount_tag=out"
        )
        return [
            "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
            str(ROOT / ".venv/bin/vng"), "--run", str(self.image), "--user", "root", "--verbose",
            "--disable-kvm", "--force-9p", "--cpus", "2", "--memory", MEMORY,
            *(word for option in BOOT for word in ("--append", option)),
            f"--qemu-opts={options}", "--exec", START,
        ]  # fmt: skip

    def _environment(self) -> dict[str, str]:
        """virtme-ng keeps settings and temporary files; nothing of it goes outside of ``out``."""
        own = str(self.out / "tmp")
        path = f"{ROOT / '.venv/bin'}:{os.environ['PATH']}:/usr/sbin:/sbin"
        return os.environ | {"HOME": own, "TMPDIR": own, "XDG_CACHE_HOME": own, "PATH": path}


def _die_with_us() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def compile_here() -> None:
    """Have all programs compiled by this machine, which is many times faster than the guests.

    Anew, or what is kept would grow with every change of a text.
    """
    shutil.rmtree(COMPILED, ignore_errors=True)
    command = [".venv/bin/pytest", "-q", VERIFIER]
    environment = os.environ | {compiled.VARIABLE: str(COMPILED)}
    if subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode != 0:
        sys.exit("the programs do not pass on this kernel, so no other was started")


def run(guests: Sequence[Guest]) -> list[Report]:
    """Run guests side by side, and report on each.

    Those that reported nothing, not even failed tests, are started again.
    """
    down = list(guests)
    for _ in range(BOOTS):
        with contextlib.ExitStack() as stack:
            for guest in down:
                stack.enter_context(guest.running())
            while sum(guest.runs() for guest in down):
                time.sleep(0.5)
        down = [guest for guest in down if not guest.reported]
    return [guest.report() for guest in guests]


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("choice", choices=TESTS)
    parser.add_argument("--kernel", action="append", choices=kernels(), help="only this one")
    parser.add_argument("--tests", nargs=argparse.REMAINDER, help="instead: arguments of pytest")
    asked = parser.parse_args()
    chosen = [one for one in kernels().values() if one.series in (asked.kernel or kernels())]
    guests = [
        Guest(one, fetched(one), asked.tests or TESTS[asked.choice], SECONDS[asked.choice])
        for one in chosen
    ]
    compile_here()
    reports = run(guests)
    for report in reports:
        report.keep_figures(verifier.MEASURED)
    Console(width=None if sys.stdout.isatty() else 160).print(table(reports))
    for report in reports:
        sys.stdout.write("".join(f"{line}\n" for line in report.lines()))
    return 0 if all(report.passed for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
