"""Shapes of a figure, on a plane in pixels with y downwards; ``surfaces`` writes them as SVG and PNG.

A colour is a name: a number for a series, ``ink``, ``muted`` or ``grid`` for what surrounds it.
"""

import math
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from PIL import ImageFont

Xy = tuple[float, float]
Anchor = Literal["start", "middle", "end"]
MARKS = ("circle", "square", "up", "diamond", "down", "right", "plus", "left")


class Line(NamedTuple):
    points: tuple[Xy, ...]
    colour: str
    width: float
    dashed: bool


class Area(NamedTuple):
    """Filled polygon, or its outline over the background if ``hollow``; ``tip`` is shown under the pointer."""

    points: tuple[Xy, ...]
    colour: str
    opacity: float
    hollow: bool
    tip: str


class Text(NamedTuple):
    x: float
    y: float  # of the baseline
    text: str
    size: float
    anchor: Anchor
    colour: str
    bold: bool


class Grey(NamedTuple):
    """Picture of grey values from 0 to 1, row by row."""

    x: float
    y: float
    width: float
    height: float
    rows: Sequence[Sequence[float]]


Shape = Line | Area | Text | Grey


class Drawing:
    """Shapes in drawing order, on ``width`` by ``height`` pixels."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.shapes: list[Shape] = []

    def line(self, points: Sequence[Xy], colour: str, width: float = 1.0, *, dashed: bool = False) -> None:
        self.shapes.append(Line(tuple(points), colour, width, dashed))

    def area(self, points: Sequence[Xy], colour: str, opacity: float = 1.0, tip: str = "") -> None:
        self.shapes.append(Area(tuple(points), colour, opacity, hollow=False, tip=tip))

    def box(self, corner: Xy, opposite: Xy, colour: str, tip: str = "") -> None:
        (left, top), (right, bottom) = corner, opposite
        self.area([(left, top), (right, top), (right, bottom), (left, bottom)], colour, tip=tip)

    def mark(self, kind: str, at: Xy, colour: str, size: float = 4.0, *, hollow: bool = False, tip: str = "") -> None:
        points = tuple((at[0] + size * x, at[1] + size * y) for x, y in OUTLINES[kind])
        self.shapes.append(Area(points, colour, 1.0, hollow, tip))

    def text(
        self,
        at: Xy,
        text: str,
        size: float = 11.0,
        anchor: Anchor = "start",
        *,
        colour: str = "ink",
        bold: bool = False,
    ) -> None:
        self.shapes.append(Text(*at, text, size, anchor, colour, bold))

    def grey(self, at: Xy, width: float, height: float, rows: Sequence[Sequence[float]]) -> None:
        self.shapes.append(Grey(*at, width, height, rows))

    def place(self, other: "Drawing", left: float, top: float) -> None:
        """Add the shapes of ``other``, moved to (``left``, ``top``)."""
        self.shapes += (_moved(shape, left, top) for shape in other.shapes)


def _moved(shape: Shape, left: float, top: float) -> Shape:
    if isinstance(shape, Text | Grey):
        return shape._replace(x=shape.x + left, y=shape.y + top)
    return shape._replace(points=tuple((x + left, y + top) for x, y in shape.points))


def _regular(corners: int, turn: float = 0.0, size: float = 1.0) -> list[Xy]:
    angles = (2 * math.pi * (i / corners + turn) for i in range(corners))
    return [(size * math.sin(angle), -size * math.cos(angle)) for angle in angles]


OUTLINES: dict[str, list[Xy]] = {
    "circle": _regular(16),
    "square": _regular(4, 1 / 8, 1.25),
    "up": _regular(3, size=1.3),
    "diamond": _regular(4, size=1.25),
    "down": _regular(3, 1 / 2, 1.3),
    "right": _regular(3, 1 / 4, 1.3),
    "left": _regular(3, 3 / 4, 1.3),
    "plus": [
        *((0.45, -1.2), (0.45, -0.45), (1.2, -0.45), (1.2, 0.45), (0.45, 0.45), (0.45, 1.2)),
        *((-0.45, 1.2), (-0.45, 0.45), (-1.2, 0.45), (-1.2, -0.45), (-0.45, -0.45), (-0.45, -1.2)),
    ],
}


def text_width(text: str, size: float = 11.0, *, bold: bool = False) -> float:
    """Width of ``text`` in pixels, in the font of the PNG; that of a page is about as wide."""
    return size / 100 * _width_at_100(text, bold)


@lru_cache(maxsize=4096)
def _width_at_100(text: str, bold: bool) -> float:
    return font(100, bold).getlength(text)


@cache
def font(size: int, bold: bool) -> "ImageFont.FreeTypeFont":
    """DejaVu Sans, which comes with matplotlib."""
    from matplotlib import get_data_path  # noqa: PLC0415  (slow, and it brings the font)
    from PIL import ImageFont  # noqa: PLC0415

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(get_data_path(), "fonts", "ttf", name), size)
