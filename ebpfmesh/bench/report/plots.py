# SPDX-License-Identifier: BSD-2-Clause
"""Draws pictures: as SVG for a page, whose ink they take, and as SVG, PDF and PNG for a paper.

Every path has a colour, a marker and a dash of its own, the same everywhere; whiskers are
intervals of the median.
"""

import re
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure as Canvas
from matplotlib.transforms import Bbox

from ebpfmesh.bench.report.dots import draw_dots, draw_rows
from ebpfmesh.bench.report.drawing import INK, PAGE, STYLE, line
from ebpfmesh.bench.report.lines import draw_lines
from ebpfmesh.bench.report.pictures import Picture

DPI = 200
TITLE_HEIGHT = 0.42
"""Inches."""
CAPTION = 75
"""What stands above and below a picture on a page, in its points."""
FILES: dict[str, dict[str, None]] = {
    "svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {"Software": None},
}  # fmt: skip
"""Formats of files, with what would make each of them another one in each run."""


def svg(picture: Picture) -> str:
    """The picture as an SVG element to be put into a page; the same on every call."""
    out = StringIO()
    with mpl.rc_context({**STYLE, "svg.hashsalt": picture.name}):
        canvas = _canvas(picture)
        canvas.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    return _for_page(out.getvalue(), picture.name)


def height(svg: str) -> int:
    """How high a picture is on a page, with its caption, in points of its own width."""
    found = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', svg)
    return CAPTION + round(float(found[1])) if found else CAPTION


def save(picture: Picture, folder: Path) -> None:
    """Write a picture as files named after it, for a paper: on white, with its title."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": picture.name}):
        canvas = _canvas(picture)
        width, height = canvas.get_size_inches()
        title = f"{picture.title}\n{picture.better}"
        canvas.text(0.1 / width, 1, title, ha="left", va="bottom", fontsize=9)
        whole = Bbox([[0, 0], [width, height + TITLE_HEIGHT]])
        settings: dict[str, Any] = {"facecolor": "white", "bbox_inches": whole}
        for suffix, metadata in FILES.items():
            file = folder / f"{picture.name}.{suffix}"
            canvas.savefig(file, dpi=DPI, metadata=metadata, **settings)


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
