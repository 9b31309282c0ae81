"""Worker of the UE: runs batches of its dataset through its part of the model."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import msgspec
import torch

from nodes.data.batching import batches
from nodes.data.images import Dataset, resident
from nodes.errors import DataError, ProtocolError
from nodes.runtime.actions import Compute
from nodes.spec.job import Job
from nodes.training.segment import Segment, TaskMessage
from nodes.wire.messages import Result
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


class Score(NamedTuple):
    """Correct answers and samples of test batch ``step``, computed by ``member`` of a family (0: what is trained)."""

    step: int
    member: int
    correct: float
    samples: float


class Source:
    """See the module. Without ``by_step``, schedules of the learning rate by step do not follow its steps."""

    def __init__(
        self, segment: Segment, data: Dataset, start_epoch: int = 0, source: int = 0, by_step: bool = True
    ) -> None:
        train, test = (resident(pictures, segment.device) for pictures in (data.train, data.test))
        self.segment, self._data, self._job = segment, replace(data, train=train, test=test), segment.job
        self._feeds: dict[
            bool, tuple[tuple[int, int], Feed]
        ] = {}  # by whether for training, with the batch that is next
        self._drawn: tuple[tuple[int, int], torch.Tensor, torch.Tensor] | None = None
        self._labels: dict[int, torch.Tensor] = {}
        self.backward = segment.backward
        self.dataset = data.name
        self._source = source
        self.schedule = schedule(segment.job, data, start_epoch, source)
        self._steps: int | msgspec.UnsetType = msgspec.UNSET
        if by_step and self._job.optimizer.by_step:
            self._steps = self.schedule.epochs * self.schedule.train_steps * self._job.sources

    def train(self, epoch: int, batch: int, microbatch: int, save: int | None) -> TaskMessage:
        """Run one microbatch of training batch ``batch`` of ``epoch`` through the first part."""
        if self._drawn is None or self._drawn[0] != (epoch, batch):
            pictures, labels = self.draw(train=True, epoch=epoch, batch=batch)
            self._drawn = (epoch, batch), pictures, labels
        _, pictures, labels = self._drawn
        some = slice(microbatch * self._microbatch_size, (microbatch + 1) * self._microbatch_size)
        return self.segment.source(
            pictures[some],
            labels[some],
            assignment=0,
            step=(epoch * self.schedule.train_steps + batch) * self._job.sources + self._source,
            microbatch=microbatch,
            train=True,
            save=save,
            steps=self._steps,
        )

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
    )
