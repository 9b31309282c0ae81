"""How does a suite become a run? Its cases one after another, each recorded as a whole, then the report.

An experiment that fails does not stop the others; Ctrl-C ends the run with what there is.
"""

import functools
import gc
import math
import shutil
import time
import traceback
from pathlib import Path

import msgspec
from rich.console import Console

from bench.conditions import shaping_of
from bench.experiment import Context, Measurement
from bench.journal import case_key
from bench.live_view import LiveView, plan_lines
from bench.output import Output
from bench.run_plan import Options, Outcome, Plan, make_plan
from bench.suite import Case
from bench.time_left import Spent, time_left
from reports.record import Record


def run(options: Options, console: Console) -> Outcome:
    """Run what ``options`` ask for. Raises InputError before anything runs."""
    plan = make_plan(options)
    output = Output(plan)
    outcome = Outcome(output.folder, earlier_failures=output.earlier_failures)
    outcome.failures |= output.recorded_failures()
    todo = [case for case in plan.selected_cases if case_key(case) not in output.journal.done]
    view = LiveView(console)
    _show_plan(plan, todo, output, view)
    output.write_environment(outcome)
    gc.freeze()  # what is there by now need not be looked through after each case
    try:
        with view:
            _run_cases(plan, todo, output, outcome, view)
    except KeyboardInterrupt:
        outcome.interrupted = True
        view.line("interrupted; the report is made of what there is", "yellow")
    finally:
        gc.unfreeze()
    view.line(f"report: {output.finish(outcome)}")
    return outcome


def _show_plan(plan: Plan, todo: list[Case], output: Output, view: LiveView) -> None:
    view.line(f"scale {plan.options.scale}, seed {plan.options.seed}, data {plan.dataset}")
    view.line(f"device {plan.device}, shaping {plan.shaping}, into {output.folder}")
    rows = []
    for experiment in plan.selected:
        estimates = [case.estimate_s for case in todo if case.experiment is experiment]
        remark = experiment.skipped(plan.options.scale) or ("" if estimates else "recorded before")
        rows.append((experiment.name, estimates, remark))
    for line in plan_lines(rows):
        view.line(line)


def _run_cases(plan: Plan, todo: list[Case], output: Output, outcome: Outcome, view: LiveView) -> None:
    done: list[Spent] = []
    for index, case in enumerate(todo):
        name = case.experiment.name
        outcome.earlier_failures.pop(name, None)
        left = time_left(done, [(other.experiment.name, other.estimate_s) for other in todo[index:]])
        view.start(case.title, index, len(todo), left)
        started = time.monotonic()
        try:
            _run_case(plan, case, output, outcome, view)
        except (Exception, SystemExit) as error:  # whatever an experiment does
            reason = " ".join(f"{case.title}: {type(error).__name__}: {error}".split())[:500]
            outcome.failures.setdefault(name, reason)
            output.log_error(case.title, traceback.format_exc())
            view.line(f"failed: {reason}", "red")
        done.append(Spent(name, case.estimate_s, time.monotonic() - started))
        output.write_environment(outcome)
        gc.collect()  # networks hold each other: without this the last case's lie beside the next one's


def _run_case(plan: Plan, case: Case, output: Output, outcome: Outcome, view: LiveView) -> None:
    mode = case.experiment.spec.mode
    context = Context(
        seed=case.seed,
        scale=plan.options.scale,
        mode=mode,
        shaping=shaping_of(mode, plan.shaping),
        dataset=case.experiment.dataset,
        data_dir=plan.options.data,
        device=plan.device,
        scratch=output.scratch(case),
        self_test="warn" if plan.options.allow_uncalibrated else "refuse",
        say=view.say,
    )
    started = time.monotonic()
    records, not_finite = [], []
    for measurement in case.experiment.function(case.parameters, context):
        if isinstance(measurement, Measurement) and not math.isfinite(measurement.value):
            not_finite.append(measurement)
        else:
            records.append(_record(measurement, case, context, output.run))
    if not records and not not_finite:
        raise ValueError("the experiment measured nothing")
    failure = f"{case.title}: {_named(not_finite)}" if not_finite else ""
    output.journal.add(case, records, time.monotonic() - started, failure)
    shutil.rmtree(context.scratch, ignore_errors=True)
    if failure:
        outcome.failures.setdefault(case.experiment.name, failure)
        view.line(f"failed: {failure}", "red")


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
    return msgspec.convert(fields, Record)


@functools.cache
def recorded_dataset(name: str, data_dir: Path | None) -> str:
    """What records call the data set ``name``: files may name themselves."""
    if name == "none":
        return name
    from nodes.data import recorded_name  # noqa: PLC0415  (imports torch)

    return recorded_name(name, data_dir)
