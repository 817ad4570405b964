# SPDX-License-Identifier: BSD-2-Clause
"""What is taken of an image, whoever has it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ebpfmesh.errors import MeshError


@dataclass(frozen=True)
class Image:
    """``layers``: the first lies above the others; ``env`` and ``workdir`` as it says itself."""

    layers: tuple[Path, ...]
    env: Mapping[str, str]
    workdir: str


def image_of(name: str, layers: tuple[Path, ...], config: Mapping[str, Any]) -> Image:
    """An image with its ``config`` of the OCI image format; MeshError if that cannot be used."""
    lines, workdir = config.get("Env") or [], config.get("WorkingDir") or "/"
    if any("\0" in text for text in (*lines, workdir)):
        raise MeshError(f"image {name}: a variable or its directory holds a NUL")
    env = dict(line.split("=", 1) for line in lines if "=" in line)
    return Image(layers, env, workdir)
