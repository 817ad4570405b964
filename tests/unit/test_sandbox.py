# SPDX-License-Identifier: BSD-2-Clause
"""Sandboxes of commands, as far as it goes without one: users, variables, what is missing."""

import itertools
from pathlib import Path

import pytest

from ebpfmesh.errors import MeshError, NotFound, Unsupported
from ebpfmesh.kernel import userns
from ebpfmesh.model import Function, Volume
from ebpfmesh.runtime.sandbox import Root, Sandbox


def sandbox(name: str = "f", mesh: str = "m", **settings: object) -> Sandbox:
    values = {"name": name, "address4": "198.18.0.1", "command": ["true"], **settings}
    return Sandbox(mesh, Function.model_validate(values, strict=False))


def test_each_function_has_its_own_two_users() -> None:
    """By its name and its mesh's, the same each time; where systemd says that ids are free."""
    found = {sandbox(f"f{n}", mesh).own for n in range(100) for mesh in "ab"}
    assert len(found) == 200
    assert {own % 2 for own in found} == {0}
    assert min(found) >= 0x70000000
    assert max(found) < 0x7FFFFFFF
    assert sandbox().own == sandbox(user="root").own


@pytest.mark.parametrize("own", [0x70000000, sandbox().own, 0x7FFFFFFE])
def test_users_are_those_of_the_host_but_for_root_and_nobody(own: int) -> None:
    """What /proc/PID/uid_map says: no id twice, and never the host's root."""
    extents = [tuple(map(int, line.split())) for line in userns._extents(own).splitlines()]
    mapped = sorted((outside, outside + many) for _, outside, many in extents)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(mapped))
    assert mapped[0][0] == 1
    assert mapped[-1][1] == userns.LAST
    for number in (0, 1, 33, 1000, 65533, 65534, 65535, 1 << 20):
        (found,) = [out + number - ins for ins, out, many in extents if ins <= number < ins + many]
        assert found == userns.outside(number, own)
        assert (found == number) == (number not in (0, 65534))


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """Two layers: what is in the first hides what is in the second."""
    upper, lower = tmp_path / "upper", tmp_path / "lower"
    for layer in (upper, lower):
        (layer / "etc").mkdir(parents=True)
    (upper / "etc/passwd").write_text("root:x:0:0::/:/bin/sh\nredis:x:999:998::/:/bin/sh\nbroken\n")
    (lower / "etc/passwd").write_text("redis:x:1:1::/:/bin/sh\n")
    (lower / "etc/group").write_text("data:x:50:\n")
    return Root((upper, lower), {"PATH": "/bin", "A": "image"}, "/work")


@pytest.mark.parametrize(
    ("user", "numbers"),
    [
        (None, (65534, 65534)), ("nobody", (65534, 65534)), ("root", (0, 0)), ("0", (0, 0)),
        ("redis", (999, 998)), ("999", (999, 998)), ("1234", (1234, 1234)),
        ("redis:data", (999, 50)), ("redis:7", (999, 7)), ("7:data", (7, 50)),
    ],
)  # fmt: skip
def test_users_by_the_files_of_the_root(
    root: Root, user: str | None, numbers: tuple[int, int]
) -> None:
    assert sandbox(user=user).user(root) == numbers


@pytest.mark.parametrize("user", ["other", "redis:other"])
def test_users_that_are_not_there(root: Root, user: str) -> None:
    with pytest.raises(NotFound, match="other") as caught:
        sandbox(user=user).user(root)
    assert "number" in caught.value.hint


def test_a_link_in_a_root_leads_to_no_file_of_the_host(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").symlink_to("/etc/passwd")
    with pytest.raises(NotFound, match="www-data"):
        sandbox(user="www-data").user(Root((tmp_path,)))


def test_the_file_says_more_of_variables_than_the_image(root: Root) -> None:
    given = sandbox(env={"A": "file"})
    assert given.env(root) == {"PATH": "/bin", "HOME": "/tmp", "A": "file"}
    assert given.workdir(root) == "/work"
    assert sandbox(workdir="/other").workdir(root) == "/other"


@pytest.mark.parametrize(
    ("text", "volume"),
    [
        ("/a", ("/a", "/a", False)), ("/a:rw", ("/a", "/a", True)), ("/a:ro", ("/a", "/a", False)),
        ("/a:/b", ("/a", "/b", False)), ("/a:/b:rw", ("/a", "/b", True)),
        ("tmp:/b/c", ("tmp", "/b/c", True)), ("/:/host", ("/", "/host", False)),
    ],
)  # fmt: skip
def test_volumes(text: str, volume: tuple[str, str, bool]) -> None:
    assert Volume.parse(text) == volume


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, settings in (
        (f"{tmp_path}/none", {"rootfs": f"{tmp_path}/none"}),
        (f"{tmp_path}/none", {"volumes": [f"{tmp_path}/none:/data"]}),
    ):
        with pytest.raises(NotFound, match=wrong):
            sandbox(**settings).check()
    with pytest.raises(MeshError, match="no program nosuchprogram"):
        sandbox(command=["nosuchprogram"]).check()
    sandbox().check()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Unsupported, match="bubblewrap is not installed") as caught:
        sandbox().check()
    assert (caught.value.exit_code, caught.value.hint) == (5, "apt install bubblewrap")
