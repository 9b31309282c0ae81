"""Role of the UE in an inference service: when each task starts, and its report."""

from dataclasses import dataclass

from nodes.inference.service_node import ANY, LAST, OPEN, TRANSITIONS, WAITING, ServiceNode, layers_done, splits_of
from nodes.inference.whole_model import Start
from nodes.runtime.actions import Action, Send, Wake
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.wire.messages import Activation, Begin, Result, SplitCost, SplitPoint, TaskReport


@dataclass
class _Started:
    """A task under way."""

    predicted_s: float
    began_s: float
    restarts: int = 0


class ServiceUe(ServiceNode):
    """The source of all tasks. It begins when the runner says so, and reports each task and each own split point."""

    def __init__(self, name: str, control: SplitControl, pace: Pace, deliver: bool = False) -> None:
        super().__init__(name, control, deliver)
        self._pace = pace
        self._due = 0  # tasks whose time has come, not started
        self._began_s = 0.0
        self._started = 0
        self._tasks: dict[int, _Started] = {}  # started and not finished
        self._again: list[int] = []  # those of them that wait to be started once more
        self._fresh = False  # an update came that no task has used
        self._link_s = [0.0] * (control.layers + 1)

    def woke(self, why: str, now: float) -> list[Action]:
        """Start a task by the clock."""
        if why != "task":
            return super().woke(why, now)
        pace = self._pace
        self._due += 1 if pace.period_s else pace.tasks
        begun = self._started + self._due
        later = [Wake(self._began_s + begun * pace.period_s, why)] if pace.period_s and begun < pace.tasks else []
        return [*later, *self._settle(now)]

    @property
    def _busy(self) -> bool:
        """Tasks that compute here wait for the next node, unless it is gone."""
        return self.state is not WAITING and len(self._tasks) > len(self._again)

    def _begin(self, message: Begin, now: float) -> list[Action]:
        self._began_s = now
        return self.woke("task", now)

    def _hear(self, message: SplitCost, now: float) -> list[Action]:
        self._fresh = True
        return super()._hear(message, now)

    def _update(self, now: float) -> list[Action]:
        self.control.update(self._link_s)
        if self.state is not OPEN:
            return []
        return [Send("runner", SplitPoint(number=self._update_number, layers=self.control.stops[0]))]

    def _go_on(self, now: float) -> list[Action]:
        again, self._again = self._again, []
        while self._due and len(self._tasks) < self._pace.window and self._may_start():
            step, self._fresh = self._started, False
            self._due -= 1
            self._started += 1
            self._tasks[step] = _Started(self.control.cost_s[0], now)
            again.append(step)
        return [Start(step, self.control.take_stop(0)) for step in again]

    def _may_start(self) -> bool:
        return self._fresh or not self._pace.after_update or self.state is LAST

    def _computed(self, message: Activation, now: float) -> list[Action]:
        done = layers_done(message, self.control.layers)
        if self._ends(done):
            return self._returned(Result(assignment=0, step=message.step, tensors=message.tensors), done, now)
        return self._hand_on(message, now) if self.state is OPEN else self._missing(message.step, now)

    def _returned(self, result: Result, done: int, now: float) -> list[Action]:
        task = self._tasks.pop(result.step)
        report = TaskReport(
            step=result.step,
            predicted_s=task.predicted_s,
            began_s=task.began_s,
            ended_s=result.metrics.get("ended_s", now),
            returned_s=now,
            restarts=task.restarts,
            splits={self._name: done, **dict(reversed(splits_of(result).items()))},
            tensors=result.tensors,
        )
        return [Send("runner", report)]

    def _missing(self, step: int, now: float) -> list[Action]:
        """Start ``step`` again, as soon as that may be."""
        self._tasks[step].restarts += 1
        self._again.append(step)
        return []


ServiceUe.transitions = TRANSITIONS | {
    ("runner", Begin): (ServiceUe._begin, ANY),
    ("next", SplitCost): (ServiceUe._hear, TRANSITIONS["next", SplitCost][1]),
}
