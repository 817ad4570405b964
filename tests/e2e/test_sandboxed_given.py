# SPDX-License-Identifier: BSD-2-Clause
"""What a command of a mesh file is given in its sandbox, and what it may use up there."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ebpfmesh import apply
from ebpfmesh.kernel import interface, netns
from support import containers
from support.command import COMMAND, ROOT, complaint, data
from support.sandboxed import ended, one, said
from support.topology import mesh_of, needs, running, wait_until


def test_a_memory_hog_is_ended_and_told_of() -> None:
    with running(one("x = bytearray(300 << 20); print(len(x))", 'memory = "48M"')):
        assert ended("bound") == "137"
        assert said("bound") == ""


def test_memory_in_tmp_counts() -> None:
    script = "f = open('/tmp/file', 'wb')\nwhile True: f.write(bytes(1 << 20))"
    with running(one(script, 'memory = "48M"', 'tmp = "1G"')):
        assert ended("bound") == "137"


@pytest.mark.parametrize("place", ["/tmp", "/run", "/dev/shm"])
def test_a_full_disk_is_its_own(place: str) -> None:
    script = f"""
count = 0
try:
    with open({place!r} + "/file", "wb", buffering=0) as f:
        while count < 1000: count += f.write(bytes(65536)) // 65536
except OSError as error: print(count, error.strerror)
"""
    with running(one(script, 'tmp = "1M"')):
        assert ended("bound") == "0"
        assert said("bound") == "16 No space left on device\n"


def test_volumes_env_workdir_and_user(tmp_path: Path) -> None:
    site, work = tmp_path / "site", tmp_path / "work"
    for directory in (site, work):
        directory.mkdir()
        os.chown(directory, 33, 33)
    (site / "page").write_text("text")
    script = """
import os
print(os.getcwd(), os.environ["GREETING"], os.getuid(), os.getgid(), open("page").read())
open("/work/file", "w").write("made")
try: open("page", "w")
except OSError as error: print(error.strerror)
"""
    keys = (
        f'volumes = ["{site}:/site", "{work}:/work:rw"]', 'workdir = "/site"', 'user = "www-data"',
        'env = {GREETING = "good day"}',
    )  # fmt: skip
    with running(one(script, *keys)):
        assert ended("bound") == "0", said("bound")
        assert said("bound") == "/site good day 33 33 text\nRead-only file system\n"
    assert (work / "file").read_text() == "made"
    assert (work / "file").stat().st_uid == 33


def test_root_inside_writes_no_file_of_the_hosts_root(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    tmp_path.chmod(0o755)
    script = f"open('{tmp_path}/file', 'w')"
    keys = (
        f'volumes = ["{tmp_path}:{tmp_path}:rw"]',
        'user = "root"',
        'capabilities = ["DAC_OVERRIDE"]',
    )
    with running(one(script, *keys)):
        assert ended("bound") == "1"
    assert (tmp_path / "file").read_text() == "kept"


def test_a_namespace_of_others() -> None:
    """It has a sandbox there; root of its sandbox is nobody to that network."""
    netns.create("theirs")
    try:
        script = """
import os, socket
print(os.getuid(), [name for _, name in socket.if_nameindex()])
for kind in (socket.SOCK_RAW,):
    try: socket.socket(socket.AF_INET, kind, 1)
    except PermissionError as error: print(error.strerror, flush=True)
