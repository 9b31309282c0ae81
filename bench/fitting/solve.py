"""Parameters that fit printed numbers, by least squares within bounds, and numbers that none give together.

Residuals are in tolerances: 1 is a number at the edge of what its claim accepts. Parameters are varied in their
logarithm, with steps of ``STEP``: the numbers are means over tasks, each of which is split in whole layers, so
smaller steps meet their jumps.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from bench.suite.fitted import Amount, FitParameter, FitTarget
from reports.claims.claim import Claim, Criterion, Order

STEP = 0.02
OFFSET = 10.0  # of the variables: scipy's steps are relative to them
TOLERANCE = 1e-3  # relative change of the cost, and of the parameters, below which a search has converged
EVALUATIONS = 40  # of one least-squares search at most, without those for slopes
DIGITS = 4  # of a parameter that is found
HOLDING = 100.0  # weight of a number for which all others may give way
MET = 1.05  # residual up to which a number counts as met: parameters are rounded
ORDER_STEP = 0.05  # relative step of an order that counts as one tolerance

Values = dict[str, Amount]
Numbers = Callable[[Claim, Values], list[float]]


class Target(NamedTuple):
    """A claim to fit, or to compare with."""

    claim: Claim
    spec: FitTarget

    def worst(self, numbers: Sequence[float]) -> float:
        """The number of the worst case."""
        return max(numbers, key=lambda number: self._badness(self._distance(number)))

    def residual(self, numbers: Sequence[float]) -> float:
        """The distance of the worst case in tolerances: from the number, or from the accepted range (0 within it)."""
        return self._distance(self.worst(numbers))

    def _badness(self, distance: float) -> float:
        """How bad a case is: at a limit that is reached, the more so the farther beyond it."""
        if not self.spec.reached:
            return abs(distance)
        return distance if self._limits()[1] < math.inf else -distance

    def _distance(self, number: float) -> float:
        form = self.claim.form
        if isinstance(form, Order):
            return min(0.0, number) / (self.spec.relative or ORDER_STEP)
        low, high = self._limits()
        if form.near:
            assert isinstance(self.claim.paper, int | float)  # checked by Claim
            half = abs(self.claim.paper) * self.spec.relative if self.spec.relative else (high - low) / 2
            return (number - self.claim.paper) / (half or 1.0)
        limit = low if number < low or math.isinf(high) else high
        if self.spec.reached and isinstance(self.claim.paper, int | float):
            limit = self.claim.paper  # the limit is of what rounds to it
        beyond = number - limit if self.spec.reached else number - min(max(number, low), high)
        return beyond / ((self.spec.relative or 0.05) * (abs(limit) or 1.0))

    def _limits(self) -> tuple[float, float]:
        form = self.claim.form
        assert not isinstance(form, Order)
        return accepted(form, self.claim.paper)


class Search(NamedTuple):
    """Where a least-squares search ended: half the sum of squared residuals, and the parameters.

    It has ``converged`` if further steps change little, else its ``evaluations`` reached their limit.
    """

    cost: float
    evaluations: int
    converged: bool
    values: Values


class Conflict(NamedTuple):
    """A claim that does not hold, and what gives way where it would: other claims, or nothing does and it stays off."""

    claim: str
    gives_way: list[str]
    reached: bool  # within the bounds, whatever gives way
    measured: float
    values: Values


def accepted(form: Criterion, paper: object) -> tuple[float, float]:
    """The range of numbers that ``form`` accepts."""
    if form.near:
        assert isinstance(paper, int | float)  # checked by Claim
        half = form.tolerance if form.tolerance is not None else abs(paper) * (form.relative or 0.0)
        return paper - half, paper + half
    return (
        -math.inf if form.at_least is None else form.at_least,
        math.inf if form.at_most is None else form.at_most,
    )


def fit(parameters: Mapping[str, FitParameter], used: Sequence[Target], numbers: Numbers) -> Iterator[Search]:
    """A search for each combination of choices."""

    def residuals(values: Values) -> list[float]:
        return [target.spec.weight * target.residual(numbers(target.claim, values)) for target in used]

    choices = {name: one.choices for name, one in parameters.items() if one.choices}
    start = {name: one.start for name, one in parameters.items()}
    for chosen in product(*choices.values()):
        space = Space(parameters, start | dict(zip(choices, chosen, strict=True)))
        yield space.search(lambda x: residuals(space.values(x)), EVALUATIONS)  # noqa: B023


def conflicts(
    parameters: Mapping[str, FitParameter], best: Values, targets: Sequence[Target], numbers: Numbers
) -> Iterator[Conflict]:
    """What gives way if one of ``targets`` that does not hold at ``best`` is to hold beside all that do.

    Where to look is found in a power law of the parameters through the numbers at and beside ``best``; what is said of
    that place are the numbers themselves.
    """
    at_best = [numbers(target.claim, best) for target in targets]
    holds = [met(target, found) for target, found in zip(targets, at_best, strict=True)]
    if all(holds):
        return
    space = Space(parameters, best)
    beside = [[numbers(target.claim, values) for target in targets] for values in space.neighbours()]
    laws = [
        [power_law(case, [other[index][number] for other in beside]) for number, case in enumerate(found)]
        for index, found in enumerate(at_best)
    ]

    def outside(index: int, x: NDArray[np.float64]) -> float:
        found = targets[index].residual([law(x - space.start) for law in laws[index]])
        return math.copysign(max(0.0, abs(found) - 1.0), found) if near(targets[index]) else found

    for index, missed in enumerate(targets):
        if holds[index]:
            continue
        kept = [other for other, one in enumerate(holds) if one]
        found = space.search(lambda x: [HOLDING * outside(index, x), *(outside(other, x) for other in kept)], 200)  # noqa: B023
        measured = numbers(missed.claim, found.values)
        gone = [targets[other] for other in kept]
        gives_way = [one.claim.claim for one in gone if not met(one, numbers(one.claim, found.values))]
        yield Conflict(missed.claim.claim, gives_way, met(missed, measured), missed.worst(measured), found.values)


def power_law(value: float, beside: Sequence[float]) -> Callable[[NDArray[np.float64]], float]:
    """A number by steps from ``value`` in the variables; ``beside`` are numbers one ``STEP`` away in each."""
    others = np.array(beside)
    if value > 0 and (others > 0).all():
        slopes = np.log(others / value) / STEP
        return lambda x: value * math.exp(min(50.0, float(slopes @ x)))
    slopes = (others - value) / STEP
    return lambda x: value + float(slopes @ x)


def near(target: Target) -> bool:
    form = target.claim.form
    return isinstance(form, Criterion) and (form.near or target.spec.reached)


def met(target: Target, numbers: Sequence[float]) -> bool:
    """Whether every case of the claim is within what it accepts."""
    form = target.claim.form
    if isinstance(form, Order):
        return min(numbers) > 0
    low, high = accepted(form, target.claim.paper)
    slack = (MET - 1) * (high - low) / 2 if form.near else (MET - 1) * 0.05 * abs(low if math.isinf(high) else high)
    return all(low - slack <= number <= high + slack for number in numbers)


class Space:
    """The parameters with bounds as variables: their logarithms, around ``OFFSET``; the others keep their value."""

    def __init__(self, parameters: Mapping[str, FitParameter], best: Values) -> None:
        bounds = {name: one.bounds for name, one in parameters.items() if one.bounds}
        self._best = best
        self._names = list(bounds)
        self._shift = OFFSET - np.log([parameters[name].start for name in bounds])
        self.low, self.high = (np.log([both[side] for both in bounds.values()]) + self._shift for side in (0, 1))
        self.start = np.clip(np.log([best[name] for name in bounds]) + self._shift, self.low + 1e-6, self.high - 1e-6)

    def values(self, x: NDArray[np.float64]) -> Values:
        found = np.exp(np.clip(x, self.low, self.high) - self._shift).tolist()
        return self._best | {name: float(f"{value:.{DIGITS}g}") for name, value in zip(self._names, found, strict=True)}

    def neighbours(self) -> Iterator[Values]:
        """Values of the best parameters with one of them a ``STEP`` larger, each in turn."""
        for index, name in enumerate(self._names):
            larger = math.exp(math.log(self._best[name]) + STEP)
            yield self._best | {self._names[index]: larger}

    def search(self, residuals: Callable[[NDArray[np.float64]], list[float]], evaluations: int) -> Search:
        """The least squares, from the start on."""
        found = least_squares(
            lambda x: np.array(residuals(x)),
            self.start,
            bounds=(self.low, self.high),
            diff_step=STEP / OFFSET,
            x_scale=1.0,
            ftol=TOLERANCE,
            xtol=TOLERANCE / (OFFSET * math.sqrt(len(self._names))),
            gtol=None,
            max_nfev=evaluations,
        )
        return Search(float(found.cost), int(found.nfev), found.status > 0, self.values(found.x))
