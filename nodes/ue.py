"""What does the UE decide? When to start which batch; and what came of them, epoch by epoch."""

import itertools

import msgspec
import torch

from nodes.batches import batches
from nodes.data import DataError, Dataset
from nodes.job import Job
from nodes.messages import Activation, AnyMessage, Assign, Gradient, Result, Shutdown
from nodes.node import Action, Compute, Direction, Finish, Send
from nodes.segment import ProtocolError, Segment, number

SCORES = {"loss", "correct", "count"}  # of a trained batch; all else is what stages tell of it


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """How long the job is: training steps an epoch, test batches, and where it begins."""

    train_steps: int
    test_batches: int
    epochs: int
    microbatches: int
    window: int
    start_epoch: int = 0


class Epoch(msgspec.Struct):
    """What one epoch has brought so far; times by the node's clock."""

    began: float
    trained: float = 0.0  # when its last step ended
    losses: list[float] = []
    ended: list[float] = []  # when each step ended
    correct: float = 0.0
    count: float = 0.0
    told: dict[str, float] = {}  # sums over the samples, as stages report them
    test_correct: float = 0.0
    test_count: float = 0.0
    test_began: list[float] = []  # when each test batch was
    latencies: list[float] = []  # from then until it was scored


class Ue:
    """The source of all tasks: trains step by step, then tests, with at most ``window`` batches in flight.

    A result or gradient that returns is what lets the next batch start; nothing else holds the chain's load.
    """

    def __init__(self, course: Course, alone: bool) -> None:
        self.history: list[Epoch] = []
        self._course = course
        self._alone = alone
        self._epoch = course.start_epoch
        self._step = 0  # within the epoch
        self._returned = 0  # microbatches of this step
        self._sent, self._scored = 0, 0  # test batches
        self._metrics: dict[str, float] = {}

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take an assignment from the runner, a gradient or a result from downstream."""
        match sender, message:
            case "runner", Assign():
                return self._begin(now)
            case "down", Gradient():
                return [Compute("backward", (message,))]
            case "down", Result():
                return [Compute("score", (message,))]
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Go on after a batch was prepared (an Activation), trained (a Gradient) or scored (a Result)."""
        match reply:
            case Activation():
                return [Send("down", reply)]
            case Gradient():
                return self._trained(reply, now)
            case Result():
                return self._tested(reply, now)
        raise ProtocolError(f"unexpected {type(reply).__name__} from a computation")

    def _begin(self, now: float) -> list[Action]:
        """Begin an epoch, or end the job."""
        self._step, self._sent, self._scored = 0, 0, 0
        course = self._course
        if self._epoch >= course.epochs and (self.history or course.epochs):
            return [Finish()] if self._alone else [Send("down", Shutdown()), Finish()]
        epoch = Epoch(began=now, trained=now, losses=[], ended=[], told={}, test_began=[], latencies=[])
        self.history.append(epoch)
        return self._train() if self._epoch < course.epochs and course.train_steps else self._test(now)

    def _train(self) -> list[Action]:
        """Start the microbatches of the next step."""
        self._returned = 0
        last = self._step + 1 == self._course.train_steps
        save = self._epoch + 1 if last else None
        return [
            Compute("train", (self._epoch, self._step, microbatch, save))
            for microbatch in range(self._course.microbatches)
        ]

    def _trained(self, gradient: Gradient, now: float) -> list[Action]:
        epoch = self.history[-1]
        if not self._returned:
            epoch.losses.append(0.0)
        epoch.losses[-1] += gradient.metrics.get("loss", 0.0)
        epoch.correct += gradient.metrics.get("correct", 0.0)
        epoch.count += gradient.metrics.get("count", 0.0)
        for name in gradient.metrics.keys() - SCORES:
            epoch.told[name] = epoch.told.get(name, 0.0) + gradient.metrics[name]
        self._returned += 1
        if self._returned < self._course.microbatches:
            return []
        self._step += 1
        epoch.ended.append(now)
        if self._step < self._course.train_steps:
            return self._train()
        epoch.trained = now
        return self._test(now)

    def _test(self, now: float) -> list[Action]:
        """Fill the window with test batches."""
        if not self._course.test_batches:
            return self._end_epoch(now)
        free = min(self._scored + self._course.window, self._course.test_batches) - self._sent
        numbers = range(self._sent, self._sent + free)
        self.history[-1].test_began += [now] * free
        self._sent += free
        return [Compute("test", (number,)) for number in numbers]

    def _tested(self, result: Result, now: float) -> list[Action]:
        if result.step != self._scored:
            raise ProtocolError(f"result of batch {result.step}, that of {self._scored} is due")
        epoch = self.history[-1]
        epoch.test_correct += result.metrics.get("correct", 0.0)
        epoch.test_count += result.metrics.get("count", 0.0)
        epoch.latencies.append(now - epoch.test_began[self._scored])
        self._scored += 1
        if self._scored < self._course.test_batches:
            return self._test(now)
        return self._end_epoch(now)

    def _end_epoch(self, now: float) -> list[Action]:
        epoch = self.history[-1]
        self._epoch += 1
        steps = [end - start for start, end in itertools.pairwise([epoch.began, *epoch.ended])]
        report = Result(
            assignment=0,
            step=self._epoch,
            metrics={
                "epoch": float(self._epoch),
                "loss": sum(epoch.losses) / max(1, len(epoch.losses)),
                "train_accuracy": epoch.correct / max(1.0, epoch.count),
                "test_accuracy": epoch.test_correct / max(1.0, epoch.test_count),
                "trained_samples": epoch.count,
                "tested_samples": epoch.test_count,
                "train_s": epoch.trained - epoch.began,
                "test_s": now - epoch.trained,
                **{name: value / max(1.0, epoch.count) for name, value in epoch.told.items()},
            },
            tensors={
                "losses": torch.tensor(epoch.losses),
                "step_s": torch.tensor(steps),
                "latency_s": torch.tensor(epoch.latencies),
            },
        )
        return [Send("runner", report), *self._begin(now)]


