"""What does the UE decide? When to start which batch; and what came of them, epoch by epoch."""

import itertools

import msgspec
import torch

from nodes.errors import ProtocolError
from nodes.runtime.actions import Action, Compute, Direction, Finish, Send
from nodes.training.source import TrainingSchedule
from nodes.wire.codec import wire_size
from nodes.wire.messages import Activation, AnyMessage, Assign, Gradient, Result, Shutdown

SCORES = {"loss", "correct", "count"}  # of a trained batch; all else is what stages tell of it


class Epoch(msgspec.Struct):
    """What one epoch has brought so far; times by the node's clock."""

    began: float
    trained: float = 0.0  # when its last step ended
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


def begun(now: float) -> Epoch:
    """An epoch that begins."""
    return Epoch(began=now, trained=now, losses=[], ended=[], told={}, test_began=[], latencies=[], served={})


class Ue:
    """The source of all tasks: trains step by step, then tests, with at most ``window`` batches in flight.

    A result or gradient that returns is what lets the next batch start; nothing else holds the chain's load. A family
    is served once it is trained: an assignment from the manager starts a pass over the test pictures if none is under
    way, and whatever request starts after it is of the member that it names.
    """

    def __init__(self, course: TrainingSchedule, alone: bool) -> None:
        self.history: list[Epoch] = []
        self._course = course
        self._alone = alone
        self._epoch = course.start_epoch
        self._step = 0  # within the epoch
        self._returned = 0  # microbatches of this step
        self._sent, self._scored = 0, 0  # test batches
        self._waits, self._serving, self._member = False, False, 0

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take an assignment from the runner, a gradient or a result from downstream."""
        match sender, message:
            case "runner", Assign(assignment=0):
                return self._begin(now)
            case "runner", Assign(assignment=member) if self._course.managed:
                return self._assigned(member, now)
            case "runner", Shutdown() if self._waits:
                return self._end()
            case "down", Gradient():
                self.history[-1].down_bytes += sum(wire_size(message))
                return [Compute("backward", (message,))]
            case "down", Result():
                return [Compute("score", (message,))]
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Go on after a batch was prepared (an Activation), trained (a Gradient) or scored (a Result)."""
        match reply:
            case Activation():
                self.history[-1].up_bytes += sum(wire_size(reply)) if reply.train else 0
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
            self._waits = course.managed
            return [] if course.managed else self._end()
        self.history.append(begun(now))
        return self._train() if self._epoch < course.epochs and course.train_steps else self._test(now)

    def _end(self) -> list[Action]:
        return [Finish()] if self._alone else [Send("down", Shutdown()), Finish()]

    def _assigned(self, member: int, now: float) -> list[Action]:
        """Serve ``member`` from the next request on."""
        self._member = member
        if not self._waits:
            return []
        self._waits, self._serving = False, True
        self.history.append(begun(now))
        return self._test(now)

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
        member = self._member if self._serving else 0
        return [Compute("test", (number, member)) for number in numbers]

    def _tested(self, result: Result, now: float) -> list[Action]:
        if result.step != self._scored:
            raise ProtocolError(f"result of batch {result.step}, that of {self._scored} is due")
        epoch = self.history[-1]
        epoch.test_correct += result.metrics.get("correct", 0.0)
        epoch.test_count += result.metrics.get("count", 0.0)
        epoch.latencies.append(now - epoch.test_began[self._scored])
        if self._serving:
            right, count = epoch.served.get(result.assignment, (0.0, 0.0))
            right, count = right + result.metrics.get("correct", 0.0), count + result.metrics.get("count", 0.0)
            epoch.served[result.assignment] = right, count
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
                **({} if self._course.source is None else {"source": float(self._course.source)}),
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
            tensors={
                "losses": torch.tensor(epoch.losses),
                "step_s": torch.tensor(steps),
                "latency_s": torch.tensor(epoch.latencies),
            },
        )
        return [Send("runner", report), *self._begin(now)]
