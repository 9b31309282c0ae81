"""``bench run`` and ``bench verify``: what makes records."""
# ruff: noqa: PLC0415 - so that --help needs no torch

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from bench.cli.command import (
    INTERRUPTED,
    TERMINATED,
    Command,
    data_argument,
    insecure_argument,
    suites_argument,
    whole_number,
)

MOST_SEED = (1 << 63) - 10_001  # a suite counts up from it, at most 10,000 times
MORE = """

DIR then holds records.jsonl, claims.json, report.md, report.html and environment.json; run.log says what
happened when, errors.log has the traceback of each failure."""


def _add_run(command: ArgumentParser) -> None:
    suites_argument(command)
    only = "run only experiments whose name, or suite/name, matches; may be repeated"
    command.add_argument("--only", action="append", default=[], metavar="GLOB", help=only)
    changed = (
        "change a parameter, as in accuracy.train_samples=512 or pipeline/accuracy.optimizer.lr=0.1; may be repeated"
    )
    command.add_argument("--set", action="append", default=[], metavar="EXPERIMENT.KEY=VALUE", help=changed)
    _add_options(command)


def _add_verify(command: ArgumentParser) -> None:
    claims = "a claim as reports name it, or suite/claim where several suites have it"
    command.add_argument("claims", nargs="+", metavar="CLAIM", help=claims)
    suite = "the suite of the claims, a YAML file or a name (default: the suite of the package that has them)"
    command.add_argument("--suite", metavar="SUITE", help=suite)
    _add_options(command)


def _add_options(command: ArgumentParser) -> None:
    from bench.execution import environment  # msgspec, psutil, yaml
    from bench.execution.environment import DeviceChoice, ShapingChoice
    from reports.record import Scale

    add = command.add_argument
    scales = "smoke: seconds an experiment; laptop: minutes; paper: the papers' models and epochs (default: laptop)"
    add("--scale", choices=get_args(Scale), default="laptop", help=scales)
    add("--out", type=Path, metavar="DIR", help="folder of the run (default: runs/<suite>-<UTC time>)")
    add("--seed", type=whole_number(0, MOST_SEED), default=0, metavar="N", help="first random seed (default: 0)")
    seeds = "seeds of each case (default: as the suite says)"
    add("--seeds", type=whole_number(1, environment.MOST_SEEDS), metavar="N", help=seeds)
    device = "where models run (default: auto, the GPU if torch can use one)"
    add("--device", choices=get_args(DeviceChoice), default="auto", help=device)
    backends = "how links of live runs are shaped; kernel uses tc and needs root (default: auto, which is emulated)"
    add("--shaping", choices=get_args(ShapingChoice), default="auto", help=backends)
    cluster = "run the cases of parallel experiments on the workers of a Dask scheduler, tcp://HOST:PORT or its file"
    add("--cluster", metavar="SCHEDULER", help=cluster)
    add("--shard", metavar="K/N", help="run the K-th of N parts of the cases; bench merge joins the folders")
    hosts = "machines on which live experiments run their nodes, see docs/hosts.md (default: this machine)"
    add("--hosts", type=Path, metavar="FILE", help=hosts)
    insecure_argument(command)
    restart = "start the nodes of a live case again if one dies or hangs, at most N times a case; training goes on"
    add(
        "--restart",
        type=whole_number(0, environment.MOST_RESTARTS),
        default=0,
        metavar="N",
        help=f"{restart} (default: 0)",
    )
    jobs = "cases of parallel experiments that run at once (default: one a core; 1 at scale paper or on a GPU)"
    add("--jobs", type=whole_number(1, 1024), metavar="N", help=jobs)
    add("--resume", action="store_true", help="continue the run in --out")
    rerun = "with --resume: drop recorded cases whose suite, code or files have changed, and run them again"
    add("--rerun-changed", action="store_true", help=rerun)
    uncalibrated = "warn of links off by more than 5 %% in rate, 1 ms in delay or half in jitter, instead of failing"
    add("--allow-uncalibrated", action="store_true", help=uncalibrated)
    samples = "write path, gate, bytes and answer of each test sample to DIR/samples, for experiments with a gate"
    add("--log-samples", action="store_true", help=samples)
    add("-v", "--verbose", action="store_true", help="log every step to standard error")
    watch = "serve a page on 127.0.0.1 that shows the run as it goes (default PORT: a free one, which is shown)"
    add("--watch", nargs="?", type=whole_number(0, 65535), const=0, metavar="PORT", help=watch)
    data_argument(command)


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
        if terminated:  # sent to this process, and passed on by the one that watches over it
            return
        terminated.append(number)
        if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as shells set it for background jobs
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield terminated
    finally:
        signal.signal(signal.SIGTERM, before)


RUN = Command(
    "run suites and write records, claims and a report",
    """
  bench run pipeline --scale smoke             # a suite of the package, in about a minute
  bench run suites/all.yaml                    # every suite, in about 20 minutes on a laptop
  bench run mine.yaml --data ~/data --seed 7   # your own suite and data sets
  bench run pipeline --hosts hosts.yaml        # nodes of live experiments on machines of their own
  bench run all --only 'links/*' --only live   # the experiments of links, and those called live
  bench run pipeline --set accuracy.train_samples=512 --seeds 3   # with another parameter, three seeds a case
  bench run all --shard 2/4 --out shard2       # the second of four parts, for as many machines
  bench run all --out runs/all --resume        # continue a run that was interrupted
  bench run pipeline --restart 3               # a node that dies is started again, and training goes on
  bench run hivemind --watch                   # show it in a browser; bench watch DIR does so later""",
    _add_run,
    _run,
    MORE,
)
VERIFY = Command(
    "run what claims need, and judge them",
    """
  bench verify saves-37-to-90-percent-of-cloud
  bench verify dynsplit/equal-bandwidth --scale paper --data ~/data --out runs/equal --resume
  bench verify mine-is-smaller --suite mine.yaml""",
    _add_verify,
    _verify,
    MORE,
)
