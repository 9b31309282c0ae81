"""Inference of a trained chain in this process, from its last checkpoint, with the bytes of the wire's messages."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch

from nodes.data.batching import batches
from nodes.data.images import Pictures
from nodes.spec.job import Job
from nodes.stages.dynsplit.stage import DynSplit
from nodes.training.segment import Segment
from nodes.wire.codec import wire_size
from nodes.wire.messages import Activation, Result

BATCH = 250  # pictures a message


class Answers(NamedTuple):
    """Results for N samples: logits (N, classes), whether they are correct (N,), path (N,), gate scores (N, n paths;
    n = 0 without a gate), and the payload bytes of all."""

    logits: torch.Tensor
    correct: torch.Tensor
    choice: torch.Tensor
    scores: torch.Tensor
    payload_bytes: int

    @property
    def accuracy(self) -> float:
        return float(self.correct.float().mean())

    @property
    def bytes_per_sample(self) -> float:
        return self.payload_bytes / len(self.correct)


def restored(job: Job) -> list[Segment]:
    """The segments of the nodes that compute, restored from the job's last epoch."""
    segments = [Segment(job, index) for index in range(len(job.nodes))]
    segments = [segment for segment in segments if not segment.place.relays]
    for segment in segments:
        segment.restore(job.epochs)
    return segments


def answers(segments: Sequence[Segment], pictures: Pictures) -> Answers:
    """The answers for ``pictures``, in their order."""
    parts = [_answers_of_batch(segments, step, *batch) for step, batch in enumerate(in_order(pictures))]
    logits, correct, choice, scores, sizes = zip(*parts, strict=True)
    return Answers(torch.cat(logits), torch.cat(correct), torch.cat(choice), torch.cat(scores), sum(sizes))


def sample_rows(segments: Sequence[Segment], pictures: Pictures) -> Iterator[dict[str, Any]]:
    """What is known of each of ``pictures``, in their order.

    ``path`` counts from 1, ``gate`` has its probability of each path (none without a gate), and ``payload_bytes`` is
    what the path sends of a sample, or the mean over all where a stage has no paths.
    """
    seen = answers(segments, pictures)
    stage = segments[0].outbound
    by_path = [path.sample_bytes + stage.choice_bits / 8 for path in stage.paths] if isinstance(stage, DynSplit) else []
    for index, (label, logits) in enumerate(zip(pictures.labels, seen.logits, strict=True)):
        path = int(seen.choice[index])
        yield {
            "sample": index,
            "label": int(label),
            "answer": int(logits.argmax()),
            "correct": bool(seen.correct[index]),
            "path": path + 1,
            "gate": seen.scores[index].softmax(0).tolist(),
            "payload_bytes": by_path[path] if by_path else seen.bytes_per_sample,
        }


def in_order(pictures: Pictures) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of ``pictures`` (B, 3, S, S) and labels (B,) as they are stored."""
    return batches(pictures, BATCH, seed=0, epoch=0, shuffle=False, augment=False)


def _answers_of_batch(segments: Sequence[Segment], step: int, pictures: torch.Tensor, labels: torch.Tensor) -> Answers:
    message = segments[0].source(pictures, None, assignment=0, step=step, train=False)
    sent = message if isinstance(message, Activation) else None
    for segment in segments[1:]:
        assert isinstance(message, Activation)
        message = segment.forward(message)
    assert isinstance(message, Result)
    logits = message.tensors["logits"].float()  # whatever the job's precision
    codes = segments[1].inbound.decode(sent.tensors) if sent else {}
    scores = getattr(segments[0].outbound, "scores", None)
    return Answers(
        logits,
        logits.argmax(1) == labels,
        codes.get("choice", torch.zeros(len(labels), dtype=torch.int64)),
        torch.zeros(len(labels), 0) if scores is None else scores.detach().cpu(),
        wire_size(sent)[1] if sent else 0,
    )
