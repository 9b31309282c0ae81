"""Drawing of figure panels to one PNG file, with matplotlib and without a display."""

import math
import textwrap
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator, MaxNLocator, NullFormatter, NullLocator

from reports.figures.panels import Panel
from reports.formatting import number

# Okabe and Ito's palette, safe for the colour-blind; grey replaces their yellow, which is pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#888888")
MARKERS = "os^Dv<P>"
BAR_IN = 0.24  # height of a bar, in inches
PICTURE_IN = 0.62  # height of a row of pictures, in inches
MAX_ERROR_BARS = 25  # points of a line; with more, the deviation is drawn as a band
NAME = 30  # characters per line of a bar's name
LEGEND = 36  # characters of a legend entry


def draw(panels: Sequence[Panel], title: str, path: Path) -> None:
    """Draw ``panels``, two per row, under ``title`` to the PNG file ``path``."""
    columns = min(2, len(panels))
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [max(_height(panel) for panel in line) for line in lines]
    width = 7.2 if columns == 1 else 11.5
    figure = Figure(figsize=(width, sum(heights) + 0.5), dpi=120, layout="constrained")
    figure.suptitle("\n".join(textwrap.wrap(title, int(width * 9))), fontsize=12)
    grid = figure.subplots(len(lines), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    axes = list(grid.flat)
    for ax, panel in zip(axes, panels, strict=False):
        DRAW_PANEL[panel.kind](ax, panel)
        ax.set_title(panel.title, fontsize=9.5, loc="left")
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    _legends(figure, axes, panels, int(width * 10))
    figure.savefig(path)


def _height(panel: Panel) -> float:
    if panel.kind == "pictures":
        return 0.4 + PICTURE_IN * len(panel.series)
    if panel.kind != "bar":
        return 3.6
    names = {point.x for points in panel.series.values() for point in points}
    lines = sum(max(len(panel.series), len(_wrapped(str(name)).split("\n"))) for name in names)
    return 1.1 + BAR_IN * max(2, lines) + 0.08 * len(names)


def _line(ax: Axes, panel: Panel) -> None:
    for i, (name, points) in enumerate(panel.series.items()):
        xs = [float(point.x) for point in points]
        ys = [point.mean for point in points]
        errors = [point.deviation for point in points]
        color, marker = COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]
        if len(xs) <= MAX_ERROR_BARS and panel.kind == "line":
            ax.errorbar(xs, ys, errors, label=name, color=color, marker=marker, markersize=4.5, capsize=2.5)
        else:
            low, high = zip(*((y - error, y + error) for y, error in zip(ys, errors, strict=True)), strict=True)
            # Earlier lines of a cdf are wider, so that none is hidden.
            width = 1.3 if panel.kind == "line" else 1.3 + 0.5 * (len(panel.series) - 1 - i)
            ax.plot(xs, ys, label=name, color=color, linewidth=width)
            ax.fill_between(xs, low, high, color=color, alpha=0.15, linewidth=0)
    _format_numeric_axes(ax, panel)


def _bands(ax: Axes, panel: Panel) -> None:
    """Stacked series over x; a missing value counts as 0."""
    xs = sorted({float(point.x) for points in panel.series.values() for point in points})
    heights = [{float(point.x): point.mean for point in points} for points in panel.series.values()]
    colours = [COLOURS[i % len(COLOURS)] for i in range(len(heights))]
    rows = [[height.get(x, 0.0) for x in xs] for height in heights]
    ax.stackplot(xs, rows, labels=list(panel.series), colors=colours, linewidth=0, alpha=0.85)
    ax.margins(x=0, y=0)
    _format_numeric_axes(ax, panel)


def _pictures(ax: Axes, panel: Panel) -> None:
    """One row of pictures per series, black for 0, white for 1, with gaps of an eighth of their width."""
    pictures, height, width = panel.shape
    gap = max(1, width // 8)
    lines = [[point.mean for point in points] for points in panel.series.values()]
    for row, line in enumerate(lines):
        for column in range(pictures):
            left, top = column * (width + gap), row * (height + gap)
            start = column * height * width
            pixels = [line[start + width * y : start + width * (y + 1)] for y in range(height)]
            where = (left, left + width, top + height, top)
            ax.imshow(pixels, cmap="gray", vmin=0, vmax=1, extent=where, interpolation="nearest")
    ax.set_xlim(0, pictures * (width + gap) - gap)
    ax.set_ylim(len(lines) * (height + gap) - gap, 0)
    middles = [row * (height + gap) + height / 2 for row in range(len(lines))]
    ax.set_yticks(middles, [_wrapped(name) for name in panel.series], fontsize=8.5)
    ax.set_xticks([])
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _format_numeric_axes(ax: Axes, panel: Panel) -> None:
    xs = sorted({float(point.x) for points in panel.series.values() for point in points})
    if panel.log_x:
        ax.set_xscale("log")
        _ticks_at_values(ax, xs)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(7, integer=all(x.is_integer() for x in xs)))
    if panel.log_y:
        ax.set_yscale("log")
    ax.set_xlabel(_short(panel.x))
    ax.set_ylabel(_wrapped(panel.metric))
    _finish(ax, panel, ax.yaxis)


