# SPDX-License-Identifier: BSD-2-Clause
"""An Open vSwitch of our own: its two daemons, run in a network namespace with private files.

Nothing of the system's Open vSwitch is read, written or started. Everything ends with the
ExitStack it was started with, the daemons with this process too, however that ends.
"""

import json
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Literal

from ebpfmesh.bench import tools
from ebpfmesh.errors import CommandFailed
from ebpfmesh.kernel import netns

PROGRAMS = ("ovsdb-server", "ovs-vswitchd", "ovsdb-tool", "ovs-vsctl", "ovs-ofctl", "ovs-appctl")
PACKAGE = "openvswitch-switch"
SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
BRIDGE = "ovs0"
OPENFLOW = "OpenFlow15"
SECONDS = 60
"""How long a command may take; 10 000 services take some."""
Datapath = Literal["netdev", "system"]
"""Open vSwitch's names of its datapaths: in user space, and in the kernel."""


def missing() -> str:
    """Which program is not there, and what to do about it; or ""."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"{program} is missing: apt-get install {PACKAGE}"
    return ""


class Switch:
    """The daemons, and a bridge without flows: it drops all until it is given some."""

    def __init__(self, namespace: Path, datapath: Datapath, stack: ExitStack) -> None:
        self._directory = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="ebpfmesh-ovs-"))
        )
        names = ("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR")
        self._environment = os.environ | dict.fromkeys(names, str(self._directory))
        self._namespace = namespace
        database = self._directory / "conf.db"
        self.run(["ovsdb-tool", "create", str(database), str(SCHEMA)])
        server = self._start(
            ["ovsdb-server", str(database), f"--remote=punix:{self._directory}/db.sock"],
            self._directory / "db.sock",
            stack,
        )
        self.run(["ovs-vsctl", "--no-wait", "init"])
        switch = self._start(
            ["ovs-vswitchd", f"unix:{self._directory}/db.sock"],
            self._directory / "ovs-vswitchd.ctl",
            stack,
        )
        self.processes = (server, switch)
        stack.callback(self._clean_up)
        kind = [] if datapath == "system" else ["datapath_type=netdev"]
        settings = ["--", "set", "bridge", BRIDGE, "fail_mode=secure", *kind]
        self.configure(["add-br", BRIDGE, *settings])
        if BRIDGE not in self._control("ofproto/list").split():
            raise CommandFailed(f"ovs-vswitchd: {self._first_complaint()}")

    def _start(self, command: Sequence[str], socket: Path, stack: ExitStack) -> int:
        """Start a daemon on any core; it is ready once ``socket`` is there."""
        control = self._directory / f"{command[0]}.ctl"
        log = stack.enter_context((self._directory / f"{command[0]}.log").open("wb"))
        with netns.entered(self._namespace):
            daemon = subprocess.Popen(
                [*tools.DIES_WITH_US, *command, f"--unixctl={control}", "--no-chdir"],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        stack.callback(tools.stop, daemon)
        deadline = time.monotonic() + tools.READY_SECONDS
        while not socket.exists():
            if daemon.poll() is not None or time.monotonic() > deadline:
                said = Path(log.name).read_text(errors="replace").strip().splitlines()
                raise CommandFailed(f"{command[0]} did not start: {' / '.join(said[-3:])}")
            time.sleep(0.005)
        return daemon.pid

    def run(self, command: list[str], text: str = "") -> str:
        """Output of one of Open vSwitch's programs; CommandFailed with what it said if it fails."""
        with netns.entered(self._namespace):
            done = subprocess.run(
                command,
                input=text,
                text=True,
                check=False,
                capture_output=True,
                timeout=SECONDS,
                env=self._environment,
            )
        if done.returncode:
            raise CommandFailed(f"{command[0]}: {done.stderr.strip()}")
        return done.stdout

    def configure(self, arguments: Sequence[str]) -> None:
        """Have ovs-vsctl change the configuration; the switch works by it on return.

        What the switch could not do is an error, though ovs-vsctl calls it a warning.
        """
        self.run(["ovs-vsctl", f"--timeout={SECONDS}", *arguments])
        columns = ["--format=json", "--columns=name,error", "list", "interface"]
        for name, error in json.loads(self.run(["ovs-vsctl", *columns]))["data"]:
            if isinstance(error, str):  # else it is an empty set
                raise CommandFailed(f"ovs-vswitchd: {name}: {error}")

    def connect(self, ports: Mapping[str, int]) -> None:
        """Make interfaces of its namespace ports of the bridge, under numbers of OpenFlow."""
        words: list[str] = []
        for name, number in ports.items():
            words += ["--", "add-port", BRIDGE, name]
            words += ["--", "set", "interface", name, f"ofport_request={number}"]
        self.configure(words[1:])

    def change(self, bundle: str) -> None:
        """Apply a bundle of flow and group changes, all or none.

        For a moment packets may still meet what the datapath has cached; see ``revalidated``.
        """
        self.run(["ovs-ofctl", "-O", OPENFLOW, "bundle", BRIDGE, "-"], bundle)

    def revalidated(self) -> None:
        """Wait until packets meet the flows as they are now: half a second, at rest as well."""
        self._control("revalidator/wait")

    def _control(self, *words: str) -> str:
        """What ovs-vswitchd answers to a command."""
        return self.run(["ovs-appctl", "-t", str(self._directory / "ovs-vswitchd.ctl"), *words])

    def _first_complaint(self) -> str:
        """What ovs-vswitchd logged first that is not well: no command tells it.

        A line is time|number|module|level|text; see ovs-appctl(8).
        """
        log = (self._directory / "ovs-vswitchd.log").read_text(errors="replace")
        found = re.search(r"\|(?:WARN|ERR)\|(.+)", log)
        return found[1] if found else "there is no bridge, and it does not say why"

    def _clean_up(self) -> None:
        """Have the switch delete its datapath: one in the kernel would outlive it."""
        with suppress(CommandFailed, subprocess.TimeoutExpired):
            self._control("exit", "--cleanup")
