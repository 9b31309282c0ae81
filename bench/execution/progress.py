"""Progress of a run: the cases that run now, and an estimate of the time left."""

import logging
import time
from collections.abc import Sequence

from bench.console.eta import Spent, time_left
from bench.console.view import LiveView
from bench.execution.plan import Schedule
from bench.suite.schema import Case

logger = logging.getLogger(__name__)


class Progress:
    def __init__(self, view: LiveView, todo: Sequence[Case], schedule: Schedule) -> None:
        self._view, self._schedule = view, schedule
        self._left = {case.key: case for case in todo}
        self._started: dict[str, float] = {}
        self._done: list[Spent] = []

    def start(self, case: Case) -> None:
        left = [(one.experiment.name, self._schedule.share_s(one, one.estimate_s)) for one in self._left.values()]
        self._view.start(case.key, case.title, time_left(self._done, left))
        self._started[case.key] = time.monotonic()
        logger.info("case started: %s", case.title)

    def say(self, key: str, text: str) -> None:
        self._view.say(key, text)
        logger.debug("%s: %s", key, text)

    def end(self, case: Case) -> None:
        del self._left[case.key]
        share_s, seconds = self._schedule.share_s, time.monotonic() - self._started.pop(case.key)
        self._done.append(Spent(case.experiment.name, share_s(case, case.estimate_s), share_s(case, seconds) or 0.0))
        self._view.end(case.key)
        logger.info("case ended: %s, %.1f s", case.title, seconds)
