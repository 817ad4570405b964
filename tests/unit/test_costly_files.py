# SPDX-License-Identifier: BSD-2-Clause
"""Mesh files of up to 4 MiB that are made to be dear: accepted or refused for little.

Five seconds, and 300 MiB. Each is read in a process of its own, which tells how much memory it ever
had, and which the kernel ends after twice as much CPU time: a core that is shared is slower.
"""

import resource
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

pytestmark = pytest.mark.unit

SECONDS = 30
"""Of CPU: what costs little takes five on a busy machine, and what does not, minutes."""
MEBIBYTES = 400
HEAD = """[mesh]
name = "a"
limits = {functions=65535, services=65535, rules=1048576, tenants=255, prefixes=65536}
"""
GROUP = HEAD + '[[function]]\nname = "g"\nreplicas = 1000\n'
LARGE = GROUP.replace("1000", "65000")
SERVICE = '[[service]]\nname = "s"\naddress = "192.0.2.1"\nport = 1\nfunctions = ["g"]\n'
READ = """
import sys
from pathlib import Path
from ebpfmesh import config
from ebpfmesh.errors import ConfigError
try:
    config.load(Path(sys.argv[1]))
    print("accepted")
except ConfigError as error:
    print("refused", 1 + len(error.others), error.more)
print(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
"""
"""The most memory it had is in KiB; what getrusage(2) tells is no less than who started it had."""


def filled(head: str, unit: Callable[[int], str]) -> str:
    """As many units after a head as 4 MiB have room for."""
    parts, size = [head], len(head)
    for number in count():
        part = unit(number)
        if size + len(part) > 4 << 20:
            return "".join(parts)
        parts.append(part)
        size += len(part)
    raise AssertionError


def address(number: int) -> str:
    return f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}"


FILES: dict[str, Callable[[], str]] = {
    "keys at the top": lambda: filled("", lambda n: f"k{n}=1\n"),
    "tables": lambda: filled("", lambda n: f"[k{n}]\n"),
    "injected functions": lambda: filled(
        GROUP, lambda n: f'[[inject]]\nname = "i{n}"\nfile = "large.c"\nat = "g/egress"\n'
    ),
    "rights": lambda: filled(GROUP, lambda n: f'[[tenant]]\nname = "t{n}"\n'),
    "tables in tables": lambda: filled("", lambda n: f"k{n}.a.a.a.a.a.a.a=1\n"),
    "brackets": lambda: HEAD + "x=" + "[" * 2_000_000 + "]" * 2_000_000,
    "elements": lambda: HEAD + "x=[" + "1," * 2_000_000 + "]",
    "words that are none": lambda: HEAD + "[[function]]\ncommand=[" + "1," * 1_900_000 + "]",
    "a long number": lambda: HEAD + "x=" + "1" * 4_000_000,
    "long numbers": lambda: HEAD + "x=[" + ("1" * 4000 + ",") * 1000 + "]",
    "a key twice": lambda: filled("", lambda n: f"k{n}=1\n") + "k0=1\n",
    "one name": lambda: filled(HEAD, lambda _: '[[function]]\nname="g"\n'),
    "unknown tenants": lambda: filled(
        HEAD, lambda n: f'[[policy]]\nfrom="any"\nto="tenant:t{n}"\naction="deny"\n'
    ),
    "unknown functions": lambda: (
        HEAD + SERVICE.replace('"g"', ",".join(f'"q{n}"' for n in range(60_000)))
    ),
    "one port": lambda: filled(
        HEAD + '[[function]]\nname="g"\n',
        lambda n: SERVICE.replace('"s"', f'"s{n}"').replace("1\n", '"1-65535"\n'),
    ),
    "services of many replicas": lambda: filled(
        GROUP,
        lambda n: f'[[service]]\nname="s{n}"\naddress="{address(n)}"\nport=80\nfunctions=["g"]\n',
    ),
    "rules of many replicas": lambda: filled(
        GROUP, lambda n: f'[[policy]]\nfrom="function:g"\nto="outside:{address(n)}/32"\n'
    ),
    "weights": lambda: (
        LARGE + SERVICE + "weights={" + ",".join(f"g-{n}=2" for n in range(65_000)) + "}"
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_costs_little(tmp_path: Path, name: str) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(FILES[name]())
    (tmp_path / "large.c").write_text(" " * (256 << 10))
    assert file.stat().st_size <= (4 << 20) + 16
    child = subprocess.run(
        [sys.executable, "-c", READ, file],
        check=False,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS)),
    )
    assert child.returncode == 0, f"it was ended after {SECONDS} seconds of CPU time"
    verdict, memory = child.stdout.splitlines()
    assert verdict == "accepted" or int(verdict.split()[1]) <= 50
    assert int(memory) >> 10 <= MEBIBYTES