def _bar(ax: Axes, panel: Panel) -> None:
    names = list(dict.fromkeys(str(point.x) for points in panel.series.values() for point in points))
    bar_width = 0.8 / len(panel.series)
    for i, (series, points) in enumerate(panel.series.items()):
        positions = [names.index(str(point.x)) + (i - (len(panel.series) - 1) / 2) * bar_width for point in points]
        means = [point.mean for point in points]
        bars = ax.barh(positions, means, bar_width * 0.92, color=COLOURS[i % len(COLOURS)], label=series)
        errors = [point.deviation for point in points]
        if any(errors):
            ax.errorbar(means, positions, xerr=errors, fmt="none", ecolor="#444444", elinewidth=1, capsize=2)
        ends = [mean + math.copysign(error, mean) for mean, error in zip(means, errors, strict=True)]
        for bar, mean, end in zip(bars, means, ends, strict=True):
            middle = (end, bar.get_y() + bar.get_height() / 2)
            style: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7.5}
            style |= {"xytext": (4, 0), "ha": "left"} if end >= 0 else {"xytext": (-4, 0), "ha": "right"}
            ax.annotate(_compact(mean), middle, **style)
    ax.set_yticks(range(len(names)), [_wrapped(name) for name in names], fontsize=8.5)
    ax.set_ylim(len(names) - 0.4, -0.6)
    if panel.log_y:
        ax.set_xscale("log")
    else:
        ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.margins(x=0.16)
    ax.set_xlabel(_wrapped(panel.metric))
    ax.set_ylabel(_short(panel.x))
    _finish(ax, panel, ax.xaxis)


def _finish(ax: Axes, panel: Panel, axis: Axis) -> None:
    """Format the value axis (k, M, G), draw a light grid and note what is not drawn."""
    largest = max(abs(point.mean) for points in panel.series.values() for point in points)
    if largest >= 1e4:
        axis.set_major_formatter(EngFormatter(sep=""))
    elif not panel.log_y:
        ax.ticklabel_format(axis="x" if panel.kind == "bar" else "y", useOffset=False)
    ax.grid(True, axis="x" if panel.kind == "bar" else "both", color="#dddddd", linewidth=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
    if panel.left_out:
        ax.set_title(f"{panel.left_out} more in the table", fontsize=8.5, loc="right", color="#555555")


def _ticks_at_values(ax: Axes, values: list[float]) -> None:
    """Use the values of a sweep as ticks of a logarithmic axis, if they fit."""
    if len(values) <= 8 and all(after >= 1.5 * before for before, after in pairwise(values)):
        ax.xaxis.set_major_locator(FixedLocator(values))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(EngFormatter(sep="") if values[-1] >= 1e4 else lambda x, _: f"{x:g}")
    else:
        ax.xaxis.set_minor_formatter(NullFormatter())


def _legends(figure: Figure, axes: Sequence[Axes], panels: Sequence[Panel], room: int) -> None:
    """One legend below all panels if they have the same series, otherwise one per panel."""
    shared = all(list(panel.series) == list(panels[0].series) for panel in panels)
    for ax, panel in list(zip(axes, panels, strict=False))[: 1 if shared else None]:
        if list(panel.series) == [""] or panel.kind == "pictures":
            continue
        handles, names = ax.get_legend_handles_labels()
        names = [_short(name, LEGEND) for name in names]
        columns = max(1, min(len(names), room // (max(map(len, names)) + 8)))
        style = {"fontsize": 8.5, "title": _short(panel.series_name), "title_fontsize": 8.5, "frameon": False}
        if shared:
            figure.legend(handles, names, loc="outside lower center", ncols=columns, **style)
        else:
            ax.legend(handles, names, loc="best", **(style | {"frameon": True, "framealpha": 0.8}))


DRAW_PANEL = {"line": _line, "cdf": _line, "bands": _bands, "bar": _bar, "pictures": _pictures}


def _compact(mean: float) -> str:
    """Short number beside a bar: 12.48M for 12,480,425; the table has all digits."""
    return EngFormatter(places=2, sep="")(mean) if abs(mean) >= 1e5 else number(mean)


def _short(name: str, limit: int = 44) -> str:
    """Shorten a name in the middle, where similar names differ least."""
    return name if len(name) <= limit else f"{name[: limit // 2]}…{name[-(limit // 2 - 1) :]}"


def _wrapped(name: str) -> str:
    return "\n".join(textwrap.wrap(_short(name, 2 * NAME - 4), NAME)) or " "
