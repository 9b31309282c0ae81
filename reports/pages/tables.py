"""Records as a pandas frame, and as tables of means with their spread."""

import math
from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from reports.figures.panels import QUANTILE, is_pixel
from reports.formatting import label, number, value_text
from reports.pages.document import NOTHING, Table
from reports.pages.summary import UNITLESS, SummaryRow, header, varying
from reports.record import CONDITIONS, Record

COLUMNS = 6  # metrics per table; more continue in another one
CHANGES = 4  # metrics of a table of changes
CASES = 20  # its rows
FOLDED = 30  # rows above which a table is folded
SHOWN = 200  # maximum of rows
ALIGNED = 32  # characters up to which cells are padded in Markdown, so that a long one costs no space in the others
QUANTILES = (0.05, 0.5, 0.95)  # columns of a distribution; figures draw all recorded quantiles

FIELDS = ("run", "suite", "experiment", "metric", "value", "unit", "seed", *CONDITIONS)


def frame(records: Iterable[Record]) -> pd.DataFrame:
    """One row per record and one column ``case.<key>`` per case key; a missing key is a missing value."""
    rows = list(records)
    columns = {name: pd.Series([getattr(row, name) for row in rows]) for name in FIELDS}
    for key in dict.fromkeys(key for row in rows for key in row.case):
        values = pd.Series([row.case.get(key) for row in rows], dtype=object)
        columns[f"case.{key}"] = values.convert_dtypes()
    return pd.DataFrame(columns)


def measured(row: SummaryRow) -> str:
    """``0.828 ± 0.011``, rounded to two significant digits of the standard deviation."""
    if not row.deviation:
        return number(row.mean)
    decimals = 1 - math.floor(math.log10(row.deviation))
    if not -9 <= decimals <= 6:
        return f"{row.mean:.4g} ± {row.deviation:.2g}"
    spread, mean = round(row.deviation, decimals), round(row.mean, decimals)
    return f"{mean:,.{max(decimals, 0)}f} ± {spread:,.{max(decimals, 0)}f}"


def tables(rows: Iterable[SummaryRow]) -> list[pd.DataFrame]:
    """Tables of text of one experiment under one set of conditions: one row per case, one column per metric.

    Metrics with different case keys (per run, per client) get separate tables. Constant case keys are left out. A
    single case becomes one row per metric. ``QUANTILES`` of a metric that was recorded at each ``quantile``, a case
    key, become columns. Pixels are left out.
    """
    groups: dict[tuple[str, ...], list[SummaryRow]] = {}
    for row in _quantiles(row for row in rows if not is_pixel(row)):
        groups.setdefault(tuple(sorted(key for key, _ in row.case)), []).append(row)
    single = [row for rows in groups.values() if len({row.case for row in rows}) == 1 for row in rows]
    several = [rows for rows in groups.values() if len({row.case for row in rows}) > 1]
    found = [table for rows in several for table in _by_case(rows)]
    return [*found, _by_metric(single)] if single else found


def against_first(rows: Iterable[SummaryRow], caption: str, wanted: Sequence[str]) -> Table | None:
    """A row for each case of an experiment, with the change from the first; None without cases that differ.

    The metrics are those of ``wanted``, then the first others that differ between cases.
    """
    groups: dict[tuple[str, ...], list[SummaryRow]] = {}
    for row in _quantiles(row for row in rows if not is_pixel(row)):
        groups.setdefault(tuple(sorted(key for key, _ in row.case)), []).append(row)
    several = [found for found in groups.values() if len({row.case for row in found}) > 1]
    if not several:
        return None
    found = min(several, key=lambda some: len(some[0].case))
    cells = {(row.case, row.metric): row for row in found}
    cases = list(dict.fromkeys(row.case for row in found))
    means: dict[str, set[float]] = {}
    for row in found:
        means.setdefault(row.metric, set()).add(row.mean)
    differing = [metric for metric, values in means.items() if len(values) > 1]
    metrics = [*(name for name in wanted if name in means), *(name for name in differing if name not in wanted)][
        :CHANGES
    ]
    units = {row.metric: row.unit for row in found}
    keys = varying(cases)
    lines = [
        [
            *(value_text(dict(case)[key]) for key in keys),
            *(_changed(cells.get((case, name)), cells.get((cases[0], name))) for name in metrics),
        ]
        for case in cases[:CASES]
    ]
    more = f"{len(cases) - CASES:,} more cases are on the page of the suite." if len(cases) > CASES else ""
    return Table(caption, [*keys, *(header(name, units[name]) for name in metrics)], lines, more=more)


