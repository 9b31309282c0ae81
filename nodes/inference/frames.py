"""A task's messages at each boundary of a model, made from shapes alone."""

from collections.abc import Sequence

import torch

from nodes.model.boundary import pack
from nodes.model.chain import Values
from nodes.model.factory import outline
from nodes.spec.job import Granularity, InputType, ModelSpec
from nodes.user_modules import cached_by_modules
from nodes.wire.codec import wire_size
from nodes.wire.messages import Activation

Frames = Sequence[Activation]  # [L+1] a task's message at each boundary; tensors without data


@cached_by_modules(maxsize=8)
def frames_of_model(
    model: str | ModelSpec,
    classes: int,
    input_shape: tuple[int, ...],
    granularity: Granularity = "op",
    dtype: InputType = "float32",
) -> tuple[Activation, ...]:
    """The frames of ``model`` for one sample. Raises ModelError."""
    chain = outline(model, classes, input_shape, granularity, dtype)
    return tuple(_frame(chain.shapes(done), done) for done in range(len(chain) + 1))


def frames_of_bytes(boundary_bytes: Sequence[int]) -> tuple[Activation, ...]:
    """Frames with a payload of ``boundary_bytes`` [L+1], for networks that are known by their costs alone."""
    shapes = [{"x": torch.empty(size, dtype=torch.uint8, device="meta")} for size in boundary_bytes]
    return tuple(_frame(values, done) for done, values in enumerate(shapes))


def wire_bytes(frames: Frames, deliver: bool = False) -> list[int]:
    """Bytes [L+1] of whole frames at each boundary; none at the last unless results go on to the last node."""
    sizes = [sum(wire_size(frame)) for frame in frames]
    return sizes if deliver else [*sizes[:-1], 0]


def _frame(values: Values, done: int) -> Activation:
    tensors, views, scalars = pack(values)
    return Activation(assignment=0, step=0, train=False, scalars=scalars, views=views, tensors=tensors, done=done)
