# SPDX-License-Identifier: BSD-2-Clause
"""The matrix of kernels: what passes, what does not, and that silence does not."""

from pathlib import Path

import pytest

from ebpfmesh.compile import compiled
from kernels import fetch, matrix, verifier
from kernels.report import Report
from support import topology

KERNEL = matrix.Kernel(
    "6.1", "none", {"no TCX": ["tests/netns/a.py::test_x[tcx *", "tests/netns/a.py::test_y"]}
)
CASE = '<testcase classname="netns.a" name="test_{}">{}</testcase>'
ROOT = Path(__file__).parents[2]


def left(out: Path, code: str | None, *inside: str) -> Report:
    """What is read of a guest that left an exit code and a report of tests."""
    if code is not None:
        (out / "exit").write_text(code)
    if inside:
        cases = "".join(CASE.format(number, what) for number, what in enumerate(inside))
        (out / "junit").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return Report.read(KERNEL, out, 1.5)


def test_what_passed_has_passed(tmp_path: Path) -> None:
    report = left(tmp_path, "0", "", '<skipped message="no TCX"/>')
    assert report.passed
    assert list(report.lines())[:-1] == ["SKIPPED on 6.1 [1] no TCX"]
    assert " Linux 6.1: 1 passed, 1 skipped in 1.50s " in list(report.lines())[-1]


@pytest.mark.parametrize(
    ("code", "inside", "why"),
    [
        (None, (), "it did not boot"),
        (None, ("",), "it did not boot"),
        ("0", (), "no report"),
        ("0", ('<skipped message="all"/>',), "no test has passed"),
        ("1", ("", '<failure message="two"/>'), "test_1: two"),
        ("1", ("", '<error message="two"/>'), "test_1: two"),
        ("0", ("", '<failure message="two"/>'), "test_1: two"),
        ("2", ("",), "exit code is 2"),
    ],
)
def test_everything_else_has_not(
    tmp_path: Path, code: str | None, inside: tuple[str, ...], why: str
) -> None:
    report = left(tmp_path, code, *inside)
    assert not report.passed
    assert why in "\n".join(report.lines())


def test_a_guest_that_ended_early_shows_what_it_did_last(tmp_path: Path) -> None:
    (tmp_path / "console").write_text("booting\n")
    assert "booting" in list(left(tmp_path, None).lines())
    (tmp_path / "log").write_text("test_a PASSED\ntest_b")
    report = left(tmp_path, None)
    assert report.problem == "no report: its tests did not end"
    assert "test_b" in list(report.lines())


def test_a_cut_report_is_none(tmp_path: Path) -> None:
    (tmp_path / "junit").write_text("<testsuites>")
    assert left(tmp_path, "0").problem.startswith("no report")


def test_only_what_is_listed_may_be_skipped() -> None:
    assert KERNEL.allows("tests/netns/a.py::test_y", "no TCX")
    assert KERNEL.allows("tests/netns/a.py::test_x[tcx ingress]", "no TCX")
    assert not KERNEL.allows("tests/netns/a.py::test_x[xdp]", "no TCX")
    assert not KERNEL.allows("tests/netns/a.py::test_y", "something else")
    assert not KERNEL.allows("tests/netns/a.py::test_z", "no TCX")


def test_a_skip_that_is_not_listed_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(topology.REQUIRE, "1")
    monkeypatch.setattr(topology, "may_skip", KERNEL.allows)
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/netns/a.py::test_z (call)")
    with pytest.raises(pytest.fail.Exception):
        topology.unavailable("no TCX")
    monkeypatch.setenv("PYTEST_CURRENT_TEST", "tests/netns/a.py::test_x[tcx egress] (setup)")
    with pytest.raises(pytest.skip.Exception):
        topology.unavailable("no TCX")


@pytest.mark.parametrize("kernel", matrix.kernels().values(), ids=lambda kernel: kernel.series)
def test_the_matrix_lists_tests_that_are_there(kernel: matrix.Kernel) -> None:
    for pattern in (one for tests in kernel.skips.values() for one in tests):
        file, _, name = pattern.partition("::")
        test = "def test_" if name == "*" else f"def {name.partition('[')[0]}("
        assert any(test in path.read_text() for path in ROOT.glob(file))


def test_the_newest_package_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64", "linux-image-6.1.0-57-rt"]
    monkeypatch.setattr(fetch, "_run", lambda _command: "\n".join(names))
    assert fetch._newest(matrix.kernels()["6.1"].package) == "linux-image-6.1.0-56-amd64"


def test_every_kernel_of_the_matrix_has_budgets_for_the_same_programs() -> None:
    programs = {series: set(verifier.budgets(series)) for series in matrix.kernels()}
    assert len({frozenset(names) for names in programs.values()}) == 1
    for series in programs:
        assert all(one["verified"] < 1_000_000 for one in verifier.budgets(series).values())


def test_a_program_over_its_budget_is_named() -> None:
    within = {"verified": 10, "translated": 5, "jited": 20}
    assert verifier.overruns({"a": within}, {"a": within}, "6.1") == []
    (line,) = verifier.overruns({"a": within | {"verified": 11}}, {"a": within}, "6.1")
    assert line.startswith("a on 6.1: 11 instructions that the verifier followed, budget 10")
    assert 'a = [12, 6, 22] below ["6.1"]' in line
    (line,) = verifier.overruns({"b": within} | {"a": within}, {"a": within}, "6.1")
    assert line.startswith("b has no budget")
    assert verifier.overruns({}, {"a": within}, "6.1") == ["a: no such program was loaded"]


def test_a_kernel_that_is_not_listed_has_the_largest_budgets() -> None:
    listed = [verifier.budgets(series) for series in matrix.kernels()]
    other = verifier.budgets("9.99")
    assert all(other[name]["verified"] >= one[name]["verified"] for one in listed for name in one)


def test_what_is_kept_depends_on_the_text_and_not_on_the_mesh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(compiled.VARIABLE, "")
    assert compiled.Store.of("text", {"MESH_PINS": '"/a"'}) is None
    monkeypatch.setenv(compiled.VARIABLE, str(tmp_path))
    one = compiled.Store.of("text", {"MESH_PINS": '"/a"'})
    two = compiled.Store.of("text", {"MESH_PINS": '"/b"'})
    assert one is not None
    assert two is not None
    assert (one.path, two.maps) == (two.path, Path("/b"))
    assert compiled.Store.of("other", {"MESH_PINS": '"/a"'}).path != one.path
    assert compiled.Store.of("text", {"MESH_PINS": '"/a"', "X": "1"}).path != one.path
    assert compiled.Store.of("text", {}) is None
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "CFLAGS", ("-g0",))
        assert compiled.Store.of("text", {"MESH_PINS": '"/a"'}) not in (None, one)
    with monkeypatch.context() as patched:
        patched.setattr(compiled, "header_links", lambda: {Path("linux"): tmp_path})
        assert compiled.Store.of("text", {"MESH_PINS": '"/a"'}) not in (None, one)
    assert not one.has("nothing")
