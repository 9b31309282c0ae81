"""What a figure shows: every series, the paper's numbers on the same data, error bars of three seeds, any title."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from PIL import Image

from reports.claims.claim import Claim
from reports.claims.verdict import Judgement, judge_all
from reports.figures.canvas import Area, Drawing, Line, Text
from reports.figures.draw import PUBLISHED, draw
from reports.figures.figure import Figures, composed
from reports.figures.panels import FigurePoint, FigureSpec, Panel, axis_title, choose, key_title
from reports.figures.published import with_published
from reports.figures.scale import scale, tick_text
from reports.figures.surfaces import LIGHT, SHARPNESS, stylesheet, svg, write_png
from reports.pages.summary import summarise
from reports.record import Record

Make = Callable[..., Record]


def marks(drawing: Drawing) -> list[Area]:
    return [shape for shape in drawing.shapes if isinstance(shape, Area) and shape.hollow]


def texts(drawing: Drawing) -> list[str]:
    return [shape.text for shape in drawing.shapes if isinstance(shape, Text)]


def judged(records: list[Record], **fields: Any) -> list[Judgement]:
    of = {"experiment": "e", "metric": "m", "case": {"rate": 10}}
    claim = {"claim": "c", "source": "Table I", "statement": "m is 7.", "paper": 7, "value": {"of": of, "tolerance": 1}}
    return judge_all([msgspec.convert(claim | fields, Claim)], "s", records)


def sweep(record: Make, seeds: int = 1) -> list[Record]:
    return [record(rate + seed, case={"rate": rate}, seed=seed) for rate in (1, 10, 100) for seed in range(seeds)]


@pytest.mark.parametrize(("fields", "shown"), [({"data": "digits"}, 7.0), ({"data": "cifar10"}, None), ({}, 7.0)])
def test_the_papers_number_is_a_mark_beside_what_was_measured_on_the_same_data_only(
    record: Make, fields: dict[str, str], shown: float | None
) -> None:
    records = sweep(record)
    rows = with_published(summarise(records), "e", "digits", judged(records, **fields))
    assert [row.published for row in rows] == [None, shown, None]
    (panel,) = choose(rows)
    drawing, *legends = draw([panel])
    assert [shape.tip for shape in marks(drawing)] == ([f"{PUBLISHED}: 7"] if shown else [])
    assert (PUBLISHED in texts(legends[0])) if shown else not legends
    assert with_published(rows, "another", "digits", judged(records))[1].published is None


def test_error_bars_need_three_seeds_and_are_explained(record: Make) -> None:
    for seeds, drawn in ((2, False), (3, True)):
        panels = choose(summarise(sweep(record, seeds)))
        assert any(point.deviation for point in panels[0].series[""]) == drawn
        explained = [text for drawing in draw(panels) for text in texts(drawing) if "standard deviation" in text]
        assert bool(explained) == drawn


def test_of_lines_that_lie_on_each_other_the_lowest_is_widest_and_the_others_dashed(record: Make) -> None:
    records = [record(rate, case={"rate": rate, "way": way}) for way in "abc" for rate in (1, 2, 3)]
    (panel,) = choose(summarise(records))
    lines = [shape for shape in draw([panel])[0].shapes if isinstance(shape, Line) and shape.colour in "012"]
    assert [line.colour for line in lines] == ["0", "1", "2"]
    assert all(before.width >= after.width + 2 for before, after in pairwise(lines))
    assert [line.dashed for line in lines] == [False, True, True]


def test_magnitudes_make_an_axis_logarithmic_on_which_no_bar_begins(record: Make) -> None:
    (panel,) = choose(summarise(record(10.0**i, case={"way": way}) for i, way in enumerate("abcd")))
    assert panel.log_y
    places = [shape.points[0][0] for shape in draw([panel])[0].shapes if isinstance(shape, Area)]
    steps = [after - before for before, after in pairwise(places)]
    assert steps == pytest.approx([steps[0]] * 3)  # decades are equally far apart


def test_short_times_are_in_milliseconds_and_units_stand_once(record: Make) -> None:
    records = [record(0.002 * i, metric="delay_s", unit="s", case={"way": way}) for i, way in enumerate("abc")]
    (panel,) = choose(summarise(records), FigureSpec(metrics=["delay_s"]))
    assert (panel.metric, [point.mean for point in panel.series[""]]) == ("delay [ms]", [0.0, 2.0, 4.0])
    found = [
        axis_title(*pair)
        for pair in (
            ("latency_ms", "ms"),
            ("energy_j_p95", "J"),
            ("accuracy", "fraction"),
            ("rate_mbps", "Mbit/s"),
            ("layers", "layers"),
            ("bytes_so_far", "B"),
            ("all_samples_per_s", "samples/s"),
        )
    ]
    assert found[:5] == ["latency [ms]", "energy p95 [J]", "accuracy", "rate [Mbit/s]", "layers"]
    assert found[5:] == ["bytes so far", "all samples per s"]
    keys = ("rate_mbps", "size_bytes", "time_s", "speed_m_per_s", "s", "budget_bytes_per_sample")
    assert [key_title(key) for key in keys] == [
        *("rate [Mbit/s]", "size [B]", "time [s]", "speed m per s", "s", "budget bytes per sample"),
    ]


def test_levels_moments_and_the_diagonal_are_drawn_and_named(record: Make) -> None:
    spec = FigureSpec(metrics=["m"], x="rate", diagonal=True, levels={"majority": 5.0}, moments={"handover": 20.0})
    drawing, legend = draw(choose(summarise(sweep(record)), spec))
    dashed = [shape for shape in drawing.shapes if isinstance(shape, Line) and shape.dashed]
    assert len(dashed) == 3
    assert {"majority", "handover"} <= set(texts(drawing))
    assert texts(legend) == ["equal"]


def test_figures_whose_names_join_to_one_get_files_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "earlier.png").touch()
    figures = Figures(tmp_path)
    drawn = draw([Panel("bar", "m", "", "", {"": [FigurePoint("a", 1.0, 0.0)]})])
    files = [figures.add(name, r"Costs $5, 10^3 \frac", "alt", drawn).file for name in ("a b-c", "a-b c", "A b c")]
    assert files == ["figures/a-b-c.png", "figures/a-b-c-2.png", "figures/A-b-c-3.png"]
    assert {f"figures/{path.name}" for path in (tmp_path / "figures").iterdir()} == set(files)
    assert r"Costs $5, 10^3 \frac" in texts(composed(figures.found[0]))


def test_svg_escapes_texts_and_has_only_colours_of_its_stylesheet() -> None:
    drawing = Drawing(10, 10)
    drawing.text((0, 5), "a < b & c")
    drawing.mark("circle", (5, 5), "3", tip='"x"', hollow=True)
    text = svg(drawing, 'say "<hi>"')
    assert "a &lt; b &amp; c" in text
    assert 'aria-label="say &quot;&lt;hi&gt;&quot;"' in text
    assert all(f".{name}{{" in stylesheet() for name in ("f-ink", "s-3"))


def test_a_png_shows_a_shape_in_its_colour(tmp_path: Path) -> None:
    drawing = Drawing(40, 40)
    drawing.box((10, 10), (30, 30), "1")
    write_png(drawing, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        at = int(20 * SHARPNESS)
        assert "#{:02X}{:02X}{:02X}".format(*image.getpixel((at, at))) == LIGHT["1"]
        assert image.getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("values", "log", "expected"),
    [
        ([0, 10], False, [0, 2, 4, 6, 8, 10]),
        ([1, 1000], True, [1, 10, 100, 1000]),
        ([0.2, 0.2], False, [0.1, 0.15, 0.2, 0.25, 0.3]),
    ],
)
def test_ticks_are_round_and_few(values: list[float], log: bool, expected: list[float]) -> None:
    axis = scale(values, 0, 100, log=log)
    assert axis.ticks() == pytest.approx(expected)
    assert all(0 <= axis.at(value) <= 100 for value in values)


def test_ticks_of_any_axis_lie_on_it() -> None:
    for low, high in ((1e-7, 3e-7), (-5, 1e9), (-3, -2), (0, 0), (7, 7.001), (1, 1e12)):
        for log in {False, low > 0}:
            axis = scale([low, high], 0, 100, log=log)
            assert 2 <= len(axis.ticks()) <= 7
            assert all(axis.low <= tick <= axis.high for tick in axis.ticks())


def test_texts_of_ticks_are_short() -> None:
    assert [tick_text(2.0**power) for power in (10, 12, 16, 22, 35)] == ["1024", "4Ki", "64Ki", "4Mi", "32Gi"]
    assert [tick_text(value) for value in (0, 0.05, 2500, 20_000, 2.5e6, 1e-5)] == [
        "0",
        "0.05",
        "2500",
        "20k",
        "2.5M",
        "1e-5",
    ]
