"""What stands at a cut? A stage: a trainable sender part, an encoding, a trainable receiver part.

At the sender ``compress`` turns the boundary's tensors into codes, differentiably, and ``encode`` the codes
into wire tensors. At the receiver ``decode`` turns these into codes again and ``restore`` the codes into the
boundary's tensors, differentiably. A gradient returns for each code that requires grad at the sender, by its
name, straight through the encoding; for its way back it may be encoded too. Both sides build the stage from the
same seed; each trains its own part.
"""

import torch
from torch import nn

from nodes.model.boundary import Tensors


class Stage(nn.Module):
    """The identity, and the base of all others.

    ``shapes`` are the boundary's tensors for one picture, without data. All parameters stand in ``sender`` or
    in ``receiver``; what is not trained needs neither.
    """

    def __init__(self, shapes: Tensors) -> None:
        super().__init__()
        self.shapes = shapes
        self.sender = nn.Module()
        self.receiver = nn.Module()
        self.metrics: dict[str, float] = {}  # sums over the samples of the last ``compress`` in training

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Be told, on both sides, that epoch ``epoch`` (from 0) of ``epochs`` begins; at ``epochs`` all are over."""

    def trained(self, metrics: dict[str, float]) -> None:
        """Be told, at the sender, what came of a microbatch in training: "count", "correct", its part of the "loss"."""

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        """Codes, and the stage's own loss term or None: a scalar, trained with the batch's loss, not reported in it."""
        return values, None

    def encode(self, codes: Tensors) -> Tensors:
        """Wire tensors of ``codes``; no gradient flows here."""
        return codes

    def decode(self, wire: Tensors) -> Tensors:
        """The codes, as exactly as the encoding permits; no gradient flows here."""
        return wire

    def restore(self, codes: Tensors) -> Tensors:
        """The boundary's tensors, with the names that ``compress`` was given."""
        return codes

    def encode_gradients(self, gradients: Tensors) -> Tensors:
        """At the receiver: wire tensors of the codes' ``gradients``."""
        return gradients

    def decode_gradients(self, wire: Tensors) -> Tensors:
        """At the sender: the codes' gradients, as exactly as the encoding permits."""
        return wire
