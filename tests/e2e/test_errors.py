# SPDX-License-Identifier: BSD-2-Clause
"""What goes wrong, as the user meets it: one line, a hint, the exit code, and no change."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebpfmesh._abi import ABI
from ebpfmesh.compile.build import build
from ebpfmesh.kernel import bpf, netns
from ebpfmesh.kernel.pins import Pins
from ebpfmesh.kernel.programs import Program
from support.command import ROOT, complaint, data, ebpfmesh, lines
from support.topology import leftovers, poll, unavailable

MESH = """[mesh]
name = "edge"

[[function]]
name = "one"
tenant = "t"

[[function]]
name = "two"
tenant = "t"
"""
BAD_FILES = [
    ("[mesh]\nname = edge\n", 2, "TOML"),
    ('[mesh]\nname = "Edge"\n', 2, "name"),
    ('[mesh]\nnme = 7\nname = "edge"\n', 2, "nme"),
    (MESH + "[[function]]\nname = 7\n", 12, "name"),
    (MESH + '[[function]]\nname = "one"\n', 12, "one"),
    (MESH + '[[function]]\nname = "three"\naddress = "198.18.0.300"\n', 13, "198.18.0.300"),
    (MESH + '[[function]]\nname = "three"\nmemory = "64 bananas"\n', 13, "bananas"),
    (MESH + '[[service]]\nname = "s"\naddress = "198.19.0.1"\nport = 70000\nfunctions = ["one"]\n',
     14, "port"),
    (MESH + '[[service]]\nname = "s"\naddress = "198.19.0.1"\nport = 80\nfunctions = ["onne"]\n',
     15, "onne"),
    (MESH + '[[policy]]\nfrom = "tenant:t"\nto = "function:nobody"\n', 13, "nobody"),
    (MESH + '[[policy]]\nfrom = "tenant:t"\nto = "any"\nport = 80\n', 14, "protocol"),
]  # fmt: skip


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    file = tmp_path_factory.mktemp("edge") / "edge.toml"
    file.write_text(MESH)
    ebpfmesh("up", file)
    yield file
    ebpfmesh("down")


def whole(up: Path) -> None:
    """The mesh is that of the file."""
    assert lines("plan", up) == ["nothing to do"]


@pytest.mark.parametrize(("text", "line", "about"), BAD_FILES)
def test_a_bad_file(up: Path, tmp_path: Path, text: str, line: int, about: str) -> None:
    bad = tmp_path / "bad.toml"
    bad.write_text(text)
    before = leftovers()
    for verb in ("up", "plan"):
        error, hint = complaint(verb, bad, code=2)
        assert error.startswith(f"{bad}:{line}: "), error
        assert about in error
        assert hint
    assert poll(lambda: leftovers() == before), leftovers() ^ before
    whole(up)


def test_no_file(up: Path, tmp_path: Path) -> None:
    error, _ = complaint("up", tmp_path / "nosuch.toml", code=2)
    assert "nosuch.toml" in error
    whole(up)


def test_a_file_about_another_mesh(up: Path) -> None:
    error, hint = complaint("--mesh", "core", "up", up, code=2)
    assert "edge" in error
    assert "core" in error
    assert hint


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(
    ("words", "about"),
    [
        (("exec", "nobody", "--", "true"), "nobody"),
        (("detach", "nobody"), "nobody"),
        (("exec", "one", "--", "nosuchprogram"), "nosuchprogram"),
        (("attach", "x", "--netns", "nosuch"), "nosuch"),
        (("attach", "x", "--pid", "4194000"), "4194000"),
        (("attach", "x", "--container", "nosuch"), "nosuch"),
        (("attach", "x", "--iface", "nosuch0"), "nosuch0"),
        (("--mesh", "core", "show", "functions"), "core"),
        (("--mesh", "core", "exec", "one", "--", "true"), "core"),
        (("service", "del", "nosuch"), "nosuch"),
    ],
)
def test_what_is_not_there(words: tuple[str, ...], about: str) -> None:
    before = leftovers()
    error, _ = complaint(*words, code=3)
    assert about in error
    assert poll(lambda: leftovers() == before), leftovers() ^ before


@pytest.mark.usefixtures("up")
@pytest.mark.parametrize(
    "words",
    [
        ("attach", "x"),
        ("attach", "x", "--netns", "a", "--pid", "1"),
        ("attach", "one", "--pid", str(os.getpid())),
        ("attach", "Not_a_name", "--pid", str(os.getpid())),
        ("up",),
        ("show", "nonsense"),
        ("exec", "one"),
        ("nonsense",),
    ],
)
def test_what_cannot_be_meant(words: tuple[str, ...]) -> None:
    before = leftovers()
    assert all(complaint(*words, code=2))
    assert poll(lambda: leftovers() == before), leftovers() ^ before


@pytest.mark.parametrize(
    "words",
    [("up", "{file}"), ("down",), ("gc",), ("compile",), ("detach", "one"),
     ("exec", "one", "--", "true"), ("attach", "x", "--pid", "1"), ("show", "functions"),
     ("show", "drops")],
)  # fmt: skip
def test_without_root(up: Path, words: tuple[str, ...]) -> None:
    """The capability is named before anything is touched."""
    if any(not place.stat().st_mode & 1 for place in ROOT.parents):
        unavailable(f"{ROOT} cannot be read by another user")
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    before = leftovers()
    line = [word.format(file=up) for word in words]
    done = ebpfmesh(*line, prefix=nobody, code=4)
    assert done.stdout == ""
    assert "CAP_" in done.stderr
    assert "hint: " in done.stderr
    assert poll(lambda: leftovers() == before), leftovers() ^ before


def test_help_needs_no_root() -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
    assert "Usage" in ebpfmesh("--help", prefix=nobody).stdout


def test_a_foreign_program(up: Path, tmp_path: Path) -> None:
    source, pins = tmp_path / "foreign.c", Path("/sys/fs/bpf/foreign")
    source.write_text("int foreign(struct __sk_buff *ctx) { return -1; }\n")
    pins.mkdir()
    ip = netns.rtnetlink()
    try:
        build(source, [Program("foreign", "tc")], pin_to=pins)
        netns.create("box")
        with ip as host, (netns.RUN / "box").open() as target:
            peer = {"ifname": "eth0", "net_ns_fd": target.fileno()}
            host.link("add", ifname="boxhost", kind="veth", peer=peer)
            index = host.link_lookup(ifname="boxhost")[0]
            host.tc("add", "clsact", index)
            with bpf.obj_get(pins / "foreign") as program:
                host.tc(
                    "add-filter", "bpf", index, 1, fd=program.fileno(), name="foreign",
                    direct_action=True, parent=0xFFFFFFF2, prio=9, protocol=3,
                )  # fmt: skip
            error, hint = complaint(
                "attach", "box", "--iface", "boxhost", "--ip", "198.18.0.9", code=6
            )
            assert "boxhost" in error
            assert "foreign" in error
            assert "--force" in hint
            assert list(host.get_filters(index=index, parent=0xFFFFFFF2))
            host.link("del", index=index)
        whole(up)
    finally:
        netns.remove("box")
        (pins / "foreign").unlink(missing_ok=True)
        pins.rmdir()


def test_a_map_of_another_layout(up: Path) -> None:
    """Noticed before it is used; the mesh still goes down."""
    pin = Pins("edge").maps / "mesh_policy"
    with bpf.obj_get(pin) as original:
        info = bpf.map_info(original)
        pin.unlink()
        with bpf.map_create(info.type, "mesh_policy", info.key_size, 32, info.max_entries) as other:
            bpf.obj_pin(other, pin)
        try:
            for words in (
                ("up", up),
                ("policy", "add", "function:one", "function:two"),
                ("show", "maps"),
            ):
                error, hint = complaint(*words, code=7)
                assert "mesh_policy" in error
                assert hint
        finally:
            pin.unlink()
            bpf.obj_pin(original, pin)
    whole(up)


def test_pins_of_another_version(up: Path) -> None:
    pins = Pins("edge")
    other = pins.top / f"v{ABI + 1:x}"
    pins.root.rename(other)
    try:
        for words in (("up", up), ("show", "mesh"), ("detach", "one")):
            error, hint = complaint(*words, code=7)
            assert f"v{ABI + 1:x}" in error
            assert hint
    finally:
        other.rename(pins.root)
    whole(up)


def test_a_program_that_is_not_there(up: Path, tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(MESH + '[[function]]\nname = "three"\ncommand = ["/nowhere/program"]\n')
    before = leftovers()
    error, hint = complaint("up", file, code=1)
    assert "/nowhere/program" in error
    assert hint
    assert poll(lambda: leftovers() == before), leftovers() ^ before
    whole(up)


def test_a_limit_that_cannot_change(up: Path, tmp_path: Path) -> None:
    file = tmp_path / "edge.toml"
    file.write_text(MESH.replace('"edge"\n', '"edge"\nlimits = { flows = 2048 }\n', 1))
    assert "limits" in complaint("up", file, code=2)[0]
    whole(up)


def test_which_mesh_if_there_are_two(up: Path, tmp_path: Path) -> None:
    file = tmp_path / "core.toml"
    file.write_text('[mesh]\nname = "core"\n')
    ebpfmesh("up", file)
    try:
        error, _ = complaint("show", "functions", code=2)
        assert "core" in error
        assert "edge" in error
        assert data("show", "functions", "--mesh", "core")["functions"] == []
        found = ebpfmesh("show", "functions", "--json", EBPFMESH_MESH="edge")
        assert '"one"' in found.stdout
    finally:
        ebpfmesh("down", "--mesh", "core")
    whole(up)
