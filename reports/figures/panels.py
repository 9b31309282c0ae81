"""What is worth drawing of an experiment? Chooses panels; ``reports.figures.draw`` makes the picture."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from reports.claims.statistics import CaseItems, same
from reports.formatting import label, value_text
from reports.pages.summary import SummaryRow, header, varying
from reports.record import CaseValue

PANELS = 4  # in a figure that no suite asked for
LINES = 8  # told apart by colour and marker
BARS = 40  # legible below each other
QUANTILE = "quantile"
PLACE = ("picture", "row", "column")  # keys of a pixel's case
DECADES = 30.0  # largest over smallest x from which on the x axis is logarithmic, unless its steps are even


class FigureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure that a suite asks for under an experiment's ``figures``; the rest is chosen from the records.

    ``metrics``: one panel each, of the cases that hold at least the values of ``case``; with ``by`` one for each value
    of that case key. ``x``: the case key along the x axis; ``series``: the case key that tells lines or bars apart.
    ``log``: a logarithmic axis of values (x is so by itself over decades, in uneven steps). ``kind``: ``cdf`` draws
    metrics recorded at each ``quantile``, a key of their case; ``bands`` lays the series on top of each other over x;
    ``pictures`` shows grey ones, of 0 to 1 at each ``picture``, ``row`` and ``column``, a line of them for each series.
    """

    metrics: list[str]
    case: dict[str, CaseValue] = {}
    x: str | None = None
    series: str | None = None
    by: str | None = None
    kind: Literal["cdf", "bands", "pictures"] | None = None
    log: bool = False
    title: str | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("a figure needs one metric or more")


class FigureError(ValueError):
    """A suite asks for a figure of something that was not measured."""


class FigurePoint(NamedTuple):
    """A mean with its standard deviation, at a place on the x axis or beside a bar's name."""

    x: float | str
    mean: float
    deviation: float


class Panel(NamedTuple):
    """One metric: lines over numbers or bars over names. ``left_out``: lines or groups of bars not drawn.

    Of a ``cdf`` a point's place is the value and its mean the quantile. Of ``pictures`` the points of a series are the
    pixels of one picture after the other, row by row, ``shape`` (pictures, rows, columns) in all. ``title`` says which
    of several panels it is.
    """

    kind: Literal["line", "bar", "cdf", "bands", "pictures"]
    metric: str
    x: str
    series_name: str
    series: dict[str, list[FigurePoint]]
    log_x: bool = False
    log_y: bool = False
    left_out: int = 0
    title: str = ""
    shape: tuple[int, int, int] = (0, 0, 0)


def is_pixel(row: SummaryRow) -> bool:
    """Whether ``row`` is part of a picture: shown as such, and nowhere as a number."""
    return dict(row.case).keys() >= set(PLACE)


def choose(rows: Sequence[SummaryRow], spec: FigureSpec | None = None) -> list[Panel]:
    """The panels of a figure of one experiment under one set of conditions. Raises FigureError.

    Not told otherwise: the first ``PANELS`` metrics that differ between cases, in the experiment's order;
    over the numeric case key with most values if it has three or more, else as bars. Without different cases
    the metrics of each unit stand side by side.
    """
    if spec is not None:
        rows = [row for row in rows if _holds(row.case, spec.case)]
        return [panel for metric in spec.metrics for panel in _asked(_of_metric(rows, metric), spec)]
    rows = [row for row in rows if not is_pixel(row)]
    metrics = dict.fromkeys(row.metric for row in rows)
    groups = [_of_metric(rows, metric) for metric in metrics]
    several = [group for group in groups if len(group) > 1]
    if not several:
        return [_one_case(rows, unit) for unit in dict.fromkeys(row.unit for row in rows)][:PANELS]
    informative = [group for group in several if len({row.mean for row in group}) > 1] or several
    return [_panel(group, FigureSpec(metrics=[group[0].metric])) for group in informative[:PANELS]]


