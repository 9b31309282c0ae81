"""Weighted average of parameters (FedAvg)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def federated_average(states: Sequence[Mapping[str, Tensor]], samples: Sequence[int]) -> dict[str, Tensor]:
    """The mean of the agents' states by name, weighted by their ``samples`` (federated averaging).

    Sums are float64; whole numbers (counts of batches) are rounded to whole ones.
    """
    if not states or sum(samples) <= 0 or any(state.keys() != states[0].keys() for state in states):
        raise ValueError("federated averaging needs states of the same names, and samples")
    average = {}
    for name, first in states[0].items():
        values = [count * state[name].double() for state, count in zip(states, samples, strict=True)]
        mean = torch.stack(values).sum(0) / sum(samples)
        average[name] = mean.to(first.dtype) if first.is_floating_point() else mean.round().to(first.dtype)
    return average
