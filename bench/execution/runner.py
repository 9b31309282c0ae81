"""The run of one or more suites: each case recorded as a whole, then the report.

An experiment that fails does not stop the others. After Ctrl-C the report covers the cases that ended.
"""

import logging
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import msgspec
from rich.console import Console

from bench import events
from bench.console.view import LiveView, plan_lines
from bench.execution.case import CaseResult, collect_garbage_between, run_case
from bench.execution.folder import Output, open_output
from bench.execution.journal import UnwritableError
from bench.execution.limits.supervisor import FailedCase, earlier_part, tell
from bench.execution.plan import Options, RunOutcome, RunPlan, Schedule, make_plan
from bench.execution.pool import Keep, run_at_once
from bench.execution.progress import Progress
from bench.suite.document import InputError
from bench.suite.schema import Case
from reports.claims.verdict import Judgement
from reports.pages.front import terminal

logger = logging.getLogger(__name__)


def run(options: Options, console: Console, log_to: Callable[[Path], None] = lambda _: None) -> RunOutcome:
    """Run what ``options`` ask for; ``log_to`` gets the path of the run's log. Raises InputError before any case."""
    earlier = earlier_part()
    if earlier is not None:
        options = msgspec.structs.replace(options, out=Path(earlier.folder), resume=True)
    plan = make_plan(options)
    with open_output(plan) as output:
        tell(folder=str(output.folder.absolute()))
        outcome = RunOutcome(output.folder, earlier_failures=output.earlier_failures)
        outcome.failures |= output.recorded_failures()
        for failed in earlier.failed if earlier else ():
            outcome.given_up.add(failed.key)
            _note_failure(output, outcome, failed)
        try:
            output.write_environment(outcome)
        except UnwritableError as error:
            raise InputError([f"--out: {error}"]) from None
        log_to(output.folder / "run.log")
        with ExitStack() as stack:
            if options.watch is not None:
                address = _watched(output.folder, options.watch, stack)
                console.print(f"watch: {address}", highlight=False)
            _run(plan, output, outcome, console)
    return outcome


def _watched(folder: Path, port: int, stack: ExitStack) -> str:
    """The address of the page that shows the run. Raises InputError if it cannot be served."""
    from bench.watch.process import WatchError, watching  # noqa: PLC0415  (so that other runs do without)

    try:
        return stack.enter_context(watching(folder, port))
    except WatchError as error:
        raise InputError([f"--watch: {error}"]) from None


def _run(plan: RunPlan, output: Output, outcome: RunOutcome, console: Console) -> None:
    past = output.journal.done.keys() | outcome.given_up
    todo = [case for case in plan.selected_cases if case.key not in past]
    view = LiveView(console, len(todo))
    schedule = plan.schedule(todo)
    _show_plan(plan, todo, schedule, output, view)
    progress = Progress(view, todo, schedule)
    keep = partial(_keep, output, outcome)
    try:
        with view:
            run_at_once(plan, [case for case in todo if schedule.runs_beside(case)], output, progress, keep)
            _run_one_by_one(plan, [case for case in todo if not schedule.runs_beside(case)], output, progress, keep)
    except KeyboardInterrupt:
        outcome.interrupted = True
        logger.info("interrupted")
        view.line("interrupted; the report covers the cases that ended", "yellow")
    except UnwritableError as error:
        outcome.failures["records"] = str(error)
        kept = f"with {len(output.journal.done)} of {len(plan.selected_cases)} cases recorded"
        logger.error("%s; the run stops here, %s; continue it by --resume once its folder can be written", error, kept)
    if "records" not in outcome.failures:
        _report(plan, output, outcome, view)
    logger.info("run ended with exit code %d", outcome.exit_code)
    events.emit("end", exit_code=outcome.exit_code)


