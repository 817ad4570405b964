# SPDX-License-Identifier: BSD-2-Clause
"""Images that podman has."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from ebpfmesh.errors import Unsupported
from ebpfmesh.runtime.image import Image, image_of

NAME = "podman"


def is_here() -> bool:
    """Whether it can be asked."""
    return shutil.which("podman") is not None


def find(name: str) -> Image | None:
    """An image by name or id, None if it has none such; Unsupported for another storage driver."""
    done = subprocess.run(
        ["podman", "image", "inspect", "--", name],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    if done.returncode != 0:
        return None
    found = json.loads(done.stdout)[0]
    return image_of(name, _layers(name, found["GraphDriver"]), found.get("Config") or {})


def _layers(name: str, driver: Mapping[str, object]) -> tuple[Path, ...]:
    data = driver.get("Data")
    texts = dict(data) if isinstance(data, dict) else {}
    upper, lower = texts.get("UpperDir"), texts.get("LowerDir", "")
    if driver.get("Name") != "overlay" or not upper:
        what = f"image {name}: podman keeps it by the storage driver {driver.get('Name')}"
        raise Unsupported(what, hint='driver = "overlay" in /etc/containers/storage.conf')
    return tuple(map(Path, (upper, *filter(None, str(lower).split(":")))))
