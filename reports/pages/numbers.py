"""The numbers of a report's front page: of each paper those that it is known for, in a table and in a dot plot."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec.structs import replace

from reports.claims.claim import Numbers
from reports.claims.verdict import Judgement
from reports.figures.canvas import Drawing, text_width
from reports.figures.draw import SMALL
from reports.figures.scale import scale, tick_text
from reports.formatting import number
from reports.pages.document import NOTHING, Badge, Link, Table, Words, anchor, parts, suite_path
from reports.pages.summary import UNITLESS

NUMBERS = 10  # of a paper
STATEMENT = 100  # characters of a claim's statement on the front page
WORDS = 24  # least characters of a statement in a line of text
WIDTH = 720.0
ROW = 19.0
WRITTEN_NUMBER = re.compile(r"-?\d(?:[\d,]*\d)?(?:\.\d+)?(?:e-?\d+)?")  # in what a claim wants
FARTHEST = 30.0  # a number that many times another lies at the edge of the plot
GROUPS = {"reproduced": "2", "trend": "4", "inconclusive": "5", "not-reproduced": "1"}  # colours; others are muted
HEADS = ("Number", "Printed", "Here", "Unit", "Wanted", "Verdict", "Reference run", "Its verdict", "Source")


def papers_of(suites: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """The paper of each suite that names one."""
    return {str(suite["name"]): str(suite["paper"]) for suite in suites if suite.get("paper")}


def known_for(judgements: Sequence[Judgement], most: int = NUMBERS) -> list[Judgement]:
    """The numbers of a paper that everybody knows it for; where none is marked as one, its first predictions."""
    marked = [one for one in judgements if one.headline]
    predictions = [one for one in judgements if one.claim_class == "prediction"]
    return (marked or predictions or list(judgements))[:most]


def table_of(paper: str, judgements: Sequence[Judgement]) -> Table:
    return Table(f"Numbers of {paper}", HEADS, [_row(one) for one in judgements]).without_empty_columns


def _row(judged: Judgement) -> list[Words]:
    one = in_milliseconds(judged)
    reference = one.reference
    return [
        Link(shortened(one.says), suite_path(one.suite), claim_anchor(one)),
        numbers(one.paper),
        numbers(one.measured),
        "" if one.unit in UNITLESS else one.unit,
        one.wanted,
        Badge(one.verdict),
        numbers(reference.measured) if reference else NOTHING,
        Badge(reference.verdict) if reference else NOTHING,
        one.source,
    ]


def in_milliseconds(one: Judgement) -> Judgement:
    """``one`` in milliseconds if its numbers are in seconds and all of them below one."""
    measured = [one.measured, *([one.reference.measured] if one.reference else [])]
    values = [value for given in (one.paper, *measured) if given is not None for value in _listed(given)]
    values += [float(text.replace(",", "")) for text in WRITTEN_NUMBER.findall(one.wanted)]
    if one.unit != "s" or any(abs(value) >= 1 for value in values):
        return one
    reference = one.reference and replace(one.reference, measured=_thousandfold(one.reference.measured))
    wanted = WRITTEN_NUMBER.sub(lambda found: number(1000 * float(found[0])), one.wanted)
    paper, here = _thousandfold(one.paper), _thousandfold(one.measured)
    return replace(one, unit="ms", paper=paper, measured=here, reference=reference, wanted=wanted)


def _listed(value: float | Sequence[float]) -> Sequence[float]:
    return value if isinstance(value, Sequence) else [value]


def _thousandfold(value: Numbers) -> Numbers:
    if value is None:
        return None
    return [1000 * one for one in value] if isinstance(value, list) else 1000 * value


def claim_anchor(one: Judgement) -> str:
    return anchor("claim", one.suite, one.claim)


def numbers(value: float | Sequence[float] | None) -> str:
    """``0.5 → 0.6`` for an order; an en dash for none."""
    if isinstance(value, Sequence):
        return " → ".join(map(number, value))
    return NOTHING if value is None else number(value)


def shortened(text: str, most: int = STATEMENT) -> str:
    """``text`` in one line, cut at a word."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[:most].rpartition(' ')[0]} …"