def _report(plan: RunPlan, output: Output, outcome: RunOutcome, view: LiveView) -> None:
    try:
        path, judgements = output.finish(outcome)
        papers = {suite.file.name: suite.file.paper for suite in plan.suites if suite.file.paper}
        for line in _verdicts(judgements, plan.options.claims, papers):
            view.line(line)
            events.emit("verdict", text=line)
        if failed := len(outcome.failures):
            log = output.folder / "errors.log"
            view.line(f"{failed} of {len(plan.selected)} experiments failed; tracebacks are in {log}", "red")
        if plan.options.log_samples:
            view.line(output.samples_line())
        view.line(f"report: {path}")
    except (OSError, UnwritableError) as error:  # a full disk; the records are kept
        why = f"{error.filename or output.folder}: {error.strerror}" if isinstance(error, OSError) else str(error)
        outcome.failures["report"] = f"report: {why}"
        logger.error("failed: report: %s; all records are kept: write it by bench report %s", why, output.folder)


def _verdicts(judgements: list[Judgement], claims: Sequence[str], papers: dict[str, str]) -> Iterator[str]:
    """A line for each of ``claims``, or, without any, the summary of the report's front page."""
    if not claims:
        yield from terminal(judgements, papers, shutil.get_terminal_size().columns)
    for one in judgements:
        if one.claim in claims:
            yield f"{one.claim}: {one.verdict} ({one.claim_class}). {one.says} {one.why}"
            if one.reference:
                yield f"  reference run ({one.reference.run}): {one.reference.verdict}. {one.reference.why}"


def _show_plan(plan: RunPlan, todo: list[Case], schedule: Schedule, output: Output, view: LiveView) -> None:
    at_once = f", {schedule.jobs} at once where cases are parallel" if schedule.beside else ""
    conditions = (
        f"scale {plan.options.scale}, seed {plan.options.seed}, data {plan.dataset}",
        f"device {plan.device}, shaping {plan.shaping}{at_once}, into {output.folder}",
        *([f"shard {plan.options.shard}"] if plan.options.shard else []),
        *([f"set {', '.join(plan.options.set)}"] if plan.options.set else []),
    )
    for line in conditions:
        view.line(line)
    options = plan.options
    of_run = {"scale": options.scale, "seed": options.seed, "device": plan.device, "shaping": plan.shaping}
    events.emit("run", name=output.run, cases=len(todo), **of_run)
    logger.info("run %s started, %d cases to run, %s", output.run, len(todo), ", ".join(conditions))
    for line in plan.hosts.lines if plan.hosts else ():
        view.line(line)
    for note in plan.notes:
        view.line(note, "yellow")
        logger.info("%s", note)
    rows = []
    for experiment in plan.selected:
        estimates = [schedule.share_s(case, case.estimate_s) for case in todo if case.experiment is experiment]
        remark = experiment.skipped(plan.options.scale) or ("" if estimates else "recorded before")
        rows.append((experiment.name, estimates, remark))
    for line in plan_lines(rows):
        view.line(line)


def _run_one_by_one(plan: RunPlan, cases: list[Case], output: Output, progress: Progress, keep: Keep) -> None:
    for case in collect_garbage_between(cases):
        progress.start(case)
        limit = {"limit_s": case.limit_s, "experiment": case.experiment.name}
        tell(began={"key": case.key, "title": case.title, **limit})
        result = run_case(plan, case, output.run, output.scratch(case), partial(progress.say, case.key))
        tell(ended=case.key)
        progress.end(case)
        keep(case, result)


def _keep(output: Output, outcome: RunOutcome, case: Case, result: CaseResult) -> None:
    outcome.earlier_failures.pop(case.experiment.name, None)
    if result.restarts:
        output.note_restarts(case.title, result.restarts)
    if not result.traceback:
        output.keep_samples(case)
        output.journal.add(case, result.records, result.seconds, result.failure)
        shutil.rmtree(output.scratch(case), ignore_errors=True)
    if result.failure:
        failed = FailedCase(case.key, case.experiment.name, case.title, result.failure, result.traceback)
        tell(failed=failed._replace(traceback="", told=True))
        _note_failure(output, outcome, failed)
    output.write_environment(outcome)


def _note_failure(output: Output, outcome: RunOutcome, failed: FailedCase) -> None:
    outcome.earlier_failures.pop(failed.experiment, None)
    outcome.failures.setdefault(failed.experiment, failed.reason)
    if failed.told:
        return
    if failed.traceback:
        output.log_error(failed.title, failed.traceback)
    events.emit("failed", case=failed.key, text=failed.reason)
    logger.error("failed: %s", failed.reason)
