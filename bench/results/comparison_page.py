"""A comparison of runs as Markdown, and as one HTML file that can be sorted and filtered without a network."""

import html
import math
from collections.abc import Iterator, Sequence
from string import Template
from typing import Any

import msgspec

from bench.results.paired import CHANGES, Comparison, Row
from reports.claims.statistics import CONFIDENCE, MIN_SEEDS
from reports.formatting import escape, label, number
from reports.pages.tables import grid

SHOWN = 60  # rows of the Markdown table; HTML and JSON have all
NAMED = 8  # metrics that only one run has, by name
HEADS = (
    "Change",
    "Experiment",
    "Metric",
    "Case",
    "Before",
    "After",
    "Difference",
    f"{CONFIDENCE:.0%} interval",
    "Seeds",
)
WORDS = {
    "changed": "changed beyond their noise",
    "unknown": "differ by an unknown noise",
    "within-noise": "differ within their noise",
    "same": "are the same",
}


def as_markdown(comparisons: Sequence[Comparison]) -> str:
    """Each run against the first: what differs in the conditions, then the metrics, what changed most first."""
    return "\n".join(line for one in comparisons for line in _markdown(one)).rstrip()


def _markdown(one: Comparison) -> Iterator[str]:
    yield from (f"# {escape(one.after)} against {escape(one.before)}", "")
    yield from (f"- {escape(line)}" for line in summary(one))
    shown = [row for row in one.rows if row.change in CHANGES[:2]]
    if shown:
        yield from ("", grid(HEADS, [[escape(cell) for cell in cells(row)] for row in shown[:SHOWN]]))
    if len(shown) > SHOWN:
        yield from ("", f"{len(shown) - SHOWN} more are in --html and --json.")
    yield ""


def summary(one: Comparison) -> Iterator[str]:
    """What was compared, under which conditions, and what could not be."""
    counts = {change: sum(row.change == change for row in one.rows) for change in CHANGES}
    said = ", ".join(f"{count:,} {WORDS[change]}" for change, count in counts.items() if count)
    yield f"{len(one.rows):,} numbers in common: {said}." if one.rows else "No number in common."
    if shared := sorted(set(one.only_before) & set(one.only_after)):
        yield f"Of other cases in each, and so not compared: {_listed(shared)}"
    if judged := sum(bool(row.error) for row in one.rows):
        by_chance = math.ceil(judged * (1 - CONFIDENCE))
        yield f"Of {judged:,} that vary over the seeds, about {by_chance:,} would seem changed by chance alone."
    if counts["unknown"]:
        yield f"Noise is known from two seeds in common on; {MIN_SEEDS} or more tell it from an effect (--seeds)."
    conditions: dict[str, set[str]] = {}
    for row in one.rows:
        for name, (then, now) in row.conditions.items():
            conditions.setdefault(f"{name}: {then or 'none'} → {now or 'none'}", set()).add(
                f"{row.suite}/{row.experiment}"
            )
    for text, experiments in sorted(conditions.items()):
        yield f"Other conditions, {text}, in {_listed(sorted(experiments))}"
    for name, (then, now) in sorted(one.environment.items()):
        yield f"Other environment, {name}: {then} → {now}"
    for name, only, other in (
        (one.before, one.only_before, one.only_after),
        (one.after, one.only_after, one.only_before),
    ):
        if names := sorted(set(only) - set(other)):
            yield f"Only in {name}: {_listed(names)}"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def cells(row: Row) -> list[str]:
    """The cells of ``row`` under ``HEADS``."""
    known = row.interval is not None and all(map(math.isfinite, row.interval))
    interval = " to ".join(map(signed, row.interval)) if row.interval and known else "–"
    error = f" ± {number(row.error)}" if row.error else ""
    difference = f"{signed(row.difference)}{error} {row.unit if row.unit != '1' else ''}".rstrip()
    where = f"{row.suite}/{row.experiment}", row.metric, label(row.case.items())
    return [row.change, *where, number(row.before), number(row.after), difference, interval, str(row.seeds)]


def signed(value: float) -> str:
    return f"+{number(value)}" if value > 0 else number(value)


def as_json(comparisons: Sequence[Comparison]) -> list[dict[str, Any]]:
    """Plain values; an interval is null where the noise is not known."""
    found: list[dict[str, Any]] = msgspec.to_builtins(list(comparisons))
    return found


def as_html(comparisons: Sequence[Comparison]) -> str:
    """All rows of all ``comparisons`` as a page of its own."""
    body = "\n".join(part for one in comparisons for part in _section(one))
    return PAGE.substitute(body=body, title=html.escape(" against ".join(_title(comparisons))))


def _title(comparisons: Sequence[Comparison]) -> tuple[str, str]:
    return ", ".join(one.after for one in comparisons), comparisons[0].before


def _section(one: Comparison) -> Iterator[str]:
    yield f"<h2>{html.escape(one.after)} against {html.escape(one.before)}</h2>"
    yield f"<ul>{''.join(f'<li>{html.escape(line)}</li>' for line in summary(one))}</ul>"
    heads = "".join(f'<th scope="col"><button type="button">{html.escape(head)}</button></th>' for head in HEADS)
    name = html.escape(f"{one.after} against {one.before}")
    yield f'<div class="wide" tabindex="0" role="region" aria-label="Numbers of {name}"><table>'
    yield f"<thead><tr>{heads}</tr></thead><tbody>"
    for row in one.rows:
        sorts = [
            str(CHANGES.index(row.change)),
            "",
            "",
            "",
            row.before,
            row.after,
            row.difference,
            row.certain,
            row.seeds,
        ]
        yield f'<tr class="{row.change}">{"".join(map(_cell, cells(row), sorts))}</tr>'
    yield "</tbody></table></div>"


def _cell(text: str, sort: Any) -> str:
    return f'<td data-sort="{html.escape(str(sort or text))}">{html.escape(text)}</td>'


PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: light-dark(#d0d0d0, #444); --note: light-dark(#555, #aaa); }
body { font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { border-bottom: 1px solid var(--line); padding: .2rem .45rem; text-align: left; white-space: nowrap; }
td:nth-child(4) { white-space: normal; min-width: 14rem; }
td:nth-child(n+5) { text-align: right; }
th button { all: unset; cursor: pointer; font-weight: 600; }
th button:focus-visible { outline: 2px solid; }
tr.changed td:first-child { font-weight: 600; }
tr.same, tr.within-noise { color: var(--note); }
label { display: block; margin: 1rem 0; } input { font: inherit; padding: .2rem .4rem; width: min(30rem, 90%); }
</style>
</head>
<body>
<main>
<h1>$title</h1>
<label>Show rows with <input type="search" placeholder="accuracy changed"></label>
$body
</main>
<script>
document.querySelector("input").addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\\s+/).filter(Boolean);
  for (const row of document.querySelectorAll("tbody tr")) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every(word => text.includes(word));
  }
});
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.parentElement, body = head.closest("table").tBodies[0];
    const down = head.getAttribute("aria-sort") !== "descending";
    for (const other of head.parentElement.children) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.children[head.cellIndex].dataset.sort;
    const order = (a, b) => isNaN(a) || isNaN(b) ? a.localeCompare(b) : a - b;
    body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * order(key(a), key(b))));
  });
}
</script>
</body>
</html>
""")
