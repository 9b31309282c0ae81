"""How does a suite become a run? Its cases, each recorded as a whole, then the report.

An experiment that fails does not stop the others; Ctrl-C ends the run with what there is.
"""

import shutil
import traceback
from functools import partial

from rich.console import Console

from bench.console.view import LiveView, plan_lines
from bench.execution.case import CaseResult, failed, freeing, run_case
from bench.execution.folder import Output
from bench.execution.journal import case_key
from bench.execution.plan import Options, RunOutcome, RunPlan, Schedule, make_plan
from bench.execution.pool import Keep, run_at_once
from bench.execution.progress import Progress
from bench.suite.schema import Case


def run(options: Options, console: Console) -> RunOutcome:
    """Run what ``options`` ask for. Raises InputError before anything runs."""
    plan = make_plan(options)
    output = Output(plan)
    outcome = RunOutcome(output.folder, earlier_failures=output.earlier_failures)
    outcome.failures |= output.recorded_failures()
    todo = [case for case in plan.selected_cases if case_key(case) not in output.journal.done]
    view = LiveView(console, len(todo))
    schedule = plan.schedule(todo)
    _show_plan(plan, todo, schedule, output, view)
    output.write_environment(outcome)
    progress = Progress(view, todo, schedule)
    keep = partial(_keep, output, outcome, view)
    try:
        with view:
            run_at_once(plan, [case for case in todo if schedule.runs_beside(case)], output, progress, keep)
            _run_one_by_one(plan, [case for case in todo if not schedule.runs_beside(case)], output, progress, keep)
    except KeyboardInterrupt:
        outcome.interrupted = True
        view.line("interrupted; the report is made of what there is", "yellow")
    view.line(f"report: {output.finish(outcome)}")
    return outcome


def _show_plan(plan: RunPlan, todo: list[Case], schedule: Schedule, output: Output, view: LiveView) -> None:
    at_once = f", {schedule.jobs} at once where cases are parallel" if schedule.beside else ""
    view.line(f"scale {plan.options.scale}, seed {plan.options.seed}, data {plan.dataset}")
    view.line(f"device {plan.device}, shaping {plan.shaping}{at_once}, into {output.folder}")
    rows = []
    for experiment in plan.selected:
        estimates = [schedule.share_s(case, case.estimate_s) for case in todo if case.experiment is experiment]
        remark = experiment.skipped(plan.options.scale) or ("" if estimates else "recorded before")
        rows.append((experiment.name, estimates, remark))
    for line in plan_lines(rows):
        view.line(line)


def _run_one_by_one(plan: RunPlan, cases: list[Case], output: Output, progress: Progress, keep: Keep) -> None:
    """Run ``cases`` in this process; ``keep`` is given what came of each."""
    for case in freeing(cases):
        progress.start(case)
        came = run_case(plan, case, output.run, output.scratch(case), partial(progress.say, case_key(case)))
        progress.end(case)
        keep(case, came)


def _keep(output: Output, outcome: RunOutcome, view: LiveView, case: Case, came: CaseResult) -> None:
    """Record what came of ``case``, or why nothing did."""
    outcome.earlier_failures.pop(case.experiment.name, None)
    if not came.trace:
        try:
            output.journal.add(case, came.records, came.seconds, came.failure)
            shutil.rmtree(output.scratch(case), ignore_errors=True)
        except OSError as error:
            came = failed(case, f"{type(error).__name__}: {error}", traceback.format_exc())
    if came.trace:
        output.log_error(case.title, came.trace)
    if came.failure:
        outcome.failures.setdefault(case.experiment.name, came.failure)
        view.line(f"failed: {came.failure}", "red")
    output.write_environment(outcome)
