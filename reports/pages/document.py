"""Blocks of a report's pages, which ``as_markdown`` and ``as_html`` write.

A page has a path relative to the run's folder, without its suffix: ``report``, ``suites/dynsplit``. Its anchors are
unique in the whole report, since all pages are one in HTML.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from reports.figures.figure import Figure, slug

NOTHING = "–"  # in a cell without a value


class Link(NamedTuple):
    """``text`` that leads to ``anchor`` of ``page``, or to a file of the run if ``page`` has a suffix.

    A ``target`` is where others lead to.
    """

    text: str
    page: str
    anchor: str = ""
    target: bool = False


class Code(NamedTuple):
    text: str


class Badge(NamedTuple):
    """A verdict or status, coloured where there are colours."""

    text: str


Inline = str | Link | Code | Badge
Words = Inline | list[Inline]


class Heading(NamedTuple):
    level: int
    text: str
    anchor: str


class Paragraph(NamedTuple):
    words: Words
    note: bool = False  # a warning
    in_html: bool = True


class Bullets(NamedTuple):
    items: Sequence[Words]


class Table(NamedTuple):
    """``caption`` names the table to those who cannot see where it stands; ``more`` tells what was left out."""

    caption: str
    heads: Sequence[str]
    rows: Sequence[Sequence[Words]]
    folded: bool = False
    more: str = ""

    @property
    def summary(self) -> str:
        """What stands for a folded table: ``36 rows: load, strategy, latency_ms``."""
        return f"{len(self.rows)} rows: {', '.join(self.heads)}"

    @property
    def without_empty_columns(self) -> "Table":
        """This table without the columns that have nothing but dashes and empty cells."""
        columns = zip(*([plain(cell) for cell in row] for row in self.rows), strict=True)
        kept = [i for i, column in enumerate(columns) if not set(column) <= {"", NOTHING}]
        rows = [[row[i] for i in kept] for row in self.rows]
        return self._replace(heads=[self.heads[i] for i in kept], rows=rows)


class Picture(NamedTuple):
    figure: Figure
    below: Words = ""


Block = Heading | Paragraph | Bullets | Table | Picture


class Page(NamedTuple):
    path: str
    title: str
    blocks: Sequence[Block]


def anchor(*names: str) -> str:
    """Anchor of what ``names`` name: lower case, without special characters."""
    return "-".join(re.sub(r"[^a-z0-9_.]+", "-", name.lower()).strip("-") for name in names)


def suite_path(name: str) -> str:
    """Path of the page of a suite, below the run's folder whatever the name."""
    return f"suites/{slug(name)}"


def parts(words: Words) -> Sequence[Inline]:
    return words if isinstance(words, list) else [words]


def plain(words: Words) -> str:
    """``words`` without links and colours."""
    return "".join(part if isinstance(part, str) else part.text for part in parts(words))
