"""Role of the UE in split training: starts batches and sums up what returns, epoch by epoch."""

import itertools
from collections.abc import Mapping
from typing import Any

import msgspec
import torch
from msgspec.structs import replace

from nodes.errors import ProtocolError, unexpected
from nodes.runtime.actions import Action, Direction, Finish, Role, Send
from nodes.training.keeping.schedule import Keeping
from nodes.training.migration.roles import UeMigration
from nodes.training.migration.segment import Settled
from nodes.training.segment import Backward
from nodes.training.source import Evaluate, Infer, Score, TailGradient, Train, TrainingSchedule, finishing
from nodes.wire.codec import wire_size
from nodes.wire.messages import (
    Activation,
    AnyMessage,
    Begin,
    EpochReport,
    Gradient,
    Parameters,
    Result,
    ServeMember,
    Shutdown,
)
from nodes.wire.outgoing import LateNumber

SCORES = {"loss", "correct", "count"}  # of a trained batch; all other metrics are the stages'


class Epoch(msgspec.Struct):
    """What one epoch has brought so far; times by the node's clock."""

    began: float
    trained: float  # when its last step ended
    returned: list[tuple[bool, Mapping[str, float]]] = []  # metrics, not counted yet
    losses: list[float] = []
    ended: list[float] = []  # when each step ended
    correct: float = 0.0
    count: float = 0.0
    up_bytes: int = 0  # of whole frames in training, from here
    down_bytes: int = 0  # and to here
    told: dict[str, float] = {}  # sums over the samples, as stages report them
    test_correct: float = 0.0
    test_count: float = 0.0
    test_began: list[float] = []  # when each test batch was
    latencies: list[float] = []  # from then until it was scored
    served: dict[int, tuple[float, float]] = {}  # right answers and all, by member of the family


class Progress(msgspec.Struct, frozen=True):
    """What a UE knows before training step ``step`` of ``epoch``, ``at`` a time of the node's clock."""

    epoch: int
    step: int
    at: float
    so_far: Epoch

    def going_on(self, now: float) -> Epoch:
        """The epoch as if no time had passed since."""
        late, epoch = now - self.at, self.so_far
        ended = [end + late for end in epoch.ended]
        return replace(epoch, began=epoch.began + late, trained=epoch.trained + late, ended=ended)


