"""Cases that run at once, each in a worker process of its own with one compute thread, or as tasks of a cluster."""

import logging
import os
import selectors
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from bench import events
from bench.child_process import Child, EndedError
from bench.execution.case import CaseResult, failed
from bench.execution.folder import Output
from bench.execution.plan import RunPlan
from bench.execution.progress import Progress
from bench.suite.identity import digests
from bench.suite.schema import Case

if TYPE_CHECKING:
    from bench.execution.cluster.pool import ClusterPool

Keep = Callable[[Case, CaseResult], None]

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


class WorkerPool:
    """Worker processes. ``results`` holds, by key, those of cases that ended."""

    def __init__(self, plan: RunPlan, cases: Sequence[Case], output: Output, progress: Progress) -> None:
        self.results: dict[str, CaseResult] = {}
        self._plan, self._output, self._progress = plan, output, progress
        self._waiting = deque(cases)
        self._busy: dict[Child, Case] = {}
        self._selector = selectors.DefaultSelector()

    def start(self) -> None:
        for _ in range(min(self._plan.jobs, len(self._waiting))):
            self._start_worker()

    def wait(self) -> None:
        for key, _ in self._selector.select():
            self._read(key.data)

    def close(self) -> None:
        for worker in list(self._busy):
            self._end_worker(worker)
        self._selector.close()

    def _start_worker(self) -> None:
        worker = Child("bench.execution.worker", OMP_NUM_THREADS="1")
        self._selector.register(worker.output, selectors.EVENT_READ, worker)
        worker.send(options=self._plan.options.plain(), run=self._output.run, digests=digests)
        logger.debug("worker process started")
        self._assign(worker)

    def _assign(self, worker: Child) -> None:
        if not self._waiting:
            self._end_worker(worker)
            return
        case = self._waiting.popleft()
        self._busy[worker] = case
        self._progress.start(case)
        worker.send(key=case.key, sha256=case.sha256, scratch=os.fspath(self._output.scratch(case)))

    def _end_worker(self, worker: Child) -> None:
        self._selector.unregister(worker.output)
        self._busy.pop(worker, None)
        worker.close(kill=True)
        logger.debug("worker process ended")

    def _read(self, worker: Child) -> None:
        case = self._busy[worker]
        try:
            events_of_worker = worker.events()
        except EndedError as end:
            self._end_worker(worker)
            self._end_case(case, failed(case, f"its process {end}"))
            if self._waiting:
                self._start_worker()
            return
        for said in events_of_worker:
            match said:
                case {"event": emitted}:
                    events.forward(emitted)
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
