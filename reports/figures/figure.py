"""A figure of a report: its drawings, what stands for them in words, and its PNG file."""

import itertools
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from reports.figures.canvas import Drawing, text_width
from reports.figures.panels import Panel
from reports.formatting import number

COLUMNS = 2  # panels side by side in a PNG
GAP = 22.0
LEGEND = 120.0  # height below which the last of two drawings is a legend, and stands below the other
TITLE = 14.0  # size of its text


class Figure(NamedTuple):
    """``drawings`` of panels and legends under ``title``; ``stem`` names the file, ``alt`` tells what it shows."""

    stem: str
    title: str
    alt: str
    drawings: Sequence[Drawing]

    @property
    def file(self) -> str:
        return f"figures/{self.stem}.png"


class Figures:
    """The figures of one report below ``folder``, written as they are added."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stems: set[str] = set()
        self.found: list[Figure] = []
        (folder / "figures").mkdir(exist_ok=True)
        for earlier in (folder / "figures").glob("*.png"):
            earlier.unlink()

    def add(self, name: str, title: str, alt: str, drawings: Sequence[Drawing]) -> Figure:
        """Add a figure; two of the same ``name`` get a file each."""
        stem = slug(name)
        numbered = (f"{stem}-{number}" for number in itertools.count(2))
        stem = next(one for one in itertools.chain([stem], numbered) if one.lower() not in self._stems)
        self._stems.add(stem.lower())
        figure = Figure(stem, title, alt, drawings)
        write(figure, self._folder)
        self.found.append(figure)
        return figure


def slug(name: str) -> str:
    """File name without special characters."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:80] or "figure"


def alternative(panels: Sequence[Panel]) -> str:
    """``test accuracy by rate for split, unsplit, from 0.5 to 0.9``, for each panel."""
    return "; ".join(map(_in_words, panels))


def _in_words(panel: Panel) -> str:
    if panel.kind == "pictures":
        return f"grey pictures of {', '.join(panel.series)}"
    points = [point for line in panel.series.values() for point in line]
    means = [float(point.x) if panel.kind == "cdf" else point.mean for point in points]
    what = f"{panel.x}, cumulative" if panel.kind == "cdf" else f"{panel.metric}{f' by {panel.x}' if panel.x else ''}"
    names = [name for name in panel.series if name]
    series = f" for {', '.join(names)}" if names else ""
    where = f" at {panel.title}" if panel.title else ""
    return f"{what}{series}{where}, from {number(min(means))} to {number(max(means))}"


def write(figure: Figure, folder: Path) -> None:
    """Write the PNG of ``figure`` below ``folder``: its title, and below it the drawings, ``COLUMNS`` in a row."""
    from reports.figures.surfaces import write_png  # noqa: PLC0415  (with what paints, half a second)

    write_png(composed(figure), folder / figure.file)


def composed(figure: Figure) -> Drawing:
    drawings = figure.drawings
    columns = 1 if len(drawings) <= COLUMNS and drawings[-1].height < LEGEND else COLUMNS
    rows = [drawings[i : i + columns] for i in range(0, len(drawings), columns)]
    width = max(sum(one.width for one in row) + GAP * (len(row) - 1) for row in rows) + GAP
    per_character = text_width(figure.title, TITLE, bold=True) / max(len(figure.title), 1)
    lines = textwrap.wrap(figure.title, max(int((width - GAP) / max(per_character, 1.0)), 10)) or [""]
    top = 12 + 20.0 * len(lines)
    whole = Drawing(width, top + sum(max(one.height for one in row) + GAP for row in rows))
    for i, line in enumerate(lines):
        whole.text((GAP / 2, 20 + 20 * i), line, TITLE, bold=True)
    for row in rows:
        left = GAP / 2
        for one in row:
            whole.place(one, left, top + 6)
            left += one.width + GAP
        top += max(one.height for one in row) + GAP
    return whole
