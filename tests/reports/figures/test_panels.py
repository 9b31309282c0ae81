"""Panels are chosen by case keys and values; every choice can be drawn."""

from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from reports.figures.draw import draw
from reports.figures.figure import Figures, alternative
from reports.figures.panels import FigureError, FigureSpec, Panel, choose, evenly
from reports.figures.surfaces import svg
from reports.pages.summary import summarise
from reports.pages.tables import tables
from reports.record import Record

Make = Callable[..., Record]


def sweep(make: Make, metrics: tuple[str, ...] = ("m",), rates: tuple[float, ...] = (1, 10, 100)) -> list[Record]:
    return [
        make(rate * (2 + i), metric=metric, unit="s", seed=seed, case={"method": method, "rate": rate})
        for metric, (i, method), rate, seed in product(metrics, enumerate(("split", "unsplit")), rates, range(3))
    ]


def assert_drawn(panels: list[Panel], title: str, folder: Path) -> None:
    figure = Figures(folder).add("figure", title, alternative(panels), draw(panels))
    assert (folder / figure.file).read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    for drawing in figure.drawings:
        ElementTree.fromstring(svg(drawing, figure.alt))  # well-formed


def test_a_numeric_sweep_is_a_line_for_each_of_the_other_keys_in_order_of_x(record: Make) -> None:
    (panel,) = choose(summarise(sweep(record, rates=(10, 1, 100))))
    assert (panel.kind, panel.x, panel.metric, panel.series_name) == ("line", "rate", "m [s]", "method")
    places = {name: [point.x for point in points] for name, points in panel.series.items()}
    assert places == {"split": [1, 10, 100], "unsplit": [1, 10, 100]}
    assert panel.log_x
    assert not choose(summarise(sweep(record, rates=(1, 2, 3))))[0].log_x
    assert not choose(summarise(sweep(record, rates=tuple(0.25 + 0.5 * step for step in range(40)))))[0].log_x


def test_a_suite_may_choose_cases_metrics_axes_and_series(record: Make) -> None:
    rows = summarise(sweep(record))
    (panel,) = choose(rows, FigureSpec(metrics=["m"], case={"method": "split"}, x="rate"))
    assert [(name, len(points)) for name, points in panel.series.items()] == [("", 3)]
    with pytest.raises(FigureError):
        choose(rows, FigureSpec(metrics=["m"], case={"method": "neither"}))
    rows = summarise(sweep(record, ("a", "b"), rates=(1, 2)))
    (panel,) = choose(rows, FigureSpec(metrics=["b"], x="rate", series="method", log=True))
    assert (panel.kind, panel.metric, panel.log_y) == ("line", "b [s]", True)
    (panel,) = choose(rows, FigureSpec(metrics=["b"], x="method"))
    assert (panel.kind, panel.x, panel.series_name) == ("bar", "method", "rate")
    (panel,) = choose(summarise(sweep(record)), FigureSpec(metrics=["m"], series="rate"))
    assert (panel.kind, panel.x, panel.series_name) == ("bar", "method", "rate")


def test_names_are_bars_coloured_by_the_key_of_fewest_values(record: Make) -> None:
    records = [record(i, case={"method": m, "codec": c}) for i, m in enumerate("abcd") for c in ("f16", "f32")]
    (panel,) = choose(summarise(records))
    assert (panel.kind, panel.x, panel.series_name) == ("bar", "method", "codec")
    places = {name: [point.x for point in points] for name, points in panel.series.items()}
    assert places == {"f16": list("abcd"), "f32": list("abcd")}
    for values in ((1, 2), (True, False)):  # two numbers or booleans are not a sweep
        assert choose(summarise(record(k, case={"k": k}) for k in values))[0].kind == "bar"


def test_constant_metrics_are_left_out_and_the_rest_limited(record: Make) -> None:
    constant = [record(1, metric="constant", case={"rate": rate}) for rate in (1, 2, 3)]
    rows = summarise([*constant, *sweep(record, ("a", "b", "c", "d", "e"))])
    assert [panel.metric for panel in choose(rows)] == ["a [s]", "b [s]", "c [s]", "d [s]"]
    assert [panel.metric for panel in choose(summarise(constant))] == ["constant"]


def test_metrics_of_a_single_case_share_a_panel_per_unit(record: Make) -> None:
    records = [record(1, metric="up", unit="bytes"), record(2, metric="down", unit="bytes"), record(3, metric="acc")]
    panels = {panel.metric: [point.x for point in panel.series[""]] for panel in choose(summarise(records))}
    assert list(panels.items()) == [("value [bytes]", ["up", "down"]), ("value", ["acc"])]


def test_many_lines_and_bars_are_thinned_out_and_counted(record: Make) -> None:
    records = [record(c + e, case={"client": c, "epoch": e}) for c in range(30) for e in range(40)]
    (panel,) = choose(summarise(records))
    assert (list(panel.series), panel.left_out) == (["0", "4", "8", "12", "17", "21", "25", "29"], 22)
    assert evenly(list("abc"), 3) == list("abc")
    (panel,) = choose(summarise(record(i, case={"name": f"n{i}"}) for i in range(100)))
    assert (len(panel.series[""]), panel.left_out) == (40, 60)


LONG = "a_name_of_a_technique_with_all_of_its_parameters_" * 3


