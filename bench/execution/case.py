"""What comes of one case? Its records as a whole, or the reason why there are none."""

import functools
import gc
import math
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.execution.environment import shaping_of
from bench.execution.plan import RunPlan
from bench.suite.experiment import Context, Measurement
from bench.suite.schema import Case
from reports.record import Record

T = TypeVar("T")


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a case. ``failure`` says why it has no records or, where ``trace`` is empty, not all of them."""

    records: list[Record] = []
    seconds: float = 0.0
    failure: str = ""
    trace: str = ""  # of the error for which nothing was measured


def run_case(plan: RunPlan, case: Case, run: str, scratch: Path, say: Callable[[str], None]) -> CaseResult:
    """Run ``case`` for the run of that name; whatever the experiment raises, but KeyboardInterrupt, is a failure."""
    context = _context(plan, case, scratch, say)
    started = time.monotonic()
    records, not_finite = [], []
    try:
        scratch.mkdir(parents=True, exist_ok=True)
        with _threads(plan, case):
            for measurement in case.experiment.function(case.parameters, context):
                if isinstance(measurement, Measurement) and not math.isfinite(measurement.value):
                    not_finite.append(measurement)
                else:
                    records.append(_record(measurement, case, context, run))
        if not records and not not_finite:
            raise ValueError("the experiment measured nothing")
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return failed(case, f"{type(error).__name__}: {error}", traceback.format_exc())
    failure = f"{case.title}: {_named(not_finite)}" if not_finite else ""
    return CaseResult(records=records, seconds=time.monotonic() - started, failure=failure)


def failed(case: Case, reason: str, trace: str) -> CaseResult:
    """What comes of a case of which nothing can be recorded."""
    return CaseResult(failure=" ".join(f"{case.title}: {reason}".split())[:500], trace=trace)


def freeing(cases: Iterable[T]) -> Iterator[T]:
    """Each of ``cases``; what it leaves is freed before the next: networks hold each other, and would lie beside its.

    What there is after the first, modules above all, is not looked through again: that takes longer than many a case.
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
    """One where cases are parallel, beside others or not: numbers depend on it. At scale paper all that there are."""
    if not case.experiment.spec.parallel or plan.options.scale == "paper":
        return nullcontext()
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
        say=lambda text: say(" ".join(text.split())),
    )


def _named(not_finite: list[Measurement]) -> str:
    """What cannot be recorded, each metric with its case; of many the first few."""
    shown = [f"{one.metric}{''.join(f' {k}={v}' for k, v in one.case.items())} is {one.value}" for one in not_finite]
    more = f" and {len(shown) - 3} more" if len(shown) > 3 else ""
    return f"{', '.join(shown[:3])}{more}; what is finite was recorded"


def _record(measurement: Measurement, case: Case, context: Context, run: str) -> Record:
    """The record of ``measurement``. Raises ValueError where it is none that can be kept."""
    if not isinstance(measurement, Measurement):
        raise ValueError(f"the experiment yielded {measurement!r:.80}, not a Measurement")
    for key in case.case.keys() & measurement.case.keys():
        if measurement.case[key] != case.case[key]:
            raise ValueError(f"{measurement.metric}: its case changes {key}, which the suite's grid sets")
    fields = {
        "run": run,
        "suite": case.experiment.suite,
        "experiment": case.experiment.spec.name,
        "case": {**case.case, **measurement.case},
        "metric": measurement.metric,
        "value": float(measurement.value),
        "unit": measurement.unit,
        "seed": case.seed,
        "mode": context.mode,
        "scale": context.scale,
        "dataset": recorded_dataset(context.dataset, context.data_dir),
        "shaping": context.shaping,
        "device": context.device,
    }
    record = msgspec.convert(fields, Record)
    return msgspec.json.decode(msgspec.json.encode(record), type=Record)  # as it will be read


@functools.cache
def recorded_dataset(name: str, data_dir: Path | None) -> str:
    """What records call the data set ``name``: files may name themselves."""
    if name == "none":
        return name
    from nodes.data.datasets import recorded_name  # noqa: PLC0415  (imports torch)

    return recorded_name(name, data_dir)
