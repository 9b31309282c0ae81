"""A folder of a user's own: suites written as text, and a module of experiments that the tests can steer."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.suite.experiment import Context

MODULE = """
import asyncio, os, signal, time
from pathlib import Path
import msgspec
from bench.suite.experiment import Context, Measurement, Problem
from bench.suite.parameter_types import DatasetName, ModelName

class Parameters(msgspec.Struct):
    n: int = 1
    rate: float = 0.5
    model: ModelName | None = None
    data: DatasetName | None = None
    inner: dict[str, list[int]] = {}

class Paired(msgspec.Struct):
    low: int
    high: int = 9
    def __post_init__(self):
        if self.low > self.high:
            raise ValueError("low is above high")
    def problems(self, setting):
        if self.low == 0:
            yield Problem(("low",), "there is nothing lower", note=True)

def measure(parameters: Parameters, context: Context):
    with open("calls.txt", "a") as file:
        file.write(f"{parameters.n}/{context.seed} ")
    (context.scratch / "file").write_text("x")
    context.say(f"n is {parameters.n}")
    yield Measurement("n", parameters.n, "1", {"part": "a"})
    for name, do in DOES.items():
        if parameters.n == 2 and Path(name).exists():
            do()
    yield Measurement("n", parameters.n * 2, "1", {"part": "b"})

def fail():
    raise RuntimeError("a cable\\nis missing")

DOES = {
    "fail": fail,
    "interrupt": lambda: (os.kill(os.getpid(), signal.SIGINT), time.sleep(9)),
    "terminate": lambda: (os.kill(os.getpid(), signal.SIGTERM), time.sleep(9)),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}

def pair(parameters: Paired, context: Context):
    yield Measurement("low", parameters.low, "1")

def wrong(parameters: Parameters, context: Context):
    yield {"text": lambda: "n is 1",
           "case": lambda: Measurement("n", 1, "1", {"n": 3}),
           "not finite": lambda: Measurement("n", 1, "1", {"part": float("nan")}),
           "cancelled": cancel}[os.environ["WRONG"]]()

def cancel():
    raise asyncio.CancelledError("no longer wanted")

def diverge(parameters: Parameters, context: Context):
    yield Measurement("bytes", 5, "B")
    for name in "abcd":
        value = float("nan" if parameters.n == 2 else 1)
        yield Measurement("loss", value, "nats", {"part": name})

def nothing(parameters: Parameters, context: Context):
    return []

def untyped(parameters, context: Context):
    return []
"""

SUITE = """
name: toy
experiments:
  - name: sweep
    run: toy:measure
    mode: in-process
    grid: {n: [1, 2, 3]}
  - name: other
    run: toy:measure
    mode: virtual
    parameters: {n: 7}
claims:
  - {claim: two, source: Table I, says: n is 2, paper: 2, needs_data: false, deterministic: true,
     value: {of: {experiment: sweep, metric: n, case: {n: 2, part: a}}, tolerance: 0}}
  - {claim: seven, source: Table I, says: n is 7, paper: 7, needs_data: false, deterministic: true,
     value: {of: {experiment: other, metric: n, case: {part: a}}, tolerance: 0}}
"""


@pytest.fixture(scope="session")
def context_in() -> Callable[[Path], Context]:
    """What an experiment is given beside its parameters, with a folder of its own: see ``context``."""
    conditions = {"scale": "smoke", "mode": "in-process", "shaping": "none", "dataset": "digits", "device": "cpu"}
    rest = {"seed": 0, "data_dir": None, "say": lambda _: None, "self_test": "skip"}
    return lambda folder: Context(**conditions, **rest, scratch=folder)


@pytest.fixture
def context(tmp_path: Path, context_in: Callable[[Path], Context]) -> Context:
    """A run in this process, at smoke scale, on the digits."""
    return context_in(tmp_path)


@pytest.fixture(autouse=True)
def _undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave figures of runs in this process empty: what paints them takes longer to import than a small run."""
    monkeypatch.setattr("reports.figures.figure.write", lambda figure, folder: (folder / figure.file).touch())


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Make the current folder that of a user who has a module of this name and text, and a suite of the same name."""

    def make(name: str, module: str, suite: str = "") -> Path:
        (tmp_path / f"{name}.py").write_text(module)
        (tmp_path / f"{name}.yaml").write_text(suite)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.delenv("BENCH_DATA", raising=False)
        return tmp_path

    return make


@pytest.fixture
def folder(user_folder: Callable[..., Path]) -> Path:
    """The folder, current, with toy.py and toy.yaml in it."""
    return user_folder("toy", MODULE, SUITE)


@pytest.fixture
def command(folder: Path) -> Callable[..., int]:
    """``bench WORDS`` in that folder; the exit code."""
    return lambda *words: main(list(words))


@pytest.fixture
def told(command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """``bench WORDS`` in that folder; the exit code, and what this command says on standard error."""

    def run(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        return command(*words), capsys.readouterr().err

    return run
