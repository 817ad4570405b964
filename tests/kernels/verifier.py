# SPDX-License-Identifier: BSD-2-Clause
"""What a kernel makes of each program, and the budgets that verifier.toml sets for it.

``python -m kernels.verifier`` shows what was measured last, on each kernel; --markdown for a file.
"""

import json
import os
import platform
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table

from ebpfmesh.observe.objects import Program
from kernels.matrix import series_of

ROOT = Path(__file__).parents[2]
BUDGETS = Path(__file__).with_name("verifier.toml")
MEASURED = Path(os.environ.get("EBPFMESH_VERIFIER", ROOT / ".cache/kernels/verifier"))
FIGURES = {
    "verified": "instructions that the verifier followed",
    "translated": "instructions",
    "jited": "bytes of machine code",
}
"""What is measured of a program."""
HEADROOM = 1.1

Figures = dict[str, dict[str, int]]
"""By program, by the name of a figure."""


def figures(programs: Iterable[Program]) -> Figures:
    """The figures of loaded programs, by the names of their pins."""
    return {
        Path(one.pin).name: {
            # All but a kernel before 5.16, which none of the matrix is, tell this.
            "verified": one.verified or 0,
            "translated": one.translated // 8,
            "jited": one.jited,
        }
        for one in programs
    }


def budgets(series: str) -> Figures:
    """The budgets of a kernel; of one that is not listed: the largest that any has."""
    tables: dict[str, dict[str, list[int]]] = tomllib.loads(BUDGETS.read_text())
    listed = [tables[series]] if series in tables else list(tables.values())
    return {
        program: {
            figure: max(one[program][at] for one in listed) for at, figure in enumerate(FIGURES)
        }
        for program in listed[0]
    }


def overruns(measured: Figures, allowed: Figures, series: str) -> list[str]:
    """A line for each figure over its budget, and for each program without one."""
    lines = [f"{name}: no such program was loaded" for name in allowed if name not in measured]
    for name, found in measured.items():
        line = (
            f'{name} = {[round(found[figure] * HEADROOM) for figure in FIGURES]} below ["{series}"]'
        )
        if name not in allowed:
            lines.append(f"{name} has no budget; to give it one: {line}")
            continue
        for figure, what in FIGURES.items():
            if found[figure] > allowed[name][figure]:
                lines.append(
                    f"{name} on {series}: {found[figure]} {what}, budget {allowed[name][figure]};"
                    f" if it is worth that, write: {line}"
                )
    return lines


def save(measured: Figures) -> None:
    """Leave what was measured on the running kernel for the table."""
    MEASURED.mkdir(parents=True, exist_ok=True)
    file = MEASURED / f"{series_of()}.json"
    file.write_text(json.dumps({"release": platform.release(), "programs": measured}))


def saved() -> dict[str, Figures]:
    """What was measured last, by the series of the kernel, oldest kernel first."""
    files = sorted(MEASURED.glob("*.json"), key=lambda file: tuple(map(int, file.stem.split("."))))
    return {file.stem: json.loads(file.read_text())["programs"] for file in files}


def table(found: dict[str, Figures]) -> Table:
    """A row for each program; for each kernel its figures, and how much of its budget is used."""
    made = Table(box=box.SIMPLE_HEAD)
    made.add_column("program")
    for series in found:
        made.add_column(f"verified on {series}", justify="right")
        made.add_column("of budget", justify="right")
        made.add_column("insns", justify="right")
        made.add_column("JITed", justify="right")
    for program in sorted({name for programs in found.values() for name in programs}):
        made.add_row(program, *_cells(program, found))
    return made


def _cells(program: str, found: dict[str, Figures]) -> Iterable[str]:
    for series, programs in found.items():
        if program not in programs:
            yield from ("–",) * 4
            continue
        verified, translated, jited = (programs[program][figure] for figure in FIGURES)
        budget = budgets(series).get(program)
        used = f"{verified / budget['verified']:.0%}" if budget else "none"
        yield from (f"{verified:,}", used, f"{translated:,}", f"{jited:,}")


def markdown(found: dict[str, Figures]) -> str:
    """Of each program and kernel the instructions followed, and the program's size on the last."""
    last = list(found)[-1]
    lines = [
        f"| program | {' | '.join(f'verified on {series}' for series in found)} | size |",
        "|---|" + "---|" * (len(found) + 1),
    ]
    for name, size in sorted(found[last].items()):
        numbers = [programs.get(name, size)["verified"] for programs in found.values()]
        cells = (f"{number:_}".replace("_", " ") for number in (*numbers, size["translated"]))
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> int:
    """Show what was measured; 1 if there is nothing."""
    found = saved()
    if not found:
        sys.stderr.write(f"nothing was measured yet: no {MEASURED}\n")
        return 1
    if "--markdown" in sys.argv:
        sys.stdout.write(markdown(found) + "\n")
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
