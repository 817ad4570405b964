# SPDX-License-Identifier: BSD-2-Clause
"""What a user meets who gives a command volumes: whose they must be, and what lies above them."""

import json
import os
import re
import subprocess
from pathlib import Path

from support.command import data, ebpfmesh
from support.topology import needs, wait_until

WRITES = "touch /data/file && echo written; exec sleep 1000"


def mesh(*keys: str, script: str = WRITES) -> str:
    words = json.dumps(["sh", "-c", script])
    return "\n".join(
        ['[mesh]\nname = "vols"\n[[function]]\nname = "f"', f"command = {words}", *keys]
    )


def said() -> str:
    """What the command says first."""
    read = lambda: ebpfmesh("logs", "f").stdout  # noqa: E731
    wait_until(read, what="the command says something")
    return read()


def test_whose_it_must_be_is_told_and_is_right(tmp_path: Path) -> None:
    """As typed from the warning, the command can write to it."""
    volume, file = tmp_path / "data", tmp_path / "vols.toml"
    volume.mkdir(mode=0o755)
    for user in ("", 'user = "www-data"'):
        os.chown(volume, 0, 0)
        (volume / "file").unlink(missing_ok=True)
        file.write_text(mesh(user, f'volumes = ["{volume}:/data:rw"]'))
        (warning,) = data("plan", file)["warnings"]
        assert f"cannot write to {volume}" in warning
        chown = re.search(r"chown \S+ \S+(?=, )", warning)
        assert chown, warning
        subprocess.run(chown[0].split(), check=True)
        assert data("plan", file)["warnings"] == []
        try:
            ebpfmesh("up", file)
            assert said() == "written\n"
        finally:
            ebpfmesh("down", "--mesh", "vols")


def test_it_is_told_beside_a_failure(tmp_path: Path) -> None:
    volume, file = tmp_path / "data", tmp_path / "vols.toml"
    volume.mkdir()
    keys = f'volumes = ["{volume}:/data:rw"]\nready = {{ file = "/never" }}'
    file.write_text(mesh(keys, script="touch /data/file"))
    told = ebpfmesh("up", file, code=1).stderr
    assert "warning: function f: its user nobody" in told
    assert "touch: cannot touch" in told


def test_of_replicas_one_is_told_of(tmp_path: Path) -> None:
    file = tmp_path / "vols.toml"
    file.write_text(mesh("replicas = 3", f'volumes = ["{tmp_path}:/data:rw"]'))
    (warning,) = data("plan", file)["warnings"]
    assert warning.startswith("function f-0: ")


def test_who_may_become_its_owner_is_not_warned(tmp_path: Path) -> None:
    volume, file = tmp_path / "data", tmp_path / "vols.toml"
    volume.mkdir(mode=0o700)
    os.chown(volume, 33, 33)
    keys = 'user = "root"\ncapabilities = ["SETUID"]'
    file.write_text(mesh(keys, f'volumes = ["{volume}:/data"]'))
    assert data("plan", file)["warnings"] == []
    os.chown(volume, 0, 0)
    (warning,) = data("plan", file)["warnings"]
    assert "cannot read" in warning


def test_what_is_above_a_volume_is_for_all_users_of_the_function(tmp_path: Path) -> None:
    """Though the volume itself is one user's alone."""
    volume, file = tmp_path / "home", tmp_path / "vols.toml"
    volume.mkdir(mode=0o700)
    os.chown(volume, 33, 33)
    keys = 'user = "root"\ncapabilities = ["SETUID", "SETGID"]'
    script = "setpriv --reuid 33 --regid 33 --clear-groups stat -c %U /home/www; exec sleep 1000"
    file.write_text(mesh(keys, f'volumes = ["{volume}:/home/www:rw"]', script=script))
    try:
        ebpfmesh("up", file)
        assert said() == "www-data\n"
    finally:
        ebpfmesh("down", "--mesh", "vols")


def test_whatever_the_umask_a_root_of_its_own_has_its_places(tmp_path: Path) -> None:
    needs("busybox")
    root, file = tmp_path / "root", tmp_path / "vols.toml"
    (root / "bin").mkdir(parents=True)
    (root / "bin/sh").write_bytes(Path("/bin/busybox").read_bytes())
    for one in (tmp_path, root, root / "bin", root / "bin/sh"):
        one.chmod(0o755)
    keys = f'rootfs = "{root}"\nvolumes = ["/usr/share/common-licenses:/a/b"]'
    file.write_text(mesh(keys, script="cd /a/b && echo there; exec sleep 1000"))
    try:
        ebpfmesh("up", file, prefix=("sh", "-c", 'umask 077; exec "$@"', "sh"))
        assert said() == "there\n"
    finally:
        ebpfmesh("down", "--mesh", "vols")


def test_a_log_by_the_name_of_a_device_is_kept(tmp_path: Path) -> None:
    """As images have it; and a line that ends as a terminal's is one."""
    file = tmp_path / "vols.toml"
    script = "echo out >/dev/stdout; echo err >/dev/stderr; printf 'raw\\r\\n'; exec sleep 1000"
    file.write_text(mesh(script=script))
    try:
        ebpfmesh("up", file)
        wait_until(lambda: "raw" in ebpfmesh("logs", "f").stdout, what="it says all")
        assert ebpfmesh("logs", "f").stdout == "out\nerr\nraw\n"
    finally:
        ebpfmesh("down", "--mesh", "vols")
