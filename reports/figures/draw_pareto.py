"""Drawing of a Pareto front: measured points filled, the paper's hollow, the front as a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from reports.figures.draw import COLOURS, MARKERS
from reports.figures.panels import LOG_AXIS_RATIO
from reports.figures.pareto import FrontSpec, ParetoPoint

PointsByMethod = Mapping[str, Sequence[ParetoPoint]]
Side = Literal["left", "center", "right"]


def draw_front(
    spec: FrontSpec, measured: PointsByMethod, published: PointsByMethod, front: Sequence[ParetoPoint], path: Path
) -> None:
    """Draw measured and published points, and ``front`` as a line, to the PNG file ``path``."""
    figure = Figure(figsize=(10.5, 6.8), dpi=120, layout="constrained")
    figure.suptitle(spec.title, fontsize=12)
    ax = figure.subplots()
    costs = [point.cost for points in (*measured.values(), *published.values()) for point in points]
    if max(costs) > LOG_AXIS_RATIO * min(costs) > 0:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes = [point.cost for point in front], [point.worth for point in front]
    ax.step(*axes, where="post", color="#bbbbbb", linewidth=1.2, zorder=1, label="dominated by nothing measured")
    for i, (name, points) in enumerate(measured.items()):
        _points(ax, name, points, i, filled=True)
    for i, (name, points) in enumerate(published.items()):
        _points(ax, f"{name} (the paper's)", points, i, filled=False)
        _annotate(ax, points, (0, 7 if i % 2 else -14), "center")
    _annotate(ax, front[::2], (5, 6), "left")
    _annotate(ax, front[1::2], (-5, 6), "right")  # on alternating sides, so that neighbours do not overlap
    ax.set_xlabel(spec.cost)
    ax.set_ylabel(spec.worth)
    ax.grid(True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    figure.savefig(path)


def _points(ax: Axes, name: str, points: Sequence[ParetoPoint], index: int, *, filled: bool) -> None:
    colour = COLOURS[index % len(COLOURS)] if filled else "#555555"
    ax.errorbar(
        [point.cost for point in points],
        [point.worth for point in points],
        [point.deviation for point in points] if filled else None,
        label=name,
        color=colour,
        marker=MARKERS[index % len(MARKERS)],
        markersize=6 if filled else 7,
        markerfacecolor=colour if filled else "white",
        linestyle="none",
        elinewidth=0.7,
        capsize=2,
        alpha=0.9,
        zorder=3 if filled else 2,
    )


def _annotate(ax: Axes, points: Sequence[ParetoPoint], offset: tuple[int, int], side: Side) -> None:
    for point in points:
        style: dict[str, Any] = {"textcoords": "offset points", "fontsize": 7, "color": "#333333"}
        ax.annotate(point.name, (point.cost, point.worth), xytext=offset, ha=side, **style)
