"""The ``bench`` command: one function a command, each of which imports what it needs.

Exit codes: 0 success, also with failed claims; 1 ``check`` found a regression, and nothing else; 2 unusable input; 3 an
experiment, a node or the command itself failed; 130 Ctrl-C; 143 SIGTERM.
"""
# ruff: noqa: PLC0415 - so that --help and list need no torch

import json
import os
import sys
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from bench.cli import streams
from bench.cli.arguments import parser

OK, REGRESSION, UNUSABLE, FAILED, INTERRUPTED, TERMINATED = 0, 1, 2, 3, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    streams.mend()
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        return _main(words, for_good=argv is None)
    except streams.OutputError as error:
        streams.complain(str(error))
        return FAILED


def _main(words: list[str], for_good: bool) -> int:
    try:
        arguments = parser(words).parse_args(words)
    except SystemExit as stop:  # --help is 0, a wrong argument 2
        streams.write("", sys.stdout)  # the help
        return int(stop.code or 0)
    as_json = getattr(arguments, "json", False)
    output = streams.Output(apart=as_json)
    try:
        return _do(arguments, words, output, as_json)
    except KeyboardInterrupt:
        return INTERRUPTED
    except streams.OutputError:
        raise
    except BaseException as error:  # 1 means a regression and nothing else
        streams.complain("".join(traceback.format_exception(error)).rstrip())
        return FAILED
    finally:
        output.close(for_good)


def _do(arguments: Namespace, words: list[str], output: streams.Output, as_json: bool) -> int:
    from bench.suite.document import InputError
    from bench.suite.parameter_types import make_importable

    make_importable(Path())
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # before torch: spinning threads slow other processes
    try:
        found = COMMANDS[arguments.command](arguments, words)
        if isinstance(found, int):
            return found
        output.show(json.dumps(found.value, indent=2) if as_json else "\n".join(found.lines))
        return found.code
    except InputError as error:
        if as_json and arguments.command == "validate":
            output.show(json.dumps({"valid": False, "errors": error.lines}, indent=2))
        streams.complain(*error.lines)
        return UNUSABLE


class Answer(NamedTuple):
    """What a command found, for JSON and as lines of text."""

    value: Any
    lines: Iterable[str]
    code: int = OK


def _run(arguments: Namespace, words: list[str]) -> int:
    from bench.cli.logs import log_handlers
    from bench.console.view import Terminal
    from bench.execution.plan import options_of
    from bench.execution.runner import run
    from nodes.errors import utf8

    given = {key: value for key, value in vars(arguments).items() if key not in ("command", "verbose")}
    options = options_of(given | {"arguments": ["bench", *map(utf8, words)]})
    with log_handlers(arguments.verbose) as log_to, _terminable() as terminated:
        try:
            code = run(options, Terminal(), log_to).exit_code
        except KeyboardInterrupt:  # before the first case, or a second Ctrl-C
            code = INTERRUPTED
    return TERMINATED if terminated and code == INTERRUPTED else code


def _verify(arguments: Namespace, words: list[str]) -> int:
    from bench.suite.judging import find_claims

    suites, claims = find_claims(arguments.claims, arguments.suite)
    given = {name: value for name, value in vars(arguments).items() if name != "suite"}
    return _run(Namespace(**given | {"suites": suites, "claims": claims}), words)


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


def _list(_arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.list_suites import as_lines, suites

    return Answer(found := suites(), as_lines(found))


def _validate(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.execution.environment import data_folder
    from bench.execution.loader import load
    from bench.suite.document import as_yaml

    suites = load(arguments.suites, data_folder(arguments.data))
    experiments = [experiment.name for suite in suites for experiment in suite.experiments]
    notes = [note for suite in suites for note in suite.notes]
    answer: dict[str, Any] = {"valid": True, "errors": [], "notes": notes, "experiments": experiments}
    lines = [*notes, f"valid: {len(suites)} suites, {len(experiments)} experiments"]
    if arguments.expand:
        answer["suites"] = [suite.expanded for suite in suites]
        lines = ["---\n".join(map(as_yaml, answer["suites"])).rstrip()]
    return Answer(answer, lines)


def _report(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.execution.lock import in_use
    from bench.suite.document import InputError
    from bench.suite.judging import judge_again
    from reports.pages.report import ReportError, write_report

    try:
        if running := in_use(arguments.folder):
            streams.complain(f"{running}, which writes the report; this one is of what is recorded so far")
        else:
            for line in judge_again(arguments.folder):
                streams.complain(line)
        path = write_report(arguments.folder)
    except ReportError as error:
        raise InputError([str(error)]) from None
    return Answer(str(path), [str(path)])


def _check(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.execution.lock import in_use
    from bench.gate import compare as gate
    from bench.gate import report as gate_report
    from bench.suite.document import InputError

    if running := in_use(arguments.folder):
        raise InputError([running])
    try:
        run = gate.read_run(arguments.folder)
        if arguments.update:
            count = gate.write_baseline(arguments.against, run)
            updated = {"updated": str(arguments.against), "records": count}
            return Answer(updated, [f"{arguments.against}: {count} records"])
        outcomes = gate.compare(run, gate.read_baseline(arguments.against))
        if arguments.junit:
            arguments.junit.write_text(gate_report.as_junit(outcomes), encoding="utf-8")
    except (gate.GateInputError, OSError) as error:
        raise InputError([str(error)]) from None
    code = REGRESSION if any(outcome.failed for outcome in outcomes) else OK
    return Answer(gate_report.as_json(outcomes), [gate_report.as_markdown(outcomes).rstrip()], code)


def _profile(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.profile import as_lines, run_profile

    shape, dtype = arguments.input
    profile = run_profile(arguments.model + arguments.options, shape, arguments.granularity, dtype)
    return Answer(profile, as_lines(profile))


def _split(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.split import run_split

    found = run_split(arguments.plan)
    return Answer(found, [f"{key}: {value}" for key, value in found.items()])


def _fit(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.fitting.run import as_lines, run_fit

    found = run_fit(arguments.suite, arguments.out, streams.complain)
    return Answer(found, as_lines(found))


def _links(arguments: Namespace, _words: list[str]) -> Answer:
    import msgspec

    from bench.execution.environment import shaping
    from bench.live.link_calibration import as_lines, run_links

    rows = run_links(shaping(arguments.shaping))
    return Answer(msgspec.to_builtins(rows, str_keys=True), as_lines(rows))


def _trace(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.trace import convert

    said = convert(arguments.file, arguments.form, arguments.to, arguments.direction)
    return Answer(said, [said])


def _node(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.node import run_node

    return run_node(arguments.name, arguments.host, arguments.port, arguments.once) and FAILED


def _doctor(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.doctor import as_lines, clean, examine
    from bench.execution.environment import data_folder

    swept = clean() if arguments.clean else []
    facts = examine(data_folder(arguments.data)) | {"swept": swept}
    return Answer(facts, as_lines(facts), UNUSABLE if facts["damaged"] else OK)


COMMANDS: dict[str, Callable[[Namespace, list[str]], int | Answer]] = {
    "run": _run,
    "verify": _verify,
    "list": _list,
    "validate": _validate,
    "report": _report,
    "check": _check,
    "profile": _profile,
    "split": _split,
    "fit": _fit,
    "links": _links,
    "trace": _trace,
    "node": _node,
    "doctor": _doctor,
}

if __name__ == "__main__":
    sys.exit(main())
