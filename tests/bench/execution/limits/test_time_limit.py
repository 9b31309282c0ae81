"""Time limits of cases: which limit, what counts as time, the interrupt, and workers that cannot be interrupted."""

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.cli.main import main
from bench.execution.limits.time_limit import CaseTimeoutError, Stopwatch, grace_s, limited, tick_s
from bench.execution.plan import make_plan, options_of
from bench.execution.pool import SILENCE_S, Assignment

MODULE = """
import asyncio, itertools, os, signal, time
import msgspec, uvloop
from bench.suite.experiment import Measurement

class Parameters(msgspec.Struct):
    n: str

def never():
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(asyncio.Event().wait())

def deaf():
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass

def in_c():
    -1 in itertools.count()

DOES = {"sleeps": lambda: time.sleep(60), "waits": never, "deaf": deaf, "in_c": in_c,
        "stops": lambda: os.kill(os.getpid(), signal.SIGSTOP)}

def measure(parameters: Parameters, context):
    for name in os.environ.get("DO", "").split():
        if name == parameters.n:
            DOES[name]()
    yield Measurement("n", 1, "1")
"""
SUITE = """
name: slow
experiments:
  - name: sweep
    run: slow:measure
    mode: in-process
    timeout_s: 0.3
    grid: {n: [NAMES]}
"""


def recorded(out: str = "out") -> list[str]:
    return [json.loads(line)["case"]["n"] for line in Path(out, "records.jsonl").read_text().splitlines()]


# Which limit


@pytest.mark.parametrize(
    ("said", "limit_s"),
    [
        ("", None),
        ("timeout_s: 2.5", 2.5),
        ("estimate_s: 1", 1800),  # half an hour at least
        ("estimate_s: 100", 5000),
        ("estimate_s: 100, timeout_s: 7", 7),
        ("timeout_s: 7, scales: {smoke: {timeout_s: 9}}", 9),
        ("timeout_s: 7, scales: {smoke: {estimate_s: 1}}", 7),
    ],
)
def test_the_limit_is_the_suites_else_many_estimates(folder: Path, said: str, limit_s: float | None) -> None:
    suite = f"name: toy\nexperiments:\n- {{name: sweep, run: toy:measure, mode: in-process, {said}}}\n"
    (folder / "toy.yaml").write_text(suite)
    (case,) = make_plan(options_of({"suites": ["toy.yaml"], "scale": "smoke"})).selected_cases
    assert case.limit_s == limit_s


