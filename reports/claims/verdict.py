"""Verdicts on a paper's claims, from claims and records alone."""

import math
from collections.abc import Iterable
from itertools import pairwise
from operator import sub, truediv
from typing import Literal, NamedTuple, get_args

import msgspec

from reports.claims import statistics as stats
from reports.claims.claim import Bound, Claim, Criterion, Difference, Numbers, Order, Ratio, Selector, Value
from reports.formatting import label, number
from reports.record import Record, Scale

Verdict = Literal["reproduced", "trend", "not-reproduced", "not-comparable", "inconsistent-in-paper", "not-run"]
SEVERITY: tuple[Verdict, ...] = ("reproduced", "trend", "not-reproduced")  # the worst case counts
SCALES: tuple[Scale, ...] = get_args(Scale)  # from small to large


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Verdict on one claim, an entry of ``claims.json``. ``measured`` is in the metric's unit, a list for an order."""

    suite: str
    claim: str
    source: str
    says: str
    paper: Numbers
    measured: Numbers
    verdict: Verdict
    why: str  # with seeds and standard error


class Finding(NamedTuple):
    """Verdict on one case. ``shortfall`` is the distance from the accepted range, negative inside."""

    verdict: Verdict
    why: str
    measured: Numbers = None
    shortfall: float = 0.0


def judge(claim: Claim, suite: str, records: Iterable[Record]) -> Judgement:
    """Judge ``claim``, of ``suite``, by the records of that suite; ``records`` may be of any suites.

    The number is the mean over seeds; ratios, differences and the steps of an order are computed seed by seed, between
    cases that agree in their common keys. The claim must hold in every case that the selectors match, and the worst
    case is reported. ``trend`` needs a direction beyond twice its standard error over ``MIN_SEEDS`` seeds; so does each
    step of an order, for which the means decide with fewer seeds. Records of different conditions are never merged: the
    claim is then ``not-run``, as without records.
    """
    suite_records = [record for record in records if record.suite == suite]
    sides = [[record for record in suite_records if _matches(record, selector)] for selector in claim.selectors]
    finding = _worst_finding(claim, sides)
    if claim.inconsistent:
        finding = finding._replace(verdict="inconsistent-in-paper", why=f"{claim.inconsistent} {finding.why}")
    elif finding.verdict != "not-run" and (missing := _not_comparable(claim, sides)):
        finding = finding._replace(verdict="not-comparable", why=f"{missing} {finding.why}")
    return Judgement(
        suite=suite,
        claim=claim.claim,
        source=claim.source,
        says=claim.statement,
        paper=claim.paper,
        measured=finding.measured,
        verdict=finding.verdict,
        why=finding.why,
    )


def _matches(record: Record, selector: Selector) -> bool:
    named = record.experiment == selector.experiment and record.metric == selector.metric
    return named and stats.has_values(record.case, selector.case)


def _not_comparable(claim: Claim, sides: list[list[Record]]) -> str | None:
    """Reason why the measured value is not comparable with the paper's; None if it is."""
    if not (claim.needs_data and isinstance(claim.form, Value)):
        return None
    one = sides[0][0]
    if claim.data in (None, one.dataset) and SCALES.index(one.scale) >= SCALES.index(claim.scale):
        return None
    wanted = f"{claim.data} at scale {claim.scale}" if claim.data else f"scale {claim.scale}"
    return f"The paper's value needs {wanted}, this was {one.dataset} at scale {one.scale}."


def _worst_finding(claim: Claim, sides: list[list[Record]]) -> Finding:
    for selector, side in zip(claim.selectors, sides, strict=True):
        if not side:
            where = f" with {label(selector.case.items())}" if selector.case else ""
            return Finding("not-run", f"No record of {selector.experiment}/{selector.metric}{where}.")
    compared = ("scale", "device", "dataset") if claim.needs_data else ("scale", "device")
    try:
        if differing := stats.differing_condition([record for side in sides for record in side], compared):
            raise stats.MixedConditionsError(differing)
        pairs = zip(claim.selectors, sides, strict=True)
        rows = stats.join_cases([stats.group_by_case(side, selector.case) for selector, side in pairs])
    except stats.MixedConditionsError as error:
        return Finding("not-run", f"Records that differ in {error} are never merged.")
    if not rows:
        return Finding("not-run", "Both sides have records, but no case of one agrees with one of the other.")
    findings = [(case, _judge_case(claim, samples)) for case, samples in rows]
    case, worst = max(findings, key=lambda pair: (SEVERITY.index(pair[1].verdict), pair[1].shortfall))
    return worst if len(rows) == 1 else worst._replace(why=f"Worst of {len(rows)} cases, {label(case)}: {worst.why}")


