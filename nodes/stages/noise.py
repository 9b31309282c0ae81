"""Stage that adds Gaussian noise to every value that crosses."""

import torch

from nodes.model.boundary import Tensors
from nodes.stages.base import Stage


class Noise(Stage):
    """Adds noise of ``std`` times the standard deviation of each floating-point tensor of the message.

    A network cannot learn to drown relative noise in larger values. The scale passes no gradient. The sender draws the
    noise, in training and inference, from the seed of (run, step, microbatch, link): whoever knows the run's seed can
    remove it. The values are not clipped, so the noise gives no differential privacy.
    """

    def __init__(self, shapes: Tensors, std: float = 1.0) -> None:
        super().__init__(shapes)
        if not 0 <= std < float("inf"):
            raise ValueError(f"std {std}, expected a finite number of at least 0")
        self._std = std

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        noisy = dict(values)
        for name, value in values.items():
            if value.is_floating_point():
                deviation = value.detach().std(correction=0)
                noisy[name] = value + self._std * deviation * torch.randn_like(value)
        return noisy, None
