"""Batches of several clients as one: what can be joined, and what is of each client."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from nodes.errors import ProtocolError
from nodes.model.boundary import Tensors
from nodes.model.chain import Values
from nodes.wire.messages import Activation


class Batch(NamedTuple):
    """What one client sent, decoded."""

    message: Activation
    codes: Tensors
    labels: torch.Tensor
    weight: float


def common_size(arrived: Sequence[Batch]) -> int:
    """The samples of each batch. Raises ProtocolError if they differ."""
    return _only({len(batch.labels) for batch in arrived})


def check_rows(arrived: Sequence[Batch], size: int) -> None:
    """Raise ProtocolError unless what came has a row for each of ``size`` samples, of numbers with a mean."""
    views = {(name, view.base) for batch in arrived for name, view in batch.message.views.items()}
    if any(name != base for name, base in views) or any(batch.message.scalars for batch in arrived):
        raise ProtocolError(
            "EPSL cannot average this cut: it contains tensor views or batch-size scalars; choose another cut"
        )
    for name, code in arrived[0].codes.items():
        shapes = {batch.codes[name].shape if name in batch.codes else None for batch in arrived}
        if len(shapes) > 1 or code.shape[:1] != (size,):
            raise ProtocolError(f"{name} has no row for each sample: no positions of it can be averaged")
        if not code.is_floating_point():
            raise ProtocolError(f"{name} holds no numbers that have a mean over clients: no epsl with this stage")


def joined_batch(values: list[Values], rows: int) -> Values:
    """One batch of all, each of ``rows`` samples. Raises ProtocolError for what is not of single samples."""
    if len(values) == 1:
        return values[0]
    joined: Values = {}
    for name, first in values[0].items():
        parts = [one[name] for one in values if isinstance(one.get(name), torch.Tensor)]
        if len(parts) < len(values) or any(part.shape != (rows, *first.shape[1:]) for part in parts):
            raise ProtocolError(f"{name} cannot be joined over clients: cut where tensors of equal batches cross")
        joined[name] = torch.cat(parts)
    return joined


def rows_in(batches: Sequence[Values]) -> int:
    """The samples of each of ``batches``. Raises ProtocolError if they differ."""
    return _only({next(len(value) for value in one.values() if isinstance(value, torch.Tensor)) for one in batches})


def rows_of(made: Values, number: int, rows: int, batches: int) -> Values:
    """What was ``made`` of batch ``number``. Raises ProtocolError for what is not of single samples."""
    if batches == 1:
        return made
    for name, value in made.items():
        if not isinstance(value, torch.Tensor) or value.shape[:1] != (rows * batches,):
            raise ProtocolError(f"{name} has no row for each sample: it cannot return to several clients")
    return {name: value[number * rows : (number + 1) * rows] for name, value in made.items()}


def _only(sizes: set[int]) -> int:
    if len(sizes) > 1:
        raise ProtocolError(f"batches of {sorted(sizes)} samples cannot be joined")
    return sizes.pop()
