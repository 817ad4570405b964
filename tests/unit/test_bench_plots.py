# SPDX-License-Identifier: BSD-2-Clause
"""Which pictures there are, what is in them, and how they are drawn; invented numbers."""

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.image
import pytest
from matplotlib.figure import Figure as Canvas

from ebpfmesh.bench.report import dots, drawing, lines, plots, run_page
from ebpfmesh.bench.report.drawing import LOOKS
from ebpfmesh.bench.report.pictures import FIGURE_COLUMNS, Picture, Point, Row, places
from ebpfmesh.bench.results import Measurement, Results
from support import bench_data

LIGHT, DARK = "#ffffff", "#1b2125"
"""What is behind a picture on a page."""


def drawn(results: Results) -> dict[str, Picture]:
    return {picture.name: picture for picture in run_page.pictures_of(results)}


def of(measure: list[dict[str, Any]]) -> dict[str, Picture]:
    scenario = {"name": "x", "title": "x", "rounds": 5, "control": 0, "measure": measure}
    return drawn(bench_data.made(scenario))


def part(kind: str, paths: list[str], **axis: list[int]) -> dict[str, Any]:
    return {"kinds": [kind], "paths": paths, "seconds": 1, **axis}


def test_two_places_are_dots_and_three_are_lines() -> None:
    paths = ["routed", "iptables", "mesh"]
    two = of([part("pps", paths, services=[1, 1000])])["pps-services"]
    three = of([part("pps", paths, services=[1, 10, 1000])])["pps-services"]
    assert (two.form, three.form) == ("dots", "lines")
    assert two.paths == ("routed", "iptables", "mesh")
    assert (two.better, two.is_good_upwards) == ("more is better", True)
    assert places(two.figures) == [1, 1000]


def test_percentiles_of_a_latency_share_a_picture() -> None:
    found = of([part("rr", ["iptables", "mesh"], services=[1, 1000])])
    picture = found["rr-services"]
    assert list(found) == ["summary", "rr-services", "build-services"]
    assert picture.kinds == ("rr", "rr-p99", "rr-p999")
    assert picture.title == "Half round trip, 50 %, 99 %, 99.9 %"
    assert not picture.is_good_upwards


def test_a_kind_over_two_axes_says_over_which() -> None:
    paths = ["routed", "mesh"]
    found = of([part("pps", paths, flows=[1, 100]), part("pps", paths, size=[64, 1514])])
    assert found["pps-flows"].title == "Packets per second, UDP, by flows"
    assert found["pps-size"].title == "Packets per second, UDP, by bytes a frame"


def test_what_one_path_has_is_not_drawn_but_beside_what_it_is_instead_of() -> None:
    found = of([part("pps", ["mesh"]), part("pps-events", ["mesh"]), part("connect", ["mesh"])])
    assert list(found) == ["pps-mesh-services-1"]
    rows = found["pps-mesh-services-1"].rows
    assert [row.label for row in rows] == [
        "Packets per second, UDP", "Packets per second, events on",
    ]  # fmt: skip


def test_summary_has_the_rivals_at_the_ends_of_each_axis() -> None:
    paths = ["routed", "iptables", "nftables", "mesh"]
    picture = of([part("stream", paths, services=[1, 10, 1000])])["summary"]
    assert [row.label for row in picture.rows] == ["1 service", "1\u202f000 services"]
    assert picture.paths == ("iptables", "nftables")
    assert all(point.value > 1 for row in picture.rows for point in row.points)
    latency = of([part("rr", paths, services=[1])])["summary"]
    assert all(point.value > 1 for row in latency.rows for point in row.points)


def test_summary_leaves_out_what_no_axis_has_room_for() -> None:
    lost = [("iptables", "update-lost", 5.0), ("mesh", "update-lost", 0.0)]
    gaps = [("iptables", "update-gap", 5.0), ("mesh", "update-gap", 4.0)]
    measurements = tuple(
        Measurement(number, kind, path, "services", 1, value, "raw/x")
        for number in range(1, 6)
        for path, kind, value in lost + gaps
    )
    results = dataclasses.replace(bench_data.made("update"), measurements=measurements)
    (row,) = drawn(results)["summary"].rows
    assert row.group == "Longest time without a packet, during changes"
    assert row.points == (Point("iptables", *[pytest.approx(1.25)] * 3),)


