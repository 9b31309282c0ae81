"""Chains of which a node is killed or stopped, and that start again: they end as if nothing had happened."""

import functools
import itertools
import json
import logging
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jobs import NAMES, small_job
from rich.console import Console

from bench.execution.plan import Options
from bench.execution.runner import run as run_suites
from bench.live import run
from bench.live import training as live
from bench.live.faults.restarts import Restarts, restarting
from bench.live.processes import LostError, RunError
from nodes.spec.job import DataSpec, Job, StageSpec
from nodes.training.in_process import run_in_process
from nodes.training.report import TrainingOutcome
from reports.record import read_records

run_live = functools.partial(live.run_live, self_test="skip")  # a busy machine is no fault here
DATA = {"data": DataSpec(train_samples=56, test_samples=8), "epochs": 2}  # of seven steps each: 0 and 10 are kept
LATEST = {"build": 0, "train": 13, "backward": 13, "test": 1}  # how often a stage has come to a moment before
TIMES = ("train_s", "test_s")
SUITE = """
name: restarts
defaults:
  run: pipeline.chain
  mode: live
  dataset: digits
  parameters: {model: small_cnn, splits: [3, 6], batch_size: 8, train_samples: 96, test_samples: 8, threads: 1}
experiments:
  - {name: undisturbed, parameters: {stage: {name: "mines:Mine", options: {node: nobody, moment: never}}}}
  - name: killed
    parameters: {stage: {name: "mines:Mine", options: {node: mec, moment: backward, after: 11, once: ONCE}}}
"""


def mined(once: Path | None = None, **fuse: Any) -> Job:
    options = {"node": "nobody", "moment": "never"} | fuse | ({"once": str(once)} if once else {})
    stages = (StageSpec(name="mines:Mine", options=options),) * 2
    return small_job(3, 6, stages=stages, **DATA)


@contextmanager
def again(folder: Path, most: int = 1) -> Iterator[Restarts]:
    """Let a run start again that writes ``once`` as its mine goes off."""
    with restarting(most, folder) as restarts:
        yield restarts
    assert list(folder.iterdir()) == [folder / "once"], "a mine that did not go off, or states that were kept too long"


def counted(outcome: TrainingOutcome) -> Any:
    """All of ``outcome`` but times; a WebSocket's bytes depend on which end closes it first."""
    epochs = [{name: value for name, value in epoch.items() if name not in TIMES} for epoch in outcome.epochs]
    bulk = [one for node in outcome.nodes for one in node.connections if one.kind == "bulk"]
    lost = sum(one.written_bytes - one.acked_bytes for node in outcome.nodes for one in node.connections)
    nodes = [(node.name, node.steps, node.sent) for node in outcome.nodes]
    return outcome.losses, epochs, nodes, [one.written_bytes for one in bulk], lost


@pytest.fixture(scope="module")
def undisturbed() -> Any:
    outcome = run_live(mined())
    whole = run_in_process(small_job(**DATA))  # plain torch
    assert outcome.losses == whole.losses
    return counted(outcome)


