"""What does the UE decide in an inference service? When to start which task, and what became of it."""

from nodes.errors import ProtocolError
from nodes.inference.service_node import ServiceNode
from nodes.inference.task import LOST, TaskReport, layers_done, report, splits_of
from nodes.runtime.actions import Action, Compute, Direction, Send, Wake
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.wire.messages import Activation, AnyMessage, Assign, Result, SplitCost


class ServiceUe(ServiceNode):
    """The source of all tasks. It begins with the runner's Assign, and tells the runner of each task and update."""

    def __init__(self, name: str, control: SplitControl, pace: Pace, deliver: bool = False) -> None:
        super().__init__(name, control, deliver)
        self._pace = pace
        self._due = 0  # tasks whose time has come, not started
        self._began_s = 0.0
        self._started = 0
        self._tasks: dict[int, TaskReport] = {}  # started and not finished
        self._again: list[int] = []  # those of them that wait to be started once more
        self._fresh = False  # an update came that no task has used
        self._link_s = [0.0] * (control.layers + 1)

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        if sender == "runner" and isinstance(message, Assign):
            self._began_s = now
            return self.woke("task", now)
        return super().receive(sender, message, now)

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Hand the task on, or count it as done if its last layer is."""
        if not isinstance(reply, Activation):
            raise ProtocolError(f"unexpected {type(reply).__name__} from a computation")
        if reply.step not in self._tasks:  # started twice, and the other one is back
            return []
        done = layers_done(reply, self.control.layers)
        if self._ends(done):
            return self._finish(Result(assignment=0, step=reply.step, tensors=reply.tensors), done, now)
        return self._hand_on(reply, now) if self._down == "heard" else self._missing(reply.step, now)

    def woke(self, why: str, now: float) -> list[Action]:
        if why != "task":
            return super().woke(why, now)
        pace = self._pace
        if pace.period_s is None:
            self._due = pace.tasks
            return self._go_on(now)
        self._due += 1
        begun = self._started + self._due
        later = [Wake(self._began_s + begun * pace.period_s, why)] if begun < pace.tasks else []
        return [*later, *self._go_on(now)]

    def _tick(self, now: float) -> list[Action]:
        return []  # it has no incoming link to look at

    def _hear(self, message: SplitCost, now: float) -> list[Action]:
        self._fresh = True
        return super()._hear(message, now)

    def _update(self, now: float) -> list[Action]:
        self.control.update(self._link_s)
        if self._down != "heard":
            return []
        return [Send("runner", Assign(assignment=self._update_number, splits=(self.control.stops[0],)))]

    def _go_on(self, now: float) -> list[Action]:
        again, self._again = (self._again, []) if self._ready else ([], self._again)
        actions = [action for step in again for action in self._start(step)]
        while self._due and len(self._tasks) < self._pace.window and self._may_start():
            step, self._fresh = self._started, False
            self._due -= 1
            self._started += 1
            self._tasks[step] = TaskReport(step=step, predicted_s=self.control.cost_s[0], began_s=now)
            actions += self._start(step)
        return actions

    def _may_start(self) -> bool:
        return self._ready and (self._fresh or not self._pace.after_update or self._down == "none")

    def _start(self, step: int) -> list[Action]:
        return [Compute("start", (step, self.control.take_stop(0)))]

    @property
    def _under_way(self) -> bool:
        return len(self._tasks) > len(self._again)

    def _returned(self, result: Result, now: float) -> list[Action]:
        done = self._passed.pop(result.step, None)
        if done is None or result.step not in self._tasks:
            return []
        return self._missing(result.step, now) if LOST in result.metrics else self._finish(result, done, now)

    def _missing(self, step: int, now: float) -> list[Action]:
        """Start ``step`` again, as soon as that may be."""
        self._tasks[step].restarts += 1
        self._again.append(step)
        return self._go_on(now)

    def _finish(self, result: Result, done: int, now: float) -> list[Action]:
        task = self._tasks.pop(result.step)
        task.splits = {self._name: done, **dict(reversed(splits_of(result).items()))}
        task.ended_s, task.returned_s = result.metrics.get("ended_s", now), now
        task.tensors = result.tensors
        return [Send("runner", report(task)), *self._reroute(now), *self._go_on(now)]
