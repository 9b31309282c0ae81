"""``bench node`` and ``doctor``: this machine as a place of nodes."""
# ruff: noqa: PLC0415 - so that --help needs no torch

from argparse import ArgumentParser, Namespace
from pathlib import Path

from bench.cli.command import (
    FAILED,
    OK,
    UNUSABLE,
    Answer,
    Command,
    data_argument,
    insecure_argument,
    json_argument,
    whole_number,
)


def _add_node(command: ArgumentParser) -> None:
    add = command.add_argument
    add("name", metavar="NAME", help="name of the node in the job, such as mec1")
    add("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1)")
    add("--port", type=whole_number(0, 65535), default=0, help="port to listen on (default: a free one, shown)")
    add("--once", action="store_true", help="end after one job")
    standby = "load torch for the first runner, which waits for it: until then the node takes 50 MB"
    add("--standby", action="store_true", help=standby)
    attached = "read the token from the first line of standard input, and end when that ends; for bench run --hosts"
    add("--attached", action="store_true", help=attached)
    add("--tls", type=Path, metavar="DIR", help="folder with the node's certificate, see bench certs; then all is TLS")
    insecure_argument(command)
    allowed = "let jobs name models, stages and schemes of this module; may be repeated (default: built-in ones only)"
    add("--allow", action="append", default=[], metavar="MODULE", help=allowed)


def _node(arguments: Namespace, _words: list[str]) -> int:
    from bench.cli.node import run_node

    given = {key: value for key, value in vars(arguments).items() if key != "command"}
    return run_node(**given) and FAILED


def _add_certs(command: ArgumentParser) -> None:
    makes = command.add_subparsers(dest="make", required=True, metavar="init|node|token")
    init = makes.add_parser("init", help="make an authority, whose certificates nodes and runner trust")
    node = makes.add_parser("node", help="make a certificate of the authority in DIR, into DIR/NAME")
    token = makes.add_parser("token", help="print the credentials of node NAME, made of the secret in BENCH_TOKEN")
    token.add_argument("name", metavar="NAME", help="name of the node")
    node.add_argument("name", metavar="NAME", help="name of the node, or runner")
    host = "a host name or address of the node, beside its name; may be repeated"
    node.add_argument("--host", action="append", default=[], dest="hosts", metavar="HOST", help=host)
    for one in (init, node):
        one.add_argument("folder", type=Path, metavar="DIR", help="folder of the authority")


def _certs(arguments: Namespace, _words: list[str]) -> Answer:
    from bench.live.hosts.certificates import make_authority, make_leaf
    from bench.live.hosts.document import secret_of_environment
    from nodes.spec.credentials import Credentials

    if arguments.make == "token":
        text = Credentials.of(secret_of_environment(), arguments.name).text
        return Answer([text], [text])
    if arguments.make == "init":
        made = make_authority(arguments.folder)
    else:
        made = make_leaf(arguments.folder, arguments.name, arguments.hosts)
    return Answer([str(path) for path in made], [str(path) for path in made])


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
  export BENCH_TOKEN=$(openssl rand -hex 16)        # the same on all nodes and for the runner
  bench node mec1 --port 4000
  bench node mec1 --host 10.0.0.3 --port 4000 --tls certs/mec1
  bench node mec1 --port 4000 --allow mine          # jobs may name what is in mine.py, such as mine:Stage
  curl http://127.0.0.1:4000/health                 # busy or idle""",
    _add_node,
    _node,
    """
The environment variable BENCH_TOKEN holds the runner's secret, 16 characters or more, or the credentials of this node
that bench certs token makes of it: with these nobody can act as the runner of another node. SIGTERM ends the node; a
runner whose job it had is told.""",
)
CERTS = Command(
    "make certificates and credentials for nodes and their runner",
    """
  bench certs init certs                            # the authority; keep certs/ca.key where nobody else reads it
  bench certs node runner certs                     # of bench run --hosts, into certs/runner
  bench certs node mec1 --host mec1.lan --host 10.0.0.3 certs
  scp -r certs/mec1 pi@mec1.lan:                    # for bench node mec1 --tls mec1
  bench certs token mec1                            # BENCH_TOKEN for mec1 alone, in place of the runner's""",
    _add_certs,
    _certs,
    "\nNeeds the command openssl, 1.1.1 or later.",
)
DOCTOR = Command(
    "show what this machine has: link shaping, root, GPU, data sets",
    """
  bench doctor --data ~/data
  sudo bench doctor --clean""",
    _add_doctor,
    _doctor,
)
