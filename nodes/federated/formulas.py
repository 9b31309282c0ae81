"""Formulas of parallel split learning: shares of data, EPSL's averaged positions and gradients, staleness.

Split Learning in 6G Edge Networks, section IV.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def shares(samples: Sequence[int]) -> list[float]:
    """Each client's part of all ``samples``: lambda_m = n_m / n."""
    return [count / sum(samples) for count in samples]


def aggregated(phi: float, batch_size: int) -> int:
    """How many of a batch's sample positions EPSL averages over the clients: ceil(phi b)."""
    return math.ceil(round(phi * batch_size, 9))


def back_propagated(clients: int, batch_size: int, positions: int) -> int:
    """Samples that the server back-propagates in one step: a + M (b - a). Of M only for a < b."""
    return positions + clients * (batch_size - positions)


def own_gradients(logits: Tensor, labels: Tensor, batch_size: int) -> Tensor:
    """Last-layer gradients [n, C] of n samples out of a batch, whose loss is the mean cross entropy over it."""
    answers = labels.unsqueeze(1) == torch.arange(logits.shape[1], device=labels.device)
    return (logits.softmax(1) - answers.to(logits.dtype)) / batch_size


def averaged(values: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """The weighted mean of the clients' ``values``, which all have one shape."""
    return torch.stack([value * weight for value, weight in zip(values, weights, strict=True)]).sum(0)


def fading(staleness: int, power: float) -> float:
    """By how much an update counts that missed ``staleness`` others: (1 + s)^-power (ours; the paper has no rule)."""
    return float((1 + staleness) ** -power)


def may_go_on(done: int, slowest: int, bound: int | None) -> bool:
    """Whether a client with ``done`` steps may be served, when the slowest has so many: at most ``bound`` ahead."""
    return bound is None or done - slowest <= bound
