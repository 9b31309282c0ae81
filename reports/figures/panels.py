"""Choice of an experiment's figure panels; ``reports.figures.draw`` draws them."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from reports.claims.statistics import MIN_SEEDS, CaseItems, has_values, same
from reports.figures.scale import LOG_AXIS_RATIO, wants_log
from reports.formatting import label, value_text
from reports.pages.summary import UNITLESS, UNITS_IN_NAMES, SummaryRow, varying
from reports.record import CaseValue

PANELS = 4  # in a figure without a FigureSpec
LINES = 8  # distinguishable by colour and marker
BARS = 40  # legible in one panel
QUANTILE = "quantile"
UNITS_OF_KEYS = {name: unit for unit, name in UNITS_IN_NAMES.items()} | {"s": "s", "ms": "ms", "mb": "MB"}
NOT_DRAWN = ("pid",)  # metrics that count nothing
PIXEL_KEYS = ("picture", "row", "column")  # keys of a pixel's case
MILLI_BELOW_S = 0.5  # largest value of seconds that an axis shows in milliseconds


class FigureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A figure under an experiment's ``figures`` in a suite; unset fields are derived from the records.

    One panel for each of ``metrics`` and each value of the case key ``by``, of the cases that have the values ``case``.
    ``x`` is the case key on the x axis, ``series`` that of lines or bars. ``kind``: ``cdf`` draws metrics recorded at
    each ``quantile``, a case key; ``bands`` stacks the series over x; ``pictures`` shows grey images from values 0 to 1
    at each ``picture``, ``row`` and ``column``, one row of images per series. ``log`` is for the value axis, which is
    logarithmic anyway where magnitudes differ; the x axis becomes so from ``LOG_AXIS_RATIO`` on, in uneven steps.
    ``diagonal`` draws where the value equals x. ``levels`` are values of the metric to compare with, and ``moments``
    places on the x axis, each with its name. ``title`` replaces the experiment's.
    """

    metrics: list[str]
    case: dict[str, CaseValue] = {}
    x: str | None = None
    series: str | None = None
    by: str | None = None
    kind: Literal["cdf", "bands", "pictures"] | None = None
    log: bool = False
    diagonal: bool = False
    levels: dict[str, float] = {}
    moments: dict[str, float] = {}
    title: str | None = None

    def __post_init__(self) -> None:
        if not self.metrics:
            raise ValueError("metrics: a figure needs at least one, got none")


class FigureError(ValueError):
    """The records do not have what a FigureSpec names."""


class FigurePoint(NamedTuple):
    """A mean at an x value or for a named bar, with the number that a paper prints for it.

    ``deviation`` is the standard deviation over seeds, 0 with fewer than ``MIN_SEEDS``.
    """

    x: float | str
    mean: float
    deviation: float
    published: float | None = None


