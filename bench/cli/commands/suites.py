"""``bench list``, ``describe``, ``schema``, ``validate`` and ``fit``: what is known of suites without running them."""
# ruff: noqa: PLC0415 - so that --help and list need no torch

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from bench.cli import streams
from bench.cli.command import Answer, Command, data_argument, json_argument, suites_argument


def _add_list(command: ArgumentParser) -> None:
    globs = "list the experiments of these suites, by name or glob (default: a line for each suite)"
    command.add_argument("suites", nargs="*", metavar="SUITE", help=globs)
    json_argument(command)


def _list(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.describe.list_suites import as_lines, overview, suites

    found = suites(arguments.suites)
    return Answer(found, as_lines(found) if arguments.suites else overview(found))


def _add_describe(command: ArgumentParser) -> None:
    names = "an experiment as `run:` names it, or stage:NAME, model:NAME, scheme:NAME (default: list all)"
    command.add_argument("name", nargs="?", metavar="NAME", help=names)
    json_argument(command)


def _describe(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.describe.answer import as_lines, describe, everything, list_lines

    if arguments.name is None:
        return Answer(found := everything(), list_lines(found))
    return Answer(found := describe(arguments.name), as_lines(found))


def _schema(_arguments: Namespace, _words: list[str]) -> Answer:
    from bench.describe.suite_schema import as_text, suite_schema

    return Answer(found := suite_schema(), [as_text(found)])


def _add_validate(command: ArgumentParser) -> None:
    suites_argument(command)
    json_argument(command)
    command.add_argument("--expand", action="store_true", help="print the suites with every short form spelt out")
    data_argument(command)


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


def _add_fit(command: ArgumentParser) -> None:
    command.add_argument("suite", metavar="SUITE", help="a YAML file, or a name that `bench list` shows")
    command.add_argument("--out", type=Path, metavar="FILE", help="the result (default: as the suite's fit says)")
    json_argument(command)


def _fit(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.fitting.run import as_lines, run_fit

    found = run_fit(arguments.suite, arguments.out, streams.complain)
    return Answer(found, as_lines(found))


LIST = Command(
    "list the suites of the package and their experiments",
    """
  bench list
  bench list hivemind                          # its experiments
  bench list '*_cifar10'                       # those of all suites with such a name
  bench list --json | jq '.[].name'            # the names alone""",
    _add_list,
    _list,
)
DESCRIBE = Command(
    "describe an experiment: parameters, types, units, defaults, metrics",
    """
  bench describe                               # all experiments, stages, models and schemes
  bench describe pipeline.chain                # what `run: pipeline.chain` takes and measures
  bench describe mine:measure --json           # an experiment of your own, in mine.py
  bench describe stage:dynsplit                # the options of a stage; also model:NAME, scheme:NAME""",
    _add_describe,
    _describe,
)
SCHEMA = Command(
    "print the JSON Schema of suites, for editors",
    """
  bench schema > suite.schema.json             # then, as the first line of mine.yaml:
  # yaml-language-server: $schema=suite.schema.json""",
    json_argument,
    _schema,
)
VALIDATE = Command(
    "check suites without running them",
    """
  bench validate mine.yaml
  bench validate mine.yaml --data ~/data --json
  bench validate dynsplit --expand | less      # all experiments and claims, without defaults and tables""",
    _add_validate,
    _validate,
    "\nErrors name file, line and key.",
)
FIT = Command(
    "fit what a paper leaves open to the numbers that it prints",
    """
  bench fit suites/hivemind/suite.yaml                       # writes fitted.yaml beside it, which the suite reads
  bench fit hivemind --out fitted.yaml --json               # writes elsewhere""",
    _add_fit,
    _fit,
    "\nTakes minutes.",
)
