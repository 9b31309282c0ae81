"""Failures in a user's own code: one line for the terminal, the whole traceback in ``errors.log``."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.live.processes import RunError
from nodes.errors import GAP, TRACEBACK_CHARACTERS, traceback_of
from nodes.wire.codec import Decoder, FrameError, encode
from nodes.wire.messages import Failure

MODULE = """
import msgspec
import torch
from bench.suite.experiment import Context, Measurement
from nodes.spec.job import DataSpec, Job, StageSpec
from nodes.stages.base import Stage
from nodes.training.in_process import run_in_process
from nodes.zoo.small_cnn import small_cnn

class Parameters(msgspec.Struct):
    stage: str = "identity"
    model: str = "nodes.zoo.small_cnn:small_cnn"
    raises: bool = False

class Coder(Stage):
    def compress(self, values):
        lookup = {}
        return lookup["no such key"], None

class Unmade(Stage):
    def __init__(self, shapes):
        raise OverflowError("cannot be made")

def unbuilt(classes):
    raise ArithmeticError("no layers")

class Failing(torch.nn.Module):
    whole = True

    def forward(self, x):
        if not x.is_meta:
            raise BufferError("no room")
        return x

def failing():
    return torch.nn.Sequential(Failing(), small_cnn())

def job(parameters):
    return Job(model=parameters.model, input_shape=(3, 32, 32), classes=10, nodes=("ue", "mec"), splits=(3,),
               stages=(StageSpec(name=parameters.stage),), threads=1, batch_size=8,
               data=DataSpec(train_samples=8, test_samples=8))

def check(parameters):
    if parameters.raises:
        raise LookupError("nothing to measure")

def live(parameters: Parameters, context: Context):
    from bench.live.training import run_live
    check(parameters)
    yield Measurement("loss", run_live(job(parameters), self_test="skip").losses[0], "nats")

def local(parameters: Parameters, context: Context):
    check(parameters)
    yield Measurement("loss", run_in_process(job(parameters)).losses[0], "nats")
"""
RAISERS = {  # parameters of an experiment: what raises in them, where
    "{stage: 'mine:Coder'}": ('return lookup["no such key"], None', "KeyError: 'no such key'"),
    "{stage: 'mine:Unmade'}": ('raise OverflowError("cannot be made")', "OverflowError: cannot be made"),
    "{model: 'mine:unbuilt'}": ('raise ArithmeticError("no layers")', "ArithmeticError: no layers"),
    "{model: 'mine:failing'}": ('raise BufferError("no room")', "BufferError: no room"),
    "{raises: true}": ('raise LookupError("nothing to measure")', "LookupError: nothing to measure"),
}


@pytest.fixture
def mine(user_folder: Callable[..., Path]) -> Path:
    """A folder with a user's module, which is the current one."""
    return user_folder("mine", MODULE)


@pytest.mark.parametrize("where", ["live", "local", "worker"])
def test_a_failure_of_a_user_s_code_leaves_its_traceback(
    mine: Path, where: str, capfd: pytest.CaptureFixture[str]
) -> None:
    run, mode = ("live", "live") if where == "live" else ("local", "in-process")
    beside = ", parallel: true" if where == "worker" else ""
    specs = [
        f"  - {{name: own{number}, run: 'mine:{run}', mode: {mode}, parameters: {parameters}{beside}}}\n"
        for number, parameters in enumerate(RAISERS)
    ]
    (mine / "mine.yaml").write_text(f"name: mine\nexperiments:\n{''.join(specs)}")
    assert main(["run", "mine.yaml", "--scale", "smoke", "--out", "out", "--jobs", "2"]) == 3
    log = (mine / "out/errors.log").read_text()
    logged = re.split("^(?=mine/own)", log, flags=re.MULTILINE)[1:]
    for number, ((source, error), text) in enumerate(zip(RAISERS.values(), logged, strict=True)):
        line = next(at for at, text in enumerate(MODULE.splitlines(), start=1) if text.strip() == source)
        assert text.startswith(f"mine/own{number} seed 0\n")
        assert f'File "{mine / "mine.py"}", line {line}, in ' in text
        assert error in text
    printed = capfd.readouterr()
    assert [line for line in printed.out.splitlines() if "failed" in line] == [
        "5 of 5 experiments failed; tracebacks are in out/errors.log"
    ]
    failed = [line.partition(": ")[2].split(": ")[0] for line in printed.err.splitlines()]
    assert failed == [f"mine/own{number} seed 0" for number in range(len(RAISERS))]


def nested(depth: int) -> None:
    if depth == 0:
        raise ValueError("the innermost \udcff")
    # Lambdas of different lines, so that their frames are not folded into one.
    [lambda: nested(depth - 1), lambda: nested(depth - 1)][depth % 2]()


def test_a_long_traceback_keeps_its_beginning_and_its_end_and_a_peer_sends_no_longer_one() -> None:
    try:
        nested(200)
    except ValueError as error:
        text, whole = traceback_of(error, TRACEBACK_CHARACTERS), traceback_of(error)
    assert len(text) <= TRACEBACK_CHARACTERS
    assert text.startswith("Traceback (most recent call last):\n")
    assert GAP in text
    assert GAP not in whole
    assert text.endswith("ValueError: the innermost \\udcff\n")
    (sent,) = Decoder().feed(b"".join(encode(Failure(node="ue", reason="x", traceback=text))))
    assert sent[1].traceback == text
    frame = b"".join(encode(Failure(node="ue", reason="x", traceback="x" * (TRACEBACK_CHARACTERS + 1))))
    with pytest.raises(FrameError):
        Decoder().feed(frame)


def test_a_run_error_is_one_line_and_keeps_the_node_s_traceback() -> None:
    error = RunError("ue: KeyError: 'a'", weight=2, traceback="Traceback of the node\n")
    assert str(error) == "ue: KeyError: 'a'"
    assert traceback_of(error).endswith("Traceback of the node\n\n")
