"""``bench run --cluster``: a scheduler and two workers, each a process; the records are those of a run here."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("distributed", reason="needs the extra cluster")
pytestmark = pytest.mark.xdist_group("in turn")  # as all tests that start several processes

Command = Callable[..., int]
SUITE = """
name: mine
experiments:
  - {name: one, run: "mine:measure", mode: virtual, parallel: true, seeds: 2, parameters: {factor: 2}}
  - {name: other, run: "mine:measure", mode: virtual, parallel: true, grid: {factor: [3, 4]}}
  - {name: here, run: "mine:measure", mode: virtual, parameters: {factor: 5}}
"""
CODE = """
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bench.suite.experiment import Context, Measurement


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    factor: int


def measure(parameters: Parameters, context: Context) -> Iterator[Measurement]:
    stuck = Path("stuck")  # a file here makes the first process that sees it stand still
    if parameters.factor == 4 and stuck.exists():
        stuck.rename("pid.tmp").write_text(str(os.getpid()))
        Path("pid.tmp").rename("pid")
        time.sleep(1000)
    yield Measurement("value", parameters.factor * 10.0 + context.seed, "")
"""


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The file of a scheduler with two workers, one thread each, in a folder with the suite."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(SUITE)
    Path("mine.py").write_text(CODE)
    file = str(tmp_path / "scheduler.json")
    own = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    common = ["--scheduler-file", file]
    words = [["scheduler", "--port", "0", "--no-dashboard"], *[["worker", "--nthreads", "1", "--no-nanny"]] * 2]
    processes = [
        subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_" + word, *more, *common], env=own)
        for word, *more in words
    ]
    try:
        until(Path(file).exists, processes)
        yield file
    finally:
        for process in processes:
            process.kill()
            process.wait()


def until(condition: Callable[[], bool], processes: list[subprocess.Popen[bytes]]) -> None:
    """Wait for ``condition``, as long as all ``processes`` live."""
    while not condition():
        for process in processes:
            try:
                process.wait(0.05)
            except subprocess.TimeoutExpired:
                continue
            raise AssertionError(f"{process.args!r} ended")


def records(folder: str) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in Path(folder, "records.jsonl").read_text().splitlines()]
    return [{key: value for key, value in one.items() if key != "run"} for one in found]


def test_records_are_those_of_a_run_here_in_their_order(scheduler: str, command: Command) -> None:
    assert command("run", "mine.yaml", "--out", "here", "--jobs", "1") == 0
    assert command("run", "mine.yaml", "--out", "there", "--cluster", scheduler) == 0
    assert records("there") == records("here")
    assert [one["value"] for one in records("there")] == [20.0, 21.0, 30.0, 40.0, 50.0]


def test_the_case_of_a_lost_worker_is_run_again(scheduler: str, command: Command) -> None:
    Path("stuck").touch()
    words = [sys.executable, "-m", "bench.cli.main", "run", "mine.yaml", "--out", "out", "--cluster", scheduler]
    run = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    until(Path("pid").exists, [run])
    os.kill(int(Path("pid").read_text()), signal.SIGKILL)
    assert run.wait() == 0
    assert sorted(one["value"] for one in records("out")) == [20.0, 21.0, 30.0, 40.0, 50.0]


def test_no_scheduler_is_one_line(tmp_path: Path, command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine.yaml").write_text(SUITE)
    (tmp_path / "mine.py").write_text(CODE)
    words = ("run", str(tmp_path / "mine.yaml"), "--out", str(tmp_path / "out"))
    assert command(*words, "--cluster", "nonsense://nowhere") == 2
    assert "--cluster nonsense://nowhere: " in capsys.readouterr().err
