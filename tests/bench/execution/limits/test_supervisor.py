"""The process that watches over ``bench run``: what it does with a case that drops interrupts, signals, and a stop."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

MODULE = """
import os, time
import msgspec
from bench.suite.experiment import Measurement

class Parameters(msgspec.Struct):
    n: int

def measure(parameters: Parameters, context):
    if parameters.n == 1:
        raise RuntimeError("before")
    while parameters.n == 2 and not os.path.exists("mended"):
        try:
            time.sleep(60)
        except BaseException:
            if not os.path.exists("deaf"):
                raise
    yield Measurement("n", parameters.n, "1")
"""
SUITE = """
name: deaf
experiments:
  - {name: sweep, run: "deaf:measure", mode: in-process, timeout_s: LIMIT, grid: {n: [0, 1, 2, 3]}}
  - {name: other, run: "deaf:measure", mode: in-process, grid: {n: [4]}}
"""
RUN = [sys.executable, "-m", "bench.cli.main", "run", "deaf.yaml", "--out", "out", "--jobs", "1"]


@pytest.fixture
def deaf(user_folder: Callable[..., Path]) -> Callable[[str], Path]:
    return lambda limit: user_folder("deaf", MODULE, SUITE.replace("LIMIT", limit))


def recorded() -> list[int]:
    return [json.loads(line)["case"]["n"] for line in Path("out/records.jsonl").read_text().splitlines()]


@pytest.mark.promise(
    "Time", "a case drops the interrupt at its time limit", "its process is killed, the other cases run, exit code 3"
)
def test_a_case_that_drops_the_interrupt_fails_alone(deaf: Callable[[str], Path]) -> None:
    (deaf("0.3") / "deaf").touch()
    ended = subprocess.run(RUN, capture_output=True, text=True, check=False)
    assert ended.returncode == 3
    assert recorded() == [0, 3, 4]
    told = "deaf/sweep n=2 seed 0: exceeded its time limit of 0.3 s (timeout_s), and its process had to be killed"
    assert ended.stderr.count(told) == 1
    assert ended.stderr.count("RuntimeError: before") == 1
    errors = Path("out/errors.log").read_text()
    assert errors.count("RuntimeError: before\n") == 1  # it was not run again
    assert any("deaf.py" in line and line.endswith(" in measure") for line in errors.splitlines())
    environment = json.loads(Path("out/environment.json").read_text())
    assert [one["status"] for one in environment["suites"][0]["experiments"]] == ["failed", "done"]
    Path("mended").touch()
    assert subprocess.run([*RUN, "--resume"], check=False).returncode == 3  # n=1 fails again
    assert sorted(recorded()) == [0, 2, 3, 4]


@pytest.fixture
def running(deaf: Callable[[str], Path]) -> Iterator[subprocess.Popen[str]]:
    """A run in a case that takes long."""
    deaf("600")
    with subprocess.Popen(RUN, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        while "n=2" not in process.stdout.readline():
            pass
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_are_passed_on(running: subprocess.Popen[str], sent: signal.Signals, code: int) -> None:
    running.send_signal(sent)
    assert running.wait(60) == code
    assert recorded() == [0]
    assert Path("out/report.md").exists()


def test_the_run_stops_with_it_and_ends_with_it(running: subprocess.Popen[str]) -> None:
    (run,) = psutil.Process(running.pid).children()
    for sent, status in ((signal.SIGSTOP, True), (signal.SIGCONT, False)):
        running.send_signal(sent)
        while (run.status() == psutil.STATUS_STOPPED) != status:
            time.sleep(0.01)  # another process, which tells nothing
    os.kill(running.pid, signal.SIGKILL)
    assert running.wait(60) == -signal.SIGKILL
    assert psutil.wait_procs([run], timeout=60)[1] == []


def test_its_end_is_that_of_a_run_that_was_killed(running: subprocess.Popen[str]) -> None:
    (run,) = psutil.Process(running.pid).children()
    run.kill()
    assert running.wait(60) == -signal.SIGKILL
