# SPDX-License-Identifier: BSD-2-Clause
"""Images that containerd has, asked by its own client: ctr, of Debian's package containerd.

Where the layers of an image lie only a view of its snapshot tells. There is one for a moment, under
a name that is ours; containerd's collector of garbage takes what a kill leaves of it.
"""

import contextlib
import hashlib
import json
import os
import platform
import shlex
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ebpfmesh.errors import MeshError, Unsupported
from ebpfmesh.runtime.image import Image, image_of

NAME = "containerd"
SOCKET = "/run/containerd/containerd.sock"
FIRST = ("default", "k8s.io")  # namespaces, of ctr and of Kubernetes
SNAPSHOTTERS = ("overlayfs", "native")
MACHINES = {"x86_64": "amd64", "aarch64": "arm64"}  # GOARCH, as images say it
ATTEMPTS = 5
"""Views to make of one snapshot: one that nothing refers to may be collected at any time."""


def is_here() -> bool:
    """Whether it runs, and can be asked."""
    socket = Path(os.environ.get("CONTAINERD_ADDRESS") or SOCKET)
    return shutil.which("ctr") is not None and socket.is_socket()


def find(name: str) -> Image | None:
    """An image by name, of whatever namespace; None if it has none such.

    Unsupported if it is not unpacked, or not by one of ``SNAPSHOTTERS``.
    """
    spaces = _ctr("namespaces", "ls", "-q").split()
    for space in sorted(spaces, key=lambda one: (one not in FIRST, one)):
        if digest := _digest(space, name):
            config = _config(space, name, digest)
            return image_of(name, _layers(space, name, config), config.get("config") or {})
    return None


def _ctr(*words: str) -> str:
    """What ctr prints; MeshError with its complaint."""
    done = subprocess.run(
        ["ctr", *words], capture_output=True, text=True, check=False, timeout=60
    )  # fmt: skip
    if done.returncode != 0:
        raise MeshError(f"ctr {' '.join(words)}: {done.stderr.strip() or done.returncode}")
    return done.stdout


def _digest(space: str, name: str) -> str:
    """Of the image's description; names without a registry or a tag are also tried with these."""
    rows = [line.split() for line in _ctr("-n", space, "images", "ls").splitlines()[1:]]
    digests = {row[0]: row[2] for row in rows}
    return next((digests[one] for one in _names(name) if one in digests), "")


def _names(name: str) -> Iterator[str]:
    tagged = name if "@" in name or ":" in name.rpartition("/")[2] else f"{name}:latest"
    yield from (name, tagged)
    registry, slash, _ = name.partition("/")
    if not slash:
        yield f"docker.io/library/{tagged}"
    elif not {".", ":"} & set(registry) and registry != "localhost":
        yield f"docker.io/{tagged}"


def _config(space: str, name: str, digest: str) -> dict[str, Any]:
    """What an image says of itself, for this machine (OCI image-spec: index, manifest, config)."""
    found = _content(space, digest)
    if "manifests" in found:
        wanted = MACHINES.get(platform.machine(), platform.machine())
        for one in found["manifests"]:
            # Of some platforms only the description is here, not the image.
            if one.get("platform", {}).get("architecture", wanted) == wanted:
                found = _content(space, one["digest"])
                break
        else:
            raise Unsupported(f"image {name}: containerd has none of it for {wanted}")
    return _content(space, found["config"]["digest"])


def _content(space: str, digest: str) -> dict[str, Any]:
    found = json.loads(_ctr("-n", space, "content", "get", digest))
    if not isinstance(found, dict):
        raise MeshError(f"containerd: {digest} describes no image")
    return found


def _layers(space: str, name: str, config: dict[str, Any]) -> tuple[Path, ...]:
    top = _chain(config["rootfs"]["diff_ids"])
    for snapshotter in SNAPSHOTTERS:
        command = ("-n", space, "snapshots", "--snapshotter", snapshotter)
        has: list[str] = []
        with contextlib.suppress(MeshError):  # a containerd without this one
            has = _ctr(*command, "ls").split()
        if top in has:
            return _directories(name, _mount(command, top))
    what = f"image {name}: containerd has it unpacked for none of {', '.join(SNAPSHOTTERS)}"
    raise Unsupported(what, hint=f"ctr -n {space} images mount {name} /mnt unpacks it")


def _chain(layers: Sequence[str]) -> str:
    """The name of the snapshot of some layers, the lowest first (OCI image-spec: ChainID)."""
    chain = layers[0]
    for layer in layers[1:]:
        chain = f"sha256:{hashlib.sha256(f'{chain} {layer}'.encode()).hexdigest()}"
    return chain


def _mount(command: Sequence[str], snapshot: str) -> str:
    """The line by which a read-only view of a snapshot would be mounted."""
    key = f"ebpfmesh-{os.getpid()}"
    for attempt in range(ATTEMPTS):
        try:
            _ctr(*command, "view", key, snapshot)
            return _ctr(*command, "mounts", "/", key)
        except MeshError:
            if attempt == ATTEMPTS - 1:
                raise
        finally:
            subprocess.run(["ctr", *command, "rm", key], capture_output=True, check=False)
    raise AssertionError


def _directories(name: str, line: str) -> tuple[Path, ...]:
    """The layers of ``mount -t overlay overlay / -o …lowerdir=A:B`` or ``mount -t bind A / -o …``.

    One layer alone, or of the native snapshotter, is bound.
    """
    words = shlex.split(line)
    if len(words) == 7 and words[2] == "bind":
        return (Path(words[3]),)
    options = words[6].split(",") if len(words) == 7 and words[2] == "overlay" else ()
    for option in options:
        if option.startswith("lowerdir="):
            return tuple(map(Path, option.removeprefix("lowerdir=").split(":")))
    raise Unsupported(f"image {name}: containerd would mount it by {line.strip()}")
