"""``bench node``: one node of a chain, started by hand, on this machine or another."""

import os

import uvloop

from bench.suite.document import InputError
from netem.proxy import authority
from nodes.process.serve import serve

TOKEN_VARIABLE = "BENCH_TOKEN"
LEAST_TOKEN_CHARACTERS = 16


def run_node(name: str, host: str = "127.0.0.1", port: int = 0, once: bool = False) -> int:
    """Serve as node ``name``, one run after the other or ``once``; returns 0, or 1 if the last run failed.

    Prints the address that it listens on. Nodes and runner share the token in the environment variable BENCH_TOKEN.
    Raises InputError if there is no token, or if the node cannot listen.
    """
    if not name.strip() or not name.isprintable():
        raise InputError([f"NAME: {name!r} is not a name of a node; give one such as mec1"])
    token = os.environ.get(TOKEN_VARIABLE, "")
    if len(token) < LEAST_TOKEN_CHARACTERS or not (token.isascii() and token.isprintable()):
        needs = f"at least {LEAST_TOKEN_CHARACTERS} printable ASCII characters"
        raise InputError([f"{TOKEN_VARIABLE}: needs {needs}, the same for all nodes and the runner"])

    def announce(bound: int) -> None:
        print(f"{name} listens at {authority(host, bound)}", flush=True)

    try:
        well = uvloop.run(serve(name, token, host, port, announce, jobs=1 if once else None))
    except OSError as error:
        raise InputError([f"{authority(host, port)}: {error.strerror or error}"]) from None
    return int(not well)
