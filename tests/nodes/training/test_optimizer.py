"""Schedules against those of torch, and what a job's optimizer refuses."""

from functools import partial

import msgspec
import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from nodes.spec.job import OptimizerSpec
from nodes.training.optimizer import clip_gradients, learning_rate


def rates(make, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.4)
    schedule, found = make(optimizer), []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(("warm_up", "steps"), [(0.3, 40), (0.5, 7), (0.1, 13), (0.0, 9)])
def test_one_cycle_is_that_of_torch(warm_up, steps):
    spec = OptimizerSpec(lr=0.4, schedule="one_cycle", warm_up=warm_up)
    expected = rates(
        lambda optimizer: lr_scheduler.OneCycleLR(
            optimizer, max_lr=0.4, total_steps=steps, pct_start=warm_up, cycle_momentum=False
        ),
        steps,
    )
    assert [learning_rate(spec, 0, 1, step, steps) for step in range(steps)] == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("warm_up", "steps"), [(0.3, 40), (0.25, 8), (0.0, 9)])
def test_warm_cosine_is_a_linear_rise_and_a_cosine_of_torch(warm_up, steps):
    rising = round(warm_up * steps)

    def make(optimizer):
        fall = lr_scheduler.CosineAnnealingLR(optimizer, steps - rising)
        if not rising:
            return fall
        rise = lr_scheduler.LinearLR(optimizer, 1 / (rising + 1), total_iters=rising)
        return lr_scheduler.SequentialLR(optimizer, [rise, fall], [rising])

    spec = OptimizerSpec(lr=0.4, schedule="warm_cosine", warm_up=warm_up)
    found = [learning_rate(spec, 0, 1, step, steps) for step in range(steps)]
    assert found == pytest.approx(rates(make, steps), rel=1e-9, abs=1e-15)


def test_without_steps_a_schedule_by_step_takes_an_epoch_as_one():
    spec = OptimizerSpec(schedule="one_cycle", factors=((3, 0.5),))
    assert learning_rate(spec, 2, 8) == learning_rate(spec, 0, 8, 2, 8)
    assert learning_rate(spec, 3, 8) == learning_rate(spec, 0, 8, 3, 8) / 2


def two_parameters() -> list[nn.Parameter]:
    found = [nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(2))]
    found[0].grad, found[1].grad = torch.tensor([3.0, 0.0, 4.0]), torch.tensor([0.0, 12.0])
    return found


@pytest.mark.parametrize(
    ("clip_over", "expected"),
    [("node", [[3 / 13, 0, 4 / 13], [0, 12 / 13]]), ("parameter", [[3 / 5, 0, 4 / 5], [0, 1]])],
)
def test_gradients_are_clipped_to_the_norm_of_all_or_of_each(clip_over, expected):
    parameters = two_parameters()
    clip_gradients(partial(iter, parameters), OptimizerSpec(clip_norm=1.0, clip_over=clip_over))
    assert [one.grad.tolist() for one in parameters] == [pytest.approx(one, rel=1e-5) for one in expected]


def test_no_norm_and_a_larger_one_clip_nothing():
    for norm in (None, 14.0):
        parameters = two_parameters()
        clip_gradients(partial(iter, parameters), OptimizerSpec(clip_norm=norm))
        assert parameters[1].grad.tolist() == [0.0, 12.0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"schedule": "linear"}, "schedule: expected constant or cosine or one_cycle or warm_cosine, got 'linear'"),
        ({"schedule": "one_cycle", "warm_up": 1.0}, "warm_up: expected a share"),
        ({"schedule": "cosine", "warm_up": 0.1}, "warm_up 0.1: only used with schedule one_cycle or warm_cosine"),
        ({"clip_norm": 0.0}, "clip_norm: expected a norm above 0"),
        ({"clip_over": "parameter"}, "clip_over parameter: only used with clip_norm"),
        ({"clip_norm": 1.0, "clip_over": "layer"}, "clip_over: expected node or parameter, got 'layer'"),
    ],
)
def test_what_contradicts_is_refused_by_name(changes, named):
    with pytest.raises(ValueError, match=named):
        OptimizerSpec(**changes)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(changes, OptimizerSpec)
