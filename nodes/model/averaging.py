"""Weighted average of parameters (FedAvg)."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def federated_average(states: Sequence[Mapping[str, Tensor]], samples: Sequence[int]) -> dict[str, Tensor]:
    """Mean of the clients' states by name, weighted by their ``samples`` (FedAvg).

    Sums are float64; integers, such as counts of batches, are rounded. Raises ValueError.
    """
    if not states or sum(samples) <= 0 or any(state.keys() != states[0].keys() for state in states):
        raise ValueError("federated averaging: expected one or more states of the same names, and at least one sample")
    average = {}
    for name, first in states[0].items():
        values = [count * state[name].double() for state, count in zip(states, samples, strict=True)]
        mean = torch.stack(values).sum(0) / sum(samples)
        average[name] = mean.to(first.dtype) if first.is_floating_point() else mean.round().to(first.dtype)
    return average
