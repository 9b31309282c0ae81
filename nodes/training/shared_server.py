"""Role of a server below several sources: takes their training tasks in turn, one of each.

A source is a UE with its own data and its own part of the model; all train the server's part in common. The order
makes a run repeatable to the bit. Other tasks are taken as they come.
"""

from collections import deque
from typing import Any

import msgspec

from nodes.errors import unexpected
from nodes.runtime.actions import Action, Direction, Finish, Role, Send
from nodes.training.segment import Forward
from nodes.wire.messages import Activation, AnyMessage, Begin, Shutdown


class SharedServer(Role):
    """The node at which the model ends, below ``sources``."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._turn = 0  # of the sources
        self._waiting: dict[str, deque[Activation]] = {source: deque() for source in sources}
        self._under_way: deque[str] = deque()  # whose tasks were given to compute, in order
        self._gone: set[str] = set()

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        match message:
            case Activation(train=True) if sender in self._waiting:
                self._waiting[sender].append(message)
                return self._next()
            case Activation() if sender in self._waiting:
                return [self._compute(sender, message)]
            case Shutdown() if sender in self._waiting:
                self._gone.add(sender)
                return [Finish()] if len(self._gone) == len(self._sources) else []
            case Begin() if sender == "runner":
                return []
        raise unexpected(message, sender)

    def computed(self, reply: Any, now: float) -> list[Action]:
        return [Send(self._under_way.popleft(), reply)]

    def _next(self) -> list[Action]:
        """Compute the tasks of those whose turn it is. The last source's ends the server's epoch too."""
        actions: list[Action] = []
        while self._waiting[self._sources[self._turn]]:
            source = self._sources[self._turn]
            task = self._waiting[source].popleft()
            self._turn = (self._turn + 1) % len(self._sources)
            actions.append(self._compute(source, msgspec.structs.replace(task, save=None) if self._turn else task))
        return actions

    def _compute(self, source: str, task: Activation) -> Forward:
        self._under_way.append(source)
        return Forward(task)