@pytest.mark.parametrize(
    "case_of",
    [
        lambda i: {},
        lambda i: {"n": i},
        lambda i: {"n": 10.0**i},
        lambda i: {"n": f"{LONG}{i}"},
        lambda i: {f"key {LONG}": f"{LONG}{i}", "n": i % 3},
        lambda i: {"n": f"{i}", "b": i % 2 == 0, "c": i % 7},
    ],
    ids=["one", "sweep", "decades", "long", "long pair", "three keys"],
)
@pytest.mark.parametrize("count", [1, 30])
@pytest.mark.parametrize("log", [None, True])
def test_everything_chosen_can_be_drawn(
    record: Make, tmp_path: Path, case_of: Callable[[int], dict[str, object]], count: int, log: bool | None
) -> None:
    cells = product(range(count), (0, 1), ("m", LONG))
    records = [record((i - 3) * 1e5, case=case_of(i), seed=s, metric=m) for i, s, m in cells]
    spec = FigureSpec(metrics=["m"], log=True) if log else None
    assert_drawn(choose(summarise(records), spec), LONG, tmp_path)


def distribution(make: Make, load: str) -> list[Record]:
    return [
        make(quantile * scale, metric="t_quantile", unit="ms", case={"load": load, "way": way, "quantile": quantile})
        for way, scale in (("one", 10.0), ("two", 20.0))
        for quantile in (0.05, 0.5, 0.95)
    ]


def test_a_cdf_has_quantiles_over_values_in_one_panel_per_load(record: Make, tmp_path: Path) -> None:
    rows = summarise([*distribution(record, "low"), *distribution(record, "high")])
    spec = FigureSpec(metrics=["t_quantile"], kind="cdf", series="way", by="load")
    low, high = choose(rows, spec)
    assert (low.title, high.title) == ("load=low", "load=high")
    assert (low.kind, low.x, low.metric) == ("cdf", "t [ms]", "share of values below")
    assert [(point.x, point.mean) for point in low.series["two"]] == [(1.0, 0.05), (10.0, 0.5), (19.0, 0.95)]
    assert_drawn([low, high], "Shares", tmp_path)


def test_bands_stack_the_series(record: Make, tmp_path: Path) -> None:
    records = [
        record(value, metric="layers", unit="layers", case={"time_s": time, "node": node})
        for time in (0.0, 1.0, 2.0)
        for node, value in (("ue", time), ("mec", 9 - time))
    ]
    spec = FigureSpec(metrics=["layers"], kind="bands", x="time_s", series="node")
    (panel,) = choose(summarise(records), spec)
    assert (panel.kind, panel.log_x, list(panel.series)) == ("bands", False, ["ue", "mec"])
    assert_drawn([panel], "Layers", tmp_path)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        *(({key: "z"}, "m was measured without the case key z; it has method") for key in ("by", "x", "series")),
        ({"kind": "cdf"}, "m was measured without the case key quantile"),
        ({"kind": "bands"}, "m was measured without a numeric case key"),
        ({"metrics": ["z"]}, "no metric z was measured"),
    ],
)
def test_an_impossible_figure_names_metric_and_key(record: Make, spec: dict[str, Any], words: str) -> None:
    rows = summarise(record(i, case={"method": m}) for i, m in enumerate("ab"))
    with pytest.raises(FigureError, match=words):
        choose(rows, FigureSpec(**{"metrics": ["m"], **spec}))


def picture(make: Make, shows: str, number: int, value: float, **changes: object) -> list[Record]:
    """Two rows of three pixels that brighten up to ``value``; last pixel first."""
    cases = [{"shows": shows, "picture": number, "row": row, "column": c} for row in (1, 0) for c in (2, 1, 0)]
    values = (value * step / 5 for step in range(5, -1, -1))
    return [make(one, metric="pixel", case=case, **changes) for one, case in zip(values, cases, strict=True)]


def test_pictures_are_assembled_from_pixels(record: Make, tmp_path: Path) -> None:
    shown = product((("original", 1.0), ("read", 0.5)), (2, 1))
    pixels = [pixel for (shows, value), n in shown for pixel in picture(record, shows, n, value * n / 2)]
    number = record(3.0, metric="m", case={"rate": 1})
    rows = summarise([*pixels, number])
    (panel,) = choose(rows, FigureSpec(metrics=["pixel"], kind="pictures"))
    assert (panel.kind, panel.shape, list(panel.series)) == ("pictures", (2, 2, 3), ["original", "read"])
    means = [point.mean for point in panel.series["original"]]
    assert means == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert_drawn([panel], "Pictures", tmp_path)
    assert [table.to_numpy().tolist() for table in tables(rows)] == [[["m", "rate=1", "3"]]]
    assert [panel.metric for panel in choose(rows)] == ["value"]


def test_pictures_need_every_pixel_of_one_seed(record: Make) -> None:
    spec = FigureSpec(metrics=["pixel"], kind="pictures")
    with pytest.raises(FigureError, match="missing"):
        choose(summarise([*picture(record, "a", 1, 1.0), *picture(record, "b", 1, 1.0)[1:]]), spec)
    with pytest.raises(FigureError, match="one seed"):
        choose(summarise([*picture(record, "a", 1, 1.0), *picture(record, "a", 1, 0.5, seed=1)]), spec)
    with pytest.raises(FigureError, match="pixel by pixel"):
        choose(summarise([record(1.0, metric="pixel", case={"picture": 1})]), spec)
