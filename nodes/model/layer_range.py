"""The range of layers that a node of a chain holds, and the stages that it applies and undoes."""

import msgspec

from nodes.errors import ModelError


class LayerRange(msgspec.Struct, frozen=True):
    """Layers and stages of node ``index`` of a chain."""

    index: int
    start: int  # layers done when the task arrives
    stop: int  # layers done when it leaves
    first: bool
    last: bool  # holds the end of the model and computes the loss
    inbound: int | None  # the link whose stage is undone here
    outbound: int | None  # the link whose stage is applied here
    relays: bool  # whether the node passes every message on unchanged


def layer_range(splits: tuple[int, ...], index: int, layers: int) -> LayerRange:
    """The range of node ``index`` of ``len(splits) + 1`` nodes; a node may hold no layer. Raises ModelError."""
    done = (0, *splits, layers)
    if list(done) != sorted(done):
        raise ModelError(f"splits {list(splits)} must not decrease nor exceed the model's {layers} layers")
    start, stop = done[index], done[index + 1]
    last = stop == layers and (start < layers or index == 0)
    works = start < stop or index == 0
    receiver = next((p for p in range(index + 1, len(done) - 1) if done[p + 1] > done[p]), None)
    inbound = index - 1 if index and works else None
    outbound = receiver - 1 if works and receiver is not None else None
    return LayerRange(index, start, stop, index == 0, last, inbound, outbound, relays=not works)
