"""The runner's part: it hands cases to the scheduler, as many as the workers have threads, and takes what returns."""

import logging
import os
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from bench.execution import environment as conditions
from bench.execution.case import CaseResult, failed
from bench.execution.cluster.task import Begin, do_case, resources
from bench.execution.folder import Output
from bench.execution.plan import RunPlan
from bench.execution.progress import Progress
from bench.suite.document import InputError
from bench.suite.schema import Case

PATIENCE_S = 30.0  # for the scheduler to answer
ASK_S = 2.0  # between two looks at the workers
LOST_WORKERS = 3  # that a case may have before it counts as failed

logger = logging.getLogger(__name__)


class ClusterPool:
    """Tasks at a Dask scheduler. ``results`` holds, by key, those of cases that ended.

    The scheduler gives the case of a worker that is lost to another one.
    """

    def __init__(self, plan: RunPlan, cases: Sequence[Case], output: Output, progress: Progress) -> None:
        self.results: dict[str, CaseResult] = {}
        self._plan, self._progress = plan, progress
        self._waiting = deque(cases)
        self._running: dict[Any, Case] = {}  # by future
        self._client: Any = None
        begin = Begin(
            options=plan.options.plain() | {"cluster": None},
            run=output.run,
            folder=os.fspath(Path().absolute()),
            versions=conditions.versions(),
            device=plan.device,
        )
        self._begin = msgspec.json.encode(begin)

    def start(self) -> None:
        """Connect. Raises InputError if there is no such scheduler, or no library for it."""
        if self._waiting:
            self._client = connect(str(self._plan.options.cluster))
            logger.info("cluster: %d threads of workers", self._threads())

    def wait(self) -> None:
        """Hand out what workers have room for, and return once a case has ended, or after ``ASK_S``."""
        from distributed import wait  # noqa: PLC0415  (an extra)

        while self._waiting and len(self._running) < max(1, self._threads()):
            case = self._waiting.popleft()
            self._progress.start(case)
            take = resources(self._plan.device)
            future = self._client.submit(
                do_case, self._begin, case.key, case.sha256, pure=False, retries=LOST_WORKERS, resources=take
            )
            self._running[future] = case
        with suppress(TimeoutError):  # workers may have come or gone
            wait(list(self._running), timeout=ASK_S, return_when="FIRST_COMPLETED")
        gone = self._client.status != "running"
        for future in [one for one in self._running if gone or one.done()]:
            case = self._running[future]
            self._end(future, failed(case, "the cluster's scheduler is gone") if gone else self._result(future))

    def close(self) -> None:
        """Take back what has not ended, and disconnect."""
        if self._client is not None:
            self._client.cancel(list(self._running))
            self._client.close()

    def _threads(self) -> int:
        return sum(self._client.ncores().values())

    def _result(self, future: Any) -> CaseResult:
        case = self._running[future]
        if future.status != "finished":
            return failed(case, f"its worker: {future.exception() or future.status}")
        result = msgspec.json.decode(future.result(), type=CaseResult)
        refused = result.traceback and result.traceback == result.failure
        return failed(case, result.failure) if refused else result

    def _end(self, future: Any, result: CaseResult) -> None:
        case = self._running.pop(future)
        self.results[case.key] = result
        self._progress.end(case)


def connect(scheduler: str) -> Any:
    """A client of the scheduler at an address such as ``tcp://host:8786``, or of that which a file describes."""
    try:
        from distributed import Client  # noqa: PLC0415  (an extra)
    except ImportError:
        raise InputError(["--cluster: needs dask.distributed; install '.[cluster]'"]) from None
    try:
        if Path(scheduler).is_file():
            return Client(scheduler_file=scheduler, timeout=PATIENCE_S)
        return Client(scheduler, timeout=PATIENCE_S)
    except (OSError, ValueError) as error:  # a timeout is an OSError
        raise InputError([f"--cluster {scheduler}: {error}"]) from None
