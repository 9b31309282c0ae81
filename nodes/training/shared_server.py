"""What does a server below many sources decide? Whose task is next, and who gets what came of it.

A source is a UE with data of its own and a part of the model of its own; all send to one server, whose part they
train in common. It takes their training tasks in turn, one of each source, so a run can be repeated to the bit; other
tasks as they come. Whose turn it is, and what happens when all have had theirs, is this role's alone: schemes that
let one client after the other train, or average their parts, differ from it in nothing else.
"""

from collections import deque

import msgspec

from nodes.errors import ProtocolError
from nodes.runtime.actions import Action, Compute, Direction, Finish, Send
from nodes.wire.messages import Activation, AnyMessage, Assign, Shutdown


class SharedServer:
    """The node at which the model ends, below ``sources``."""

    def __init__(self, sources: tuple[str, ...]) -> None:
        self._sources = sources
        self._turn = 0  # of the sources
        self._waiting: dict[str, deque[Activation]] = {source: deque() for source in sources}
        self._under_way: deque[str] = deque()  # whose tasks were given to compute, in order
        self._gone: set[str] = set()

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a task of a source. Raises ProtocolError for anything else."""
        match message:
            case Activation(train=True) if sender in self._waiting:
                self._waiting[sender].append(message)
                return self._next()
            case Activation() if sender in self._waiting:
                return [self._compute(sender, message)]
            case Shutdown() if sender in self._waiting:
                self._gone.add(sender)
                return [Finish()] if len(self._gone) == len(self._sources) else []
            case Assign() if sender == "runner":
                return []
        raise ProtocolError(f"unexpected {type(message).__name__} from {sender}")

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Return what came of the task that was given first."""
        return [Send(self._under_way.popleft(), reply)]

    def _next(self) -> list[Action]:
        """Give to compute what is there of those whose turn it is. The last of all ends the server's epoch too."""
        actions: list[Action] = []
        while self._waiting[self._sources[self._turn]]:
            source = self._sources[self._turn]
            task = self._waiting[source].popleft()
            self._turn = (self._turn + 1) % len(self._sources)
            actions.append(self._compute(source, msgspec.structs.replace(task, save=None) if self._turn else task))
        return actions

    def _compute(self, source: str, task: Activation) -> Compute:
        self._under_way.append(source)
        return Compute("forward", (task,))