def _judge_case(claim: Claim, samples: list[stats.Seeds]) -> Finding:
    match claim.form:
        case Order() as order:
            return _judge_order(order, samples)
        case Value() | Bound() as form:
            return _judge_number(form, claim.paper, stats.estimate(list(samples[0].values())), None)
        case Ratio() as form:
            if 0.0 in samples[1].values():
                return Finding("not-reproduced", "No ratio: its denominator was measured as 0.", None, math.inf)
            return _judge_number(form, claim.paper, stats.combine_by_seed(truediv, *samples), 1.0)
        case Difference() as form:
            return _judge_number(form, claim.paper, stats.combine_by_seed(sub, *samples), 0.0)


def _judge_number(form: Criterion, paper: Numbers, measured: stats.Estimate, neutral: float | None) -> Finding:
    """Judge against the accepted range. ``neutral``: the ratio or difference of equal sides; None for one number."""
    mean = measured.mean
    if form.near:
        assert isinstance(paper, int | float)  # checked by Claim
        allowed = form.tolerance if form.tolerance is not None else abs(paper) * (form.relative or 0.0)
        low, high = paper - allowed, paper + allowed
        side_low, side_high = float(paper), float(paper)
        wanted = f"within {number(allowed)} of the paper's {number(paper)}"
    else:
        low = side_low = -math.inf if form.at_least is None else form.at_least
        high = side_high = math.inf if form.at_most is None else form.at_most
        limits = {"at least": form.at_least, "at most": form.at_most}
        wanted = " and ".join(f"{name} {number(limit)}" for name, limit in limits.items() if limit is not None)
    shortfall = max(low - mean, mean - high)
    if shortfall <= 0 or _close(mean, low) or _close(mean, high):
        return Finding("reproduced", f"{_estimate_text(measured)}: {wanted}.", mean, shortfall)
    sign = 0 if neutral is None else (side_low > neutral) - (side_high < neutral)
    if neutral is not None and sign and measured.beyond(neutral, sign):
        held = f"{'above' if sign > 0 else 'below'} {number(neutral)} beyond twice its standard error"
        return Finding("trend", f"{_estimate_text(measured)}: {held}, but not {wanted}.", mean, shortfall)
    return Finding("not-reproduced", f"{_estimate_text(measured)}: not {wanted}.", mean, shortfall)


def _close(a: float, b: float) -> bool:
    """Whether two numbers differ only by the binary rounding of decimals."""
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _judge_order(order: Order, samples: list[stats.Seeds]) -> Finding:
    """Reproduced if every step holds; a trend if the last number is beyond the first."""
    sign = 1 if order.direction == "increasing" else -1
    shared = set.intersection(*map(set, samples))  # seeds that are compared, and therefore shown
    means = [stats.estimate([seeds[seed] for seed in shared or seeds]).mean for seeds in samples]
    steps = [stats.combine_by_seed(sub, after, before) for before, after in pairwise(samples)]
    failed = [step for step in steps if not _holds(step, sign)]
    shortfall = max(-sign * step.mean for step in steps)
    shown = f"{', '.join(number(mean) for mean in means)} {_seeds_text(min(step.seeds for step in steps))}"
    if not failed:
        return Finding("reproduced", f"{shown}: {order.direction} at every step.", list(means), shortfall)
    step = max(failed, key=lambda one: -sign * one.mean)
    why = f"{shown}: not {order.direction} at every step, one is {_estimate_text(step)}"
    whole = stats.combine_by_seed(sub, samples[-1], samples[0])
    if whole.beyond(0.0, sign):
        return Finding("trend", f"{why}; from first to last {_estimate_text(whole)}.", list(means), shortfall)
    return Finding("not-reproduced", f"{why}.", list(means), shortfall)


def _holds(step: stats.Estimate, sign: int) -> bool:
    """With ``MIN_SEEDS`` seeds beyond twice the standard error, with fewer by the mean."""
    return step.beyond(0.0, sign) if step.seeds >= stats.MIN_SEEDS else sign * step.mean > 0


def _estimate_text(measured: stats.Estimate) -> str:
    """``0.831 over 3 seeds (standard error 0.002)``."""
    error = "" if measured.error is None else f" (standard error {number(measured.error)})"
    return f"{number(measured.mean)} {_seeds_text(measured.seeds)}{error}"


def _seeds_text(seeds: int) -> str:
    return {0: "from means, no seed in common", 1: "from one seed"}.get(seeds, f"over {seeds} seeds")
