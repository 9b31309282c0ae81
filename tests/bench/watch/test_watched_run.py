"""A run with ``--watch``: what it keeps, that it measures the same, and its page in a browser."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import events
from bench.cli.main import main
from reports.record import read_records

MODULE = """
import msgspec
from bench import events
from bench.suite.experiment import Context, Measurement

class Parameters(msgspec.Struct):
    n: int = 1

def learn(parameters: Parameters, context: Context):
    for epoch in (1, 2):
        events.emit("learned", curve="mine", at_epoch=epoch, loss=1 / epoch, test_accuracy=0.4 * epoch)
    context.say("it <b>learns</b>")
    yield Measurement("n", parameters.n, "1")
"""
SUITE = """
name: watched
experiments:
  - {name: beside, run: "learner:learn", mode: in-process, parallel: true, grid: {n: [1, 2]}}
  - {name: alone, run: "learner:learn", mode: in-process, parallel: false}
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with ``watched``, a run with the page, and ``plain``, the same without."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "learner.py").write_text(MODULE)
    (folder / "watched.yaml").write_text(SUITE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        run = ("run", "watched.yaml", "--scale", "smoke", "--jobs", "2")
        assert main([*run, "--out", "watched", "--watch"]) == 0
        assert main([*run, "--out", "plain"]) == 0
        yield folder


def kept(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / events.FILE).read_text().splitlines()]


def test_events_tell_what_the_run_did(runs: Path) -> None:
    found = kept(runs / "watched")
    kinds = [event["kind"] for event in found]
    assert (kinds[0], kinds[-1]) == ("run", "end")
    assert (found[0]["cases"], found[-1]["exit_code"]) == (3, 0)
    for kind in ("started", "say", "ended"):
        assert kinds.count(kind) == 3
    started = [event["case"] for event in found if event["kind"] == "started"]
    assert len(set(started)) == 3
    learned = [(event["case"], event["at_epoch"]) for event in found if event["kind"] == "learned"]
    assert sorted(learned) == sorted((case, epoch) for case in started for epoch in (1, 2)), "also of worker processes"


def test_a_watched_run_measures_the_same(runs: Path) -> None:
    watched, plain = (
        [(one.experiment, one.case, one.metric, one.value) for one in read_records(runs / name / "records.jsonl")]
        for name in ("watched", "plain")
    )
    assert watched == plain
    assert not (runs / "plain" / events.FILE).exists()


def test_a_port_that_is_taken_is_an_error_before_any_case(
    runs: Path, told: Callable[..., tuple[int, str]], folder: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        code, error = told("run", "toy.yaml", "--scale", "smoke", "--out", "out", "--watch", port)
        assert (code, error.count("\n")) == (2, 1)
        assert error.startswith(f"--watch: port {port}: ")
        assert not (folder / "calls.txt").exists()
        code, error = told("watch", str(runs / "watched"), "--port", port)
        assert (code, error.count("\n")) == (2, 1)
        assert f"127.0.0.1:{port}: " in error


def test_a_folder_without_a_run_cannot_be_watched(told: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, error = told("watch", str(tmp_path))
    assert (code, error.count("\n")) == (2, 1)
    assert error.startswith(f"{tmp_path}: ")
