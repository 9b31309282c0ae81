"""How long will the rest of a run take? From what its cases were thought to take, and what those done took."""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple


class Spent(NamedTuple):
    """A case that is done."""

    experiment: str
    estimate_s: float | None
    seconds: float


def time_left(done: Iterable[Spent], todo: Iterable[tuple[str, float | None]]) -> float | None:
    """Seconds that ``todo``, (experiment, estimate) of each case, takes; None: unknown.

    Estimates are scaled by how wrong those of the same experiment were. Where none of it ran they are scaled by how
    wrong all were, but as good a witness as that is what is still thought to be left: many quick cases at the start
    say little of long ones to come. A case without an estimate takes the mean of its experiment, else of all.
    """
    done, todo = list(done), list(todo)
    by_experiment: dict[str, list[Spent]] = defaultdict(list)
    for spent in done:
        by_experiment[spent.experiment].append(spent)
    overall = _pace(done, sum(estimate_s or 0.0 for _, estimate_s in todo))
    paces = {name: _pace(alike) for name, alike in by_experiment.items()}
    means_s = {name: _mean_s(alike) for name, alike in by_experiment.items()}
    mean_s = _mean_s(done) if done else None
    left_s = 0.0
    for experiment, estimate_s in todo:
        if estimate_s is not None:
            left_s += estimate_s * (paces.get(experiment) or overall or 1.0)
        elif mean_s is not None:
            left_s += means_s.get(experiment, mean_s)
        else:
            return None
    return left_s


def _pace(done: Iterable[Spent], thought_s: float = 0.0) -> float | None:
    """By how much ``done`` took longer than estimated, if ``thought_s`` more were right; None: it cannot be told."""
    known = [(spent.estimate_s, spent.seconds) for spent in done if spent.estimate_s]
    if not known:
        return None
    return (sum(seconds for _, seconds in known) + thought_s) / (sum(estimate for estimate, _ in known) + thought_s)


def _mean_s(done: list[Spent]) -> float:
    return sum(spent.seconds for spent in done) / len(done)
