# SPDX-License-Identifier: BSD-2-Clause
"""Draws pictures: as SVG for a page, whose ink they take, and as PNG and PDF for a paper.

Every path has a colour, a marker and a dash of its own, the same everywhere; whiskers are 95 %
bootstrap intervals of the median.
"""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas

from ebpfmesh.bench.dots import draw_dots, draw_rows
from ebpfmesh.bench.drawing import INK, PAGE, STYLE, line
from ebpfmesh.bench.lines import draw_lines
from ebpfmesh.bench.pictures import Picture


def svg(picture: Picture) -> str:
    """The picture as an SVG element to be put into a page; the same on every call."""
    out = StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": picture.name}):
        canvas = _canvas(picture)
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(out.getvalue(), picture.name)


def save(picture: Picture, directory: Path) -> list[Path]:
    """NAME.png (200 dpi) and NAME.pdf in ``directory``, on white and with a title."""
    files = [directory / f"{picture.name}.png", directory / f"{picture.name}.pdf"]
    nothing = {"Creator": None, "Producer": None, "CreationDate": None}
    with mpl.rc_context({**STYLE}):
        canvas = _canvas(picture)
        title = f"{picture.title}\n{picture.better}"
        canvas.text(0.01, 1.0, title, ha="left", va="bottom", fontsize=9)
        settings: dict[str, Any] = {"facecolor": "white", "bbox_inches": "tight"}
        canvas.savefig(files[0], dpi=200, metadata={"Software": None}, **settings)
        canvas.savefig(files[1], metadata=nothing, **settings)
    return files


def key(path: str) -> str:
    """The line and marker of a path as an SVG element, for a legend."""
    out = StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"key-{path}"}):
        canvas = Canvas(figsize=(0.5, 0.2))
        axes = canvas.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        axes.set(xlim=(0, 1), ylim=(-1, 1))
        axes.plot([0.05, 0.5, 0.95], [0, 0, 0], markevery=[1], **line(path))
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(out.getvalue(), f"key-{path}")


def _for_page(text: str, name: str) -> str:
    """An SVG file as an element: ids that are its own, the page's ink and fonts, nothing else."""
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.S)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"| version="1.1"', "", text).replace("xlink:href", "href")
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", text)
    text = re.sub(r"'DejaVu Sans'[^;\"]*sans-serif", "system-ui, sans-serif", text)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace(INK, "currentColor").replace(PAGE, "var(--card)")


def _canvas(picture: Picture) -> Canvas:
    draw: dict[str, Callable[[Picture], Canvas]] = {
        "lines": draw_lines, "dots": draw_dots, "rows": draw_rows,
    }  # fmt: skip
    return draw[picture.form](picture)
