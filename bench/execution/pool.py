"""Cases that run at once, each in a worker process of its own with one compute thread, or as tasks of a cluster."""

import logging
import os
import selectors
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bench import events
from bench.child_process import Child, EndedError
from bench.execution.case import CaseResult, failed
from bench.execution.folder import Output
from bench.execution.limits.stacks import Stacks
from bench.execution.limits.time_limit import Stopwatch, exceeded, grace_s
from bench.execution.plan import RunPlan
from bench.execution.progress import Progress
from bench.suite.identity import digests
from bench.suite.schema import Case

if TYPE_CHECKING:
    from bench.execution.cluster.pool import ClusterPool

Keep = Callable[[Case, CaseResult], None]
LOOK_S = 1.0  # between two looks at the clock
SILENCE_S = 300.0  # without a heartbeat: an import from a slow disk, which blocks all threads, may take minutes

logger = logging.getLogger(__name__)


def run_at_once(plan: RunPlan, cases: Sequence[Case], output: Output, progress: Progress, keep: Keep) -> None:
    """Run ``cases``, ``plan.jobs`` at a time, and pass each result to ``keep``, in the order of ``cases``.

    After Ctrl-C ``keep`` also gets the results of cases that ended before one ahead of them.
    """
    pool = _pool(plan, cases, output, progress)
    try:
        pool.start()
        for case in cases:
            while case.key not in pool.results:
                pool.wait()
            keep(case, pool.results.pop(case.key))
    except KeyboardInterrupt:
        for case in cases:
            if result := pool.results.pop(case.key, None):
                keep(case, result)
        raise
    finally:
        pool.close()


def _pool(plan: RunPlan, cases: Sequence[Case], output: Output, progress: Progress) -> "WorkerPool | ClusterPool":
    if plan.options.cluster is None:
        return WorkerPool(plan, cases, output, progress)
    from bench.execution.cluster.pool import ClusterPool  # noqa: PLC0415  (an extra)

    return ClusterPool(plan, cases, output, progress)


class Assignment:
    """A case at a worker process, how long it has run there, and how long the worker has been silent."""

    def __init__(self, case: Case, now: float) -> None:
        self.case = case
        self._taken: Stopwatch | None = None  # a worker imports and plans before its first case
        self._silent = Stopwatch(now, LOOK_S)

    def began(self, now: float) -> None:
        self._taken = Stopwatch(now, LOOK_S)

    def heard(self, now: float) -> None:
        self._silent = Stopwatch(now, LOOK_S)

    def overdue(self, now: float) -> str:
        """Why its worker is to be killed; empty if it is not. One that can still be interrupted ends by itself."""
        limit_s, silent_s = self.case.limit_s, self._silent.passed_s(now)
        taken_s = self._taken.passed_s(now) if self._taken else 0.0
        if limit_s is not None and taken_s > limit_s + grace_s(limit_s):
            return f"{exceeded(limit_s)}, and its process had to be killed"
        return f"its process has not been heard of for {SILENCE_S:g} s" if silent_s > SILENCE_S else ""


class WorkerPool:
    """Worker processes. ``results`` holds, by key, those of cases that ended."""

    def __init__(self, plan: RunPlan, cases: Sequence[Case], output: Output, progress: Progress) -> None:
        self.results: dict[str, CaseResult] = {}
        self._plan, self._output, self._progress = plan, output, progress
        self._waiting = deque(cases)
        self._busy: dict[Child, Assignment] = {}
        self._stacks: dict[Child, Stacks] = {}
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        for _ in range(min(self._plan.jobs, len(self._waiting))):
            self._start_worker()

    def wait(self) -> None:
        """Return once a worker has said something, or after ``LOOK_S``."""
        for key, _ in self._selector.select(LOOK_S):
            self._read(key.data)
        for worker, assignment in list(self._busy.items()):
            if why := assignment.overdue(time.monotonic()):
                calls = self._stacks[worker].ask(worker.pid)
                self._replace(worker, failed(assignment.case, why, f"{why}\n{calls}" if calls else ""))

    def close(self) -> None:
        for worker in list(self._busy):
            self._end_worker(worker)
        self._selector.close()

    def _start_worker(self) -> None:
        worker = Child("bench.execution.worker", OMP_NUM_THREADS="1")
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        self._stacks[worker] = stacks = Stacks()
        worker.send(options=self._plan.options.plain(), run=self._output.run, digests=digests, stacks=stacks.path)
        logger.debug("worker process started")
        self._assign(worker)

    def _assign(self, worker: Child) -> None:
        if not self._waiting:
            self._end_worker(worker)
            return
        case = self._waiting.popleft()
        self._busy[worker] = Assignment(case, time.monotonic())
        self._progress.start(case)
        worker.send(key=case.key, sha256=case.sha256, scratch=os.fspath(self._output.scratch(case)))

    def _end_worker(self, worker: Child) -> None:
        self._selector.unregister(worker.output)
        self._busy.pop(worker, None)
        worker.close(kill=True)
        self._stacks.pop(worker).close()
        logger.debug("worker process ended")

    def _replace(self, worker: Child, result: CaseResult) -> None:
        """Go on without ``worker``, whose case has ended with ``result``."""
        case = self._busy[worker].case
        self._end_worker(worker)
        self._end_case(case, result)
        if self._waiting:
            self._start_worker()

    def _read(self, worker: Child) -> None:
        assignment = self._busy[worker]
        case = assignment.case
        assignment.heard(time.monotonic())
        try:
            events_of_worker = worker.events()
        except EndedError as end:
            self._replace(worker, failed(case, f"its process {end}"))
            return
        for said in events_of_worker:
            match said:
                case {"event": emitted}:
                    events.forward(emitted)
                case {"began": _}:
                    assignment.began(time.monotonic())
                case {"key": key, "text": text}:
                    self._progress.say(key, text)
                case {"rejected": reason}:
                    self._end_case(case, failed(case, reason))
                    self._assign(worker)
                case {"result": result}:
                    self._end_case(case, msgspec.convert(result, CaseResult))
                    self._assign(worker)

    def _end_case(self, case: Case, result: CaseResult) -> None:
        self.results[case.key] = result
        self._progress.end(case)
