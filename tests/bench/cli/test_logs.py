"""Logs of a run: what ``run.log`` and standard error say, which secrets they leave out, and a disk that is full."""

import io
import logging
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from bench.cli.logs import log_handlers
from bench.console.view import LiveView
from reports.record import read_records

Command = Callable[..., int]
Told = Callable[..., tuple[int, str]]
RUN = ("run", "toy.yaml", "--scale", "smoke", "--out", "out")
TOKEN = "a-token-that-no-file-may-hold-0123456789"
LIVE = """
import logging, msgspec, os, secrets, warnings
from bench.live.training import run_live
from bench.suite.experiment import Context, Measurement
from nodes.spec.job import DataSpec, Job, StageSpec
from nodes.stages.base import Stage

class Parameters(msgspec.Struct):
    stage: str

class Coder(Stage):
    def compress(self, values):
        raise KeyError("no such key")

def run(parameters: Parameters, context: Context):
    secrets.token_urlsafe = lambda count: os.environ["BENCH_TOKEN"]
    warnings.warn("a warning of the user's")
    logging.getLogger("users").info("a line of the user's")
    job = Job(model="nodes.zoo.small_cnn:small_cnn", input_shape=(3, 32, 32), classes=10, nodes=("ue", "mec"),
              splits=(3,), stages=(StageSpec(name=parameters.stage),), threads=1, batch_size=8,
              data=DataSpec(train_samples=8, test_samples=8))
    yield Measurement("loss", run_live(job, self_test="skip").losses[0], "nats")
"""


def log() -> list[str]:
    """The lines of ``run.log`` without their times."""
    lines = [line for line in Path("out/run.log").read_text().splitlines() if not line.startswith("  ")]
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line) for line in lines)
    return [line.partition(" ")[2] for line in lines]


def test_the_log_tells_what_ran(command: Command) -> None:
    assert command(*RUN) == 0
    lines = log()
    assert re.fullmatch(r"INFO bench.execution.runner: run toy-\S+ started, 4 cases to run, scale smoke, .*", lines[0])
    assert lines[1] == "INFO bench.execution.progress: case started: toy/sweep n=1 seed 0"
    assert re.fullmatch(r"INFO bench.execution.progress: case ended: toy/sweep n=1 seed 0, \d+\.\d s", lines[2])
    assert lines[-1] == "INFO bench.execution.runner: run ended with exit code 0"
    assert len(lines) == 1 + 2 * 4 + 1


@pytest.mark.usefixtures("folder")
def test_a_failure_is_logged_and_a_run_that_goes_on_appends(command: Command) -> None:
    Path("fail").touch()
    assert command(*RUN) == 3
    failure = "ERROR bench.execution.runner: failed: toy/sweep n=2 seed 0: RuntimeError: a cable is missing"
    assert log().count(failure) == 1
    Path("fail").unlink()
    assert command(*RUN, "--resume") == 0
    assert log().count(failure) == 1
    assert sum("case started: " in line for line in log()) == 4 + 1


def test_verbose_tells_more_on_standard_error(told: Told) -> None:
    assert told(*RUN) == (0, "")
    code, error = told(*RUN[:-1], "more", "--verbose")
    assert code == 0
    assert error == Path("more/run.log").read_text()
    assert sum(" DEBUG " in line and "n is 7" in line for line in error.splitlines()) == 1


def test_the_log_of_live_nodes_holds_no_token(
    folder: Path, command: Command, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BENCH_TOKEN", TOKEN)
    (folder / "user.py").write_text(LIVE)
    spec = "{name: own, run: 'user:run', mode: live, grid: {stage: [identity, 'user:Coder']}}"
    (folder / "toy.yaml").write_text(f"name: toy\nexperiments: [{spec}]\n")
    monkeypatch.setattr("secrets.token_urlsafe", None)  # put back what the experiment replaces
    assert command(*RUN, "--verbose") == 3
    lines = log()
    for node in ("ue", "mec"):
        started = [line for line in lines if re.search(rf"processes: node process {node} started, port \d+$", line)]
        assert len(started) == 2
        ends = [line.rpartition(f"processes: node process {node} ")[2] for line in lines]
        first, second = [end for end in ends if end.startswith(("ended", "was"))]
        assert first == "ended with code 0"
        assert second != first
    assert "INFO users: a line of the user's" in lines
    assert any("WARNING py.warnings: " in line and "a warning of the user's" in line for line in lines)
    assert "KeyError: 'no such key'" in Path("out/errors.log").read_text()
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert {"run.log", "errors.log", "records.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if TOKEN.encode() in path.read_bytes()]
    printed = capfd.readouterr()
    assert TOKEN not in printed.out + printed.err


def test_a_full_disk_under_the_logs_loses_no_record(folder: Path, told: Told) -> None:
    (folder / "fail").touch()
    assert told(*RUN, "--only", "other")[0] == 0
    for name in ("run.log", "errors.log"):
        (folder / "out" / name).unlink(missing_ok=True)
        (folder / "out" / name).symlink_to("/dev/full")
    code, error = told(*RUN, "--resume")
    assert code == 3
    assert {record.value for record in read_records(folder / "out/records.jsonl")} == {1, 2, 3, 6, 7, 14}
    starts = [line.partition(":")[0] for line in error.splitlines()]
    assert starts == ["out/run.log is no longer written", "errors.log", "failed"]


def test_a_log_that_cannot_be_opened_is_said_once(folder: Path, told: Told) -> None:
    assert told(*RUN, "--only", "other")[0] == 0
    (folder / "out/run.log").unlink()
    (folder / "out/run.log").mkdir()
    code, error = told(*RUN, "--resume")
    assert code == 0
    assert error.startswith("out/run.log is not written: ")


def test_a_live_view_shows_what_goes_to_standard_error() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, legacy_windows=False)
    with log_handlers(verbose=False), LiveView(console, 1):
        logging.getLogger("bench").error("failed: a case")
    assert "failed: a case" in shown.getvalue()


def test_handlers_are_removed_again(tmp_path: Path) -> None:
    root, shown = logging.getLogger(), warnings.showwarning
    before = (list(root.handlers), root.level, logging.getLogger("bench").level)
    with log_handlers(verbose=True) as log_to:
        log_to(tmp_path / "run.log")
        assert len(root.handlers) == len(before[0]) + 2
        assert logging.getLogger("bench.live").isEnabledFor(logging.DEBUG)
        assert not logging.getLogger("asyncio").isEnabledFor(logging.DEBUG)
    assert (list(root.handlers), root.level, logging.getLogger("bench").level) == before
    assert warnings.showwarning is shown
    open_files = [os.path.realpath(f"/proc/self/fd/{number}") for number in os.listdir("/proc/self/fd")]
    assert os.path.realpath(tmp_path / "run.log") not in open_files