@pytest.mark.promise(
    "Nodes",
    "with `--restart N`, a node of a chain is stopped as it trains",
    "all start again, and end as if nothing had happened",
)
def test_a_stopped_node_s_training_goes_on_from_the_step_that_all_have(undisturbed, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(run, "SILENCE_S", 4.0)
    with again(tmp_path) as restarts:
        outcome = run_live(mined(tmp_path / "once", node="cloud", moment="test", effect="stop", after=1))
    assert counted(outcome) == undisturbed
    line = "cloud has not been heard of for 4 s; the nodes start again from training step 10 (restart 1 of at most 1)"
    assert restarts.lines == [line]
    assert [(record.levelno, record.message) for record in caplog.records] == [(logging.WARNING, line)]


@pytest.mark.promise("Nodes", "with `--restart N`, a node dies each time", "the run ends and names it after N restarts")
def test_a_node_that_dies_each_time_ends_the_run_after_so_many_restarts(tmp_path):
    with restarting(2, tmp_path) as restarts, pytest.raises(RunError, match=r"^mec was killed by SIGKILL$"):
        run_live(mined(node="mec", moment="build"))
    assert [line.partition(";")[2] for line in restarts.lines] == [
        f" the nodes start again from the beginning (restart {number} of at most 2)" for number in (1, 2)
    ]


def test_a_run_of_the_command_tells_of_restarts_and_records_what_it_would_without(user_folder, capfd):
    folder = user_folder("restarts", "")
    Path("restarts.yaml").write_text(SUITE.replace("ONCE", str(folder / "once")))
    options = Options(suites=("restarts.yaml",), scale="smoke", out=Path("out"), restart=1, allow_uncalibrated=True)
    assert run_suites(options, Console(), lambda path: None).exit_code == 0
    environment = json.loads(Path("out/environment.json").read_text())
    ((title, (line,)),) = environment["restarts"].items()
    assert "killed" in title
    assert line == "mec was killed by SIGKILL; the nodes start again from training step 10 (restart 1 of at most 1)"
    found: dict[str, dict[Any, float]] = {"undisturbed": {}, "killed": {}}
    for record in read_records(Path("out/records.jsonl")):
        found[record.experiment][record.metric, *sorted(record.case.items())] = record.value
    assert found["killed"].keys() == found["undisturbed"].keys()
    differing = {key[0] for key, value in found["killed"].items() if value != found["undisturbed"][key]}
    assert differing <= {"pid", "cpu_s", "phase_s", "samples_per_s", "inference_samples_per_s", "transport_bytes"}


# -- decisions


def dying(*texts: str) -> Callable[[], str]:
    left = [LostError(text, weight=2) for text in texts]

    def attempt() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return attempt


def test_restarts_of_a_case_are_those_of_all_its_runs_together(tmp_path):
    restarts = Restarts(2, tmp_path)
    assert restarts.run(dying("ue ended"), lambda: "from a step") == "done"
    assert restarts.run(dying("mec ended"), lambda: "from a step") == "done"
    with pytest.raises(LostError, match=r"^cloud ended$"):
        restarts.run(dying("cloud ended"), lambda: "from a step")
    assert len(restarts.lines) == 2


def test_what_is_no_death_is_no_reason_to_start_again(tmp_path):
    def attempt() -> None:
        raise RunError("mec: out of memory", weight=2)

    restarts = Restarts(2, tmp_path)
    with pytest.raises(RunError):
        restarts.run(attempt, lambda: "")
    assert restarts.lines == []


def test_states_are_kept_for_a_run_that_may_start_again_alone(tmp_path):
    with Restarts(0, tmp_path).kept() as folder:
        assert folder is None
    left = tmp_path / "restart-1" / "step-0-10.pt"
    left.parent.mkdir()
    left.touch()  # by a runner that was killed
    with Restarts(1, tmp_path).kept() as folder:
        assert list(folder.iterdir()) == []
    assert list(tmp_path.iterdir()) == []


# -- all roles, all phases


@pytest.mark.promise(
    "Nodes",
    "with `--restart N`, any node of a chain is killed or stopped, in any phase",
    "all start again, and end as if nothing had happened",
)
@pytest.mark.nightly
@pytest.mark.parametrize("lost", list(itertools.product(NAMES[3], LATEST, ("kill", "stop"))), ids="-".join)
def test_a_node_lost_at_any_moment_changes_nothing(lost, undisturbed, tmp_path, monkeypatch):
    node, moment, effect = lost
    monkeypatch.setattr(run, "SILENCE_S", 4.0)
    after = random.Random(" ".join(lost)).randint(0, LATEST[moment])
    with again(tmp_path) as restarts:
        outcome = run_live(mined(tmp_path / "once", node=node, moment=moment, effect=effect, after=after))
    assert counted(outcome) == undisturbed
    assert len(restarts.lines) == 1
