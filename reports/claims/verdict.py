"""Verdicts on a paper's claims, from claims and records alone.

A claim holds, or fails, only beyond the noise of what was measured: the confidence interval over seeds lies inside, or
outside, what the claim accepts. Else the verdict is ``inconclusive``, with the seeds that would decide.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from operator import sub, truediv
from typing import Literal, NamedTuple

import msgspec

from reports.claims import statistics as stats
from reports.claims.claim import (
    Bound,
    Claim,
    ClaimClass,
    Contradiction,
    Criterion,
    Difference,
    Numbers,
    Order,
    Ratio,
    Selector,
    Value,
)
from reports.claims.comparable import not_comparable
from reports.formatting import label, number
from reports.record import DIVERGED, TRAINED_PICTURES, Record

Verdict = Literal[
    "reproduced",
    "trend",
    "inconclusive",
    "not-reproduced",
    "not-comparable",
    "inconsistent-in-paper",
    "impossible-together",
    "not-run",
]
SEVERITY: tuple[Verdict, ...] = ("reproduced", "trend", "inconclusive", "not-reproduced")  # the worst case counts


UNDECIDED: tuple[Verdict, ...] = ("not-run", "not-comparable")


class Reference(msgspec.Struct, frozen=True, kw_only=True):
    """Verdict of a kept reference run on one claim; ``run`` names its suite, conditions and day."""

    measured: Numbers
    verdict: Verdict
    why: str
    run: str


class Judgement(msgspec.Struct, frozen=True, kw_only=True):
    """Verdict on one claim, an entry of ``claims.json``.

    ``measured`` and ``paper`` are in ``unit``, empty for a ratio, and lists for an order. ``of`` selects what was
    measured, which may be held against the paper's number on ``data`` only (None: on any).
    """

    suite: str
    claim: str
    claim_class: ClaimClass = msgspec.field(name="class", default="prediction")
    source: str
    says: str
    paper: Numbers
    measured: Numbers
    verdict: Verdict
    why: str  # with seeds and confidence interval
    reference: Reference | None = None
    headline: bool = False
    form: str = ""
    wanted: str = ""
    unit: str = ""
    of: list[Selector] = []
    data: str | None = None

    @property
    def counted(self) -> Verdict:
        """The verdict that a headline counts: of what ran here, or of the reference run where that decides nothing."""
        return self.reference.verdict if self.reference and self.verdict in UNDECIDED else self.verdict


class Finding(NamedTuple):
    """Verdict on one case. ``shortfall`` is the distance from the accepted range, negative inside."""

    verdict: Verdict
    why: str
    measured: Numbers = None
    shortfall: float = 0.0


def judge_all(claims: Iterable[Claim], suite: str, records: Iterable[Record]) -> list[Judgement]:
    """Judge the ``claims`` of ``suite`` by its records; ``records`` may be of any suites.

    The number is the mean over seeds; ratios, differences and the steps of an order are computed seed by seed, between
    cases that agree in their common keys. The claim must hold in every case that the selectors match, and the worst
    case is reported. ``trend`` is a direction that holds beyond its noise, of another size than claimed. Records of
    different conditions are never merged: the claim is then ``not-run``, as without records. A claim that fails where
    one holds with which it cannot hold together is ``impossible-together``.
    """
    own = [record for record in records if record.suite == suite]
    claims = list(claims)
    found = {claim.claim: judge(claim, suite, own) for claim in claims}
    hold = {name for name, one in found.items() if one.verdict == "reproduced"}
    for claim in claims:
        judged = found[claim.claim]
        if (
            claim.impossible
            and judged.verdict in SEVERITY[1:]
            and (others := hold.intersection(claim.impossible.claims))
        ):
            why = f"Not together with {', '.join(sorted(others))}: {_shown(claim.impossible)} {judged.why}"
            found[claim.claim] = msgspec.structs.replace(judged, verdict="impossible-together", why=why)
    return list(found.values())


def judge(claim: Claim, suite: str, records: Iterable[Record]) -> Judgement:
    """Judge one ``claim`` of ``suite`` as ``judge_all`` does, but for the claims with which it cannot hold together."""
    own = [record for record in records if record.suite == suite]
    sides = [_selected(own, selector) for selector in claim.selectors]
    finding = _worst_finding(claim, sides)
    if claim.inconsistent:
        finding = finding._replace(verdict="inconsistent-in-paper", why=f"{_shown(claim.inconsistent)} {finding.why}")
    elif finding.verdict != "not-run" and (reason := _not_judged(claim, sides, own)):
        finding = finding._replace(verdict="not-comparable", why=f"{reason} {finding.why}")
    elif claim.needs_data and (ended := _diverged(claim.selectors, own)):
        finding = Finding("not-run", ended)
    return Judgement(
        suite=suite,
        claim=claim.claim,
        claim_class=claim.claim_class,
        source=claim.source,
        says=claim.statement,
        paper=claim.paper,
        measured=finding.measured,
        verdict=finding.verdict,
        why=finding.why,
        headline=claim.headline,
        form=type(claim.form).__name__.lower(),
        wanted=claim.wanted,
        unit="" if isinstance(claim.form, Ratio) else next((one.unit for side in sides for one in side), ""),
        of=claim.selectors,
        data=claim.data,
    )


def _shown(contradiction: Contradiction | str) -> str:
    if isinstance(contradiction, str):
        return contradiction
    return f"{contradiction.says} ({contradiction.shown_by})."


def _selected(records: Iterable[Record], selector: Selector) -> list[Record]:
    return [
        record
        for record in records
        if record.experiment == selector.experiment
        and record.metric == selector.metric
        and stats.has_values(record.case, selector.case)
    ]


def _diverged(selectors: Iterable[Selector], records: list[Record]) -> str | None:
    """Reason why a training that ``selectors`` ask for has no accuracy; None if the losses of all are numbers.

    One of several seeds is enough: the others alone would make it better than it is.
    """
    for selector in selectors:
        seeds = {
            record.seed
            for record in records
            if (record.experiment, record.metric) == (selector.experiment, DIVERGED)
            and stats.agree(record.case, selector.case)
        }
        if seeds:
            where = f" with {label(selector.case.items())}" if selector.case else ""
            listed = ", ".join(map(str, sorted(seeds)))
            return f"The loss of {selector.experiment}{where} is no number in seed {listed}: no accuracy to judge."
    return None


def _not_judged(claim: Claim, sides: list[list[Record]], records: list[Record]) -> str | None:
    """Reason why the claim cannot be judged by what was measured; None if it can."""
    if changed := sorted({f"{one.experiment} with {one.set}" for side in sides for one in side if one.set}):
        return f"The claim is about the suite's own parameters; this was {' and '.join(changed)}."
    if claim.needs_data:
        trained = [record for record in records if record.metric == TRAINED_PICTURES]
        if reason := not_comparable(claim, sides, trained):
            return reason
    if claim.premise:
        bound = Bound(of=claim.premise.of, at_least=claim.premise.at_least)
        held = _worst_finding(msgspec.structs.replace(claim, **_only(bound)), [_selected(records, bound.of)])
        if held.verdict != "reproduced" or _diverged([bound.of], records):
            return f"The premise of the claim, {bound.of.metric} of {number(claim.premise.at_least)}, is not met."
    return None


def _only(bound: Bound) -> dict[str, Bound | None]:
    return {"value": None, "ratio": None, "difference": None, "order": None, "bound": bound}


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
    findings = [(case, _judge_case(claim, samples, len(rows))) for case, samples in rows]
    case, worst = max(findings, key=lambda pair: (SEVERITY.index(pair[1].verdict), pair[1].shortfall))
    return worst if len(rows) == 1 else worst._replace(why=f"Worst of {len(rows)} cases, {label(case)}: {worst.why}")


def _judge_case(claim: Claim, samples: list[stats.Seeds], cases: int) -> Finding:
    if isinstance(claim.form, Order):
        return _judge_order(claim.form, claim.deterministic, samples, cases)
    if isinstance(claim.form, Ratio) and 0.0 in samples[1].values():
        return Finding("not-reproduced", "No ratio: its denominator was measured as 0.", None, math.inf)
    match claim.form:
        case Value() | Bound():
            measured, neutral, sides = stats.estimate(list(samples[0].values())), None, ""
        case Ratio():
            measured, neutral, sides = stats.combine_by_seed(truediv, *samples), 1.0, _sides("over", samples)
        case Difference():
            measured, neutral, sides = stats.combine_by_seed(sub, *samples), 0.0, _sides("minus", samples)
    if claim.deterministic:
        measured = stats.without_noise(measured)
    finding = _judge_number(claim.form, claim.paper, measured, neutral, cases)
    return finding._replace(why=f"{_estimate_text(measured)}{sides}: {finding.why}")


def _judge_number(
    form: Criterion, paper: Numbers, measured: stats.Estimate, neutral: float | None, cases: int
) -> Finding:
    """Judge against the accepted range. ``neutral``: the ratio or difference of equal sides; None for one number."""
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
    shortfall = max(low - measured.mean, measured.mean - high)
    if measured.lies_within(low, high):
        return Finding("reproduced", f"{wanted}.", measured.mean, shortfall)
    if not measured.lies_outside(low, high, cases):
        return Finding("inconclusive", f"{wanted}? {_more_seeds(measured, low, high)}", measured.mean, shortfall)
    sign = 0 if neutral is None else (side_low > neutral) - (side_high < neutral)
    if neutral is not None and sign and _beyond(measured, neutral, sign):
        held = f"{'above' if sign > 0 else 'below'} {number(neutral)} beyond its noise"
        return Finding("trend", f"{held}, but not {wanted}.", measured.mean, shortfall)
    return Finding("not-reproduced", f"not {wanted}.", measured.mean, shortfall)


def _beyond(measured: stats.Estimate, reference: float, sign: int) -> bool:
    return sign * (measured.mean - reference) > measured.margin()


def _judge_order(order: Order, deterministic: bool, samples: list[stats.Seeds], cases: int) -> Finding:
    """Reproduced if every step holds; a trend if one fails but the last number is beyond the first."""
    sign = 1 if order.direction == "increasing" else -1
    shared = set.intersection(*map(set, samples))  # seeds that are compared, and therefore shown
    means = [stats.estimate([seeds[seed] for seed in shared or seeds]).mean for seeds in samples]
    pairs = [*pairwise(samples), (samples[0], samples[-1])]
    *steps, whole = [stats.combine_by_seed(sub, after, before) for before, after in pairs]
    if deterministic:
        steps, whole = [stats.without_noise(step) for step in steps], stats.without_noise(whole)
    shortfall = max(-sign * step.mean for step in steps)
    shown = f"{', '.join(number(mean) for mean in means)} {_seeds_text(steps[0])}"
    open_steps = [step for step in steps if not _beyond(step, 0.0, sign)]
    if not open_steps:
        return Finding("reproduced", f"{shown}: {order.direction} at every step.", list(means), shortfall)
    failed = [step for step in steps if -sign * step.mean >= step.margin(cases * len(steps))]
    step = max(failed or open_steps, key=lambda one: -sign * one.mean)
    why = f"{shown}: not {order.direction} at every step, one is {_estimate_text(step)}"
    if not failed:
        more = _more_seeds(step, 0.0, 0.0)
        return Finding("inconclusive", f"{why}, within its noise. {more}", list(means), shortfall)
    if _beyond(whole, 0.0, sign):
        return Finding("trend", f"{why}; from first to last {_estimate_text(whole)}.", list(means), shortfall)
    return Finding("not-reproduced", f"{why}.", list(means), shortfall)


def _more_seeds(measured: stats.Estimate, low: float, high: float) -> str:
    if measured.error is None:
        return f"The noise is not known; {stats.MIN_SEEDS} seeds would tell it."
    count = measured.seeds_to_decide(low, high)
    return f"About {count} seeds would decide." if count else f"{stats.MOST_SEEDS} seeds would not decide."


def _sides(word: str, samples: Sequence[stats.Seeds]) -> str:
    left, right = (number(stats.estimate(list(seeds.values())).mean) for seeds in samples)
    return f" ({left} {word} {right})"


def _estimate_text(measured: stats.Estimate) -> str:
    """``0.831 over 3 seeds (0.825 to 0.837)``, the mean with its confidence interval."""
    margin = measured.margin()
    if not 0 < margin < math.inf:
        return f"{number(measured.mean)} {_seeds_text(measured)}"
    interval = f"{number(measured.mean - margin)} to {number(measured.mean + margin)}"
    return f"{number(measured.mean)} {_seeds_text(measured)} ({interval})"


def _seeds_text(measured: stats.Estimate) -> str:
    if measured.error == 0.0 and measured.seeds < 2:
        return "without noise"
    return {0: "from means, no seed in common", 1: "from one seed"}.get(measured.seeds, f"over {measured.seeds} seeds")
