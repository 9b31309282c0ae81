"""Outcomes of the gate as Markdown for a pull request, JUnit XML for CI and JSON for scripts."""

import statistics
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from typing import Any

import msgspec

from bench.gate.compare import GateOutcome
from nodes.errors import printable
from reports.formatting import escape, label, number
from reports.pages.tables import grid

STATUSES = ("regression", "missing", "new", "ok")
SHOWN = 50  # most rows of the table
MOST_CHARACTERS = 65_536  # of a comment on GitHub
CUT = "\n\nThe rest is cut off; see the report.\n"


def as_json(outcomes: Sequence[GateOutcome]) -> dict[str, Any]:
    """``outcomes`` as ``{"passed": bool, "counts": {status: n}, "outcomes": [...]}``."""
    counts = {status: sum(one.status == status for one in outcomes) for status in STATUSES}
    return {
        "passed": not any(one.failed for one in outcomes),
        "counts": counts,
        "outcomes": msgspec.to_builtins(list(outcomes)),
    }


def as_markdown(outcomes: Sequence[GateOutcome]) -> str:
    """The verdict, the counts, and a table of all numbers that moved, regressions first."""
    found = as_json(outcomes)
    counts = ", ".join(f"{count} {status}" for status, count in found["counts"].items() if count)
    text = f"# Gate: {'passed' if found['passed'] else 'failed'}\n\n{len(outcomes)} numbers: {counts}.\n"
    moved = [one for one in outcomes if one.status != "ok" or one.baseline != one.measured]
    moved.sort(key=lambda one: STATUSES.index(one.status))
    if moved:
        heads = ["Status", "Experiment", "Metric", "Case", "Seed", "Baseline", "Measured", "Allowed"]
        text += f"\n{grid(heads, [_cells(one) for one in moved[:SHOWN]])}\n"
    if len(moved) > SHOWN:
        text += f"\n{len(moved) - SHOWN} more are not shown.\n"
    return text


def _cells(one: GateOutcome) -> list[str]:
    values = ["–" if value is None else number(value) for value in (one.baseline, one.measured)]
    allowed = "–" if one.baseline is None else f"± {number(one.allowed)} {one.unit}".strip()
    words = (f"{one.suite}/{one.experiment}", one.metric, label(one.case.items()))
    return [one.status, *map(escape, words), str(one.seed), *values, escape(allowed)]


def within_limit(text: str) -> str:
    """``text``, cut between lines where it is too long for a comment."""
    if len(text) <= MOST_CHARACTERS:
        return text
    room = MOST_CHARACTERS - len(CUT)
    return text[: text.rindex("\n", 0, room)] + CUT


def as_benchmarks(outcomes: Sequence[GateOutcome], bigger_is_better: bool) -> list[dict[str, Any]]:
    """The measured numbers for github-action-benchmark: ``customBiggerIsBetter`` or ``customSmallerIsBetter``.

    One a case, the mean over its seeds, with their standard deviation as its range. A number that may not move at all
    is one of the smaller ones.
    """
    groups: dict[tuple[str, str], list[float]] = {}
    for one in outcomes:
        if one.measured is not None and (one.direction == "lower-is-worse") == bigger_is_better:
            case = f" ({label(one.case.items())})" if one.case else ""
            groups.setdefault((f"{one.suite}/{one.experiment}/{one.metric}{case}", one.unit), []).append(one.measured)
    return [
        {"name": name, "unit": unit or "1", "value": statistics.fmean(values)}
        | ({"range": f"± {statistics.stdev(values):.4g}"} if len(values) > 1 else {})
        for (name, unit), values in groups.items()
    ]


def as_junit(outcomes: Sequence[GateOutcome]) -> str:
    """JUnit XML: a test suite for each suite, a test case for each gated number; new numbers are skipped."""
    root = ET.Element("testsuites", name="bench check")
    for suite in sorted({one.suite for one in outcomes}):
        ours = [one for one in outcomes if one.suite == suite]
        failed, new = sum(one.failed for one in ours), sum(one.status == "new" for one in ours)
        counts = {"tests": str(len(ours)), "failures": str(failed), "skipped": str(new)}
        element = ET.SubElement(root, "testsuite", {"name": suite} | counts)
        for one in ours:
            case = f" [{label(one.case.items())}]" if one.case else ""
            name = f"{one.metric}{case} seed {one.seed}"
            test = ET.SubElement(element, "testcase", classname=f"{suite}.{one.experiment}", name=name)
            if one.failed:
                ET.SubElement(test, "failure", type=one.status, message=sentence(one))
            elif one.status == "new":
                ET.SubElement(test, "skipped", message=sentence(one))
    ET.indent(root)
    return printable(ET.tostring(root, encoding="unicode", xml_declaration=True)) + "\n"


def sentence(one: GateOutcome) -> str:
    case = f" ({label(one.case.items())})" if one.case else ""
    what = f"{one.suite}/{one.experiment}/{one.metric}{case}, seed {one.seed}"
    if one.measured is None:
        return f"{what}: no longer measured"
    if one.baseline is None:
        return f"{what}: {number(one.measured)} {one.unit}, not in the baseline".replace(" ,", ",")
    change = f"{one.baseline!r} -> {one.measured!r} {one.unit}".strip()
    return f"{what}: {change}, allowed {number(one.allowed)}"
