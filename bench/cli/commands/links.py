"""``bench links``, ``link`` and ``trace``: links without nodes."""
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


def _add_link(command: ArgumentParser) -> None:
    from bench.cli.link import above_0, at_least_0, pair
    from netem.profiles import LinkName

    add = command.add_argument
    add("mappings", nargs="*", metavar="ADDRESS=TARGET", help="where to listen, and where connections lead")
    rate = "rate in bit/s, held up to 600e6 for the sum of all mappings, above which the emulator's core is busy; with"
    rate += " --trace the most that the trace may give"
    add("--rate", type=pair(above_0, "a number above 0"), metavar="BPS", help=rate)
    delay = "one-way delay in milliseconds"
    add("--delay", type=pair(at_least_0, "a number of at least 0"), metavar="MS", help=delay)
    trace = "a packaged trace's name or a file; it repeats"
    add("--trace", type=pair(str, "a name"), metavar="T", help=trace)
    profile = "a named link, which gives what the others leave open (default: unlimited)"
    add("--profile", choices=get_args(LinkName), default="unlimited", help=profile)
    json_argument(command)


def _link(arguments: Namespace, words: list[str]) -> Answer | int:
    from bench.cli.link import Asked, run_link
    from bench.suite.document import InputError

    asked = Asked(arguments.profile, arguments.rate, arguments.delay, arguments.trace)
    program = words[len(LINK.own(words)) + 1 :]
    if "--" in words and not program:
        raise InputError(["--: no command follows; leave it out to shape until Ctrl-C"])
    return run_link(arguments.mappings, asked, program, arguments.json)


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
LINK = Command(
    "shape the TCP connections of any program",
    """
  bench link 127.0.0.1:9000=192.0.2.7:80 --rate 20e6 --delay 10 -- curl http://127.0.0.1:9000/
  bench link 9000=localhost:8000 9001=localhost:8001 --profile 5g            # until Ctrl-C
  bench link 9000=localhost:8000 --trace up.mahi,down.mahi --delay 20
  bench link 9000=localhost:8000 --rate 5e6,50e6 --json -- python load.py > link.json""",
    _add_link,
    _link,
    """
Connections to ADDRESS (HOST:PORT, or the port alone for 127.0.0.1) reach TARGET over an emulated link.
BPS, MS and T are for both directions, or UPLINK,DOWNLINK. With a command behind -- the links last as long
as it runs, and its exit code is that of bench.""",
    starts_program=True,
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