def test_data_of_a_picture_is_what_is_drawn() -> None:
    picture = of([part("pps", ["routed", "mesh"], services=[1, 2, 3])])["pps-services"]
    names, rows = picture.data()
    assert names == FIGURE_COLUMNS
    assert [row[1] for row in rows] == ["routed", "mesh", "mesh", "mesh"]
    assert rows[0][5] == picture.figures[0].median
    shown = Picture(
        "n", "t", "b", "rows", "times", rows=(Row("g", "l", (Point("mesh", 2.0, 1.0, 3.0),)),)
    )
    assert shown.data() == (
        ("group", "row", "path", "times", "low", "high"), [("g", "l", "mesh", 2.0, 1.0, 3.0)],
    )  # fmt: skip


def luminance(colour: str) -> float:
    parts = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("path", LOOKS)
def test_every_path_is_seen_on_a_light_and_on_a_dark_page(path: str) -> None:
    own = luminance(LOOKS[path].colour)
    for page in (LIGHT, DARK):
        light, dark = sorted((own, luminance(page)), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3


def test_every_path_has_a_look_of_its_own() -> None:
    assert {path for name in bench_data.names() for path in bench_data.made(name).paths} <= set(
        LOOKS
    )
    for attribute in ("colour", "marker", "dash"):
        assert len({str(getattr(look, attribute)) for look in LOOKS.values()}) >= len(LOOKS) - 1
    assert len({look.marker for look in LOOKS.values()}) == len(LOOKS)
    assert drawing.look("mesh") is LOOKS["mesh"]
    assert drawing.look("never heard of") is drawing.OTHER


def canvas_of(picture: Picture) -> Canvas:
    with mpl.rc_context({**drawing.STYLE}):
        draw = {"lines": lines.draw_lines, "dots": dots.draw_dots, "rows": dots.draw_rows}
        canvas = draw[picture.form](picture)
        canvas.canvas.draw()
    return canvas


def test_load_flows_and_size_stand_by_their_logarithm_and_services_do_not() -> None:
    loads = [10**5, 10**6, 10**7, 10**8, 10**9]
    axes = canvas_of(of([part("pps", ["routed", "mesh"], load=loads)])["pps-load"]).axes[0]
    assert axes.get_xscale() == "log"
    assert [t.get_text() for t in axes.get_xticklabels()][::2] == [
        "100\u202fk", "10\u202fM", "1\u202fG",
    ]  # fmt: skip
    assert [round(x) for x in axes.lines[0].get_xdata()] == loads
    axes = canvas_of(of([part("pps", ["routed", "mesh"], services=[1, 2, 900])])["pps-services"])
    assert axes.axes[0].get_xscale() == "linear"
    assert [t.get_text() for t in axes.axes[0].get_xticklabels()] == ["1", "2", "900"]


@pytest.mark.parametrize(
    ("ticks", "numbered"),
    [
        ([1, 100, 10000], [1, 100, 10000]),
        ([64, 256, 512, 1024, 1514], [64, 256, 512, 1514]),
        ([1, 2, 5, 10, 20, 50, 100, 200, 500, 1000], [1, 10, 100, 1000]),
        ([7], [7]),
    ],
)
def test_ticks_do_not_touch(ticks: list[int], numbered: list[int]) -> None:
    assert lines.thin_out(ticks) == numbered


@pytest.mark.parametrize(
    "wanted", [[50.0, 50.0, 50.0], [0.0, 100.0, 99.0, 98.0], [3.0, 1.0, 2.0], [100.0] * 9]
)
def test_labels_stand_apart_and_in_order(wanted: list[float]) -> None:
    found = lines.spread_out(wanted, 10, 100)
    placed = sorted(found)
    assert all(b - a >= 10 - 1e-9 for a, b in pairwise(placed))
    assert placed[-1] <= 100
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    assert [found[index] for index in order] == placed


def test_labels_with_room_stay_where_they_are() -> None:
    assert lines.spread_out([10.0, 50.0, 30.0], 10, 100) == [10, 50, 30]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.02, "0.02"),
        (1, "1"),
        (1.5, "1.5"),
        (2000, "2\u202f000"),
        (12.5, "12.5"),
        (25000, "25\u202fk"),
        (0, "0"),
    ],
)
def test_numbers_beside_an_axis(value: float, text: str) -> None:
    assert drawing.tick(value) == text


def test_lines_are_named_at_their_ends_and_rows_at_the_left() -> None:
    paths = ["routed", "iptables", "mesh"]
    found = of([part("pps", paths, services=[1, 10, 1000]), part("http", paths, services=[1])])
    axes = canvas_of(found["pps-services"]).axes[0]
    assert [text.get_text() for text in axes.texts] == paths
    axes = canvas_of(found["http-services"]).axes[0]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["mesh", "routed", "iptables"]


