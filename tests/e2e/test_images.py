# SPDX-License-Identifier: BSD-2-Clause
"""Images that containerd has, as roots of commands; of podman: test_sandboxed_given.py."""

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import containers
from support.command import complaint, ebpfmesh
from support.oci import archive, containerd, ctr
from support.topology import needs, wait_until

NAME = "example.com/team/second:2"
MESH = """
[mesh]
name = "bound"
[[function]]
name = "f"
command = ["sh", "-c", "echo $WHICH; pwd; cat file; touch /x; exec sleep 1000"]
image = "{name}"
volumes = ["/usr/share/common-licenses:/licences"]
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Of two layers."""
    needs("busybox")
    (tmp_path / "file").write_text("of the second layer\n")
    upper = tmp_path / "upper.tar"
    with tarfile.open(upper, "w") as tar:
        tar.add(tmp_path / "file", "work/file")
    layers = [containers.root_file_system(tmp_path), upper]
    archive(tmp_path / "image.tar", NAME, layers, {"Env": ["WHICH=other"], "WorkingDir": "/work"})
    return tmp_path / "image.tar"


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mesh.toml"
    path.write_text(MESH.format(name=NAME))
    yield path
    ebpfmesh("down", "--mesh", "bound")


def overlays() -> int:
    return Path("/proc/self/mounts").read_text().count(" overlay ")


def views() -> list[str]:
    """Snapshots that are nobody's image."""
    rows = [
        line.split()
        for snapshotter in ("overlayfs", "native")
        for line in ctr("snapshots", "--snapshotter", snapshotter, "ls").splitlines()[1:]
    ]
    return [row[0] for row in rows if row[-1] != "Committed"]


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
def test_an_image_that_containerd_has(image: Path, file: Path, snapshotter: str) -> None:
    """Its layers, variables and directory. Nothing is mounted here, and no snapshot is left.

    Nor of somebody who was killed while they looked.
    """
    with containerd():
        ctr("images", "import", "--snapshotter", snapshotter, image)
        command = ("snapshots", "--snapshotter", snapshotter)
        ctr(*command, "view", "ebpfmesh-1", ctr(*command, "ls").split()[3])
        before = overlays()
        ebpfmesh("up", file)
        wait_until(lambda: "touch" in ebpfmesh("logs", "f").stdout, what="it has looked around")
        assert ebpfmesh("logs", "f").stdout.splitlines() == [
            *("other", "/work", "of the second layer"), "touch: /x: Read-only file system",
        ]  # fmt: skip
        assert "GENERAL" in ebpfmesh("exec", "f", "--", "cat", "/licences/GPL-2").stdout
        wait_until(lambda: views() == [], what="no view is left", seconds=30)
        ebpfmesh("down")
        assert overlays() == before


def test_of_another_namespace_and_of_one_layer(image: Path, file: Path) -> None:
    """As Kubernetes and docker have theirs, and by the name one types."""
    base = image.with_name("base.tar")
    archive(base, "docker.io/library/base:latest", [image.with_name("root.tar")], {})
    file.write_text(MESH.format(name="base").replace("cat file", "cat /etc/hosts"))
    with containerd():
        ctr("-n", "k8s.io", "images", "import", base)
        ebpfmesh("up", file)
        wait_until(lambda: "touch" in ebpfmesh("logs", "f").stdout, what="it has looked around")
        assert ebpfmesh("logs", "f").stdout.startswith("\n/\n127.0.0.1 localhost\n")
        ebpfmesh("down")


def test_what_cannot_be_used_is_told(image: Path, file: Path) -> None:
    with containerd():
        error, hint = complaint("up", file, code=3)
        assert error.endswith(f"podman and containerd have no image {NAME}")
        assert hint == f"podman pull {NAME}"
        ctr("images", "import", "--no-unpack", image)
        error, hint = complaint("up", file, code=5)
        assert "unpacked for none of overlayfs, native" in error
        assert hint == f"ctr -n default images mount {NAME} /mnt unpacks it"
        place = file.with_name("mnt")
        place.mkdir()
        ctr("images", "mount", NAME, place)
        ctr("images", "unmount", "--rm", place)
        assert "+ function f" in ebpfmesh("plan", file).stdout
