"""User code that tries to end the process: an error of one line with its file and line, never success."""

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli.main import main
from nodes.errors import NodeError
from nodes.runtime.executors import ThreadExecutor, inline
from nodes.user_code import UserExitError, contained

MODULE = """
import os, sys
import msgspec
import torch
from bench.suite.experiment import Context, Measurement
from nodes.stages.base import Stage
from nodes.zoo.small_cnn import small_cnn

def at(place):
    if os.environ.get("PLACE") == place:
        if os.environ["KIND"] == "exit":
            sys.exit(0)
        raise KeyboardInterrupt

at("module")

class Parameters(msgspec.Struct):
    n: int = 1

    def __post_init__(self):
        at("parameters")

    def problems(self, setting):
        at("problems")
        return []

class Coder(Stage):
    def __init__(self, shapes):
        super().__init__(shapes)
        at("stage")

class Layer(torch.nn.Module):
    whole = True

    def forward(self, x):
        at("forward")
        return x

def network():
    at("model")
    return torch.nn.Sequential(Layer(), small_cnn())

def measure(parameters: Parameters, context: Context):
    at("experiment")
    yield Measurement("n", 1, "1")
    at("end")
"""
SUITE = """
name: mine
dataset: digits
experiments:
  - {name: own, run: 'mine:measure', mode: in-process}
  - name: chain
    run: pipeline.chain
    mode: in-process
    scales: {laptop: {skip: true}}
    parameters: {model: 'mine:network', stage: 'mine:Coder', side: 16, nodes: 2, splits: [3], batch_size: 8,
                 steps: 1, train_samples: 8, test_samples: 8}
"""


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
@pytest.mark.parametrize("place", ["module", "parameters", "problems", "stage", "model", "forward"])
@pytest.mark.promise(
    "User code",
    "user code raises SystemExit or KeyboardInterrupt as a suite is validated",
    "file and line of suite and code, exit code 2",
)
def test_validate_names_the_line_of_the_suite_and_of_the_code(
    user_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    kind: str,
) -> None:
    user_folder("mine", MODULE, SUITE)
    monkeypatch.setenv("PLACE", place)
    monkeypatch.setenv("KIND", kind)
    assert main(["validate", "mine.yaml"]) == 2
    lines = capsys.readouterr().err.splitlines()
    source = "sys.exit(0)" if kind == "exit" else "raise KeyboardInterrupt"
    line = next(at for at, text in enumerate(MODULE.splitlines(), start=1) if text.strip() == source)
    assert lines
    for said in lines:
        assert said.startswith("mine.yaml:")
        assert f"mine.py:{line}: " in said


@pytest.mark.parametrize("kind", ["exit", "interrupt"])
@pytest.mark.parametrize("place", ["experiment", "end"])
@pytest.mark.promise(
    "User code",
    "an experiment raises SystemExit or KeyboardInterrupt",
    "it has failed with file and line, the others run, exit code 3",
)
def test_an_experiment_that_would_end_the_run_has_failed(
    user_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: str,
    kind: str,
) -> None:
    folder = user_folder(
        "mine", MODULE, SUITE.replace("in-process}", "in-process}\n  - {name: b, run: 'mine:measure'}")
    )
    monkeypatch.setenv("PLACE", place)
    monkeypatch.setenv("KIND", kind)
    assert main(["run", "mine.yaml", "--out", "out"]) == 3
    assert [said.partition(" seed")[0] for said in capsys.readouterr().err.splitlines()] == [
        "failed: mine/own",
        "failed: mine/b",
    ]
    assert not (folder / "out/records.jsonl").read_bytes()


@pytest.mark.promise("User code", "nothing that was asked for runs at the scale", "exit code 2")
def test_a_run_of_nothing_is_refused(
    user_folder: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    user_folder("mine", MODULE, SUITE)
    assert main(["run", "mine.yaml", "--only", "chain", "--out", "out"]) == 2
    assert "mine/chain is not at scale laptop" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def leave() -> None:
    raise SystemExit(0)


@pytest.mark.parametrize("compute", [inline, ThreadExecutor()])
def test_a_node_s_computation_cannot_end_its_process(compute: Callable[..., object]) -> None:
    with pytest.raises(UserExitError, match=r"test_user_exit\.py:\d+: "):
        asyncio.run(compute(None, leave))  # type: ignore[arg-type]  # no worker is asked


def press() -> None:
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(9)


def press_and_tidy_up() -> None:
    try:
        press()
    except KeyboardInterrupt:
        raise


def fail() -> None:
    raise NodeError("no end")


@pytest.mark.parametrize(
    ("run", "error"), [(press, KeyboardInterrupt), (press_and_tidy_up, KeyboardInterrupt), (fail, NodeError)]
)
def test_ctrl_c_passes_and_an_error_too(run: Callable[[], None], error: type[BaseException]) -> None:
    with pytest.raises(error):
        contained()(run)()
