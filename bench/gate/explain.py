"""What changed in the conditions of numbers that got worse: ``bench check --explain``."""

from collections.abc import Iterator, Sequence

import msgspec

from bench.gate.compare import CaseHash, GateOutcome, Side, case_key
from bench.gate.conditions import differing
from bench.gate.report import sentence
from reports.claims.statistics import has_values
from reports.formatting import escape
from reports.record import CaseValue

SHOWN = 20  # numbers of one reason


def explain(outcomes: Sequence[GateOutcome], run: Side, baseline: Side) -> str:
    """Markdown: the regressions by what changed for them, then all conditions that differ; empty without any."""
    failed = [one for one in outcomes if one.failed]
    if not failed:
        return ""
    by_reason: dict[str, list[GateOutcome]] = {}
    for one in failed:
        by_reason.setdefault(_reason(one, run, baseline), []).append(one)
    return "\n".join(["## What changed", "", *_by_reason(by_reason), *_conditions(run, baseline)])


def _by_reason(by_reason: dict[str, list[GateOutcome]]) -> Iterator[str]:
    for reason, numbers in by_reason.items():
        yield from (f"{reason}:", "")
        yield from (f"- {escape(sentence(one))}" for one in numbers[:SHOWN])
        if len(numbers) > SHOWN:
            yield f"- {len(numbers) - SHOWN} more"
        yield ""


def _reason(one: GateOutcome, run: Side, baseline: Side) -> str:
    if one.measured is None:
        return "The experiment failed" if one.experiment in run.failed else "The run no longer measures it"
    now, then = (_hash(side, one.suite, one.experiment, one.case) for side in (run, baseline))
    if now is None or then is None:
        return "What decides the case is not known of both"
    if now.content == then.content:
        return "By content the parameters, own code and data are the same"
    files = [name for name in differing(baseline.facts, run.facts) if name.startswith(f"{one.suite}: ")]
    named = f" ({escape(', '.join(name.partition(': ')[2] for name in files))})" if files else ""
    return f"The own code, files or data that decide the case{named}, or the results version, have changed"


def _hash(side: Side, suite: str, experiment: str, case: dict[str, CaseValue]) -> CaseHash | None:
    """The hash of the case of which a record with this ``case`` is: that with the most of its values."""
    prefix = f"{suite}/{experiment}{{"
    found: list[tuple[int, CaseHash]] = []
    for key, hashes in side.cases.items():
        if key.startswith(prefix):
            values = msgspec.json.decode(key[len(prefix) - 1 :], type=dict[str, CaseValue])
            if case_key(suite, experiment, values) == key and has_values(case, values):
                found.append((len(values), hashes))
    return max(found)[1] if found else None


def _conditions(run: Side, baseline: Side) -> Iterator[str]:
    if not (run.facts and baseline.facts):
        yield "The baseline does not tell its conditions; make it again by --update."
        return
    different = differing(baseline.facts, run.facts)
    if not different:
        yield "All conditions that are recorded are the same: versions, machine, suites and their files."
        return
    yield from ("Conditions that differ, in the baseline and now:", "")
    yield from (f"- {escape(name)}: {escape(then)} → {escape(now)}" for name, (then, now) in different.items())
