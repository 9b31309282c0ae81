"""Argument parsers of the ``bench`` command; ``bench.cli.main`` runs what they parse."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, get_args

EXAMPLES = {
    "run": """
  bench run pipeline --scale smoke             a suite of the package, in seconds
  bench run suites/all.yaml                    every suite, in about 20 minutes on a laptop
  bench run mine.yaml --data ~/data --seed 7   your own suite and data sets
  bench run all --only 'links/*' --only live   the experiments of links, and those called live
  bench run all --out runs/all --resume        continue a run that was interrupted""",
    "verify": """
  bench verify saves-37-to-90-percent-of-cloud
  bench verify dynsplit/equal-bandwidth --scale paper --data ~/data --out runs/equal --resume
  bench verify mine-is-smaller --suite mine.yaml""",
    "list": """
  bench list
  bench list --json | jq '.[].name'            the names alone""",
    "validate": """
  bench validate mine.yaml
  bench validate mine.yaml --data ~/data --json
  bench validate dynsplit --expand | less      all experiments and claims, without defaults and tables""",
    "report": """
  bench report runs/all""",
    "check": """
  bench check runs/all --against baseline.jsonl --update            make the baseline
  bench check runs/all --against baseline.jsonl                     compare a later run with it
  bench check runs/all --against baseline.jsonl --junit gate.xml""",
    "profile": """
  bench profile resnet18 --input 3x32x32 --json > ue.json    for bench split
  bench profile mine:encoder --input 128:int64 sequences of 128 tokens
  bench profile mine:network --granularity module   network() in mine.py, in the current folder
  bench profile timm:create_model --options '{"model_name": "resnet10t"}' """,
    "split": """
  bench split plan.yaml --json

plan.yaml, for two nodes and three layers:
  nodes: [ue, edge]
  compute_s: {ue: [0.4, 0.4, 0.2], edge: [0.1, 0.1, 0.1]}   seconds per layer
  boundary_bytes: [150528, 40000, 20000, 0]                 of the input, then of each layer's result
  links: [{rate_bps: 20e6, delay_s: 0.01}]                  from each node to the next

profiles: {ue: ue.json, edge: edge.json} takes compute_s and boundary_bytes from what
bench profile MODEL --json wrote on each device. limits: {latency: 0.2} bounds a metric,
memory_bytes: {ue: 5e6} the parameters on a node; objective: throughput splits a pipeline.""",
    "fit": """
  bench fit suites/hivemind/suite.yaml                       writes fitted.yaml beside it, which the suite reads
  bench fit hivemind --out fitted.yaml --json               writes elsewhere""",
    "links": """
  bench links
  sudo bench links --shaping kernel --json""",
    "trace": """
  bench trace convert drive.csv --from ucc --direction uplink --to drive-up.csv
  bench trace convert lte.down --from mahimahi > lte.csv""",
    "node": """
  export BENCH_TOKEN=$(openssl rand -hex 16)        the same on all nodes and for the runner
  bench node mec1 --port 4000
  bench node mec1 --host 0.0.0.0 --port 4000 --once""",
    "doctor": """
  bench doctor --data ~/data
  sudo bench doctor --clean""",
}
MAIN_EPILOG = """examples:
  bench doctor                         what this machine can run
  bench run pipeline --scale smoke     the first run
  bench report runs/DIR                its report again
  bench COMMAND --help                 options and examples of a command

exit codes:
  0 success, also if claims failed; 1 bench check found a regression; 2 unusable input;
  3 an experiment failed, the records of the others are kept; 130 Ctrl-C; 143 SIGTERM"""
RUN_MORE = """

