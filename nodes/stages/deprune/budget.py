"""Budgets of feature maps by training phase: increasing for deprune, decreasing for prune.

Deprune, Algorithms 1 to 3: budgets, each trained for some epochs, and selectLr, which raises the learning rate by a
factor gamma in the first l_k epochs after each change. Beyond the paper, a phase may end early, once the loss is flat.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple


class BudgetPhase(NamedTuple):
    """``epochs``, or fewer if the loss is flat, with a budget of ``share`` of the maps."""

    epochs: int
    share: float


class PhasePosition(NamedTuple):
    """The number of the phase of an epoch, and the epochs of that phase before it."""

    phase: int
    since: int


class Flatness(NamedTuple):
    """The loss is flat when its mean over ``window`` epochs is less than ``least`` below that of as many before."""

    window: int = 2
    least: float = 0.05

    def reached(self, losses: Sequence[float]) -> bool:
        """Whether ``losses``, one per epoch, are flat."""
        if len(losses) < 2 * self.window:
            return False
        before = sum(losses[-2 * self.window : -self.window])
        return sum(losses[-self.window :]) > (1 - self.least) * before


def map_budget(share: float, maps: int) -> int:
    """The budget B for ``share`` of ``maps``, at least 1."""
    return max(1, round(share * maps))


def position_by_plan(phases: Sequence[BudgetPhase], epoch: int) -> PhasePosition:
    """The position of ``epoch`` (from 0) by the plan; epochs after its end belong to the last phase."""
    begun = 0
    for number, phase in enumerate(phases[:-1]):
        if epoch < begun + phase.epochs:
            return PhasePosition(number, epoch - begun)
        begun += phase.epochs
    return PhasePosition(len(phases) - 1, epoch - begun)


def position_by_loss(phases: Sequence[BudgetPhase], flatness: Flatness, losses: Sequence[float]) -> PhasePosition:
    """The position after epochs with ``losses``, where a phase ends once its loss is flat or its epochs are done."""
    number = begun = 0
    for done in range(1, len(losses) + 1):
        ended = done - begun >= phases[number].epochs or flatness.reached(losses[begun:done])
        if ended and number + 1 < len(phases):
            number, begun = number + 1, done
    return PhasePosition(number, len(losses) - begun)


def rate_factors(phases: Sequence[BudgetPhase], boost: float, boosted_epochs: int) -> tuple[tuple[int, float], ...]:
    """selectLr: (first epoch, factor of the learning rate from then on), ``boost`` after each change of budget."""
    factors: list[tuple[int, float]] = []
    begun = 0
    for before, after in pairwise(phases):
        begun += before.epochs
        factors.append((begun, boost))
        if boosted_epochs < after.epochs:
            factors.append((begun + boosted_epochs, 1.0))
    return tuple(factors) if boost != 1 and boosted_epochs else ()
