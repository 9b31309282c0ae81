"""How far is a run? What runs is shown, with how long the rest is thought to take."""

import time
from collections.abc import Sequence

from bench.console.eta import Spent, time_left
from bench.console.view import LiveView
from bench.execution.journal import case_key
from bench.execution.plan import Schedule
from bench.suite.schema import Case


class Progress:
    """The cases ``todo`` of a run, as they start and end."""

    def __init__(self, view: LiveView, todo: Sequence[Case], schedule: Schedule) -> None:
        self._view, self._schedule = view, schedule
        self._left = {case_key(case): case for case in todo}
        self._started: dict[str, float] = {}
        self._done: list[Spent] = []

    def start(self, case: Case) -> None:
        """``case`` starts."""
        left = [(one.experiment.name, self._schedule.share_s(one, one.estimate_s)) for one in self._left.values()]
        self._view.start(case_key(case), case.title, time_left(self._done, left))
        self._started[case_key(case)] = time.monotonic()

    def say(self, key: str, text: str) -> None:
        """One line of progress of the case of ``key``: accuracy and bytes so far. May be called from any thread."""
        self._view.say(key, text)

    def end(self, case: Case) -> None:
        """``case`` has ended, well or not."""
        del self._left[case_key(case)]
        share_s, seconds = self._schedule.share_s, time.monotonic() - self._started.pop(case_key(case))
        self._done.append(Spent(case.experiment.name, share_s(case, case.estimate_s), share_s(case, seconds) or 0.0))
        self._view.end(case_key(case))
