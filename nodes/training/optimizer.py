"""Optimizers and learning-rate schedules of a job."""

import math

import torch
from torch import nn

from nodes.spec.job import OptimizerSpec


def learning_rate(spec: OptimizerSpec, epoch: int, epochs: int) -> float:
    """Learning rate of ``epoch`` (from 0) of ``epochs``."""
    rate = spec.lr * (1 + math.cos(math.pi * epoch / max(1, epochs))) / 2 if spec.schedule == "cosine" else spec.lr
    factors = [factor for begins, factor in spec.factors if begins <= epoch]
    return rate * factors[-1] if factors else rate


def make_optimizer(parameters: list[nn.Parameter], spec: OptimizerSpec) -> torch.optim.Optimizer | None:
    """Optimizer of ``parameters``; None without any."""
    if not parameters:
        return None
    if spec.name == "sgd":
        return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)
    kind = torch.optim.Adam if spec.name == "adam" else torch.optim.AdamW
    return kind(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