def _asked(rows: list[SummaryRow], spec: FigureSpec) -> list[Panel]:
    """The panels of one metric that ``spec`` asks for: one, or one for each value of ``by``."""
    if spec.by is None:
        return [_panel(rows, spec)]
    if spec.by not in dict(rows[0].case):
        raise FigureError(f"{rows[0].metric} was measured for no case key {spec.by}")
    panels = []
    for value in _values(rows, spec.by):
        panel = _panel([row for row in rows if same(dict(row.case)[spec.by], value)], spec)
        panels.append(panel._replace(title=label([(spec.by, value)])))
    return panels


def _holds(case: CaseItems, values: dict[str, CaseValue]) -> bool:
    """Whether ``case`` has all ``values``."""
    found = dict(case)
    return all(key in found and same(found[key], value) for key, value in values.items())


def _of_metric(rows: Sequence[SummaryRow], metric: str) -> list[SummaryRow]:
    """The rows of ``metric``, of the case keys that most of its rows have."""
    groups: dict[tuple[str, ...], list[SummaryRow]] = {}
    for row in rows:
        if row.metric == metric:
            groups.setdefault((row.unit, *(key for key, _ in row.case)), []).append(row)
    if not groups:
        raise FigureError(f"no metric {metric} was measured")
    return max(groups.values(), key=len)


def _one_case(rows: Sequence[SummaryRow], unit: str) -> Panel:
    points = [FigurePoint(row.metric, row.mean, row.deviation or 0.0) for row in rows if row.unit == unit]
    name = "value" if unit in ("", "1") else unit
    return Panel("bar", name, "", "", {"": points[:BARS]}, left_out=max(0, len(points) - BARS))


def _panel(rows: list[SummaryRow], spec: FigureSpec) -> Panel:
    for key in (spec.x, spec.series):
        if key is not None and key not in dict(rows[0].case):
            raise FigureError(f"{spec.metrics[0]} was measured for no case key {key}")
    values = {key: _values(rows, key) for key in varying([row.case for row in rows])}
    if spec.kind == "cdf":
        return _cdf(rows, [key for key in values if key != QUANTILE], spec)
    if spec.kind == "pictures":
        return _pictures(rows, [key for key in values if key not in PLACE])
    x = spec.x or _sweep({key: found for key, found in values.items() if key != spec.series})
    if x is not None and _numeric(_values(rows, x)):
        lines = _lines(rows, x, [key for key in values if key != x], spec)
        return lines._replace(kind="bands", log_x=False) if spec.kind == "bands" else lines
    if spec.kind == "bands":
        raise FigureError(f"{spec.metrics[0]} was measured over no case key of numbers, which bands need")
    return _bars(rows, values, spec)


def _cdf(rows: list[SummaryRow], keys: list[str], spec: FigureSpec) -> Panel:
    """Lines through (value, quantile)."""
    if QUANTILE not in dict(rows[0].case):
        raise FigureError(f"{spec.metrics[0]} was measured for no case key {QUANTILE}, which a cdf needs")
    panel = _lines(rows, QUANTILE, sorted(keys, key=lambda key: key != spec.series), spec)
    series = {
        name: [FigurePoint(point.mean, float(point.x), 0.0) for point in points]
        for name, points in panel.series.items()
    }
    name = header(rows[0].metric.removesuffix(f"_{QUANTILE}"), rows[0].unit)
    return panel._replace(
        kind="cdf", metric="share of values below", x=name, series=series, log_x=panel.log_y, log_y=False
    )


def _pictures(rows: list[SummaryRow], keys: list[str]) -> Panel:
    """A line of pictures for each of the other keys' values. Raises FigureError for what are no whole pictures."""
    if not all(is_pixel(row) and row.seeds == 1 for row in rows):
        raise FigureError(f"{rows[0].metric} was not measured pixel by pixel ({', '.join(PLACE)}) with one seed")
    series: dict[str, list[SummaryRow]] = {}
    for row in rows:
        series.setdefault(_name(row.case, keys), []).append(row)
    pictures, height, width = (len(_values(rows, key)) for key in PLACE)
    if any(len(line) != pictures * height * width for line in series.values()):
        raise FigureError(f"{rows[0].metric}: pictures of different sizes, or with pixels missing")
    drawn = {
        name: [FigurePoint("", row.mean, 0.0) for row in sorted(line, key=_place)] for name, line in series.items()
    }
    return Panel("pictures", "", "", "", drawn, shape=(pictures, height, width))


