"""The ``bench`` command: one function a command, each of which imports what it needs.

Exit codes: 0 success, also with failed claims; 1 ``check`` found a regression; 2 unusable input; 3 an experiment
failed; 130 Ctrl-C; 143 SIGTERM.
"""
# ruff: noqa: PLC0415 - so that --help and list need no torch

import os
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.cli.arguments import parser
from bench.suite.document import InputError, as_yaml

OK, REGRESSION, UNUSABLE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        arguments = parser(words).parse_args(words)
    except SystemExit as stop:  # --help is 0, a wrong argument 2
        return int(stop.code or 0)
    from bench.suite.parameter_types import make_importable

    make_importable(Path())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads slow other processes
    try:
        return COMMANDS[arguments.command](arguments, words)
    except InputError as error:
        print(*error.lines, sep="\n", file=sys.stderr)
        return UNUSABLE
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:  # `bench list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK


def _show(as_json: bool, value: Any, lines: Callable[[Any], Iterable[str]]) -> int:
    """Print ``value``, as JSON or as ``lines`` of it."""
    import json

    print(json.dumps(value, indent=2) if as_json else "\n".join(lines(value)))
    return OK


def _run(arguments: Namespace, words: list[str]) -> int:
    from bench.cli.logs import log_handlers
    from bench.console.view import Terminal
    from bench.execution.plan import options_of
    from bench.execution.runner import run

    given = {key: value for key, value in vars(arguments).items() if key not in ("command", "verbose")}
    options = options_of(given | {"arguments": ["bench", *words]})
    with log_handlers(arguments.verbose) as log_to, _terminable() as terminated:
        try:
            code = run(options, Terminal(), log_to).exit_code
        except KeyboardInterrupt:  # before the first case, or a second Ctrl-C
            code = INTERRUPTED
    return TERMINATED if terminated and code == INTERRUPTED else code


@contextmanager
def _terminable() -> Iterator[list[int]]:
    """Let SIGTERM end the run as Ctrl-C does; the yielded list then holds the signal."""
    import signal

    terminated: list[int] = []

    def end(number: int, _frame: Any) -> None:
        terminated.append(number)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells set it for background jobs
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


def _list(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.list_suites import as_lines, suites

    return _show(arguments.json, suites(), as_lines)


def _validate(arguments: Namespace, _words: list[str]) -> int:
    from bench.execution.environment import data_folder
    from bench.execution.loader import load

    try:
        suites = load(arguments.suites, data_folder(arguments.data))
    except InputError as error:
        if arguments.json:
            _show(True, {"valid": False, "errors": error.lines}, list)
        raise
    experiments = [experiment.name for suite in suites for experiment in suite.experiments]
    notes = [note for suite in suites for note in suite.notes]
    answer: dict[str, Any] = {"valid": True, "errors": [], "notes": notes, "experiments": experiments}
    lines = [*notes, f"valid: {len(suites)} suites, {len(experiments)} experiments"]
    if arguments.expand:
        answer["suites"] = [suite.expanded for suite in suites]
        lines = ["---\n".join(map(as_yaml, answer["suites"])).rstrip()]
    return _show(arguments.json, answer, lambda _: lines)


def _report(arguments: Namespace, _words: list[str]) -> int:
    from reports.pages.report import ReportError, write_report

    try:
        print(write_report(arguments.folder))
    except ReportError as error:
        raise InputError([str(error)]) from None
    return OK


def _check(arguments: Namespace, _words: list[str]) -> int:
    from bench.gate import compare as gate
    from bench.gate import report as gate_report

    try:
        run = gate.read_run(arguments.folder)
        if arguments.update:
            count = gate.write_baseline(arguments.against, run)
            updated = {"updated": str(arguments.against), "records": count}
            return _show(arguments.json, updated, lambda _: [f"{arguments.against}: {count} records"])
        outcomes = gate.compare(run, gate.read_baseline(arguments.against))
        if arguments.junit:
            arguments.junit.write_text(gate_report.as_junit(outcomes), encoding="utf-8")
    except (gate.GateInputError, OSError) as error:
        raise InputError([str(error)]) from None
    _show(arguments.json, gate_report.as_json(outcomes), lambda _: [gate_report.as_markdown(outcomes).rstrip()])
    return REGRESSION if any(outcome.failed for outcome in outcomes) else OK


def _profile(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.profile import as_lines, run_profile

    return _show(arguments.json, run_profile(arguments.model, arguments.input, arguments.granularity), as_lines)


def _split(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.split import run_split

    return _show(arguments.json, run_split(arguments.plan), lambda found: [f"{key}: {found[key]}" for key in found])


def _links(arguments: Namespace, _words: list[str]) -> int:
    import msgspec

    from bench.execution.environment import shaping
    from bench.live.link_calibration import as_lines, run_links

    rows = run_links(shaping(arguments.shaping))
    return _show(arguments.json, msgspec.to_builtins(rows, str_keys=True), lambda _: as_lines(rows))


def _trace(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.trace import convert

    print(convert(arguments.file, arguments.form, arguments.to, arguments.direction))
    return OK


def _node(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.node import run_node

    return run_node(arguments.name, arguments.host, arguments.port, arguments.once)


def _doctor(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.doctor import as_lines, clean, examine
    from bench.execution.environment import data_folder

    swept = clean() if arguments.clean else []
    facts = examine(data_folder(arguments.data)) | {"swept": swept}
    _show(arguments.json, facts, as_lines)
    return UNUSABLE if facts["damaged"] else OK


COMMANDS: dict[str, Callable[[Namespace, list[str]], int]] = {
    "run": _run,
    "list": _list,
    "validate": _validate,
    "report": _report,
    "check": _check,
    "profile": _profile,
    "split": _split,
    "links": _links,
    "trace": _trace,
    "node": _node,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
