"""Optimizers, learning-rate schedules and gradient clipping of a job."""

import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from nodes.spec.job import OptimizerSpec

# Of one_cycle, as shares of the highest rate: at the first step and at the last.
FIRST, LAST = 1 / 25, 1 / 250_000


def learning_rate(spec: OptimizerSpec, epoch: int, epochs: int, step: int = 0, steps: int = 0) -> float:
    """Learning rate of ``epoch`` (from 0) of ``epochs``; by step, of ``step`` (from 0) of all ``steps`` of training.

    Without ``steps`` a schedule by step takes an epoch as a step.
    """
    if not spec.by_step:
        share = (1 + math.cos(math.pi * epoch / max(1, epochs))) / 2 if spec.schedule == "cosine" else 1.0
    else:
        share = _share(spec, *((step, steps) if steps else (epoch, epochs)))
    factors = [factor for begins, factor in spec.factors if begins <= epoch]
    return spec.lr * share * factors[-1] if factors else spec.lr * share


def _share(spec: OptimizerSpec, step: int, steps: int) -> float:
    """The rate of ``step`` as a share of the highest.

    ``one_cycle`` rises from FIRST and falls to LAST, in halves of a cosine (Smith and Topin's cycle, as PyTorch has it,
    with a constant momentum). ``warm_cosine`` rises linearly and falls to 0, which the step after the last would have.
    """
    if spec.schedule == "one_cycle":
        peak, end = spec.warm_up * steps - 1, steps - 1
        if step < peak:
            return _between(FIRST, 1.0, step / peak)
        return _between(1.0, LAST, min(1.0, (step - peak) / (end - peak)))
    rising = round(spec.warm_up * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return _between(1.0, 0.0, min(1.0, (step - rising) / max(1, steps - rising)))


def _between(first: float, last: float, done: float) -> float:
    """From ``first`` to ``last`` in half a cosine, of which the share ``done`` has passed."""
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2


def make_optimizer(parameters: list[nn.Parameter], spec: OptimizerSpec) -> torch.optim.Optimizer | None:
    """Optimizer of ``parameters``; None without any."""
    if not parameters:
        return None
    if spec.name == "sgd":
        return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=spec.lr, weight_decay=spec.weight_decay)


def clip_gradients(parameters: Callable[[], Iterable[nn.Parameter]], spec: OptimizerSpec) -> None:
    """Scale the gradients of a step down to ``clip_norm``, if there is one."""
    if spec.clip_norm is not None:
        held = list(parameters())
        for together in [held] if spec.clip_over == "node" else [[one] for one in held]:
            nn.utils.clip_grad_norm_(together, spec.clip_norm)
