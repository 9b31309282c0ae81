"""How do cases run at once? Each in one of so many processes, each process on one core."""

import os
import selectors
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from bench.child_process import Child, EndedError
from bench.execution.case import CaseResult, failed
from bench.execution.folder import Output
from bench.execution.journal import case_key
from bench.execution.plan import RunPlan
from bench.execution.progress import Progress
from bench.suite.schema import Case

Keep = Callable[[Case, CaseResult], None]


def run_at_once(plan: RunPlan, cases: Sequence[Case], output: Output, progress: Progress, keep: Keep) -> None:
    """Run ``cases``, ``plan.jobs`` at a time; ``keep`` is given what came of each, in their order.

    At Ctrl-C it is given what had ended out of its turn as well.
    """
    crew = WorkerPool(plan, cases, output, progress)
    try:
        crew.start()
        for case in cases:
            while case_key(case) not in crew.came:
                crew.wait()
            keep(case, crew.came.pop(case_key(case)))
    except KeyboardInterrupt:
        for case in cases:
            if came := crew.came.pop(case_key(case), None):
                keep(case, came)
        raise
    finally:
        crew.dismiss()


class WorkerPool:
    """Processes that run cases. ``came`` holds, by key, what came of those that have ended."""

    def __init__(self, plan: RunPlan, cases: Sequence[Case], output: Output, progress: Progress) -> None:
        self.came: dict[str, CaseResult] = {}
        self._plan, self._output, self._progress = plan, output, progress
        self._waiting = deque(cases)
        self._busy: dict[Child, Case] = {}
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        """Start as many processes as may run at a time, or as there are cases."""
        for _ in range(min(self._plan.jobs, len(self._waiting))):
            self._hire()

    def wait(self) -> None:
        """Take in what the processes tell, once one of them does."""
        for key, _ in self._selector.select():
            self._hear(key.data)

    def dismiss(self) -> None:
        """Kill all processes: they have ended their cases, or are not to."""
        for worker in list(self._busy):
            self._part(worker)
        self._selector.close()

    def _hire(self) -> None:
        worker = Child("bench.execution.worker", OMP_NUM_THREADS="1")
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        worker.tell(options=self._plan.options.plain(), run=self._output.run)
        self._give(worker)

    def _give(self, worker: Child) -> None:
        """Give ``worker`` the next case; without one it is done."""
        if not self._waiting:
            self._part(worker)
            return
        case = self._waiting.popleft()
        self._busy[worker] = case
        self._progress.start(case)
        worker.tell(key=case_key(case), sha256=case.sha256, scratch=os.fspath(self._output.scratch(case)))

    def _part(self, worker: Child) -> None:
        self._selector.unregister(worker.output)
        self._busy.pop(worker, None)
        worker.close(kill=True)

    def _hear(self, worker: Child) -> None:
        case = self._busy[worker]
        try:
            events = worker.events()
        except EndedError as end:
            self._part(worker)
            self._end(case, failed(case, f"its process {end}", f"its process {end}"))
            if self._waiting:
                self._hire()
            return
        for event in events:
            match event:
                case {"key": key, "said": text}:
                    self._progress.say(key, text)
                case {"lost": why}:
                    self._end(case, failed(case, why, why))
                    self._give(worker)
                case {"came": came}:
                    self._end(case, msgspec.convert(came, CaseResult))
                    self._give(worker)

    def _end(self, case: Case, came: CaseResult) -> None:
        self.came[case_key(case)] = came
        self._progress.end(case)
