"""``bench links`` and ``trace``: links without nodes."""
# ruff: noqa: PLC0415 - so that --help needs no torch

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import get_args

from bench.cli.command import Answer, Command, json_argument


def _add_links(command: ArgumentParser) -> None:
    json_argument(command)
    backends = "how links are shaped; kernel uses tc and needs root (default: auto, which is emulated)"
    command.add_argument("--shaping", choices=("auto", "emulated", "kernel"), default="auto", help=backends)


def _links(arguments: Namespace, _words: list[str]) -> Answer:
    import msgspec

    from bench.execution.environment import shaping
    from bench.live.link_calibration import as_lines, run_links

    rows = run_links(shaping(arguments.shaping))
    return Answer(msgspec.to_builtins(rows, str_keys=True), as_lines(rows))


def _add_trace(command: ArgumentParser) -> None:
    from netem.traces.formats import Direction, Format

    command.add_argument("action", choices=("convert",), help="write the trace as CSV of time_s and rate_bps")
    command.add_argument("file", type=Path, metavar="FILE", help="the trace")
    formats = "its format (default: by its first line)"
    command.add_argument("--from", dest="form", choices=get_args(Format), metavar="FORMAT", help=formats)
    command.add_argument("--to", type=Path, metavar="FILE", help="file to write (default: standard output)")
    direction = "which rate to take from a file that has both (default: downlink)"
    command.add_argument("--direction", choices=get_args(Direction), help=direction)


def _trace(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.trace import convert

    said = convert(arguments.file, arguments.form, arguments.to, arguments.direction)
    return Answer(said, [said])


LINKS = Command(
    "measure shaped links on this machine",
    """
  bench links
  sudo bench links --shaping kernel --json""",
    _add_links,
    _links,
    "\nRate, delay and loss; takes minutes.",
)
TRACE = Command(
    "convert a link trace of another format to CSV",
    """
  bench trace convert drive.csv --from ucc --direction uplink --to drive-up.csv
  bench trace convert lte.down --from mahimahi > lte.csv""",
    _add_trace,
    _trace,
    """
FORMAT is csv, mahimahi, ucc (G-NetTrack), lumos5g, pensieve (seconds and Mbit/s) or fcc.""",
)
