"""``bench report``, ``compare``, ``merge``, ``export`` and ``check``: what is made of the records of runs."""
# ruff: noqa: PLC0415 - so that --help needs no torch

import json
import os
from argparse import ArgumentParser, Namespace
from pathlib import Path

from bench.cli import streams
from bench.cli.command import OK, REGRESSION, Answer, Command, folder_argument, json_argument


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


def _add_compare(command: ArgumentParser) -> None:
    runs = "folder of a run, records.jsonl or a baseline; each is compared with the first"
    command.add_argument("runs", nargs="+", type=Path, metavar="RUN", help=runs)
    json_argument(command)
    command.add_argument("--html", type=Path, metavar="FILE", help="also write all numbers as a page of its own")


def _compare(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.results.comparison_page import as_html, as_json, as_markdown
    from bench.results.paired import compare, read_side
    from bench.suite.document import InputError

    if len(arguments.runs) < 2:
        raise InputError(["compare: give two runs or more"])
    first, *others = map(read_side, arguments.runs)
    found = [compare(first, other) for other in others]
    if arguments.html:
        try:
            arguments.html.write_text(as_html(found), encoding="utf-8")
        except OSError as error:
            raise InputError([f"--html: {arguments.html}: {error.strerror}"]) from None
    return Answer(as_json(found), [as_markdown(found)])


def _add_merge(command: ArgumentParser) -> None:
    command.add_argument("folders", nargs="+", type=Path, metavar="DIR", help="folder of a run")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write, new or empty")
    json_argument(command)


def _merge(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.results.merge import merge

    found = merge(arguments.folders, arguments.out)
    for note in found.notes:
        streams.complain(note)
    report = found.folder / "report.md"
    answer = {"folder": str(found.folder), "cases": found.cases, "report": str(report), "notes": found.notes}
    return Answer(
        answer, [f"{found.folder}: {found.cases} cases of {len(arguments.folders)} runs", f"report: {report}"]
    )


def _add_export(command: ArgumentParser) -> None:
    command.add_argument("run", type=Path, metavar="DIR", help="folder of the run, or records.jsonl")
    tools = "csv needs nothing more; the others need pip install 'splitmec[export]'"
    command.add_argument("--to", choices=("csv", "parquet", "tensorboard", "mlflow"), required=True, help=tools)
    out = "file or folder to write (default: records.csv, records.parquet, tensorboard or mlruns in DIR)"
    command.add_argument("--out", type=Path, metavar="PATH", help=out)


def _export(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.results.export import export

    path = export(arguments.run, arguments.to, arguments.out)
    return Answer(str(path), [str(path)])


def _add_check(command: ArgumentParser) -> None:
    folder_argument(command)
    json_argument(command)
    baseline = "the baseline: a file made by --update, or the folder or records.jsonl of another run"
    command.add_argument("--against", type=Path, required=True, metavar="FILE", help=baseline)
    command.add_argument("--update", action="store_true", help="write the baseline from the run instead of comparing")
    explained = "say for each regression what changed: its code, files and data, versions, machine"
    command.add_argument("--explain", action="store_true", help=explained)
    command.add_argument("--junit", type=Path, metavar="FILE", help="also write the result as JUnit XML")
    benchmark = (
        "also write the numbers for github-action-benchmark (customSmallerIsBetter); those of which more is better"
    )
    command.add_argument("--benchmark", type=Path, metavar="FILE", help=f"{benchmark} beside it, as FILE.bigger.json")


def _check(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.execution.lock import in_use
    from bench.gate import compare as gate
    from bench.gate import report as gate_report
    from bench.gate.explain import explain
    from bench.suite.document import InputError
    from reports.pages.report import ReportError, step_summary

    if running := in_use(arguments.folder):
        raise InputError([running])
    try:
        run = gate.read_run(arguments.folder)
        if arguments.update:
            if arguments.against.is_dir():
                raise InputError([f"--against: {arguments.against} is a folder; give the file to write"])
            count = gate.write_baseline(arguments.against, run)
            updated = {"updated": str(arguments.against), "records": count}
            return Answer(updated, [f"{arguments.against}: {count} records"])
        baseline = gate.read_baseline(arguments.against)
        outcomes = gate.compare(run, baseline)
        explained = explain(outcomes, run, baseline) if arguments.explain else ""
        text = gate_report.within_limit("\n".join([gate_report.as_markdown(outcomes), explained]).rstrip() + "\n")
        if arguments.junit:
            arguments.junit.write_text(gate_report.as_junit(outcomes), encoding="utf-8")
        if path := arguments.benchmark:
            for file, bigger in ((path, False), (path.with_suffix(".bigger.json"), True)):
                file.write_text(json.dumps(gate_report.as_benchmarks(outcomes, bigger), indent=1), encoding="utf-8")
        if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
            with open(summary, "a", encoding="utf-8") as file:
                file.write(f"{text}\n{step_summary(arguments.folder)}")
    except (gate.GateInputError, ReportError, OSError) as error:
        raise InputError([str(error)]) from None
    code = REGRESSION if any(outcome.failed for outcome in outcomes) else OK
    answer = gate_report.as_json(outcomes)
    return Answer(answer | ({"explained": explained} if arguments.explain else {}), [text.rstrip()], code)


REPORT = Command(
    "write the report of a run again",
    """
  bench report runs/all""",
    folder_argument,
    _report,
    "\nWrites report.md, a page of each suite in suites/, figures/, and report.html: all in one file.",
)
COMPARE = Command(
    "compare runs with each other, metric by metric",
    """
  bench compare runs/before runs/after
  bench compare runs/float32 runs/bfloat16 runs/int8 --html compared.html
  bench compare baseline.jsonl runs/after --json | jq '.[0].rows[:5]'""",
    _add_compare,
    _compare,
    """
Differences are paired by case and seed, with their standard error and 95 % interval; what changed most
beyond its noise comes first. Runs of different conditions stand beside each other; nothing is pooled.""",
)
MERGE = Command(
    "join the folders of runs of the same suites, such as shards",
    """
  bench run all --shard 1/2 --out one; bench run all --shard 2/2 --out two
  bench merge one two --out all
  bench run all --out all --resume             # runs what no folder has""",
    _add_merge,
    _merge,
    """
Refuses runs under other conditions, of other suites or versions, and cases recorded with different values.""",
)
EXPORT = Command(
    "write the records of a run for other tools",
    """
  bench export runs/all --to csv
  bench export runs/all --to parquet --out all.parquet
  bench export runs/all --to tensorboard; tensorboard --logdir runs/all/tensorboard
  bench export runs/all --to mlflow; MLFLOW_ALLOW_FILE_STORE=true mlflow ui --backend-store-uri runs/all/mlruns""",
    _add_export,
    _export,
)
CHECK = Command(
    "compare a run with a baseline, for CI",
    """
  bench check runs/all --against baseline.jsonl --update            # make the baseline
  bench check runs/all --against baseline.jsonl                     # compare a later run with it
  bench check runs/all --against baseline.jsonl --explain           # and what changed for each regression
  bench check runs/all --against baseline.jsonl --junit gate.xml --benchmark gate.json""",
    _add_check,
    _check,
    """
Exits with 1 if a number got worse. Where $GITHUB_STEP_SUMMARY is set, the summary and
the front page of the report are appended to that file too.""",
)