class Source:
    """The UE's worker: draws batches of its data and runs its segment on them."""

    def __init__(self, segment: Segment, data: Dataset, start_epoch: int = 0) -> None:
        self.segment, self._data, self._job = segment, data, segment.job
        self._drawn: tuple[tuple[int, int], torch.Tensor, torch.Tensor] | None = None
        self._answers: dict[int, torch.Tensor] = {}
        self.backward = segment.backward
        self.dataset = data.name
        self.course = course(segment.job, data, start_epoch)

    def train(self, epoch: int, batch: int, microbatch: int, save: int | None) -> AnyMessage:
        """Run microbatch ``microbatch`` of training batch ``batch`` of ``epoch`` through the first part."""
        if self._drawn is None or self._drawn[0] != (epoch, batch):
            pictures, labels = self._draw(train=True, epoch=epoch, batch=batch)
            self._drawn = (epoch, batch), pictures, labels
        _, pictures, labels = self._drawn
        some = slice(microbatch * self._microbatch_size, (microbatch + 1) * self._microbatch_size)
        return self.segment.source(
            pictures[some],
            labels[some],
            assignment=0,
            step=epoch * self.course.train_steps + batch,
            microbatch=microbatch,
            train=True,
            save=save,
        )

    def test(self, batch: int) -> AnyMessage:
        """Run test batch ``batch`` through the first part."""
        pictures, self._answers[batch] = self._draw(train=False, epoch=0, batch=batch)
        reply = self.segment.source(pictures, None, assignment=0, step=batch, train=False)
        return self.score(reply) if isinstance(reply, Result) else reply

    def score(self, result: Result) -> Result:
        """Count the right answers of ``result``."""
        answers = self._answers.pop(result.step)
        logits = result.tensors["logits"]
        correct = (logits.argmax(1) == answers.to(logits.device)).sum()
        metrics = {"count": float(len(answers)), "correct": number(correct)}
        return msgspec.structs.replace(result, metrics=metrics, tensors={})

    @property
    def _microbatch_size(self) -> int:
        return self._job.batch_size // self._job.microbatches

    def _draw(self, train: bool, epoch: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
        drawn = batches(
            self._data.train if train else self._data.test,
            self._job.batch_size,
            seed=self._job.seed,
            epoch=epoch,
            shuffle=train,
            augment=train and self._job.data.augment,
            drop_last=train,
            start=batch,
        )
        return next(iter(drawn))


def course(job: Job, data: Dataset, start_epoch: int) -> Course:
    """How long ``job`` is on ``data``: whole batches in training, all pictures in tests. Raises DataError."""
    steps = len(data.train.labels) // job.batch_size
    if job.epochs and not steps:
        raise DataError(f"{len(data.train.labels)} training pictures do not fill a batch of {job.batch_size}")
    return Course(
        train_steps=steps if job.steps is None else min(steps, job.steps),
        test_batches=-(-len(data.test.labels) // job.batch_size),
        epochs=job.epochs,
        microbatches=job.microbatches,
        window=job.window,
        start_epoch=start_epoch,
    )
