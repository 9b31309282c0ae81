"""``bench node`` and ``doctor``: this machine as a place of nodes."""
# ruff: noqa: PLC0415 - so that --help needs no torch

from argparse import ArgumentParser, Namespace

from bench.cli.command import FAILED, OK, UNUSABLE, Answer, Command, data_argument, json_argument, whole_number


def _add_node(command: ArgumentParser) -> None:
    add = command.add_argument
    add("name", metavar="NAME", help="name of the node in the job, such as mec1")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=whole_number(0, 65535), default=0, help="port to listen on (default: a free one, shown)")
    add("--once", action="store_true", help="end after one job")


def _node(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.node import run_node

    return run_node(arguments.name, arguments.host, arguments.port, arguments.once) and FAILED


def _add_doctor(command: ArgumentParser) -> None:
    json_argument(command)
    command.add_argument("--clean", action="store_true", help="remove network namespaces of killed runs; needs root")
    data_argument(command)


def _doctor(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.cli.doctor import as_lines, clean, examine
    from bench.execution.environment import data_folder

    swept = clean() if arguments.clean else []
    facts = examine(data_folder(arguments.data)) | {"swept": swept}
    return Answer(facts, as_lines(facts), UNUSABLE if facts["damaged"] else OK)


NODE = Command(
    "start one node of a chain by hand, on this machine or another",
    """
  export BENCH_TOKEN=$(openssl rand -hex 16)        the same on all nodes and for the runner
  bench node mec1 --port 4000
  bench node mec1 --host 0.0.0.0 --port 4000 --once""",
    _add_node,
    _node,
    """
The environment variable BENCH_TOKEN holds the shared secret, 16 characters or more.""",
)
DOCTOR = Command(
    "show what this machine has: link shaping, root, GPU, data sets",
    """
  bench doctor --data ~/data
  sudo bench doctor --clean""",
    _add_doctor,
    _doctor,
)