def _changed(row: SummaryRow | None, first: SummaryRow | None) -> str:
    """``0.828 ± 0.011 (-0.02)`` for a fraction, ``1,024 (-75 %)`` for others."""
    if row is None:
        return NOTHING
    if first is None or row is first:
        return measured(row)
    if row.unit in UNITLESS:
        return f"{measured(row)} ({row.mean - first.mean:+.3g})"
    return f"{measured(row)} ({100 * (row.mean / first.mean - 1):+.3g} %)" if first.mean else measured(row)


def _quantiles(rows: Iterable[SummaryRow]) -> Iterator[SummaryRow]:
    """Rename ``latency_quantile_low`` at ``quantile`` 0.95 to ``latency_p95_low``; drop all but ``QUANTILES``."""
    for row in rows:
        quantile = dict(row.case).get(QUANTILE)
        if not isinstance(quantile, float):
            yield row
        elif quantile in QUANTILES:
            case = tuple((key, value) for key, value in row.case if key != QUANTILE)
            yield row._replace(case=case, metric=row.metric.replace("_quantile", f"_p{100 * quantile:g}"))


def _by_metric(rows: list[SummaryRow]) -> pd.DataFrame:
    cells = [(header(row.metric, row.unit), label(row.case), measured(row)) for row in rows]
    table = pd.DataFrame(cells, columns=["metric", "case", "measured"], dtype=object)
    return table if any(table["case"]) else table.drop(columns="case")


def _by_case(rows: list[SummaryRow]) -> list[pd.DataFrame]:
    cases = list(dict.fromkeys(row.case for row in rows))
    keys = varying(cases)
    metrics = list(dict.fromkeys((row.metric, row.unit) for row in rows))
    cells = {(row.case, row.metric, row.unit): measured(row) for row in rows}
    key_columns = {key: [value_text(dict(case)[key]) for case in cases] for key in keys}
    found = []
    for start in range(0, len(metrics), COLUMNS):
        part = metrics[start : start + COLUMNS]
        metric_columns = {header(*metric): [cells.get((case, *metric), "–") for case in cases] for metric in part}
        found.append(pd.DataFrame({**key_columns, **metric_columns}, dtype=object))
    return found


def block(table: pd.DataFrame, caption: str) -> Table:
    """A table of a page; a long one is folded, a very long one cut."""
    rows = table.head(SHOWN).to_numpy().tolist()
    left_out = len(table) - len(rows)
    more = f"{left_out:,} more rows are in `records.jsonl`." if left_out else ""
    return Table(caption, [str(name) for name in table.columns], rows, folded=len(table) > FOLDED, more=more)


def grid(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown table of escaped cells, padded; numeric columns are right-aligned."""
    numeric = [bool(rows) and all(is_numeric(row[i]) for row in rows) for i in range(len(heads))]
    longest = [max(3, len(head), *(len(row[i]) for row in rows)) for i, head in enumerate(heads)]
    widths = [min(width, max(ALIGNED, len(head))) for width, head in zip(longest, heads, strict=True)]

    def line(cells: Sequence[str]) -> str:
        padded = (f"{c:>{w}}" if r else f"{c:<{w}}" for c, w, r in zip(cells, widths, numeric, strict=True))
        return f"| {' | '.join(padded)} |"

    rule = ["-" * (w - 1) + ":" if r else "-" * w for w, r in zip(widths, numeric, strict=True)]
    return "\n".join([line(heads), line(rule), *map(line, rows)])


def is_numeric(cell: str) -> bool:
    """Whether ``cell`` is a number, one with its deviation, or a dash for none."""
    return cell[:1] in "-–0123456789" and cell[-1:] in "–0123456789)"
