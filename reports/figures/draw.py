"""Drawing of a figure's panels, each on a plane of its own, and of the legend that they share."""

import textwrap
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from reports.figures.canvas import MARKS, Drawing, Xy, text_width
from reports.figures.panels import FigurePoint, Panel
from reports.figures.scale import Scale, scale, tick_text
from reports.formatting import number

WIDTH = 540.0  # of a panel
HEIGHT = 330.0  # of a panel without bars
BAR = 15.0  # height of a bar
BAR_GAP = 9.0  # between two groups of bars
PICTURE = 56.0  # height of a row of pictures
MAX_MARKS = 30  # points of a line; with more, it is drawn without marks and its deviation as a band
NAME = 30  # characters per line of a bar's name
LEGEND = 44  # characters of a legend entry
LINE = 18.0  # height of a line of title
PUBLISHED = "printed in the paper"
SMALL = 10.0  # size of a tick's text


class Frame(NamedTuple):
    """Rectangle between the axes of a panel."""

    left: float
    top: float
    right: float
    bottom: float


def draw(panels: Sequence[Panel]) -> list[Drawing]:
    """Drawings of ``panels``, and last the legends that they need: one if all have the same series."""
    drawings = [DRAW_PANEL[panel.kind](panel) for panel in panels]
    same = all(list(panel.series) == list(panels[0].series) for panel in panels)
    groups = [list(panels)] if same else [[panel] for panel in panels]
    return [*drawings, *(found for group in groups if (found := legend(group)) is not None)]


def _line(panel: Panel) -> Drawing:
    drawing = _titled(panel, HEIGHT)
    points = [point for line in panel.series.values() for point in line]
    values = [end for point in points for end in _extent(point)] + [level for _, level in panel.levels]
    y_log = panel.log_y and min(values) > 0
    frame = Frame(_room(values, log=y_log), _top(panel), WIDTH - 14, HEIGHT - 40)
    places = [float(point.x) for point in points]
    xs = scale([*places, *(at for _, at in panel.moments)], frame.left, frame.right, log=panel.log_x)
    ys = scale(values, frame.bottom, frame.top, log=y_log)
    _grid(drawing, frame, (xs, ys), panel, sorted(set(places)))
    if panel.diagonal:
        low, high = max(xs.low, ys.low), min(xs.high, ys.high)
        drawing.line([(xs.at(low), ys.at(low)), (xs.at(high), ys.at(high))], "muted", 1.2, dashed=True)
    for i, (name, line) in enumerate(panel.series.items()):
        # A line that later ones cover is wider, and they are dashed, so that none is hidden.
        others = [_coincide(line, other, ys) for other in panel.series.values()]
        look = 1.8 + 2.2 * sum(others[i + 1 :]), any(others[:i])
        _one_line(drawing, (name, line), i, (xs, ys, panel.kind), look)
    for i, line in enumerate(panel.series.values()):
        _published(drawing, [((xs.at(float(p.x)), ys.at(p.published)), p) for p in line if p.published is not None], i)
    return drawing


def _one_line(
    drawing: Drawing,
    named: tuple[str, Sequence[FigurePoint]],
    index: int,
    where: tuple[Scale, Scale, str],
    look: tuple[float, bool],
) -> None:
    (name, line), (xs, ys, kind), (width, dashed) = named, where, look
    colour = colour_of(index)
    places = [(xs.at(float(point.x)), ys.at(point.mean)) for point in line]
    many = len(line) > MAX_MARKS or kind == "cdf"
    if many and any(point.deviation for point in line):
        below, above = (
            [(x, ys.at(point.mean + sign * point.deviation)) for (x, _), point in zip(places, line, strict=True)]
            for sign in (-1, 1)
        )
        drawing.area([*below, *reversed(above)], colour, 0.15)
    drawing.line(places, colour, width, dashed=dashed)
    for (x, y), point in zip(places, line, strict=True) if not many else ():
        if point.deviation:
            low, high = (ys.at(point.mean + sign * point.deviation) for sign in (-1, 1))
            _error_bar(drawing, (x, low), (x, high), colour)
        tip = ", ".join(part for part in (name, tick_text(float(point.x)), number(point.mean)) if part)
        drawing.mark(MARKS[index % len(MARKS)], (x, y), colour, 3.6 + (width - 1.8) / 2, tip=tip)


