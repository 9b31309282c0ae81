"""What does a trained chain answer, sample by sample, and what crosses its first link for it?

The nodes' parts are read back from the job's last checkpoint and run in this process; every message is the one that
would be sent, so its bytes are those that would cross.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from nodes.data.batching import batches
from nodes.data.images import Pictures
from nodes.spec.job import Job
from nodes.training.segment import Segment
from nodes.wire.codec import wire_size
from nodes.wire.messages import Activation, Result

BATCH = 250  # pictures a message


class Answers(NamedTuple):
    """Of N samples: class scores (N, classes), which of them are right (N,), their path (N,) and the gate's scores
    (N, n) where the first stage has several; payload bytes of all."""

    logits: torch.Tensor
    right: torch.Tensor
    choice: torch.Tensor
    scores: torch.Tensor
    payload_bytes: int

    @property
    def accuracy(self) -> float:
        return float(self.right.float().mean())

    @property
    def bytes_per_sample(self) -> float:
        return self.payload_bytes / len(self.right)


def reopened(job: Job) -> list[Segment]:
    """The nodes that compute, as they were after the job's last epoch."""
    segments = [Segment(job, index) for index in range(len(job.nodes))]
    segments = [segment for segment in segments if not segment.place.relays]
    for segment in segments:
        segment.restore(job.epochs)
    return segments


def answers(segments: Sequence[Segment], pictures: Pictures) -> Answers:
    """Run ``pictures`` through, in their order."""
    parts = [_batch(segments, some, labels) for some, labels in _batches(pictures)]
    logits, right, choice, scores, sizes = zip(*parts, strict=True)
    return Answers(torch.cat(logits), torch.cat(right), torch.cat(choice), torch.cat(scores), sum(sizes))


def _batches(pictures: Pictures) -> Sequence[tuple[torch.Tensor, torch.Tensor]]:
    return list(batches(pictures, BATCH, seed=0, epoch=0, shuffle=False, augment=False))


def _batch(segments: Sequence[Segment], pictures: torch.Tensor, labels: torch.Tensor) -> Answers:
    message = segments[0].source(pictures, None, assignment=0, step=0, train=False)
    sent = message if isinstance(message, Activation) else None
    for segment in segments[1:]:
        assert isinstance(message, Activation)
        message = segment.forward(message)
    assert isinstance(message, Result)
    logits = message.tensors["logits"]
    codes = segments[1].inbound.decode(sent.tensors) if sent else {}
    nothing = torch.zeros(len(labels), 0)
    scores = getattr(segments[0].outbound, "scores", None)
    return Answers(
        logits,
        logits.argmax(1) == labels,
        codes.get("choice", torch.zeros(len(labels), dtype=torch.int64)),
        nothing if scores is None else scores.detach().cpu(),
        wire_size(sent)[1] if sent else 0,
    )