def dot_plot(judgements: Sequence[Judgement], chosen: Sequence[Judgement]) -> Drawing | None:
    """Measured over printed: a row for each of ``chosen`` and one for all; None if no number can be divided.

    Filled is what was measured here, hollow what the reference run measured.
    """
    rows = [(shortened(one.says, 58), [one]) for one in chosen if ratios(one)]
    everything = [one for one in judgements if ratios(one)]
    if not everything:
        return None
    rows = [(f"all {len(everything)} printed numbers", everything), *rows]
    left = 10 + max(text_width(name, SMALL) for name, _ in rows)
    drawing = Drawing(left + 420, 30 + ROW * len(rows) + 40)
    found = [ratio for _, ones in rows for one in ones for ratio, _, _ in ratios(one)]
    xs = scale([*found, 1 / 1.3, 1.3], left + 8, drawing.width - 8, log=True)
    bottom = 10 + ROW * len(rows) + 4
    for tick in xs.ticks(9):
        drawing.line([(xs.at(tick), 10), (xs.at(tick), bottom)], "grid", 0.8)
        drawing.text((xs.at(tick), bottom + 14), tick_text(tick), SMALL, "middle", colour="muted")
    drawing.line([(xs.at(1), 6), (xs.at(1), bottom)], "ink", 1.4)
    drawing.text(((left + drawing.width) / 2, bottom + 30), "measured over printed", anchor="middle", colour="muted")
    for i, (name, ones) in enumerate(rows):
        y = 10 + ROW * (i + 0.5)
        drawing.text((left, y + 3.5), name, SMALL, "end", bold=not i)
        for ratio, judged, hollow in (dot for one in ones for dot in ratios(one)):
            where, verdict = "reference run" if hollow else "here", _verdict(judged, hollow)
            tip = f"{judged.claim}: {where} {tick_text(float(f'{ratio:.3g}'))} times the printed number, {verdict}"
            colour = GROUPS.get(verdict, "muted")
            drawing.mark("circle", (xs.at(ratio), y), colour, 4.5 if i else 3.5, hollow=hollow, tip=tip)
    return drawing


def _verdict(one: Judgement, of_reference: bool) -> str:
    return one.reference.verdict if of_reference and one.reference else one.verdict


def ratios(one: Judgement) -> list[tuple[float, Judgement, bool]]:
    """Measured over printed, here and in the reference run (True), where both are positive numbers."""
    found = []
    for measured, hollow in ((one.measured, False), (one.reference and one.reference.measured, True)):
        if isinstance(one.paper, int | float) and isinstance(measured, int | float) and one.paper * measured > 0:
            found.append((min(max(measured / one.paper, 1 / FARTHEST), FARTHEST), one, hollow))
    return found


def legend() -> Drawing:
    """What colours and marks of the dot plots mean."""
    drawing = Drawing(WIDTH, 22)
    x = 0.0
    for name, colour, hollow in (
        *((verdict, colour, False) for verdict, colour in GROUPS.items()),
        ("no verdict", "muted", False),
        ("in the reference run", "muted", True),
    ):
        drawing.mark("circle", (x + 6, 10), colour, 4.5, hollow=hollow)
        drawing.text((x + 16, 14), name, SMALL)
        x += 16 + text_width(name, SMALL) + 16
    return drawing


def shortened_words(words: Words, most: int) -> Words:
    """``words`` of which each text is cut to ``most`` characters."""
    return [f"{part[:most]} …" if isinstance(part, str) and len(part) > most else part for part in parts(words)]


def aligned(chosen: Sequence[Judgement], width: int) -> Iterator[str]:
    """Lines of text of ``chosen``, of ``width`` characters if the numbers leave room for words."""
    rows = [("printed", "here", "", "verdict")]
    for one in map(in_milliseconds, chosen):
        rows.append((_ends(one.paper), _ends(one.measured), "" if one.unit in UNITLESS else one.unit, one.verdict))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    room = max(width - sum(widths) - 9, WORDS)
    texts = ["", *(shortened(one.says, room - 2) for one in chosen)]
    most = max(map(len, texts))
    for text, (paper, here, unit, verdict) in zip(texts, rows, strict=True):
        line = f"  {text:<{most}}  {paper:>{widths[0]}}  {here:>{widths[1]}} {unit:<{widths[2]}}  {verdict}"
        yield line.rstrip()


def _ends(value: float | Sequence[float] | None) -> str:
    """``0.5 → … → 0.9`` for a long order."""
    if isinstance(value, Sequence) and len(value) > 2:
        return f"{number(value[0])} → … → {number(value[-1])}"
    return numbers(value)