def _place(row: SummaryRow) -> list[float]:
    found = dict(row.case)
    return [float(found[key]) for key in PLACE]


def _values(rows: Sequence[SummaryRow], key: str) -> list[CaseValue]:
    return list(dict.fromkeys(dict(row.case)[key] for row in rows))


def _numeric(values: Sequence[CaseValue]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _sweep(values: dict[str, list[CaseValue]]) -> str | None:
    sweeps = [key for key, found in values.items() if len(found) >= 3 and _numeric(found)]
    return max(sweeps, key=lambda key: len(values[key]), default=None)


def _lines(rows: list[SummaryRow], x: str, keys: list[str], spec: FigureSpec) -> Panel:
    keys = sorted(keys, key=lambda key: key != spec.series)
    series: dict[str, list[FigurePoint]] = {}
    for row in rows:
        place = float(dict(row.case)[x])
        series.setdefault(_name(row.case, keys), []).append(FigurePoint(place, row.mean, row.deviation or 0.0))
    drawn = {name: sorted(series[name]) for name in evenly(list(series), LINES)}
    places = [point.x for points in drawn.values() for point in points if isinstance(point.x, float)]
    return Panel(
        "line",
        header(rows[0].metric, rows[0].unit),
        x,
        ", ".join(keys) if len(keys) < 2 else "",
        drawn,
        log_x=min(places) > 0 and max(places) >= DECADES * min(places) and not _even(places),
        log_y=spec.log and all(row.mean > 0 for row in rows),
        left_out=len(series) - len(drawn),
    )


def _even(places: list[float]) -> bool:
    """Whether ``places`` lie at equal distances, as those of a course over time do."""
    found = sorted(set(places))
    steps = [after - before for before, after in pairwise(found)]
    return max(steps) <= 1.01 * min(steps)


def _bars(rows: list[SummaryRow], values: dict[str, list[CaseValue]], spec: FigureSpec) -> Panel:
    """Groups of bars by all case keys but one; that one, of the fewest values, is told by colour."""
    few = [key for key, found in values.items() if len(found) <= LINES and key != spec.x]
    series_key = spec.series or (min(few, key=lambda key: len(values[key])) if few and len(values) > 1 else None)
    keys = sorted((key for key in values if key != series_key), key=lambda key: key != spec.x)
    groups = evenly(list(dict.fromkeys(_name(row.case, keys) for row in rows)), BARS)
    series: dict[str, list[FigurePoint]] = {}
    for row in rows:
        place = _name(row.case, keys)
        name = value_text(dict(row.case)[series_key]) if series_key else ""
        if place in groups:
            series.setdefault(name, []).append(FigurePoint(place, row.mean, row.deviation or 0.0))
    return Panel(
        "bar",
        header(rows[0].metric, rows[0].unit),
        keys[0] if len(keys) == 1 else "",
        series_key or "",
        series,
        log_y=spec.log and all(row.mean > 0 for row in rows),
        left_out=len({_name(row.case, keys) for row in rows}) - len(groups),
    )


def _name(case: CaseItems, keys: Sequence[str]) -> str:
    """The value alone where one key tells cases apart."""
    found = dict(case)
    return value_text(found[keys[0]]) if len(keys) == 1 else label((key, found[key]) for key in keys)


def evenly(names: list[str], most: int) -> list[str]:
    """At most ``most`` of ``names``, first and last among them, the others spread evenly."""
    if len(names) <= most:
        return names
    return [names[round(i * (len(names) - 1) / (most - 1))] for i in range(most)]
