"""Worker of the UE: runs batches of its dataset through its part of the model, or through its first and last layers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NamedTuple

import msgspec
import torch
from msgspec.structs import replace as replaced

from nodes.data.batching import batches
from nodes.data.images import Dataset, resident
from nodes.errors import DataError, ModelError, ProtocolError
from nodes.runtime.actions import Compute
from nodes.spec.job import Job
from nodes.training.segment import Segment, TaskMessage
from nodes.wire.messages import Activation, Gradient, Result
from nodes.wire.outgoing import number

Feed = Iterator[tuple[torch.Tensor, torch.Tensor]]


class TrainingSchedule(msgspec.Struct, frozen=True, kw_only=True):
    """Length of a job: training steps per epoch, test batches, and the start epoch."""

    train_steps: int
    test_batches: int
    epochs: int
    microbatches: int
    window: int
    start_epoch: int = 0
    source: int | None = None  # index among several
    managed: bool = False  # after training, serve the manager's members until its Shutdown
    returns: bool = False  # tasks return to the UE for the last layers


class Score(NamedTuple):
    """Correct answers and samples of test batch ``step``, computed by ``member`` of a family (0: what is trained)."""

    step: int
    member: int
    correct: float
    samples: float


class TailGradient(NamedTuple):
    """What returns from the last layers of a U-shaped split to the node before them."""

    gradient: Gradient


class Tail:
    """The last layers of a U-shaped split, with the labels and scores of tasks under way, none of which are sent."""

    def __init__(self, segment: Segment) -> None:
        if segment.place.relays:
            raise ModelError(f"tail {segment.place.start}: expected fewer than the model's {segment.layers} layers")
        self.segment = segment
        self._labels: dict[tuple[int, int], torch.Tensor] = {}
        self._scores: dict[tuple[int, int], Mapping[str, float]] = {}

    def begin(self, message: TaskMessage, labels: torch.Tensor) -> None:
        """Keep the ``labels`` of a task that begins."""
        self._labels[message.step, message.microbatch] = labels

    def clear(self) -> None:
        """Drop the tasks under way."""
        self._labels.clear()
        self._scores.clear()

    def train(self, message: Activation) -> TailGradient:
        """Train the last layers on a task that has returned. Raises ProtocolError if none is due."""
        task = message.step, message.microbatch
        if task not in self._labels:
            raise ProtocolError(f"step {task[0]}, microbatch {task[1]} returned, which is not in progress")
        reply = self.segment.forward(replaced(message, labels=self._labels.pop(task)))
        assert isinstance(reply, Gradient)
        self._scores[task] = reply.metrics
        return TailGradient(replaced(reply, metrics={"count": reply.metrics["count"]}))

    def scored(self, gradient: Gradient) -> Gradient:
        """``gradient`` of the first layers with the scores of its task."""
        scores = self._scores.pop((gradient.step, gradient.microbatch))
        return replaced(gradient, metrics={**gradient.metrics, **scores})

    def infer(self, message: Activation) -> Result:
        """Run a test batch that has returned through the last layers."""
        reply = self.segment.forward(message)
        assert isinstance(reply, Result)
        return reply


class Source:
    """See the module. Without ``by_step``, schedules of the learning rate by step do not follow its steps."""

    def __init__(
        self,
        segment: Segment,
        data: Dataset,
        start_epoch: int = 0,
        source: int = 0,
        *,
        by_step: bool = True,
        tail: Tail | None = None,
    ) -> None:
        train, test = (resident(pictures, segment.device) for pictures in (data.train, data.test))
        self.segment, self._data, self._job = segment, replace(data, train=train, test=test), segment.job
        self._feeds: dict[
            bool, tuple[tuple[int, int], Feed]
        ] = {}  # by whether for training, with the batch that is next
        self._drawn: tuple[tuple[int, int], torch.Tensor, torch.Tensor] | None = None
        self._labels: dict[int, torch.Tensor] = {}
        self.tail = tail
        self.dataset = data.name
        self._source = source
        self.schedule = schedule(segment.job, data, start_epoch, source)
        self._steps: int | msgspec.UnsetType = msgspec.UNSET
        if by_step and self._job.optimizer.by_step:
            self._steps = self.schedule.epochs * self.schedule.train_steps * self._job.sources

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The parts of the model that it holds."""
        return (self.segment,) if self.tail is None else (self.segment, self.tail.segment)

    def train(self, epoch: int, batch: int, microbatch: int, save: int | None) -> TaskMessage:
        """Run one microbatch of training batch ``batch`` of ``epoch`` through the first part."""
        if self._drawn is None or self._drawn[0] != (epoch, batch):
            pictures, labels = self.draw(train=True, epoch=epoch, batch=batch)
            self._drawn = (epoch, batch), pictures, labels
        _, pictures, labels = self._drawn
        some = slice(microbatch * self._microbatch_size, (microbatch + 1) * self._microbatch_size)
        message = self.segment.source(
            pictures[some],
            None if self.tail else labels[some],
            assignment=0,
            step=(epoch * self.schedule.train_steps + batch) * self._job.sources + self._source,
            microbatch=microbatch,
            train=True,
            save=save,
            steps=self._steps,
        )
        if self.tail:
            self.tail.begin(message, labels[some])
        return message

    def backward(self, message: Gradient) -> Gradient:
        """Take a gradient back through the first part."""
        reply = self.segment.backward(message)
        return self.tail.scored(reply) if self.tail else reply

    def finish(self, message: Activation) -> TailGradient | Score:
        """Run a task that has returned through the last layers."""
        if self.tail is None:
            raise ProtocolError(f"step {message.step} returned, but its last layers are not the UE's")
        return self.tail.train(message) if message.train else self.score(self.tail.infer(message))

    def test(self, batch: int, member: int = 0) -> TaskMessage | Score:
        """Run test batch ``batch`` through the first part of ``member`` of the family."""
        pictures, self._labels[batch] = self.draw(train=False, epoch=0, batch=batch)
        reply = self.segment.source(pictures, None, assignment=member, step=batch, train=False)
        return self.score(reply) if isinstance(reply, Result) else reply

    def score(self, result: Result) -> Score:
        """Count the correct answers of ``result``."""
        labels = self._labels.pop(result.step, None)
        logits = logits_of(result, labels)
        assert labels is not None
        correct = (logits.argmax(1) == labels.to(logits.device)).sum()
        return Score(result.step, result.assignment, number(correct), float(len(labels)))

    @property
    def _microbatch_size(self) -> int:
        return self._job.batch_size // self._job.microbatches

    def draw(self, train: bool, epoch: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images and labels of a batch; an epoch's order is drawn once where batches follow each other."""
        due, feed = self._feeds.get(train, (None, iter(())))
        if due != (epoch, batch):
            feed = batches(
                self._data.train if train else self._data.test,
                self._job.batch_size,
                seed=self._job.seed,
                epoch=epoch,
                shuffle=train,
                augment=train and self._job.data.augment,
                drop_last=train,
                start=batch,
                source=self._source,
            )
        self._feeds[train] = (epoch, batch + 1), feed
        return next(feed)


@dataclass(frozen=True)
class Train(Compute):
    """Run a microbatch of training batch ``batch`` of ``epoch`` through the UE's part."""

    epoch: int
    batch: int
    microbatch: int
    save: int | None = None
    runs_forward: ClassVar[bool] = True

    def run(self, worker: Source) -> TaskMessage:
        return worker.train(self.epoch, self.batch, self.microbatch, self.save)


@dataclass(frozen=True)
class Infer(Compute):
    """Run a test batch through the UE's part of ``member`` of the family."""

    batch: int
    member: int = 0
    runs_forward: ClassVar[bool] = True

    def run(self, worker: Source) -> TaskMessage | Score:
        return worker.test(self.batch, self.member)


@dataclass(frozen=True)
class Evaluate(Compute):
    """Compare the result of a test batch with its labels."""

    result: Result

    def run(self, worker: Source) -> Score:
        return worker.score(self.result)


def logits_of(result: Result, labels: torch.Tensor | None) -> torch.Tensor:
    """The logits (N, classes) of ``result``. Raises ProtocolError unless they answer a test batch of ``labels``."""
    logits = result.tensors.get("logits")
    if labels is None or logits is None:
        raise ProtocolError(f"result of test batch {result.step}: not under way, or without logits")
    if logits.ndim < 2 or len(logits) != len(labels) or not logits.is_floating_point():
        raise ProtocolError(
            f"result of test batch {result.step}: got {logits.dtype} {list(logits.shape)}, expected "
            f"floating-point logits of {len(labels)} samples"
        )
    return logits


@dataclass(frozen=True)
class TrainTail(Compute):
    """Train the last layers of a U-shaped split on a task that has returned."""

    message: Activation
    tail_passes: ClassVar[tuple[str, ...]] = ("tail_forward_s", "tail_backward_s")

    def run(self, worker: Any) -> TailGradient:
        gradient: TailGradient = worker.finish(self.message)
        return gradient


@dataclass(frozen=True)
class InferTail(Compute):
    """Run a test batch that has returned through the last layers of a U-shaped split."""

    message: Activation
    tail_passes: ClassVar[tuple[str, ...]] = ("tail_forward_s",)

    def run(self, worker: Any) -> Any:
        return worker.finish(self.message)


def finishing(message: Activation) -> TrainTail | InferTail:
    """The computation of the last layers for a task that has returned to the UE."""
    return TrainTail(message) if message.train else InferTail(message)


def schedule(job: Job, data: Dataset, start_epoch: int, source: int = 0) -> TrainingSchedule:
    """Schedule of ``job`` on ``data``: full batches in training, all images in tests. Raises DataError."""
    steps = len(data.train.labels) // job.batch_size
    if job.epochs and not steps:
        raise DataError(f"{len(data.train.labels)} training pictures do not fill a batch of {job.batch_size}")
    return TrainingSchedule(
        train_steps=steps if job.steps is None else min(steps, job.steps),
        test_batches=-(-len(data.test.labels) // job.batch_size),
        epochs=job.epochs,
        microbatches=job.microbatches,
        window=job.window,
        start_epoch=start_epoch,
        source=source if job.sources > 1 else None,
        managed=bool(job.members),
        returns=job.tail is not None,
    )
