"""How does a plane of cost and worth become a picture? Measured points filled, the paper's hollow, the front a line."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, NullFormatter

from reports.figures.draw import COLOURS, MARKERS
from reports.figures.pareto import FrontSpec, Spot

FrontPoints = Mapping[str, Sequence[Spot]]
DECADES = 30.0  # largest over smallest cost from which on the axis is logarithmic


def draw_front(spec: FrontSpec, measured: FrontPoints, printed: FrontPoints, edge: Sequence[Spot], path: Path) -> None:
    """Draw both kinds of points, and ``edge`` as a line, into the PNG ``path``."""
    figure = Figure(figsize=(10.5, 6.8), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(spec.title, fontsize=12)
    ax = figure.subplots()
    costs = [spot.cost for spots in (*measured.values(), *printed.values()) for spot in spots]
    if max(costs) > DECADES * min(costs) > 0:
        ax.set_xscale("log")
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.xaxis.set_major_formatter(EngFormatter(sep=""))
    places = [spot.cost for spot in edge], [spot.worth for spot in edge]
    ax.step(*places, where="post", color="#bbbbbb", linewidth=1.2, zorder=1, label="dominated by nothing measured")
    for i, (name, spots) in enumerate(measured.items()):
        _points(ax, name, spots, i, filled=True)
    for i, (name, spots) in enumerate(printed.items()):
        _points(ax, f"{name} (the paper's)", spots, i, filled=False)
        _call(ax, spots, (0, 7 if i % 2 else -14), "center")
    _call(ax, edge[::2], (5, 6), "left")
    _call(ax, edge[1::2], (-5, 6), "right")  # neighbours' names stand apart
    ax.set_xlabel(spec.cost)
    ax.set_ylabel(spec.worth)
    ax.grid(True, color="#e4e4e4", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    figure.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=3, fontsize=8.5, frameon=False)
    figure.savefig(path)


def _points(ax: Axes, name: str, spots: Sequence[Spot], number: int, *, filled: bool) -> None:
    colour = COLOURS[number % len(COLOURS)] if filled else "#555555"
    ax.errorbar(
        [spot.cost for spot in spots],
        [spot.worth for spot in spots],
        [spot.deviation for spot in spots] if filled else None,
        label=name,
        color=colour,
        marker=MARKERS[number % len(MARKERS)],
        markersize=6 if filled else 7,
        markerfacecolor=colour if filled else "white",
        linestyle="none",
        elinewidth=0.7,
        capsize=2,
        alpha=0.9,
        zorder=3 if filled else 2,
    )


def _call(ax: Axes, spots: Sequence[Spot], beside: tuple[int, int], side: Literal["left", "center", "right"]) -> None:
    """Write each point's name so many points ``beside`` it."""
    for spot in spots:
        place = spot.cost, spot.worth
        ax.annotate(spot.name, place, xytext=beside, textcoords="offset points", ha=side, fontsize=7, color="#333333")