class Ue(Role):
    """Source of all tasks: trains step by step, then tests, with at most ``window`` batches in flight.

    A result or gradient that returns lets the next batch start; nothing else bounds the chain's load. A family is
    served once it is trained: ``ServeMember`` starts a pass over the test pictures if none is under way, and every
    request that starts after it is for that member. ``migration`` moves layers between training steps. ``progress`` is
    that of an earlier UE, which this one goes on from.
    """

    def __init__(
        self,
        schedule: TrainingSchedule,
        alone: bool,
        migration: UeMigration | None = None,
        keeping: Keeping | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.history: list[Epoch] = []
        self._schedule = schedule
        self._alone = alone
        self._migration = migration
        self._keeping, self._progress = keeping or Keeping(), progress
        self._epoch = schedule.start_epoch
        self._step = 0  # within the epoch
        self._returned = 0  # microbatches of this step
        self._sent, self._scored = 0, 0  # test batches
        self._waits, self._serving, self._member = False, False, 0

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:  # noqa: PLR0911 (one a message)
        match sender, message:
            case "runner", Begin():
                return self._begin(now)
            case "runner", ServeMember(member=member) if self._schedule.managed:
                return self._serve(member, now)
            case "runner", Shutdown() if self._waits:
                return self._end()
            case "next", Gradient():
                self.history[-1].down_bytes += sum(wire_size(message))
                return [Backward(message)]
            case "next", Result():
                return [Evaluate(message)]
            case "next", Activation() if self._schedule.returns:
                self.history[-1].down_bytes += sum(wire_size(message)) if message.train else 0
                return [finishing(message)]
            case _ if self._migration:
                return self._migration.receive(sender, message, now)
        raise unexpected(message, sender)

    def computed(self, reply: Any, now: float) -> list[Action]:
        match reply:
            case Activation():
                self.history[-1].up_bytes += sum(wire_size(reply)) if reply.train else 0
                return [Send("next", reply)]
            case TailGradient(gradient):
                self.history[-1].up_bytes += sum(wire_size(gradient))
                return [Send("next", gradient)]
            case Gradient():
                return self._trained(reply, now)
            case Score():
                return self._tested(reply, now)
            case Parameters():
                return [Send("next", reply)]
            case Settled():
                return self._start_step()
        raise unexpected(reply, "the worker")

    def _begin(self, now: float) -> list[Action]:
        """Begin an epoch, or end the job."""
        if progress := self._progress:
            self._progress, self._epoch, self._step = None, progress.epoch, progress.step
            self.history.append(progress.going_on(now))
            return self._train(now)
        self._step, self._sent, self._scored = 0, 0, 0
        schedule = self._schedule
        if self._epoch >= schedule.epochs and (self.history or schedule.epochs):
            self._waits = schedule.managed
            return [] if schedule.managed else self._end()
        self.history.append(Epoch(now, now))
        return self._train(now) if self._epoch < schedule.epochs and schedule.train_steps else self._test(now)

    def _end(self) -> list[Action]:
        return [Finish()] if self._alone else [Send("next", Shutdown()), Finish()]

    def _serve(self, member: int, now: float) -> list[Action]:
        self._member = member
        if not self._waits:
            return []
        self._waits, self._serving = False, True
        self.history.append(Epoch(now, now))
        return self._test(now)

    def _train(self, now: float) -> list[Action]:
        """Start the next step, after a move of layers or once the state is kept, if one of them is due."""
        if self._migration and (change := self._migration.change(self._now, self._epoch)):
            return change
        progress = Progress(self._epoch, self._step, now, self.history[-1])
        keep = self._keeping.before(self._now, self._epoch if not self._step else None, progress)
        return [*keep, *self._start_step()]

    @property
    def _now(self) -> int:
        """The training step that is next or under way, counted over all epochs."""
        return self._epoch * self._schedule.train_steps + self._step

    def _start_step(self) -> list[Action]:
        """Start the microbatches of the next step, all layers being where they belong."""
        self._returned = 0
        last = self._step + 1 == self._schedule.train_steps
        save = self._epoch + 1 if last else None
        proposal = self._migration.propose(self._now) if self._migration else []
        microbatches = range(self._schedule.microbatches)
        return [*proposal, *(Train(self._epoch, self._step, microbatch, save) for microbatch in microbatches)]

    def _count(self, late: int) -> None:
        """Add up the metrics that returned, but for the ``late`` last: a GPU may still be computing them."""
        epoch = self.history[-1]
        while len(epoch.returned) > late:
            first, metrics = epoch.returned.pop(0)
            numbers = {name: float(value) for name, value in metrics.items()}
            if first:
                epoch.losses.append(0.0)
            epoch.losses[-1] += numbers.get("loss", 0.0)
            epoch.correct += numbers.get("correct", 0.0)
            epoch.count += numbers.get("count", 0.0)
            for name in numbers.keys() - SCORES:
                epoch.told[name] = epoch.told.get(name, 0.0) + numbers[name]

    def _trained(self, gradient: Gradient, now: float) -> list[Action]:
        epoch = self.history[-1]
        epoch.returned.append((not self._returned, gradient.metrics))
        self._count(late=int(isinstance(gradient.metrics.get("loss"), LateNumber)))
        self._returned += 1
        if self._returned < self._schedule.microbatches:
            return []
        self._step += 1
        epoch.ended.append(now)
        if self._step < self._schedule.train_steps:
            return self._train(now)
        self._count(late=0)
        epoch.trained = now
        return self._test(now)

    def _test(self, now: float) -> list[Action]:
        if not self._schedule.test_batches:
            return self._end_epoch(now)
        free = min(self._scored + self._schedule.window, self._schedule.test_batches) - self._sent
        numbers = range(self._sent, self._sent + free)
        self.history[-1].test_began += [now] * free
        self._sent += free
        member = self._member if self._serving else 0
        return [Infer(number, member) for number in numbers]

    def _tested(self, score: Score, now: float) -> list[Action]:
        if score.step != self._scored:
            raise ProtocolError(f"result of test batch {score.step} before that of {self._scored}")
        epoch = self.history[-1]
        epoch.test_correct += score.correct
        epoch.test_count += score.samples
        epoch.latencies.append(now - epoch.test_began[self._scored])
        if self._serving:
            correct, count = epoch.served.get(score.member, (0.0, 0.0))
            epoch.served[score.member] = correct + score.correct, count + score.samples
        self._scored += 1
        return self._test(now) if self._scored < self._schedule.test_batches else self._end_epoch(now)

    def _end_epoch(self, now: float) -> list[Action]:
        epoch = self.history[-1]
        self._epoch += 1
        steps = [end - start for start, end in itertools.pairwise([epoch.began, *epoch.ended])]
        report = EpochReport(
            metrics={
                "epoch": float(self._epoch),
                **({} if self._schedule.source is None else {"source": float(self._schedule.source)}),
                "loss": sum(epoch.losses) / max(1, len(epoch.losses)),
                "train_accuracy": epoch.correct / max(1.0, epoch.count),
                "test_accuracy": epoch.test_correct / max(1.0, epoch.test_count),
                "trained_samples": epoch.count,
                "tested_samples": epoch.test_count,
                "train_up_bytes": float(epoch.up_bytes),
                "train_down_bytes": float(epoch.down_bytes),
                "train_s": epoch.trained - epoch.began,
                "test_s": now - epoch.trained,
                **{name: value / max(1.0, epoch.count) for name, value in epoch.told.items()},
                **{f"member{member}.samples": count for member, (_, count) in epoch.served.items()},
                **{f"member{member}.accuracy": right / count for member, (right, count) in epoch.served.items()},
            },
            losses=torch.tensor(epoch.losses),
            step_s=torch.tensor(steps),
            latency_s=torch.tensor(epoch.latencies),
        )
        return [Send("runner", report), *self._begin(now)]
