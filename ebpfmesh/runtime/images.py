# SPDX-License-Identifier: BSD-2-Clause
"""Images that podman has, as the directories that they are made of. Nothing is pulled or mounted.

A sandbox lays them over one another in a mount namespace of its own, so that nothing of it is left
when the sandbox is gone, however that goes.
"""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ebpfmesh.errors import MeshError, NotFound, Unsupported


@dataclass(frozen=True)
class Image:
    """``layers``: the first lies above the others; ``env`` and ``workdir`` as it says itself."""

    layers: tuple[Path, ...]
    env: Mapping[str, str]
    workdir: str


def find(name: str) -> Image:
    """An image by name or id; NotFound if podman has none, Unsupported without podman."""
    if shutil.which("podman") is None:
        raise Unsupported(f"image {name}: podman is not installed", hint="apt install podman")
    done = subprocess.run(
        ["podman", "image", "inspect", "--", name],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        raise NotFound(f"podman has no image {name}", hint=f"podman pull {name}")
    found = json.loads(done.stdout)[0]
    config = found.get("Config") or {}
    lines, workdir = config.get("Env") or [], config.get("WorkingDir") or "/"
    if any("\0" in text for text in (*lines, workdir)):
        raise MeshError(f"image {name}: a variable or its directory holds a NUL")
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    return Image(_layers(name, found["GraphDriver"]), env, workdir)


def _layers(name: str, driver: Mapping[str, object]) -> tuple[Path, ...]:
    data = driver.get("Data")
    texts = dict(data) if isinstance(data, dict) else {}
    upper, lower = texts.get("UpperDir"), texts.get("LowerDir", "")
    if driver.get("Name") != "overlay" or not upper:
        what = f"image {name}: podman keeps it by the storage driver {driver.get('Name')}"
        raise Unsupported(what, hint='driver = "overlay" in /etc/containers/storage.conf')
    return tuple(map(Path, (upper, *filter(None, str(lower).split(":")))))
