"""Base of all stages: a trainable sender part, an encoding for the wire, and a trainable receiver part.

``compress`` and ``restore`` are differentiable; ``encode`` and ``decode`` are not. A gradient returns for each code
that requires grad at the sender, by its name, straight through the encoding; it may be encoded too. Both sides build
the stage from the same seed; each trains its own part.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from nodes.errors import ProtocolError, one_line
from nodes.model.boundary import Tensors, View, rows_of

RANKS = {2: "(N, C)", 4: "(N, C, H, W)"}


class Stage(nn.Module):
    """The identity, and the base class of your own stages.

    A subclass takes ``shapes`` and its options, and overrides the methods of one or both directions. Each parameter
    belongs to ``sender`` or to ``receiver``. Buffers that a checkpoint must keep belong there too.

    Args:
        shapes: The boundary's tensors for one picture, by name: meta tensors (1, ...).
    """

    def __init__(self, shapes: Tensors | None = None) -> None:
        super().__init__()
        if shapes is None:  # as it is easily forgotten
            raise ValueError("its __init__ takes the boundary's shapes and passes them on: super().__init__(shapes)")
        self.shapes = shapes
        self.sender = nn.Module()
        self.receiver = nn.Module()
        self.metrics: dict[str, float] = {}  # sums over the samples of the last ``compress`` in training
        self.weighs_losses = False  # whether ``restore`` sets ``loss_weights``; then the receiver computes the loss
        self.needs_labels = False  # whether ``compress`` needs ``labels`` in training
        self.labels: torch.Tensor | None = None  # (N,) of the batch that is compressed next, in training at the sender
        self.loss_weights: torch.Tensor | None = None  # (M,) of the samples last restored in training, of sum 1

    def views_of(self, views: dict[str, View]) -> dict[str, View]:
        """``views`` of a batch's tensors, of as many samples as were last restored."""
        return views if self.loss_weights is None else rows_of(views, len(self.loss_weights))

    def single_tensor(self, *ranks: int) -> tuple[str, torch.Tensor]:
        """Name and shape of the boundary's only tensor. Raises ValueError for another number, or none of ``ranks``."""
        if len(self.shapes) != 1 or any(ranks and one.ndim not in ranks for one in self.shapes.values()):
            crossing = {name: list(tensor.shape) for name, tensor in self.shapes.items()}
            wanted = " or ".join(RANKS[rank] for rank in ranks) or "(N, ...)"
            raise ValueError(f"the boundary must be one tensor {wanted}, got {crossing}")
        return next(iter(self.shapes.items()))

    def begin_epoch(self, epoch: int, epochs: int) -> None:
        """Called on both sides before epoch ``epoch`` (from 0) of ``epochs``, and with ``epochs`` after the last."""

    def trained(self, metrics: dict[str, float]) -> None:
        """Called at the sender after each training microbatch, with its "count", "correct" and share of the "loss"."""

    def compress(self, values: Tensors) -> tuple[Tensors, torch.Tensor | None]:
        """Compress the boundary's tensors at the sender, differentiably. A training step may set ``metrics``.

        Args:
            values: The boundary's tensors (N, ...) by name, on the sender's device; meta tensors in virtual time.

        Returns:
            Codes by name, and the stage's own loss term: a scalar that is trained with the batch's loss but not
            reported in it, or None.
        """
        return values, None

    def encode(self, codes: Tensors) -> Tensors:
        """The wire tensors of ``codes``, of the wire's dtypes (``nodes.wire.codec.DTYPES``), without gradient."""
        return codes

    def decode(self, wire: Tensors) -> Tensors:
        """The codes of the wire tensors, without gradient. Raises ValueError for tensors of another form."""
        return wire

    def restore(self, codes: Tensors) -> Tensors:
        """The boundary's tensors (N, ...) of ``codes``, by the names given to ``compress``, differentiably.

        A stage that ``weighs_losses`` may restore each batch several times in training, one after the other, M samples
        in all. The loss is then the sum of theirs by ``loss_weights``, differentiably.
        """
        return codes

    def encode_gradients(self, gradients: Tensors) -> Tensors:
        """At the receiver: the wire tensors of the codes' ``gradients``."""
        return gradients

    def decode_gradients(self, wire: Tensors) -> Tensors:
        """At the sender: the codes' gradients of the wire tensors. Raises ValueError as ``decode`` does."""
        return wire


@contextmanager
def reading(stage: Stage, kind: str, step: int) -> Iterator[None]:
    """Raise ProtocolError where a built-in ``stage`` cannot take the tensors of a message of ``kind``."""
    try:
        yield
    except ProtocolError:
        raise
    except Exception as error:
        if not type(stage).__module__.startswith("nodes."):  # a user's code fails for reasons of its own
            raise
        raise ProtocolError(f"tensors of the {kind} of step {step}: {one_line(error)}") from error
