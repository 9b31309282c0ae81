"""What does it cost to blur what crosses a cut? A stage that adds Gaussian noise to every value."""

import torch

from nodes.model.boundary import Tensors
from nodes.stages.base import Stage


class Noise(Stage):
    """Each floating-point tensor gets noise of ``std`` times its own standard deviation over the message.

    Relative, so that one number means the same at every cut, and so that a network cannot learn to drown the noise in
    larger values; the scale passes no gradient, the value's passes straight through. The sender draws it, in training
    and in inference, from the seed of (run, step, microbatch, link): so who knows the run's seed could take it off
    again. It bounds no leakage in the sense of differential privacy: the values are not clipped.
    """

    def __init__(self, shapes: Tensors, std: float = 1.0) -> None:
        super().__init__(shapes)
        if not 0 <= std < float("inf"):
            raise ValueError(f"std {std}, expected a finite number of at least 0")
        self._std = std

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        return {
            name: self._noisy(value) if value.is_floating_point() else value for name, value in values.items()
        }, None

    def _noisy(self, value: torch.Tensor) -> torch.Tensor:
        deviation = value.detach().std(correction=0)
        return value + self._std * deviation * torch.randn_like(value)
