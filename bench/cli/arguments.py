"""Which commands and arguments does ``bench`` take? Parsers only; ``bench.cli.main`` does what they say."""

import argparse
from pathlib import Path
from typing import get_args

from bench.execution import environment as conditions
from reports.record import Scale

EXAMPLES = {
    "run": """
  bench run pipeline --scale smoke            a first minute
  bench run suites/all.yaml                   everything, at the scale for a laptop
  bench run mine.yaml --data ~/data --seed 7  your own suite and data
  bench run all --out runs/all --resume       go on where a run was stopped
  bench run all --only 'links/*' --only live  some experiments""",
    "list": """
  bench list
  bench list --json | jq '.[].name'""",
    "validate": """
  bench validate mine.yaml
  bench validate mine.yaml --data ~/data --json""",
    "report": """
  bench report runs/all                       make report.md and its figures again""",
    "check": """
  bench check runs/all --against baseline.jsonl
  bench check runs/all --against baseline.jsonl --junit gate.xml
  bench check runs/all --against baseline.jsonl --update""",
    "profile": """
  bench profile resnet18 --input 3x32x32 --json
  bench profile mine:network --granularity module""",
    "split": """
  bench split plan.yaml --json""",
    "links": """
  bench links
  bench links --shaping kernel --json""",
    "node": """
  BENCH_TOKEN=… bench node mec1 --port 4000   a node by hand; the token is the run's, 16 characters or more""",
    "doctor": """
  bench doctor --data ~/data
  bench doctor --clean                        as root: remove network namespaces of runs that were killed""",
}


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; ``command`` is the command's name."""
    main = argparse.ArgumentParser(
        prog="bench", description="The reference benchmark for split learning over a 5G edge."
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help_: str, json: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=help_,
            description=help_[0].upper() + help_[1:] + ".",
            epilog=f"examples:{EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if json:
            added.add_argument("--json", action="store_true", help="JSON, alone on standard output")
        return added

    _run(command("run", "run suites and write records, claims and a report", json=False))
    command("list", "list the suites that come with the package")
    validate = command("validate", "check a suite without running it")
    validate.add_argument("suites", nargs="+", metavar="SUITE", help="a path, else a packaged suite's name")
    _data(validate)
    report = command("report", "make the report of a run again", json=False)
    report.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    _check(command("check", "compare a run with a baseline, for CI; 1 if it is worse"))
    profile = command("profile", "time, bytes and parameters of each layer of a model")
    profile.add_argument("model", metavar="MODEL", help="a torchvision name or module:callable")
    profile.add_argument("--input", type=_shape, default=(3, 224, 224), metavar="CxHxW", help="3x224x224")
    profile.add_argument("--granularity", choices=("op", "module"), default="op", help="what a layer is")
    split = command("split", "the best split of a chain of nodes for given costs")
    split.add_argument("plan", type=Path, metavar="PLAN.yaml")
    links = command("links", "what links really do on this machine, by name and over a sweep")
    links.add_argument("--shaping", choices=("auto", "emulated", "kernel"), default="auto", help="auto is emulated")
    _node(command("node", "be one node of a chain, by hand", json=False))
    doctor = command("doctor", "say what this machine has: netem, root, GPU, data sets")
    doctor.add_argument("--clean", action="store_true", help="remove what runs that were killed left in the kernel")
    _data(doctor)
    return main


def _run(run: argparse.ArgumentParser) -> None:
    run.add_argument("suites", nargs="+", metavar="SUITE", help="a path, else a packaged suite's name")
    run.add_argument("--scale", choices=get_args(Scale), default="laptop", help="laptop if not given")
    run.add_argument("--out", type=Path, metavar="DIR", help="runs/<suite>-<UTC> if not given")
    run.add_argument("--seed", type=_seed, default=0, metavar="N", help="the first seed; 0 if not given")
    run.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="GLOB",
        help="experiments, as suite/experiment or experiment; may be given again for more",
    )
    run.add_argument("--device", choices=get_args(conditions.DeviceChoice), default="auto")
    run.add_argument("--shaping", choices=get_args(conditions.ShapingChoice), default="auto", help="auto is emulated")
    run.add_argument(
        "--jobs",
        type=_count,
        metavar="N",
        help="cases at once, of experiments that are parallel; if not given as many as cores, "
        "one at scale paper or on a GPU",
    )
    run.add_argument("--resume", action="store_true", help="go on with the run in --out")
    run.add_argument(
        "--allow-uncalibrated",
        action="store_true",
        help="run, and note it, though a link's rate is off by 5 %%, its delay by 1 ms or its jitter by half "
        "(tried before a live run; losses are not)",
    )
    _data(run)


def _check(check: argparse.ArgumentParser) -> None:
    check.add_argument("folder", type=Path, metavar="DIR", help="the run's folder")
    check.add_argument("--against", type=Path, required=True, metavar="FILE", help="baseline, or records.jsonl")
    check.add_argument("--update", action="store_true", help="write FILE from the run instead of comparing")
    check.add_argument("--junit", type=Path, metavar="FILE", help="write the outcomes as JUnit XML too")


def _node(node: argparse.ArgumentParser) -> None:
    node.add_argument("name", metavar="NAME", help="the node's name in the job")
    node.add_argument("--host", default="127.0.0.1", help="address to listen at; 127.0.0.1 if not given")
    node.add_argument("--port", type=_port, default=0, help="port to listen at; a free one if not given")
    node.add_argument("--once", action="store_true", help="end after one job")


def _data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, metavar="DIR", help="folder with data sets; or set BENCH_DATA")


def _seed(text: str) -> int:
    return _whole(text, 0, (1 << 63) - 10_001)  # a suite counts up from it, at most 10,000 times


def _count(text: str) -> int:
    return _whole(text, 1, 1024)


def _port(text: str) -> int:
    return _whole(text, 0, 65535)


def _whole(text: str, least: int, most: int) -> int:
    if not text.isdecimal() or not least <= int(text) <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
    return int(text)


def _shape(text: str) -> tuple[int, int, int]:
    sizes = [int(size) if size.isdecimal() else 0 for size in text.split("x")]
    if len(sizes) != 3 or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not CxHxW, such as 3x224x224")
    return sizes[0], sizes[1], sizes[2]