DIR then holds records.jsonl, claims.json, report.md, figures/ and environment.json; run.log says what
happened when, errors.log has the traceback of each failure."""
TRACE_MORE = """
FORMAT is csv, mahimahi, ucc (G-NetTrack), lumos5g, pensieve (seconds and Mbit/s) or fcc."""
NODE_MORE = """
The environment variable BENCH_TOKEN holds the shared secret, 16 characters or more."""
MOST_SEED = (1 << 63) - 10_001  # a suite counts up from it, at most 10,000 times


def parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the command line ``words``; ``command`` is the command's name, the first of them.

    Only that command gets its arguments, so that ``bench --help`` imports nothing else.
    """
    main = argparse.ArgumentParser(
        prog="bench",
        description="The reference benchmark for split learning over a 5G edge.",
        epilog=MAIN_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = main.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        added = commands.add_parser(
            name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.{command.more}",
            epilog=f"examples:{EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in words[:1]:
            command.add_arguments(added)
    return main


def _run(run: argparse.ArgumentParser) -> None:
    _suites(run)
    only = "run only experiments whose name, or suite/name, matches; may be repeated"
    run.add_argument("--only", action="append", default=[], metavar="GLOB", help=only)
    _run_options(run)


def _verify(verify: argparse.ArgumentParser) -> None:
    claims = "a claim as reports name it, or suite/claim where several suites have it"
    verify.add_argument("claims", nargs="+", metavar="CLAIM", help=claims)
    suite = "the suite of the claims, a YAML file or a name (default: the suite of the package that has them)"
    verify.add_argument("--suite", metavar="SUITE", help=suite)
    _run_options(verify)


def _run_options(run: argparse.ArgumentParser) -> None:
    from bench.execution.environment import DeviceChoice, ShapingChoice  # noqa: PLC0415  (msgspec, psutil, yaml)
    from reports.record import Scale  # noqa: PLC0415

    scales = "smoke: seconds an experiment; laptop: minutes; paper: the papers' models and epochs (default: laptop)"
    run.add_argument("--scale", choices=get_args(Scale), default="laptop", help=scales)
    run.add_argument("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/<suite>-<UTC time>)")
    run.add_argument("--seed", type=_whole(0, MOST_SEED), default=0, metavar="N", help="first random seed (default: 0)")
    device = "where models run (default: auto, the GPU if torch can use one)"
    run.add_argument("--device", choices=get_args(DeviceChoice), default="auto", help=device)
    backends = "how links of live runs are shaped; kernel uses tc and needs root (default: auto, which is emulated)"
    run.add_argument("--shaping", choices=get_args(ShapingChoice), default="auto", help=backends)
    jobs = "cases of parallel experiments that run at once (default: one a core; 1 at scale paper or on a GPU)"
    run.add_argument("--jobs", type=_whole(1, 1024), metavar="N", help=jobs)
    run.add_argument("--resume", action="store_true", help="continue the run in --out")
    rerun = "with --resume: drop recorded cases whose suite, code or files have changed, and run them again"
    run.add_argument("--rerun-changed", action="store_true", help=rerun)
    uncalibrated = "warn of links off by more than 5 %% in rate, 1 ms in delay or half in jitter, instead of failing"
    run.add_argument("--allow-uncalibrated", action="store_true", help=uncalibrated)
    run.add_argument("-v", "--verbose", action="store_true", help="log every step to standard error")
    _data(run)


def _validate(validate: argparse.ArgumentParser) -> None:
    _suites(validate)
    _json(validate)
    validate.add_argument("--expand", action="store_true", help="print the suites with every short form spelt out")
    _data(validate)


def _check(check: argparse.ArgumentParser) -> None:
    _folder(check)
    _json(check)
    baseline = "the baseline: a file made by --update, or records.jsonl of another run"
    check.add_argument("--against", type=Path, required=True, metavar="FILE", help=baseline)
    check.add_argument("--update", action="store_true", help="write the baseline from the run instead of comparing")
    check.add_argument("--junit", type=Path, metavar="FILE", help="also write the result as JUnit XML")


def _profile(profile: argparse.ArgumentParser) -> None:
    _json(profile)
    profile.add_argument("model", metavar="MODEL", help="a model of SplitMEC or torchvision, or module:callable")
    options = "keyword arguments of the model's constructor, as a JSON object"
    profile.add_argument("--options", default="", metavar="JSON", help=options)
    shape = "shape of one input sample, and its type unless it is float32 (default: 3x224x224)"
    pictures = (3, 224, 224), "float32"
    profile.add_argument("--input", type=_input, default=pictures, metavar="SHAPE[:DTYPE]", help=shape)
    layers = "a layer is a tensor operation or a leaf module (default: op)"
    profile.add_argument("--granularity", choices=("op", "module"), default="op", help=layers)


def _split(split: argparse.ArgumentParser) -> None:
    _json(split)
    split.add_argument("plan", type=Path, metavar="PLAN.yaml", help="nodes, their compute times and their links")


def _links(links: argparse.ArgumentParser) -> None:
    _json(links)
    backends = "how links are shaped; kernel uses tc and needs root (default: auto, which is emulated)"
    links.add_argument("--shaping", choices=("auto", "emulated", "kernel"), default="auto", help=backends)


def _trace(trace: argparse.ArgumentParser) -> None:
    from netem.traces.formats import Direction, Format  # noqa: PLC0415

    trace.add_argument("action", choices=("convert",), help="write the trace as CSV of time_s and rate_bps")
    trace.add_argument("file", type=Path, metavar="FILE", help="the trace")
    formats = "its format (default: by its first line)"
    trace.add_argument("--from", dest="form", choices=get_args(Format), metavar="FORMAT", help=formats)
    trace.add_argument("--to", type=Path, metavar="FILE", help="file to write (default: standard output)")
    direction = "which rate to take from a file that has both (default: downlink)"
    trace.add_argument("--direction", choices=get_args(Direction), help=direction)


def _node(node: argparse.ArgumentParser) -> None:
    node.add_argument("name", metavar="NAME", help="name of the node in the job, such as mec1")
    node.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    node.add_argument("--port", type=_whole(0, 65535), default=0, help="port to listen on (default: a free one, shown)")
    node.add_argument("--once", action="store_true", help="end after one job")


def _doctor(doctor: argparse.ArgumentParser) -> None:
    _json(doctor)
    doctor.add_argument("--clean", action="store_true", help="remove network namespaces of killed runs; needs root")
    _data(doctor)


def _fit(command: argparse.ArgumentParser) -> None:
    command.add_argument("suite", metavar="SUITE", help="a YAML file, or a name that `bench list` shows")
    command.add_argument("--out", type=Path, metavar="FILE", help="the result (default: as the suite's fit says)")
    _json(command)


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print JSON alone on standard output")


def _suites(command: argparse.ArgumentParser) -> None:
    command.add_argument("suites", nargs="+", metavar="SUITE", help="a YAML file, or a name that `bench list` shows")


def _folder(command: argparse.ArgumentParser) -> None:
    command.add_argument("folder", type=Path, metavar="DIR", help="folder of the run")


def _data(command: argparse.ArgumentParser) -> None:
    command.add_argument("--data", type=Path, metavar="DIR", help="folder with data sets (default: $BENCH_DATA)")


def _whole(least: int, most: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        if not text.isdecimal() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {least} to {most}")
        return int(text)

    return convert


def _input(text: str) -> tuple[tuple[int, ...], str]:
    shape, _, dtype = text.partition(":")
    sizes = tuple(int(size) if size.isdecimal() else 0 for size in shape.split("x"))
    if min(sizes) < 1 or dtype not in ("", "float32", "int64"):
        expected = "a shape such as 3x224x224 for pictures, or 128:int64 for tokens"
        raise argparse.ArgumentTypeError(f"{text!r} is not {expected}")
    return sizes, dtype or "float32"


class Command(NamedTuple):
    """A command: one line about it, what its help adds to that, and its arguments."""

    help: str
    more: str
    add_arguments: Callable[[argparse.ArgumentParser], None]


COMMANDS = {
    "run": Command("run suites and write records, claims and a report", RUN_MORE, _run),
    "verify": Command("run what claims need, and judge them", RUN_MORE, _verify),
    "list": Command("list the suites of the package and their experiments", "", _json),
    "validate": Command("check suites without running them", "\nErrors name file, line and key.", _validate),
    "report": Command("write the report of a run again", "\nWrites report.md and figures/.", _folder),
    "check": Command("compare a run with a baseline, for CI", "\nExits with 1 if a number got worse.", _check),
    "profile": Command("measure time, bytes and parameters of each layer of a model", "\nRuns on the CPU.", _profile),
    "split": Command("find the best split of a model over a chain of nodes", "\nThe costs are given.", _split),
    "fit": Command("fit what a paper leaves open to the numbers that it prints", "\nTakes minutes.", _fit),
    "links": Command("measure shaped links on this machine", "\nRate, delay and loss; takes minutes.", _links),
    "trace": Command("convert a link trace of another format to CSV", TRACE_MORE, _trace),
    "node": Command("start one node of a chain by hand, on this machine or another", NODE_MORE, _node),
    "doctor": Command("show what this machine has: link shaping, root, GPU, data sets", "", _doctor),
}