def _coincide(line: Sequence[FigurePoint], other: Sequence[FigurePoint], ys: Scale) -> bool:
    """Whether two lines lie on each other at most of their common places."""
    there = {point.x: ys.at(point.mean) for point in other}
    near = [abs(ys.at(point.mean) - there[point.x]) < 2 for point in line if point.x in there]
    return bool(near) and 2 * sum(near) > len(near)


def _extent(point: FigurePoint) -> list[float]:
    ends = [point.mean - point.deviation, point.mean + point.deviation]
    return ends if point.published is None else [*ends, point.published]


def _error_bar(drawing: Drawing, low: Xy, high: Xy, colour: str) -> None:
    flat = low[1] == high[1]
    dx, dy = (0.0, 3.0) if flat else (3.0, 0.0)
    drawing.line([low, high], colour)
    for x, y in (low, high):
        drawing.line([(x - dx, y - dy), (x + dx, y + dy)], colour)


def _published(drawing: Drawing, places: Sequence[tuple[Xy, FigurePoint]], index: int) -> None:
    for place, point in places:
        tip = f"{PUBLISHED}: {number(point.published or 0.0)}"
        drawing.mark("diamond", place, colour_of(index), 6.0, hollow=True, tip=tip)


def _bands(panel: Panel) -> Drawing:
    """Stacked series over x; a missing value counts as 0."""
    drawing = _titled(panel, HEIGHT)
    places = sorted({float(point.x) for points in panel.series.values() for point in points})
    heights = [{float(point.x): point.mean for point in points} for points in panel.series.values()]
    stacks = list(zip(*(accumulate(height.get(x, 0.0) for height in heights) for x in places), strict=True))
    top = max(max(row) for row in stacks) or 1.0
    frame = Frame(_room([0.0, top], log=False), _top(panel), WIDTH - 14, HEIGHT - 40)
    xs = Scale(places[0], places[-1] if len(places) > 1 else places[0] + 1, frame.left, frame.right)
    ys = Scale(0.0, top, frame.bottom, frame.top)
    below: Sequence[float] = [0.0] * len(places)
    for i, row in enumerate(stacks):
        edge = [(xs.at(x), ys.at(y)) for x, y in zip(places, row, strict=True)]
        base = [(xs.at(x), ys.at(y)) for x, y in zip(places, below, strict=True)]
        drawing.area([*edge, *reversed(base)], colour_of(i), 0.85)
        below = row
    _grid(drawing, frame, (xs, ys), panel, places)
    return drawing


def _bar(panel: Panel) -> Drawing:
    """Groups of horizontal bars; marks on a logarithmic axis, which has no zero for a bar to begin at."""
    names = list(dict.fromkeys(str(point.x) for points in panel.series.values() for point in points))
    wrapped = {name: _wrapped(name) for name in names}
    groups = [max(BAR * len(panel.series), 12.5 * len(wrapped[name])) + BAR_GAP for name in names]
    drawing = _titled(panel, _top(panel) + sum(groups) + 22)
    points = [point for line in panel.series.values() for point in line]
    values = [end for point in points for end in _extent(point)] + [level for _, level in panel.levels]
    log = panel.log_y and min(values) > 0
    left = max(text_width(line, SMALL) for lines in wrapped.values() for line in lines) + 10
    room = max(text_width(_compact(point.mean), SMALL) for point in points) + 12
    negative = room if min(values) < 0 else 0.0
    frame = Frame(left, _top(panel), WIDTH - room, _top(panel) + sum(groups))
    xs = scale(values, frame.left + negative, frame.right, log=log, zero=not log)
    for value in xs.ticks():
        x = xs.at(value)
        drawing.line([(x, frame.top), (x, frame.bottom)], "grid", 0.8)
        drawing.text((x, frame.bottom + 14), tick_text(value), SMALL, "middle", colour="muted")
    _levels(drawing, panel, [((xs.at(v), frame.top), (xs.at(v), frame.bottom)) for _, v in panel.levels])
    tops = dict(zip(names, accumulate([frame.top, *groups]), strict=False))
    for name, height in zip(names, groups, strict=True):
        middle = tops[name] + height / 2
        for i, text in enumerate(wrapped[name]):
            baseline = middle + 12.5 * (i - (len(wrapped[name]) - 1) / 2) + 3.5
            drawing.text((frame.left - 6, baseline), text, SMALL, "end")
    for i, (series, line) in enumerate(panel.series.items()):
        for point in line:
            name = str(point.x)
            middle = tops[name] + groups[names.index(name)] / 2 + BAR * (i - (len(panel.series) - 1) / 2)
            _one_bar(drawing, series, point, i, (xs, middle))
    zero = xs.at(max(xs.low, 0.0)) if not log else frame.left
    drawing.line([(zero, frame.top), (zero, frame.bottom)], "muted")
    return drawing


