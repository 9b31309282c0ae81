"""Progress of a run: the cases that run now, and an estimate of the time left."""

import logging
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench import events
from bench.console.view import LiveView
from bench.execution.plan import Schedule
from bench.suite.schema import Case

logger = logging.getLogger(__name__)


class Spent(NamedTuple):
    """A case that has ended."""

    experiment: str
    estimate_s: float | None
    seconds: float


class Progress:
    def __init__(self, view: LiveView, todo: Sequence[Case], schedule: Schedule) -> None:
        self._view, self._schedule = view, schedule
        self._left = {case.key: case for case in todo}
        self._started: dict[str, float] = {}
        self._done: list[Spent] = []

    def start(self, case: Case) -> None:
        left = [(one.experiment.name, self._schedule.share_s(one, one.estimate_s)) for one in self._left.values()]
        left_s = time_left(self._done, left)
        self._view.start(case.key, case.title, left_s)
        events.emit("started", case=case.key, title=case.title, experiment=case.experiment.name, left_s=left_s)
        self._started[case.key] = time.monotonic()
        logger.info("case started: %s", case.title)

    def say(self, key: str, text: str) -> None:
        self._view.say(key, text)
        events.emit("say", case=key, text=text)
        logger.debug("%s: %s", key, text)

    def end(self, case: Case) -> None:
        del self._left[case.key]
        share_s, seconds = self._schedule.share_s, time.monotonic() - self._started.pop(case.key)
        self._done.append(Spent(case.experiment.name, share_s(case, case.estimate_s), share_s(case, seconds) or 0.0))
        self._view.end(case.key)
        events.emit("ended", case=case.key, seconds=seconds)
        logger.info("case ended: %s, %.1f s", case.title, seconds)


def time_left(done: Iterable[Spent], todo: Iterable[tuple[str, float | None]]) -> float | None:
    """Seconds that ``todo``, (experiment, estimate) of each case, will take; None if unknown.

    Estimates are scaled by the ratio of measured to estimated time of the same experiment, else of all cases done.
    The latter is damped by the estimated time that is left, as many quick cases at the start say little about long
    ones to come. A case without an estimate takes the mean of its experiment, else of all.
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


def _pace(done: Iterable[Spent], exact_s: float = 0.0) -> float | None:
    """Measured over estimated time of ``done``, as if ``exact_s`` more had been exact; None without estimates."""
    known = [(spent.estimate_s, spent.seconds) for spent in done if spent.estimate_s]
    if not known:
        return None
    return (sum(seconds for _, seconds in known) + exact_s) / (sum(estimate for estimate, _ in known) + exact_s)


def _mean_s(done: list[Spent]) -> float:
    return sum(spent.seconds for spent in done) / len(done)
