"""Does what a paper says hold in what was measured? Judging reads claims and records, nothing else."""

import math
from collections.abc import Iterable
from itertools import pairwise
from operator import sub, truediv
from typing import Literal, NamedTuple, get_args

import msgspec

from reports.claims.claim import Bound, Claim, Criterion, Difference, Number, Order, Ratio, Selector, Value
from reports.claims.statistics import Estimate, MixedConditionsError, Seeds, cells, clash, estimate, join, paired, same
from reports.formatting import label, number
from reports.record import Record, Scale

__all__ = ["Claim", "Judgement", "Verdict", "judge"]

Verdict = Literal["reproduced", "trend", "not-reproduced", "not-comparable", "inconsistent-in-paper", "not-run"]
SEVERITY: tuple[Verdict, ...] = ("reproduced", "trend", "not-reproduced")  # of the cases the worst counts
SCALES: tuple[Scale, ...] = get_args(Scale)  # from small to large


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a claim, as it stands in ``claims.json``. ``measured`` is a list for an order."""

    suite: str
    claim: str
    source: str
    says: str
    paper: Number | list[Number] | None
    measured: Number | list[Number] | None
    verdict: Verdict
    why: str


class Finding(NamedTuple):
    """What one case says of a claim. ``shortfall``: how far outside the claimed it lies."""

    verdict: Verdict
    why: str
    measured: Number | list[Number] | None = None
    shortfall: float = 0.0


def judge(claim: Claim, suite: str, records: Iterable[Record]) -> Judgement:
    """Judge ``claim`` of ``suite`` by ``records``.

    The number is the mean over seeds; ratios, differences and the steps of an order are taken seed by seed,
    between cases that agree in the keys they share. Where the selectors leave several cases, the claim must
    hold in every one and the worst is shown. ``trend`` needs three seeds and a direction beyond twice its
    standard error; so do the steps of an order, which with fewer seeds go by their means. Records of
    different conditions are never merged: the claim counts as ``not-run``, as one without records does.
    """
    ours = [record for record in records if record.suite == suite]
    sides = [[record for record in ours if _matches(record, selector)] for selector in claim.selectors]
    finding = _find(claim, sides)
    if claim.inconsistent:
        finding = finding._replace(verdict="inconsistent-in-paper", why=f"{claim.inconsistent} {finding.why}")
    elif finding.verdict != "not-run" and (missing := _not_comparable(claim, sides)):
        finding = finding._replace(verdict="not-comparable", why=f"{missing} {finding.why}")
    return Judgement(
        suite=suite,
        claim=claim.claim,
        source=claim.source,
        says=claim.says,
        paper=claim.paper,
        measured=finding.measured,
        verdict=finding.verdict,
        why=finding.why,
    )


def _matches(record: Record, selector: Selector) -> bool:
    if (record.experiment, record.metric) != (selector.experiment, selector.metric):
        return False
    case = record.case
    return all(key in case and same(case[key], value) for key, value in selector.case.items())


def _not_comparable(claim: Claim, sides: list[list[Record]]) -> str | None:
    """Why the paper's value cannot be held against what was measured; None if it can."""
    if not (claim.needs_data and isinstance(claim.form, Value)):
        return None
    one = sides[0][0]
    if claim.data in (None, one.dataset) and SCALES.index(one.scale) >= SCALES.index(claim.scale):
        return None
    wanted = f"{claim.data} at scale {claim.scale}" if claim.data else f"scale {claim.scale}"
    return f"The paper's value needs {wanted}, this was {one.dataset} at scale {one.scale}."


