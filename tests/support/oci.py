# SPDX-License-Identifier: BSD-2-Clause
"""Images as files (OCI image-spec: image layout), and a containerd of the test's own for them."""

import contextlib
import hashlib
import io
import json
import os
import platform
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from ebpfmesh.kernel import libc
from ebpfmesh.runtime.containerd import MACHINES
from support.topology import needs, wait_until

CONFIG = """version = 2
root = "{top}/root"
state = "{top}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "{top}/sock"
"""
TYPE = "application/vnd.oci.image"


def archive(path: Path, name: str, layers: Sequence[Path], config: Mapping[str, Any]) -> None:
    """Write an image of some tars, the lowest first, under a name."""
    blobs: dict[str, bytes] = {}

    def put(kind: str, data: bytes) -> dict[str, Any]:
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        blobs[f"blobs/{digest.replace(':', '/')}"] = data
        return {"mediaType": f"{TYPE}.{kind}", "digest": digest, "size": len(data)}

    tars = [put("layer.v1.tar", layer.read_bytes()) for layer in layers]
    here = {"architecture": MACHINES[platform.machine()], "os": "linux"}
    files = {"type": "layers", "diff_ids": [one["digest"] for one in tars]}
    described = put("config.v1+json", _json({**here, "config": config, "rootfs": files}))
    manifest = put("manifest.v1+json", _json(_version(config=described, layers=tars)))
    other = {"platform": {"architecture": "s390x", "os": "linux"}}  # which is not there
    entries = [{**manifest, "digest": f"sha256:{0:064}", **other}, {**manifest, "platform": here}]
    index = put("index.v1+json", _json(_version(manifests=entries)))
    names = {"annotations": {"io.containerd.image.name": name}}
    blobs["index.json"] = _json(_version(manifests=[{**index, **names}]))
    blobs["oci-layout"] = _json({"imageLayoutVersion": "1.0.0"})
    with tarfile.open(path, "w") as tar:
        for file, data in blobs.items():
            entry = tarfile.TarInfo(file)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def _version(**fields: Any) -> dict[str, Any]:
    return {"schemaVersion": 2, **fields}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


@contextlib.contextmanager
def containerd() -> Iterator[None]:
    """A containerd with nothing in it, which ctr finds; nothing of it is left."""
    needs("containerd", "ctr")
    top = Path(tempfile.mkdtemp(prefix="ebpfmesh-containerd-"))
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        libc.mount(b"none", top, b"tmpfs")  # where a test's directory is an overlay itself
        stack.callback(libc.umount, top)
        config = top / "config.toml"
        config.write_text(CONFIG.format(top=top))
        log = stack.enter_context((top / "log").open("wb"))
        daemon = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
        stack.callback(daemon.wait)
        stack.callback(daemon.terminate)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("CONTAINERD_ADDRESS", str(top / "sock"))
        answers = lambda: subprocess.run(["ctr", "version"], capture_output=True, check=False)  # noqa: E731
        up = lambda: daemon.poll() is not None or answers().returncode == 0  # noqa: E731
        wait_until(up, what="containerd answers", seconds=30)
        assert daemon.poll() is None, (top / "log").read_text()
        yield


def ctr(*words: object) -> str:
    """What ctr prints; its complaints fail the test."""
    done = subprocess.run(
        ["ctr", *map(str, words)], capture_output=True, text=True, check=False, timeout=180,
        env=os.environ,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"ctr {' '.join(map(str, words))}: {done.stderr}")
    return done.stdout