@pytest.mark.parametrize("value", ["0", "-1", "soon"])
def test_a_limit_is_a_time_above_0(folder: Path, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (folder / "toy.yaml").read_text().replace("mode: virtual", f"mode: virtual\n    timeout_s: {value}")
    (folder / "toy.yaml").write_text(text)
    assert main(["validate", "toy.yaml"]) == 2
    assert capsys.readouterr().err.startswith("toy.yaml:11: experiments[1].timeout_s: ")


def test_the_limit_decides_no_number(folder: Path) -> None:
    before = [case.sha256 for case in make_plan(options_of({"suites": ["toy.yaml"]})).selected_cases]
    (folder / "toy.yaml").write_text((folder / "toy.yaml").read_text().replace("mode:", "timeout_s: 5\n    mode:"))
    assert [case.sha256 for case in make_plan(options_of({"suites": ["toy.yaml"]})).selected_cases] == before


# What counts as time


def test_a_standstill_of_the_process_counts_as_two_ticks() -> None:
    watch = Stopwatch(100.0, tick_s=1.0)
    times = [101.0, 101.5, 103.0, 3703.0, 3704.0]  # stopped for an hour in between
    assert [watch.passed_s(now) for now in times] == [1.0, 1.5, 3.0, 5.0, 6.0]


@pytest.mark.parametrize(("limit_s", "tick", "grace"), [(0.4, 0.1, 5), (8, 2, 8), (3600, 5, 30)])
def test_a_short_limit_is_looked_at_often(limit_s: float, tick: float, grace: float) -> None:
    assert (tick_s(limit_s), grace_s(limit_s)) == (pytest.approx(tick), grace)


@pytest.mark.parametrize("limit_s", [None, 600.0])
def test_what_ends_in_time_is_left_alone(limit_s: float | None) -> None:
    threads = threading.active_count()
    with limited(limit_s):
        assert threading.active_count() == threads + (limit_s is not None)
    assert threading.active_count() == threads


def test_the_interrupt_comes_again_where_the_first_was_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.execution.limits.time_limit.AGAIN_S", 0.05)
    dropped = 0
    with limited(0.1):
        while dropped < 3:
            try:
                time.sleep(60)
            except CaseTimeoutError:
                dropped += 1
    assert dropped == 3


# A case


@pytest.fixture
def slow(user_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """``bench run`` of cases with names, of which some are to take for ever; the exit code."""
    folder = user_folder("slow", MODULE)

    def run(names: str, do: str, *words: str, parallel: bool = False) -> int:
        suite = SUITE.replace("NAMES", names)
        suite = suite.replace("mode:", "parallel: true\n    mode:") if parallel else suite
        (folder / "slow.yaml").write_text(suite)
        monkeypatch.setenv("DO", do)
        return main(["run", "slow.yaml", "--out", "out", *words])

    return run


@pytest.mark.promise(
    "Time",
    "a case takes longer than its time limit",
    "it has failed, the others are recorded; `errors.log` says where it was",
)
@pytest.mark.parametrize("kind", ["sleeps", "waits"])
def test_a_case_beyond_its_limit_fails_alone(
    slow: Callable[..., int], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert slow(f"a, {kind}, b", kind) == 3
    assert recorded() == ["a", "b"]
    told = f"slow/sweep n={kind} seed 0: exceeded its time limit of 0.3 s (timeout_s)"
    assert told in capsys.readouterr().err
    errors = Path("out/errors.log").read_text()
    assert errors.startswith(f"slow/sweep n={kind} seed 0\nTraceback")
    assert "slow.py" in errors  # where it was
    assert slow(f"a, {kind}, b", "", "--resume") == 0
    assert recorded() == ["a", "b", kind]


@pytest.mark.promise(
    "Time",
    "a worker of `--jobs` is stopped, deaf to interrupts or stuck in C",
    "it is killed, its case has failed, the others are recorded",
)
@pytest.mark.parametrize("kind", ["deaf", "stops", "in_c"])
def test_a_worker_that_cannot_be_interrupted_is_killed(
    slow: Callable[..., int], kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bench.execution.pool.grace_s", lambda _: 0.5)
    monkeypatch.setattr("bench.execution.pool.LOOK_S", 0.1)
    assert slow(f"a, {kind}, b", kind, "--jobs", "2", parallel=True) == 3
    assert recorded() == ["a", "b"]
    title, told, *calls = Path("out/errors.log").read_text().splitlines()
    assert title == f"slow/sweep n={kind} seed 0"
    assert told == "exceeded its time limit of 0.3 s (timeout_s), and its process had to be killed"
    assert any("slow.py" in call for call in calls) == (kind != "stops")  # one that is stopped tells nothing
    assert slow(f"a, {kind}, b", "", "--resume", parallel=True) == 0
    assert recorded() == ["a", "b", kind]


# A worker process, by the clock


def overdue(limit_s: float | None, *, heard_until_s: float, until_s: int) -> tuple[int, str]:
    """When a worker is to be killed, and why; its case begins after 3 s."""
    case: Any = SimpleNamespace(limit_s=limit_s)
    assignment = Assignment(case, 0.0)
    for now in range(1, until_s):
        if now <= heard_until_s:
            assignment.heard(now)
        if now == 3:
            assignment.began(now)
        if why := assignment.overdue(now):
            return now, why
    return until_s, ""


def test_a_worker_is_killed_a_while_after_the_limit() -> None:
    when, why = overdue(40.0, heard_until_s=999, until_s=999)
    assert when == 3 + 40 + 30 + 1
    assert why.startswith("exceeded its time limit of 40 s")


def test_a_worker_that_is_silent_is_killed_without_a_limit() -> None:
    when, why = overdue(None, heard_until_s=20, until_s=999)
    assert when == 20 + SILENCE_S + 1
    assert why == "its process has not been heard of for 300 s"


def test_a_worker_that_is_heard_may_take_its_time() -> None:
    assert overdue(None, heard_until_s=9999, until_s=9999) == (9999, "")