def _find(claim: Claim, sides: list[list[Record]]) -> Finding:
    """The worst finding over the cases."""
    for selector, side in zip(claim.selectors, sides, strict=True):
        if not side:
            where = f" with {label(selector.case.items())}" if selector.case else ""
            return Finding("not-run", f"No record of {selector.experiment}/{selector.metric}{where}.")
    compared = ("scale", "device", "dataset") if claim.needs_data else ("scale", "device")
    try:
        if differing := clash([record for side in sides for record in side], compared):
            raise MixedConditionsError(differing)
        rows = join([cells(side, one.case) for one, side in zip(claim.selectors, sides, strict=True)])
    except MixedConditionsError as error:
        return Finding("not-run", f"Records that differ in {error} are never merged.")
    if not rows:
        return Finding("not-run", "Both sides have records, but no case of one agrees with one of the other.")
    findings = [(case, _judge_case(claim, samples)) for case, samples in rows]
    case, worst = max(findings, key=lambda pair: (SEVERITY.index(pair[1].verdict), pair[1].shortfall))
    if len(rows) == 1:
        return worst
    return worst._replace(why=f"Worst of {len(rows)} cases, {label(case)}: {worst.why}")


def _judge_case(claim: Claim, samples: list[Seeds]) -> Finding:
    match claim.form:
        case Order() as order:
            return _judge_order(order, samples)
        case Value() | Bound() as form:
            return _judge_number(form, claim.paper, estimate(list(samples[0].values())), None)
        case Ratio() as form:
            if 0.0 in samples[1].values():
                return Finding("not-reproduced", "No ratio: its denominator was measured as 0.", None, math.inf)
            return _judge_number(form, claim.paper, paired(truediv, *samples), 1.0)
        case Difference() as form:
            return _judge_number(form, claim.paper, paired(sub, *samples), 0.0)


def _judge_number(
    form: Criterion, paper: Number | list[Number] | None, measured: Estimate, neutral: float | None
) -> Finding:
    """``neutral``: the ratio or difference without a direction; None for a single number, which has none."""
    mean = measured.mean
    if form.near:
        assert isinstance(paper, int | float)  # Claim saw to it
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
        return Finding("reproduced", f"{text(measured)}: {wanted}.", mean, shortfall)
    sign = 0 if neutral is None else (side_low > neutral) - (side_high < neutral)
    if neutral is not None and sign and measured.beyond(neutral, sign):
        held = f"{'above' if sign > 0 else 'below'} {number(neutral)} beyond twice its standard error"
        return Finding("trend", f"{text(measured)}: {held}, but not {wanted}.", mean, shortfall)
    return Finding("not-reproduced", f"{text(measured)}: not {wanted}.", mean, shortfall)


def _close(a: float, b: float) -> bool:
    """Equal but for the rounding of decimals in binary."""
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def _judge_order(order: Order, samples: list[Seeds]) -> Finding:
    """Holds if every step does. ``trend``: some step does not, but the last lies beyond the first."""
    sign = 1 if order.direction == "increasing" else -1
    shared = set.intersection(*map(set, samples))  # what is shown is what is compared
    means = [estimate([seeds[seed] for seed in shared or seeds]).mean for seeds in samples]
    steps = [paired(sub, after, before) for before, after in pairwise(samples)]
    failed = [step for step in steps if not _held(step, sign)]
    shortfall = max(-sign * step.mean for step in steps)
    shown = f"{', '.join(number(mean) for mean in means)} {over(min(step.seeds for step in steps))}"
    if not failed:
        return Finding("reproduced", f"{shown}: {order.direction} at every step.", list(means), shortfall)
    step = max(failed, key=lambda one: -sign * one.mean)
    why = f"{shown}: not {order.direction} at every step, one is {text(step)}"
    whole = paired(sub, samples[-1], samples[0])
    if whole.beyond(0.0, sign):
        return Finding("trend", f"{why}; from first to last {text(whole)}.", list(means), shortfall)
    return Finding("not-reproduced", f"{why}.", list(means), shortfall)


def _held(step: Estimate, sign: int) -> bool:
    """With three seeds beyond twice the standard error, with fewer by the mean."""
    return step.beyond(0.0, sign) if step.seeds >= 3 else sign * step.mean > 0


def text(measured: Estimate) -> str:
    """``0.831 over 3 seeds (standard error 0.002)``."""
    error = "" if measured.error is None else f" (standard error {number(measured.error)})"
    return f"{number(measured.mean)} {over(measured.seeds)}{error}"


def over(seeds: int) -> str:
    """How many seeds a number stands on, in words."""
    return {0: "from means, no seed in common", 1: "from one seed"}.get(seeds, f"over {seeds} seeds")
