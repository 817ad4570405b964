# SPDX-License-Identifier: BSD-2-Clause
"""What came of the tests in a guest: read from what it left, or from that it left nothing."""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from rich import box
from rich.table import Table

from kernels.matrix import Kernel, series_of

TAIL = 30
RESULTS = ("passed", "failed", "skipped")


@dataclass(frozen=True)
class Report:
    """The results of one kernel: of each test, and why it is not to be believed if it is not."""

    kernel: Kernel
    out: Path
    seconds: float
    results: tuple[tuple[str, str, str], ...]  # test, passed | failed | skipped, why
    problem: str

    @classmethod
    def read(cls, kernel: Kernel, out: Path, seconds: float) -> "Report":
        """What a guest left in ``out`` after ``seconds``."""
        ended, junit = out / "exit", out / "junit"
        if not ended.exists():
            booted = "its tests did not end" if (out / "log").exists() else "it did not boot"
            return cls(kernel, out, seconds, (), f"no report: {booted}")
        try:
            results = tuple(_results(junit))
        except (OSError, ET.ParseError) as error:
            return cls(kernel, out, seconds, (), f"no report: {error}")
        code = int(ended.read_text())
        problem = "" if code == 0 else f"pytest's exit code is {code}"
        if not any(result == "passed" for _, result, _ in results):
            problem = problem or "no test has passed"
        return cls(kernel, out, seconds, results, problem)

    @property
    def passed(self) -> bool:
        """Whether all tests passed, or were skipped as the matrix allows."""
        return not self.problem and not any(result == "failed" for _, result, _ in self.results)

    def count(self, result: str) -> int:
        """How many tests were ``passed``, ``failed`` or ``skipped``."""
        return sum(1 for _, was, _ in self.results if was == result)

    def lines(self) -> Iterator[str]:
        """What was skipped and what failed, and last a summary as pytest's."""
        skipped = Counter(why for _, result, why in self.results if result == "skipped")
        for why, times in skipped.items():
            yield f"SKIPPED on {self.kernel.series} [{times}] {why}"
        for test, result, why in self.results:
            if result == "failed":
                yield f"FAILED on {self.kernel.series} {test}: {why}"
        if not self.passed:
            yield f"{self.kernel.series}: {self.problem or 'tests failed'}; see {self.out}"
        if not self.results:
            yield from self._tail()
        counts = ", ".join(f"{n} {what}" for what in RESULTS if (n := self.count(what)))
        summary = f" Linux {self.kernel.series}: {counts or self.problem} in {self.seconds:.2f}s "
        yield f"{summary:=^100}"

    def _tail(self) -> Iterator[str]:
        """The end of the tests' log, else of the guest's console."""
        for name in ("log", "console"):
            if (self.out / name).exists():
                text = (self.out / name).read_text(errors="replace")
                yield from text.splitlines()[-TAIL:]
                return

    def keep_figures(self, where: Path) -> None:
        """Keep its figures of the verifier beside those of the other kernels."""
        where.mkdir(parents=True, exist_ok=True)
        for file in (self.out / "verifier").glob("*.json"):
            shutil.copy(file, where)


def _results(junit: Path) -> Iterator[tuple[str, str, str]]:
    for case in ET.parse(junit).getroot().iter("testcase"):
        test = f"{case.get('classname')}::{case.get('name')}"
        bad = [one for one in case if one.tag in ("failure", "error")]
        skipped = [one for one in case if one.tag == "skipped"]
        why = (bad + skipped)[0].get("message", "") if bad or skipped else ""
        first = (why.splitlines() or [""])[0]
        yield test, "failed" if bad else "skipped" if skipped else "passed", first


def table(reports: Iterable[Report]) -> Table:
    """A row for each kernel."""
    made = Table(box=box.SIMPLE_HEAD)
    for column in ("kernel", "release"):
        made.add_column(column)
    for column in (*RESULTS, "seconds"):
        made.add_column(column, justify="right")
    made.add_column("verdict")
    for one in reports:
        made.add_row(
            one.kernel.series, _release(one), *(str(one.count(what)) for what in RESULTS),
            f"{one.seconds:.0f}", "ok" if one.passed else one.problem or "failed",
        )  # fmt: skip
    return made


def _release(report: Report) -> str:
    boot = report.out.parents[1] / report.kernel.series / "boot"
    names = [file.name.removeprefix("vmlinuz-") for file in boot.glob("vmlinuz-*")]
    return next((name for name in names if series_of(name) == report.kernel.series), "–")