def _one_bar(drawing: Drawing, series: str, point: FigurePoint, index: int, where: tuple[Scale, float]) -> None:
    xs, middle = where
    end = xs.at(point.mean)
    tip = ", ".join(part for part in (str(point.x), series, number(point.mean)) if part)
    if xs.log:
        drawing.mark(MARKS[index % len(MARKS)], (end, middle), colour_of(index), 4.5, tip=tip)
    else:
        zero = xs.at(0.0)
        sides = sorted((zero, end))
        drawing.box((sides[0], middle - BAR / 2 + 1), (sides[1], middle + BAR / 2 - 1), colour_of(index), tip)
    ends = [end]
    if point.deviation:
        ends = [xs.at(point.mean - point.deviation), xs.at(point.mean + point.deviation)]
        _error_bar(drawing, (ends[0], middle), (ends[1], middle), "ink")
    if point.published is not None:
        ends.append(xs.at(point.published) + 3)
        _published(drawing, [((xs.at(point.published), middle), point)], index)
    if point.mean >= 0:
        drawing.text((max(ends) + 7, middle + 3.5), _compact(point.mean), SMALL, "start", colour="muted")
    else:
        drawing.text((min(ends) - 7, middle + 3.5), _compact(point.mean), SMALL, "end", colour="muted")


def _pictures(panel: Panel) -> Drawing:
    """One row of pictures per series, black for 0, white for 1."""
    pictures, height, width = panel.shape
    left = max(text_width(line, SMALL) for name in panel.series for line in _wrapped(name)) + 10
    row_height = min(PICTURE, (WIDTH - left) / (1.12 * pictures) * height / width)
    picture_width = row_height * width / height
    drawing = _titled(panel, 24 + 1.12 * row_height * len(panel.series))
    for row, (name, points) in enumerate(panel.series.items()):
        top = 24 + 1.12 * row_height * row
        drawing.text((left - 8, top + row_height / 2 + 3.5), _short(name), SMALL, "end")
        for i in range(pictures):
            pixels = [point.mean for point in points[i * height * width : (i + 1) * height * width]]
            lines = [pixels[width * y : width * (y + 1)] for y in range(height)]
            drawing.grey((left + 1.12 * picture_width * i, top), picture_width, row_height, lines)
    return drawing


DRAW_PANEL = {"line": _line, "cdf": _line, "bands": _bands, "bar": _bar, "pictures": _pictures}


def _titled(panel: Panel, height: float) -> Drawing:
    drawing = Drawing(WIDTH, height)
    if panel.title:
        drawing.text((0, 13), panel.title, bold=True)
    by = f" by {panel.x}" if panel.kind == "bar" and panel.x else ""
    drawing.text((0, _top(panel) - 15), _short(panel.metric + by, 70), colour="muted")
    if panel.left_out:
        drawing.text((WIDTH, 13), f"{panel.left_out} more in the table", SMALL, "end", colour="muted")
    return drawing


def _top(panel: Panel) -> float:
    """Room for the panel's title and that of the value axis."""
    return 28.0 + (LINE if panel.title else 0.0)


def _room(values: Sequence[float], *, log: bool) -> float:
    """Room for the texts beside a value axis."""
    return 12 + max((text_width(tick_text(tick), SMALL) for tick in scale(values, 0, 1, log=log).ticks()), default=0.0)


def _grid(drawing: Drawing, frame: Frame, scales: tuple[Scale, Scale], panel: Panel, values: Sequence[float]) -> None:
    xs, ys = scales
    for value in ys.ticks():
        y = ys.at(value)
        drawing.line([(frame.left, y), (frame.right, y)], "grid", 0.8)
        drawing.text((frame.left - 6, y + 3.5), tick_text(value), SMALL, "end", colour="muted")
    for value in _x_ticks(xs, values):
        x = xs.at(value)
        drawing.line([(x, frame.bottom), (x, frame.bottom + 4)], "muted")
        drawing.text((x, frame.bottom + 16), tick_text(value), SMALL, "middle", colour="muted")
    drawing.line([(frame.left, frame.bottom), (frame.right, frame.bottom)], "muted")
    middle = (frame.left + frame.right) / 2
    drawing.text((middle, frame.bottom + 33), _short(panel.x, 60), anchor="middle", colour="muted")
    _levels(drawing, panel, [((frame.left, ys.at(v)), (frame.right, ys.at(v))) for _, v in panel.levels])
    for name, at in panel.moments:
        drawing.line([(xs.at(at), frame.top), (xs.at(at), frame.bottom)], "muted", 1.2, dashed=True)
        drawing.text((xs.at(at), frame.top - 4), name, SMALL, "middle", colour="muted")


