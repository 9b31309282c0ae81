"""Drawing of a Pareto front: measured points filled, the paper's hollow, the front as a line."""

from collections.abc import Mapping, Sequence

from reports.figures.canvas import MARKS, Drawing, text_width
from reports.figures.draw import SMALL, Frame, colour_of
from reports.figures.pareto import FrontSpec, ParetoPoint
from reports.figures.scale import Scale, scale, tick_text, wants_log
from reports.formatting import number

PointsByMethod = Mapping[str, Sequence[ParetoPoint]]
WIDTH, HEIGHT = 860.0, 560.0
FEW = 10  # points that are all named; of more only those of the front
NAMES = 9.0  # size of a point's name
FRAME = Frame(52.0, 30.0, WIDTH - 20, HEIGHT - 40)


def draw_front(
    spec: FrontSpec, measured: PointsByMethod, published: PointsByMethod, front: Sequence[ParetoPoint]
) -> list[Drawing]:
    """Drawings of measured and published points, with ``front`` as a line, and of their legend."""
    everything = [point for points in (*measured.values(), *published.values()) for point in points]
    costs = [point.cost for point in everything]
    worths = [end for point in everything for end in (point.worth - point.deviation, point.worth + point.deviation)]
    xs = scale(costs, FRAME.left, FRAME.right, log=wants_log(costs))
    ys = scale(worths, FRAME.bottom, FRAME.top, log=False)
    drawing = Drawing(WIDTH, HEIGHT)
    _axes(drawing, spec, xs, ys)
    corners = [(xs.at(point.cost), ys.at(point.worth)) for point in front]
    befores = [corners[0], *corners]
    steps = [step for (x, y), (_, last) in zip(corners, befores, strict=False) for step in ((x, last), (x, y))]
    drawing.line(steps, "muted", 1.2)
    for i, points in enumerate(published.values()):
        for point in points:
            place = xs.at(point.cost), ys.at(point.worth)
            drawing.mark(MARKS[i % len(MARKS)], place, "muted", 5, hollow=True, tip=f"{_tip(point)}, the paper's")
            drawing.text((place[0], place[1] + (-9 if i % 2 else 16)), point.name, 9, "middle", colour="muted")
    for i, points in enumerate(measured.values()):
        for point in points:
            place = xs.at(point.cost), ys.at(point.worth)
            if point.deviation:
                ends = [(place[0], ys.at(point.worth + sign * point.deviation)) for sign in (-1, 1)]
                drawing.line(ends, colour_of(i))
            drawing.mark(MARKS[i % len(MARKS)], place, colour_of(i), 4.5, tip=_tip(point))
    own = [point for points in measured.values() for point in points]
    named = sorted(own, key=lambda point: point.cost) if len(own) <= FEW else front
    longest = max(text_width(point.name, NAMES) for point in named)
    taken: list[tuple[float, float, str]] = []  # left ends and base lines
    for i, point in enumerate(named):  # on alternating sides, and left out where that does not help
        width = text_width(point.name, NAMES)
        lefts = (xs.at(point.cost) + 6, xs.at(point.cost) - 6 - width)
        place = lefts[i % 2], ys.at(point.worth) - 7
        near = [(abs(place[0] - x), name) for x, y, name in taken if abs(place[1] - y) < NAMES + 1]
        if not any(gap < longest * (1 + (name == point.name)) + 12 for gap, name in near):
            drawing.text(place, point.name, NAMES, "start")
            taken.append((*place, point.name))
    return [drawing, _legend(measured, published)]


def front_in_words(spec: FrontSpec, measured: PointsByMethod) -> str:
    return f"{spec.worth} against {spec.cost} of {', '.join(measured)}"


def _tip(point: ParetoPoint) -> str:
    return f"{point.method}, {point.name}: {number(point.cost)}, {number(point.worth)}"


def _axes(drawing: Drawing, spec: FrontSpec, xs: Scale, ys: Scale) -> None:
    drawing.text((0, 13), spec.worth, colour="muted")
    for value in ys.ticks():
        drawing.line([(FRAME.left, ys.at(value)), (FRAME.right, ys.at(value))], "grid", 0.8)
        drawing.text((FRAME.left - 6, ys.at(value) + 3.5), tick_text(value), SMALL, "end", colour="muted")
    for value in xs.ticks(8):
        drawing.line([(xs.at(value), FRAME.bottom), (xs.at(value), FRAME.bottom + 4)], "muted")
        drawing.text((xs.at(value), FRAME.bottom + 16), tick_text(value), SMALL, "middle", colour="muted")
    drawing.line([(FRAME.left, FRAME.bottom), (FRAME.right, FRAME.bottom)], "muted")
    drawing.text(((FRAME.left + FRAME.right) / 2, FRAME.bottom + 33), spec.cost, anchor="middle", colour="muted")


def _legend(measured: PointsByMethod, published: PointsByMethod) -> Drawing:
    entries = [(i, name, False) for i, name in enumerate(measured)]
    entries += [(i, f"{name} (the paper's)", True) for i, name in enumerate(published)]
    drawing = Drawing(WIDTH, 0)
    x, y = 0.0, 13.0
    for index, name, hollow in entries:
        width = 20 + text_width(name, SMALL) + 18
        if x and x + width > WIDTH:
            x, y = 0.0, y + 18
        colour = "muted" if hollow else colour_of(index)
        drawing.mark(MARKS[index % len(MARKS)], (x + 8, y - 4), colour, 4.5, hollow=hollow)
        drawing.text((x + 20, y), name, SMALL)
        x += width
    note = "line: dominated by nothing measured; bars: standard deviation over seeds"
    drawing.text((0, y + 18), note, SMALL, colour="muted")
    drawing.height = y + 26
    return drawing