"""
        with running(one(script, 'netns = "theirs"', 'user = "root"')):
            assert ended("bound") == "0"
            assert said("bound") == "0 ['lo', 'eth0']\nOperation not permitted\n"
    finally:
        netns.remove("theirs")


def test_a_command_that_is_privileged_is_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "file"
    script = f"import os; open({str(file)!r}, 'w').write(str(os.getuid()))"
    with running(one(script, "privileged = true", program=sys.executable)):
        assert ended("bound") == "0"
        notes = [c["text"] for c in data("--mesh", "bound", "doctor")["checks"]]
        assert any("f is privileged" in text for text in notes)
    assert file.read_text() == "0"


def test_a_program_it_cannot_see_is_told_before(tmp_path: Path) -> None:
    file = tmp_path / "program"
    file.write_text("#!/bin/sh\necho hello\n")
    file.chmod(0o755)
    tmp_path.chmod(0o755)
    text = f'[mesh]\nname = "bound"\n[[function]]\nname = "f"\ncommand = ["{file}"]\n'
    path = tmp_path / "mesh.toml"
    path.write_text(text)
    found = complaint("up", path, code=1)
    assert "in its sandbox" in str(found)
    assert "volumes" in str(found)
    with running(text + f'volumes = ["{file}"]\n'):
        assert ended("bound") == "0"
        assert said("bound") == "hello\n"


def test_a_root_of_its_own(tmp_path: Path) -> None:
    """Where places to mount on are missing, they are there all the same; and it stays as it was."""
    needs("busybox")
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    busybox = root / "bin/busybox"
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    (root / "bin/sh").symlink_to("busybox")
    before = sorted(root.rglob("*"))
    text = (
        '[mesh]\nname = "bound"\n[[function]]\nname = "f"\n'
        'command = ["sh", "-c", "busybox ls /; busybox touch /x; busybox grep -c f /etc/hosts;'
        ' exec busybox sleep 1000"]\n'
        f'rootfs = "{root}"\nvolumes = ["/usr/share/common-licenses:/data/licences"]\n'
    )
    with running(text):
        wait_until(lambda: "\n2\n" in said("bound"), what="it has looked around")
        assert "touch: /x: Read-only file system" in said("bound")
        assert set(said("bound").split("touch:")[0].split()) == {
            "bin", "data", "dev", "etc", "proc", "run", "sys", "tmp",
        }  # fmt: skip
        line = [*COMMAND, "--mesh", "bound", "exec", "f", "--", "busybox", "ls", "/data/licences"]
        done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=ROOT)
        assert "GPL-2" in done.stdout
    assert sorted(root.rglob("*")) == before


IMAGE = f"""
[mesh]
name = "bound"
[[function]]
name = "f"
command = ["sh", "-c", "echo $WHICH; pwd; cat file; touch /x; exec sleep 1000"]
image = "{containers.IMAGE}"
volumes = ["/usr/share/common-licenses:/licences"]
"""


def test_an_image_that_podman_has(tmp_path: Path) -> None:
    """Its layers, variables and directory; what is mounted of it is nobody else's."""
    changes = ("WORKDIR /work", "ENV WHICH=other", "COPY file /work/file")
    (tmp_path / "Containerfile").write_text(f"FROM {containers.IMAGE}\n" + "\n".join(changes))
    (tmp_path / "file").write_text("of the second layer\n")
    with containers.engine("overlay"):
        containers.podman("build", "--pull=never", "--tag", "localhost/second", str(tmp_path))
        mounted = lambda: Path("/proc/self/mounts").read_text().count(" overlay ")  # noqa: E731
        before = mounted()
        with running(IMAGE.replace(containers.IMAGE, "localhost/second")):
            wait_until(lambda: "touch" in said("bound"), what="it has looked around")
            assert said("bound").splitlines() == [
                *("other", "/work", "of the second layer"),
                "touch: /x: Read-only file system",
            ]  # fmt: skip
            line = [*COMMAND, "--mesh", "bound", "exec", "f", "--"]
            for file in ("/licences/GPL-2", "/etc/hosts"):
                subprocess.run([*line, "cat", file], check=True, capture_output=True, cwd=ROOT)
            assert mounted() == before
        assert containers.podman("image", "inspect", "localhost/second")


def test_an_image_that_is_not_there_is_not_pulled(tmp_path: Path) -> None:
    file = tmp_path / "mesh.toml"
    file.write_text(IMAGE.replace(containers.IMAGE, "localhost/nowhere"))
    with containers.engine():
        error, hint = complaint("up", file, code=3)
        assert "podman has no image localhost/nowhere" in error
        assert hint == "podman pull localhost/nowhere"
        file.write_text(IMAGE)
        error, hint = complaint("up", file, code=5)
        assert "storage driver vfs" in error


def test_what_is_left_of_a_killed_up_is_collected() -> None:
    """Nothing outside of the cgroup and the named namespace holds a sandbox."""
    text = one("import time; time.sleep(1000)")
    apply.up(mesh_of(text))
    path = netns.RUN / "ebpfmesh.bound.f"
    assert stat.S_ISREG(path.stat().st_mode)
    assert interface.find(interface.host_name("bound", 1))
    apply.down("bound")
    assert not path.exists()