def _levels(drawing: Drawing, panel: Panel, lines: Sequence[tuple[Xy, Xy]]) -> None:
    for (name, _), (start, end) in zip(panel.levels, lines, strict=True):
        drawing.line([start, end], "muted", 1.2, dashed=True)
        upright = start[0] == end[0]
        place = (start[0] + 4, start[1] + 9) if upright else (end[0], end[1] - 4)
        drawing.text(place, name, SMALL, "start" if upright else "end", colour="muted")


def _x_ticks(xs: Scale, values: Sequence[float]) -> list[float]:
    """The values of a sweep where their texts fit; else round numbers."""
    places = [xs.at(value) for value in values]
    texts = [text_width(tick_text(value), SMALL) for value in values]
    needed = [(one + other) / 2 + 8 for one, other in pairwise(texts)]
    if all(after - before >= room for (before, after), room in zip(pairwise(places), needed, strict=True)):
        return list(values)
    ticks = xs.ticks(8)
    return [tick for tick in ticks if tick.is_integer()] if all(value.is_integer() for value in values) else ticks


def legend(panels: Sequence[Panel]) -> Drawing | None:
    """Which colour and mark means what, on as many lines as needed; None if there is nothing to tell."""
    first = panels[0]
    if first.kind == "pictures":
        return None
    points = [point for panel in panels for line in panel.series.values() for point in line]
    named = list(first.series) != [""]
    entries: list[tuple[int | str, str]] = [(i, _short(name, LEGEND)) for i, name in enumerate(first.series) if named]
    notes: list[tuple[int | str, str]] = []
    if any(point.published is not None for point in points):
        notes.append(("published", PUBLISHED))
    if any(point.deviation for point in points) and first.kind != "bands":
        notes.append(("error", "± standard deviation over seeds"))
    if first.diagonal:
        notes.append(("diagonal", "equal"))
    if not entries and not notes:
        return None
    drawing = Drawing(WIDTH, 0)
    x, y = 0.0, 13.0
    if entries and first.series_name:
        drawing.text((x, y), _short(first.series_name.replace("_", " ")), SMALL, colour="muted", bold=True)
        x += text_width(_short(first.series_name), SMALL, bold=True) + 14
    for sign, name in [*entries, *notes]:
        width = 26 + text_width(name, SMALL) + 16
        if x and x + width > WIDTH:
            x, y = 0.0, y + 18
        _sign(drawing, sign, first, (x, y - 4))
        drawing.text((x + 26, y), name, SMALL)
        x += width
    drawing.height = y + 6
    return drawing


def _sign(drawing: Drawing, sign: int | str, panel: Panel, at: Xy) -> None:
    x, y = at
    match sign:
        case "published":
            drawing.mark("diamond", (x + 10, y), "muted", 6, hollow=True)
        case "error":
            _error_bar(drawing, (x + 2, y), (x + 18, y), "muted")
        case "diagonal":
            drawing.line([(x, y), (x + 20, y)], "muted", 1.2, dashed=True)
        case int() as index if panel.kind == "bands" or (panel.kind == "bar" and not panel.log_y):
            drawing.box((x + 2, y - 5), (x + 18, y + 5), colour_of(index))
        case int() as index:
            if panel.kind != "bar":
                drawing.line([(x, y), (x + 20, y)], colour_of(index), 1.8)
            if panel.kind != "cdf":
                drawing.mark(MARKS[index % len(MARKS)], (x + 10, y), colour_of(index), 3.8)


def colour_of(index: int) -> str:
    return str(index % len(MARKS))


def _compact(mean: float) -> str:
    """Short number beside a bar: 12.48M for 12,480,425; the table has all digits."""
    return tick_text(float(f"{mean:.4g}")) if abs(mean) >= 1e5 else number(mean)


def _short(name: str, limit: int = 44) -> str:
    """Shorten a name in the middle, where similar names differ least."""
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[-(limit // 2 - 1) :]}"


def _wrapped(name: str) -> list[str]:
    return textwrap.wrap(_short(name, 2 * NAME - 4), NAME) or [" "]
