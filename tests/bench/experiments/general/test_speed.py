"""Speed in process: what is measured, of given times, and what cannot be compared."""

from collections.abc import Callable
from types import SimpleNamespace

import pytest
from msgspec.structs import replace

from bench.experiments.general import speed
from bench.experiments.general.speed import Speed, in_turn
from bench.suite.document import Key
from bench.suite.experiment import Context
from bench.suite.parameter_types import ModelName
from nodes.spec.job import OptimizerSpec

SMALL = Speed(
    model=ModelName("nodes.zoo.small_cnn:small_cnn"),
    side=16,
    batch_size=4,
    steps=4,
    rounds=3,
    train_samples=16,
    test_samples=2,
    threads=1,
)


@pytest.mark.parametrize(("device", "prefix"), [("cpu", ""), ("cuda", "gpu_")])
def test_the_ratio_is_the_median_of_rounds_of_the_second_half(
    device: str, prefix: str, context: Context, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([[9.0, 9.0, 1.0, 1.0], [9.0, 9.0, 2.0, 2.0], [9.0, 9.0, 3.0, 1.0]])
    loops = iter([1.0, 4.0, 2.0])
    monkeypatch.setattr(speed, "run_in_process", lambda job, data: SimpleNamespace(step_s=next(seconds)))
    monkeypatch.setattr(speed, "plain_s", lambda job, data: next(loops))
    found = {one.metric: one.value for one in in_turn(SMALL, replace(context, device=device, dataset="none"))}
    assert found == {
        "samples_per_s": 8 / 4,
        "plain_samples_per_s": 8 / 2,
        f"{prefix}in_process_ratio": 0.5,  # of 1/2, 4/4 and 2/4
        f"{prefix}fifty_epochs_s": 50 * 50_000 / 2,
    }


def test_both_sides_train_for_a_moment(context: Context) -> None:
    asked = replace(SMALL, rounds=1, label_smoothing=0.1, memory_format="channels_last", augment=True)
    found = {one.metric: one.value for one in in_turn(asked, replace(context, dataset="none"))}
    assert min(found.values()) > 0


def test_what_the_plain_loop_does_not_do_is_refused(problems_of: Callable[..., dict[Key, str]]) -> None:
    one_cycle = replace(SMALL, optimizer=OptimizerSpec(schedule="one_cycle", clip_norm=1.0), steps=2, nodes=40)
    assert problems_of(one_cycle, "in-process", "none").keys() == {
        ("steps",),
        ("optimizer", "schedule"),
        ("optimizer", "clip_norm"),
        ("nodes",),
    }
