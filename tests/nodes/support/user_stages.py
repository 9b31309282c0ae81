"""Stages as a user may write them."""

import torch
from torch import nn
from torch.nn import functional as F

from nodes.model.boundary import Tensors
from nodes.stages.base import Stage


class Bottleneck(Stage):
    """Half as many channels cross: one convolution down, one up."""

    def __init__(self, shapes: Tensors, weight: float = 0.0) -> None:
        super().__init__(shapes)
        ((self.name, value),) = shapes.items()
        channels = value.shape[1]
        self.sender = nn.Sequential(nn.Conv2d(channels, channels // 2, 1), nn.ReLU())
        self.receiver = nn.Conv2d(channels // 2, channels, 1)
        self.weight = weight

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        code = self.sender(values[self.name])
        return {"code": code}, self.weight * code.abs().mean() if self.weight else None

    def restore(self, codes: Tensors) -> Tensors:
        return {self.name: self.receiver(codes["code"])}


class Gated(Stage):
    """A gate for each channel is sent beside the channels, and its gradient returns; noise in training."""

    def __init__(self, shapes: Tensors) -> None:
        super().__init__(shapes)
        ((self.name, value),) = shapes.items()
        self.sender = nn.ParameterDict({"gate": nn.Parameter(torch.rand(value.shape[1]))})

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        value = values[self.name]
        return {self.name: F.dropout(value, 0.25, self.training), "gate": self.sender["gate"].sigmoid()}, None

    def restore(self, codes: Tensors) -> Tensors:
        return {self.name: codes[self.name] * codes["gate"].view(1, -1, 1, 1)}


class Indexed(Stage):
    """Sends, beside the value, numbers that have no gradient."""

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        return values | {"indices": torch.arange(3)}, None


class Elsewhere(Stage):
    """A parameter that neither side would train."""

    def __init__(self, shapes: Tensors) -> None:
        super().__init__(shapes)
        self.scale = nn.Parameter(torch.ones(1))


class Both(Stage):
    """A parameter that both sides would train apart."""

    def __init__(self, shapes: Tensors) -> None:
        super().__init__(shapes)
        self.sender = self.receiver = nn.Linear(2, 2)


def number(shapes: Tensors) -> int:
    return 3


class Shrinks(Stage):
    """Restores less than it was given."""

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        return {name: value[..., ::2, ::2] for name, value in values.items()}, None


class Failing(Stage):
    def restore(self, codes: Tensors) -> Tensors:
        raise ZeroDivisionError


class Counts(Stage):
    """Sends whole numbers beside the value, a row for each sample."""

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        (value,) = values.values()
        return values | {"counts": torch.arange(len(value))}, None


class Fading(Stage):
    """Values fade with each batch of an epoch, which both sides count, and by what was sent last."""

    def __init__(self, shapes: Tensors) -> None:
        super().__init__(shapes)
        self.batches, self.last = 0, torch.zeros(1)

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        self.batches = 0

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        self.batches += self.training
        faded = {name: value / (1 + self.batches) + self.last.mean() for name, value in values.items()}
        self.last = next(iter(faded.values())).detach() if self.training else self.last
        return faded, None

    def restore(self, codes: Tensors) -> Tensors:
        self.batches += self.training
        return {name: code * (1 + self.batches) for name, code in codes.items()}
