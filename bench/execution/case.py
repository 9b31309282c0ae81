"""One case of a run: its records as a whole, or the reason why it has none."""

import gc
import math
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import msgspec

from bench import events
from bench.execution.environment import shaping_of
from bench.execution.limits.time_limit import CaseTimeoutError, limited
from bench.execution.plan import RunPlan
from bench.live.faults.restarts import restarting
from bench.live.hosts.in_use import on_hosts
from bench.suite.experiment import Context, Measurement
from bench.suite.identity import Source
from bench.suite.schema import Case
from nodes.errors import traceback_of, utf8
from nodes.files import cached_reading
from nodes.user_code import contained
from reports.record import SCHEMA, Record

T = TypeVar("T")


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """Records of a case. ``failure`` says why there are none or, where ``traceback`` is empty, why some are missing."""

    records: list[Record] = []
    seconds: float = 0.0
    failure: str = ""
    traceback: str = ""  # of the error because of which nothing was measured
    restarts: list[str] = []  # a line for each


def run_case(plan: RunPlan, case: Case, run: str, scratch: Path, say: Callable[[str], None]) -> CaseResult:
    """Run ``case`` of the run named ``run``; an exception of the experiment, except Ctrl-C, is a failure.

    So is a case that exceeds its time limit.
    """
    with restarting(plan.options.restart, scratch) as restarts:
        result = _result(plan, case, run, scratch, say)
    return msgspec.structs.replace(result, restarts=restarts.lines)


def _result(plan: RunPlan, case: Case, run: str, scratch: Path, say: Callable[[str], None]) -> CaseResult:
    context = _context(plan, case, scratch, say)
    started = time.monotonic()
    records, not_finite = [], []
    try:
        scratch.mkdir(exist_ok=True)
        _check_unchanged(case.sources, "after the run began")
        with (
            limited(case.limit_s),
            contained(),
            case.experiment.modules.in_use(),
            _threads(plan, case),
            on_hosts(plan.hosts),
            events.of_case(case.key),
        ):
            for measurement in case.experiment.function(case.parameters, context):
                if isinstance(measurement, Measurement) and not math.isfinite(measurement.value):
                    not_finite.append(measurement)
                else:
                    records.append(_record(measurement, case, context, run))
        if not records and not not_finite:
            raise ValueError("the experiment measured nothing")
        read_late = [source for source in case.sources if source.path.suffix != ".py"]  # code was loaded before
        _check_unchanged(read_late, "while the case ran")
    except CaseTimeoutError as error:
        return failed(case, "; ".join([str(error), *getattr(error, "__notes__", [])]), traceback_of(error))
    except KeyboardInterrupt:  # Ctrl-C
        raise
    except BaseException as error:
        return failed(case, f"{type(error).__name__}: {error}", traceback_of(error))
    failure = f"{case.title}: {_not_finite(not_finite)}" if not_finite else ""
    return CaseResult(records=records, seconds=time.monotonic() - started, failure=failure)


def _check_unchanged(sources: Iterable[Source], since: str) -> None:
    if changed := [source.name for source in sources if source.changed]:
        raise ValueError(f"{', '.join(changed)} was changed {since}")


def failed(case: Case, reason: str, traceback: str = "") -> CaseResult:
    """The result of a case without records; its reason stands for a traceback that is not known."""
    line = utf8(" ".join(f"{case.title}: {reason}".split())[:500])
    return CaseResult(failure=line, traceback=traceback or reason)


def collect_garbage_between(cases: Iterable[T]) -> Iterator[T]:
    """Yield ``cases`` and collect garbage between them: models hold reference cycles.

    Objects alive after the first case, mostly modules, are frozen: scanning them takes longer than many cases.
    """
    try:
        for number, case in enumerate(cases):
            yield case
            gc.collect()
            if number == 0:
                gc.freeze()
    finally:
        gc.unfreeze()


def _threads(plan: RunPlan, case: Case) -> AbstractContextManager[None]:
    """One torch thread for cases of parallel experiments, also alone, as results depend on it; all at scale paper."""
    if not case.experiment.spec.parallel or plan.options.scale == "paper":
        return nullcontext()
    if "torch" not in sys.modules and os.environ.get("OMP_NUM_THREADS") == "1":
        return nullcontext()  # as in worker processes: torch will begin with one, if it is used at all
    from bench.experiments.common.threads import one_thread  # noqa: PLC0415  (imports torch)

    return one_thread()


def _context(plan: RunPlan, case: Case, scratch: Path, say: Callable[[str], None]) -> Context:
    mode = case.experiment.spec.mode
    return Context(
        seed=case.seed,
        scale=plan.options.scale,
        mode=mode,
        shaping=shaping_of(mode, plan.shaping),
        dataset=case.experiment.dataset,
        data_dir=plan.options.data,
        device=plan.device,
        scratch=scratch,
        self_test="warn" if plan.options.allow_uncalibrated else "refuse",
        log_samples=plan.options.log_samples,
        say=lambda text: say(" ".join(text.split())),
    )


def _not_finite(measurements: list[Measurement]) -> str:
    shown = [f"{one.metric}{''.join(f' {k}={v}' for k, v in one.case.items())} is {one.value}" for one in measurements]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return f"{', '.join(shown[:3])}{more}; finite values were recorded"


def _record(measurement: Measurement, case: Case, context: Context, run: str) -> Record:
    """The record of ``measurement``. Raises ValueError for one that cannot be recorded."""
    if not isinstance(measurement, Measurement):
        raise ValueError(f"the experiment yielded {measurement!r:.80}, not a Measurement")
    for key in case.case.keys() & measurement.case.keys():
        if measurement.case[key] != case.case[key]:
            raise ValueError(f"{measurement.metric}: its case changes {key}, which the suite's grid sets")
    for key, value in measurement.case.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{measurement.metric}: its case has {key} {value}; give a finite number or a text")
    of_run = {"schema": SCHEMA, "run": run}
    of_case = {"suite": case.experiment.suite, "experiment": case.experiment.spec.name, "seed": case.seed}
    measured = {"metric": measurement.metric, "value": float(measurement.value), "unit": measurement.unit}
    conditions = {name: getattr(context, name) for name in ("mode", "scale", "shaping", "device")}
    dataset = recorded_dataset(context.dataset, context.data_dir)
    conditions["precision"] = getattr(case.parameters, "precision", "float32")
    fields = of_run | of_case | measured | conditions
    fields |= {"case": {**case.case, **measurement.case}, "dataset": dataset, "set": case.experiment.set}
    record = msgspec.convert(fields, Record)
    return msgspec.json.decode(msgspec.json.encode(record), type=Record)  # as it will be read


@cached_reading
def recorded_dataset(name: str, data_dir: Path | None) -> str:
    """The name of data set ``name`` in records: files may give their own."""
    if name == "none":
        return name
    from nodes.data.datasets import recorded_name  # noqa: PLC0415  (imports torch)

    return recorded_name(name, data_dir)
