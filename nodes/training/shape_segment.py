"""Worker of a node in virtual time, on meta tensors."""

from collections.abc import Callable
from typing import Any

import msgspec
import torch

from nodes.spec.job import Job
from nodes.training.segment import NUMBERS, Segment, TaskMessage, numbers
from nodes.wire.messages import Activation


class ShapeSegment(Segment):
    """Segment on meta tensors that computes the inference reply to each message shape once.

    Inference keeps no state: replies to messages of one shape differ only in their task numbers.
    """

    def __init__(self, job: Job, index: int) -> None:
        super().__init__(job, index, meta=True)
        self._known: dict[Any, TaskMessage] = {}

    def source(self, pictures: torch.Tensor, labels: torch.Tensor | None, **about: Any) -> TaskMessage:
        if about["train"]:
            return super().source(pictures, labels, **about)
        return self._known_reply(pictures.shape, lambda: Segment.source(self, pictures, labels, **about), about)

    def forward(self, message: Activation) -> TaskMessage:
        if message.train:
            return super().forward(message)
        shapes = tuple((name, tensor.dtype, tensor.shape) for name, tensor in message.tensors.items())
        key = (shapes, tuple(message.views.items()), tuple(message.scalars.items()))
        return self._known_reply(key, lambda: Segment.forward(self, message), numbers(message))

    def _known_reply(self, key: Any, work: Callable[[], TaskMessage], about: dict[str, Any]) -> TaskMessage:
        """Reply of ``work``, computed once per ``key``, with the numbers of this message."""
        if key not in self._known:
            self._known[key] = work()
        return msgspec.structs.replace(self._known[key], **{name: about[name] for name in NUMBERS if name in about})
