# SPDX-License-Identifier: BSD-2-Clause
"""``_abi.py`` says what the headers say, and notices when they say something else.

That the compiler agrees is shown by prog/test_layout.py, which needs root.
"""

import ctypes
import re
import shutil
import sys
from pathlib import Path

import pytest

from ebpfmesh import _abi, abi
from ebpfmesh.compile.source import bpf_dir


@pytest.fixture
def headers(tmp_path: Path) -> Path:
    """A copy of the headers that a test may change."""
    shutil.copytree(bpf_dir() / "bench", tmp_path / "bench")
    return Path(shutil.copytree(bpf_dir() / "include", tmp_path / "include"))


def replace(file: Path, pattern: str, new: str) -> None:
    """Replace the one match of a pattern in a file."""
    text, count = re.subn(pattern, new, file.read_text())
    assert count == 1
    file.write_text(text)


def check(monkeypatch: pytest.MonkeyPatch, headers: Path) -> int:
    """The exit code of ``python -m ebpfmesh.abi --check`` for these headers."""
    monkeypatch.setattr(abi, "bpf_dir", lambda: headers.parent)
    monkeypatch.setattr(sys, "argv", ["abi", "--check"])
    return abi.main()


def test_generated_file_is_up_to_date(monkeypatch: pytest.MonkeyPatch, headers: Path) -> None:
    assert check(monkeypatch, headers) == 0


@pytest.mark.parametrize(
    ("file", "pattern", "new"),
    [
        # Fields change places, one grows, one is renamed; a number, a text, a map change.
        ("mesh_abi.h", r"(\t__u16 tenant;)\n(\t__u16 flags;)", r"\2\n\1"),
        ("mesh_abi.h", r"__u32 strength;", "__u32 force;"),
        ("mesh_abi.h", r"MESH_TTL = 11", "MESH_TTL = 21"),
        ("mesh_abi.h", r"/\* a VLAN tag \*/", "/* a fragment */"),
        ("mesh_abi.h", r"#define MESH_MEANING \d+", "#define MESH_MEANING 99"),
        ("mesh_maps.h", r'MESH_MAP\("hash", mesh_iface', 'MESH_MAP("array", mesh_iface'),
        ("mesh_maps.h", r"struct mesh_policy, rules\)", "struct mesh_policy, functions)"),
        ("../bench/bench_abi.h", r"(\t__u64 opened;)\n(\t__u64 closed;)", r"\2\n\1"),
        ("../bench/bench_abi.h", r"BENCH_FLOW_BITS 20", "BENCH_FLOW_BITS 21"),
    ],
)  # fmt: skip
def test_any_change_is_noticed(
    monkeypatch: pytest.MonkeyPatch, headers: Path, capsys: pytest.CaptureFixture[str],
    file: str, pattern: str, new: str,
) -> None:  # fmt: skip
    replace(headers / file, pattern, new)
    assert check(monkeypatch, headers) == 1
    assert "make abi" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("field", "where"),
    [
        (r"\t__u8 protocol;\n\t__u8 depth;.*(?=\n};\n.*struct mesh_service_key\))", "at the end"),
        (r"\t__u16 tenant;\n", "before address4"),
        (
            r"\t__u8 rejected;.*\n\t__u8 pad;\n\t__u16 program;.*\n(?=\tstruct mesh_tuple)",
            "at the end",
        ),
    ],
    ids=["byte", "short", "word"],
)
def test_padding_is_refused(headers: Path, field: str, where: str) -> None:
    replace(headers / "mesh_abi.h", field, "")
    with pytest.raises(SystemExit, match=f"implicit padding {where}"):
        abi.generate(headers)


@pytest.mark.parametrize(
    ("pattern", "new"),
    [
        (r"__u8 mac\[6\];(?=\s+/\* of its own)", "__u8 mac[10];"),
        (r"_Static_assert\(sizeof\(struct mesh_function\).*\n", ""),
    ],
    ids=["grown", "forgotten"],
)
def test_the_compiler_is_held_to_each_size(headers: Path, pattern: str, new: str) -> None:
    replace(headers / "mesh_abi.h", pattern, new)
    with pytest.raises(SystemExit, match=r"write: _Static_assert\(sizeof\(struct mesh_function\)"):
        abi.generate(headers)


@pytest.mark.parametrize(
    ("file", "pattern", "new", "same"),
    [
        ("mesh_abi.h", r"(\t__u16 tenant;)\n(\t__u16 flags;)", r"\2\n\1", False),
        ("mesh_abi.h", r"#define MESH_MEANING \d+", "#define MESH_MEANING 99", False),
        ("mesh_maps.h", r"struct mesh_policy, rules\)", "struct mesh_policy, functions)", False),
        ("mesh_abi.h", r"/\* a VLAN tag \*/", "/* a tag */", True),
        ("mesh_abi.h", r"/\* A function, by its id\.", "/* Whoever it is.", True),
    ],
)
def test_the_number_in_the_path_of_pins(
    headers: Path, file: str, pattern: str, new: str, same: bool
) -> None:
    """Another one for all that a program and its maps must agree about, and for no comment."""
    replace(headers / file, pattern, new)
    (number,) = re.findall(r"^ABI: Final = (0x\w+)$", abi.generate(headers), re.MULTILINE)
    assert (int(number, 16) == _abi.ABI) is same


def test_every_reason_is_explained() -> None:
    named = {reason for reason in _abi.Reason if reason.name not in ("OK", "REASONS")}
    assert set(_abi.REASON_TEXT) == named
    assert sorted(named) == list(range(1, _abi.Reason.REASONS))


def test_map_names_fit_the_kernel() -> None:
    """It keeps 15 characters (BPF_OBJ_NAME_LEN)."""
    names = [spec.name for spec in _abi.MAPS]
    assert all(len(name) <= 15 and name.startswith("mesh_") for name in names)
    assert len(set(names)) == len(names)


def test_sizes_in_the_comments_are_right() -> None:
    """Each class says how large it is; the two flow keys and the entry fill their cache lines."""
    for kind in vars(_abi).values():
        match = re.search(r"^struct .*, (\d+) bytes", getattr(kind, "__doc__", None) or "")
        assert not match or ctypes.sizeof(kind) == int(match[1])
    assert ctypes.sizeof(_abi.Flow4Key) == 16
    assert ctypes.sizeof(_abi.Flow) == 64


def test_padding_of_the_benchmarks_structs_is_refused(headers: Path) -> None:
    header = headers.parent / "bench" / "bench_abi.h"
    replace(header, r"\t__u32 pad;\n", "")
    with pytest.raises(SystemExit, match="bench_flow: implicit padding before window"):
        abi.generate_bench(header)