class Panel(NamedTuple):
    """One metric: lines over numbers or bars over names. ``left_out``: number of lines or bar groups not drawn.

    ``metric`` and ``x`` are the titles of the axes.

    In a ``cdf``, a point's x is the value and its mean the quantile. In ``pictures``, a series has the pixels of one
    picture after the other, row by row; ``shape`` is (pictures, rows, columns). ``title`` distinguishes panels.
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
    diagonal: bool = False
    levels: tuple[tuple[str, float], ...] = ()
    moments: tuple[tuple[str, float], ...] = ()


def is_pixel(row: SummaryRow) -> bool:
    """Whether ``row`` is a pixel, which is shown in a picture only, never as a number."""
    return dict(row.case).keys() >= set(PIXEL_KEYS)


def choose(rows: Sequence[SummaryRow], spec: FigureSpec | None = None) -> list[Panel]:
    """Choose the panels of one experiment's figure, from rows of one set of conditions.

    Without ``spec``: the first ``PANELS`` metrics that differ between cases, in the experiment's order, as lines over
    the numeric case key with most values if it has three or more, otherwise as bars. With a single case, the metrics of
    each unit share a panel. Raises FigureError if the rows do not have what ``spec`` names.
    """
    if spec is not None:
        rows = [row for row in rows if has_values(dict(row.case), spec.case)]
        return [panel for metric in spec.metrics for panel in _panels(_of_metric(rows, metric), spec)]
    rows = [row for row in rows if not is_pixel(row) and row.metric not in NOT_DRAWN]
    groups = [_of_metric(rows, metric) for metric in dict.fromkeys(row.metric for row in rows)]
    several = [group for group in groups if len(group) > 1]
    if not several:
        return [_one_case(rows, unit) for unit in dict.fromkeys(row.unit for row in rows)][:PANELS]
    informative = [group for group in several if len({row.mean for row in group}) > 1] or several
    return [panel for group in informative[:PANELS] for panel in _panels(group, FigureSpec(metrics=[group[0].metric]))]


def axis_title(metric: str, unit: str) -> str:
    """``latency [ms]`` for ``latency_ms``: the metric in words, and its unit where it has one beside its name."""
    if (unit == "B" and "bytes" in metric) or ("/" in unit and unit.lower().replace("/", "_per_") in metric):
        return metric.replace("_", " ")
    words = [word for word in metric.split("_") if word not in (unit.lower(), UNITS_IN_NAMES.get(unit))] or [metric]
    return " ".join(words) + (f" [{unit}]" if unit not in (*UNITLESS, metric) else "")


def key_title(key: str) -> str:
    """``rate [Mbit/s]`` for the case key ``rate_mbps``."""
    words, _, last = key.rpartition("_")
    unit = UNITS_OF_KEYS.get(last)
    return f"{words.replace('_', ' ')} [{unit}]" if words and unit and "_per_" not in key else key.replace("_", " ")


def _panels(rows: list[SummaryRow], spec: FigureSpec) -> list[Panel]:
    rows = _in_milliseconds(rows) if spec.kind is None and not (spec.diagonal or spec.levels) else rows
    if spec.by is None:
        return [_panel(rows, spec)]
    if spec.by not in dict(rows[0].case):
        raise FigureError(f"{rows[0].metric} was measured without the case key {spec.by}; it has {_keys(rows)}")
    panels = []
    for value in _values(rows, spec.by):
        panel = _panel([row for row in rows if same(dict(row.case)[spec.by], value)], spec)
        panels.append(panel._replace(title=label([(spec.by, value)])))
    return panels


def _in_milliseconds(rows: list[SummaryRow]) -> list[SummaryRow]:
    """``rows`` of short times in milliseconds; others as they are."""
    if rows[0].unit != "s" or max(abs(row.mean) for row in rows) > MILLI_BELOW_S:
        return rows
    return [
        row._replace(
            metric="_".join(word for word in row.metric.split("_") if word != "s"),
            unit="ms",
            mean=1000 * row.mean,
            deviation=row.deviation and 1000 * row.deviation,
            published=row.published and 1000 * row.published,
        )
        for row in rows
    ]


def _point(x: float | str, row: SummaryRow) -> FigurePoint:
    deviation = row.deviation if row.deviation and row.seeds >= MIN_SEEDS else 0.0
    return FigurePoint(x, row.mean, deviation, row.published)


def _of_metric(rows: Sequence[SummaryRow], metric: str) -> list[SummaryRow]:
    """Rows of ``metric`` with the most frequent set of case keys."""
    groups: dict[tuple[str, ...], list[SummaryRow]] = {}
    for row in rows:
        if row.metric == metric:
            groups.setdefault((row.unit, *(key for key, _ in row.case)), []).append(row)
    if not groups:
        raise FigureError(f"no metric {metric} was measured")
    return max(groups.values(), key=len)


def _one_case(rows: Sequence[SummaryRow], unit: str) -> Panel:
    rows = _in_milliseconds([row for row in rows if row.unit == unit])
    points = [_point(axis_title(row.metric, row.unit).removesuffix(f" [{row.unit}]"), row) for row in rows]
    name = "value" if unit in UNITLESS else f"value [{rows[0].unit}]"
    log = wants_log([point.mean for point in points[:BARS]])
    return Panel("bar", name, "", "", {"": points[:BARS]}, log_y=log, left_out=max(0, len(points) - BARS))


def _panel(rows: list[SummaryRow], spec: FigureSpec) -> Panel:
    for key in (spec.x, spec.series):
        if key is not None and key not in dict(rows[0].case):
            raise FigureError(f"{spec.metrics[0]} was measured without the case key {key}; it has {_keys(rows)}")
    values = {key: _values(rows, key) for key in varying([row.case for row in rows])}
    if spec.kind == "cdf":
        return _cdf(rows, [key for key in values if key != QUANTILE], spec)
    if spec.kind == "pictures":
        return _pictures(rows, [key for key in values if key not in PIXEL_KEYS])
    sweeps = [key for key, found in values.items() if key != spec.series and len(found) >= 3 and _numeric(found)]
    x = spec.x or max(sweeps, key=lambda key: len(values[key]), default=None)
    if x is not None and _numeric(_values(rows, x)):
        lines = _lines(rows, x, [key for key in values if key != x], spec)
        return lines._replace(kind="bands", log_x=False, log_y=False) if spec.kind == "bands" else lines
    if spec.kind == "bands":
        raise FigureError(f"{spec.metrics[0]} was measured without a numeric case key, which bands need")
    return _bars(rows, values, spec)


def _cdf(rows: list[SummaryRow], keys: list[str], spec: FigureSpec) -> Panel:
    if QUANTILE not in dict(rows[0].case):
        raise FigureError(f"{spec.metrics[0]} was measured without the case key {QUANTILE}, which a cdf needs")
    panel = _lines(rows, QUANTILE, sorted(keys, key=lambda key: key != spec.series), spec)
    turned = {name: [FigurePoint(at.mean, float(at.x), 0.0) for at in points] for name, points in panel.series.items()}
    value = axis_title(rows[0].metric.removesuffix(f"_{QUANTILE}"), rows[0].unit)
    panel = panel._replace(kind="cdf", metric="share of values below", x=value, series=turned)
    return panel._replace(log_x=panel.log_y, log_y=False)


def _pictures(rows: list[SummaryRow], keys: list[str]) -> Panel:
    """One row of pictures per value of the other keys. Raises FigureError for incomplete pictures."""
    if not all(is_pixel(row) and row.seeds == 1 for row in rows):
        raise FigureError(f"{rows[0].metric} was not measured pixel by pixel ({', '.join(PIXEL_KEYS)}) with one seed")
    series: dict[str, list[SummaryRow]] = {}
    for row in rows:
        series.setdefault(_name(row.case, keys), []).append(row)
    pictures, height, width = (len(_values(rows, key)) for key in PIXEL_KEYS)
    if any(len(line) != pictures * height * width for line in series.values()):
        raise FigureError(f"{rows[0].metric}: pictures of different sizes, or with pixels missing")
    for line in series.values():
        line.sort(key=lambda row: [float(dict(row.case)[key]) for key in PIXEL_KEYS])
    drawn = {name: [FigurePoint("", row.mean, 0.0) for row in line] for name, line in series.items()}
    return Panel("pictures", "", "", "", drawn, shape=(pictures, height, width))


def _keys(rows: Sequence[SummaryRow]) -> str:
    return ", ".join(key for key, _ in rows[0].case) or "none"


def _values(rows: Sequence[SummaryRow], key: str) -> list[CaseValue]:
    return list(dict.fromkeys(dict(row.case)[key] for row in rows))


def _numeric(values: Sequence[CaseValue]) -> bool:
    return all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)


def _lines(rows: list[SummaryRow], x: str, keys: list[str], spec: FigureSpec) -> Panel:
    keys = sorted(keys, key=lambda key: key != spec.series)
    series: dict[str, list[FigurePoint]] = {}
    for row in rows:
        position = float(dict(row.case)[x])
        series.setdefault(_name(row.case, keys), []).append(_point(position, row))
    drawn = {name: sorted(series[name]) for name in evenly(list(series), LINES)}
    xs = [point.x for points in drawn.values() for point in points if isinstance(point.x, float)]
    log_x = min(xs) > 0 and max(xs) >= LOG_AXIS_RATIO * min(xs) and not _even(xs)
    return Panel(
        "line",
        axis_title(rows[0].metric, rows[0].unit),
        key_title(x),
        ", ".join(keys) if len(keys) < 2 else "",
        drawn,
        log_x=log_x,
        log_y=log_x if spec.diagonal else _log(spec, drawn),  # a diagonal is straight on equal axes alone
        left_out=len(series) - len(drawn),
        diagonal=spec.diagonal,
        levels=tuple(spec.levels.items()),
        moments=tuple(spec.moments.items()),
    )


def _log(spec: FigureSpec, series: dict[str, list[FigurePoint]]) -> bool:
    values = [point.mean for points in series.values() for point in points]
    return wants_log(values) or (spec.log and min(values) > 0)


def _even(xs: list[float]) -> bool:
    """Whether most values are equally far apart, as those of a count with gaps."""
    steps = sorted(after - before for before, after in pairwise(sorted(set(xs))))
    return steps[len(steps) // 2] <= 1.01 * steps[0]


def _bars(rows: list[SummaryRow], values: dict[str, list[CaseValue]], spec: FigureSpec) -> Panel:
    """Bar groups by all case keys but the one with fewest values, which sets the colour."""
    few = [key for key, found in values.items() if len(found) <= LINES and key != spec.x]
    series_key = spec.series or (min(few, key=lambda key: len(values[key])) if few and len(values) > 1 else None)
    keys = sorted((key for key in values if key != series_key), key=lambda key: key != spec.x)
    names = list(dict.fromkeys(_name(row.case, keys) for row in rows))
    groups = evenly(names, BARS)
    series: dict[str, list[FigurePoint]] = {}
    for row in rows:
        group = _name(row.case, keys)
        name = value_text(dict(row.case)[series_key]) if series_key else ""
        if group in groups:
            series.setdefault(name, []).append(_point(group, row))
    return Panel(
        "bar",
        axis_title(rows[0].metric, rows[0].unit),
        key_title(keys[0]) if len(keys) == 1 else "",
        series_key or "",
        series,
        log_y=_log(spec, series),
        left_out=len(names) - len(groups),
        levels=tuple(spec.levels.items()),
    )


def _name(case: CaseItems, keys: Sequence[str]) -> str:
    """Text of the ``keys`` of a case; of a single key, the value alone."""
    found = dict(case)
    return value_text(found[keys[0]]) if len(keys) == 1 else label((key, found[key]) for key in keys)


def evenly(names: list[str], limit: int) -> list[str]:
    """At most ``limit`` of ``names``, evenly spaced, with the first and the last."""
    if len(names) <= limit:
        return names
    return [names[round(i * (len(names) - 1) / (limit - 1))] for i in range(limit)]
