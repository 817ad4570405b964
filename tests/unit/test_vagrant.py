# SPDX-License-Identifier: BSD-2-Clause
"""The check of the Vagrantfile, which `make lint` wants to pass, does not with a mistake in it."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

VAGRANT = Path(__file__).parents[2] / "vagrant"
pytestmark = pytest.mark.skipif(
    shutil.which("vagrant") is None, reason="vagrant is not installed: make setup-lint"
)


def validate(directory: Path, **knobs: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["make", "-s", "-C", directory, "validate"],
        env=os.environ | knobs,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(("knob", "value"), [("VM_CPUS", "0"), ("VM_MEMORY", "4G")])
def test_bad_knob(knob: str, value: str) -> None:
    done = validate(VAGRANT, **{knob: value})
    assert done.returncode != 0
    assert f"{knob}={value}: not a whole number from" in done.stderr
    assert "hint: " in done.stderr


@pytest.mark.parametrize(
    ("line", "broken"),
    [("libvirt.memory =", "libvirt.memry ="), ("config.vm.hostname =", "config.vm.hostnam =")],
)
def test_mistake(tmp_path: Path, line: str, broken: str) -> None:
    copy = tmp_path / "vagrant"
    shutil.copytree(VAGRANT, copy, ignore=shutil.ignore_patterns("results", ".vagrant"))
    text = (copy / "Vagrantfile").read_text()
    assert line in text
    (copy / "Vagrantfile").write_text(text.replace(line, broken))
    done = validate(copy)
    assert done.returncode != 0, done.stdout