def test_values_far_apart_get_a_logarithmic_axis_and_others_begin_at_nothing() -> None:
    paths = ["iptables", "mesh"]
    found = of([part("pps", paths, services=[1, 10, 1000]), part("http", paths, services=[1, 2])])
    assert canvas_of(found["pps-services"]).axes[0].get_yscale() == "log"
    axes = canvas_of(found["http-services"]).axes[0]
    assert axes.get_xscale() == "linear"
    assert axes.get_xlim()[0] == 0


def test_whiskers_are_the_interval() -> None:
    figures = of([part("pps", ["routed", "mesh"])])["pps-services"].figures
    below, above = drawing.whiskers(figures)
    assert [f.median - f.low for f in figures] == below
    assert [f.high - f.median for f in figures] == above


def test_nothing_but_noughts_can_be_drawn() -> None:
    picture = of([part("update-service", ["iptables", "mesh"])])["update-lost-services"]
    assert "<svg" in plots.svg(picture)


@pytest.mark.parametrize("form", ["lines", "dots", "rows"])
def test_svg_takes_the_pages_ink_and_brings_nothing(form: str) -> None:
    at = [1, 10, 1000] if form == "lines" else [1, 1000]
    found = of([part("stream", ["routed", "iptables", "mesh"], services=at)])
    picture = next(picture for picture in found.values() if picture.form == form)
    text = plots.svg(picture)
    assert text.startswith("<svg")
    assert text.endswith("</svg>")
    assert "currentColor" in text
    assert not re.search(rf"{drawing.INK}|{drawing.PAGE}|://|<style|<metadata|DejaVu", text)
    assert all(name.startswith(f"{picture.name}-") for name in re.findall(r'\bid="([^"]+)"', text))
    assert plots.svg(picture) == text


def test_key_has_the_colour_of_its_path() -> None:
    assert LOOKS["mesh"].colour in plots.key("mesh")
    assert plots.key("mesh") != plots.key("iptables")


def test_files_are_for_a_paper_and_the_same_each_time(tmp_path: Path) -> None:
    picture = of([part("http", ["routed", "mesh"])])["http-services"]
    plots.save(picture, tmp_path)
    first = {file.suffix: file.read_bytes() for file in tmp_path.iterdir()}
    assert set(first) == {".svg", ".pdf", ".png"}
    assert first[".pdf"].startswith(b"%PDF")
    assert b"HTTP requests per second, kept alive" in first[".svg"]
    image = mpl.image.imread(tmp_path / "http-services.png")  # type: ignore[attr-defined]
    assert image.shape[1] == round(drawing.WIDTH * plots.DPI)
    assert image[-1, -1, :3].tolist() == [1, 1, 1]
    plots.save(picture, tmp_path)
    assert {file.suffix: file.read_bytes() for file in tmp_path.iterdir()} == first


@pytest.mark.parametrize(
    "group",
    ["TCP bulk", "New connections per second", "Packets per second, 100 000 flows, by services"],
)
def test_title_of_a_group_ends_before_the_axis(group: str) -> None:
    rows = (Row(group, "1 service", (Point("mesh", 2, 1, 3), Point("iptables", 2, 1, 3))),)
    canvas = canvas_of(Picture("x", "x", "x", "rows", "times better", rows=rows, even=1.0))
    (axes,) = canvas.axes
    assert " ".join(text.get_text() for text in axes.texts) == group
    ends = [text.get_window_extent().x1 for text in axes.texts]
    assert max(ends) < axes.get_window_extent().x0


def test_pictures_stand_in_two_columns_of_nearly_the_same_height() -> None:
    for name in bench_data.names():
        pictures = run_page.pictures_of(bench_data.made(name))
        columns = run_page.in_columns([(picture, plots.svg(picture)) for picture in pictures])
        assert sorted(p.name for c in columns for p, _ in c) == sorted(p.name for p in pictures)
        assert columns[0][0][0] == pictures[0]
        heights = [sum(plots.height(svg) for _, svg in column) for column in columns]
        if len(pictures) > 1:
            lowest = min(plots.height(svg) for column in columns for _, svg in column)
            assert abs(heights[0] - heights[1]) <= max(lowest, 0.1 * sum(heights)), name
    assert run_page.in_columns([]) == []
