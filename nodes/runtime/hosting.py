"""What a process needs to know to host nodes of a protocol, from the runner's set-up message."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from nodes.runtime.account import Account
from nodes.runtime.actions import Direction, Role
from nodes.runtime.executors import CostModel
from nodes.wire.messages import AnyMessage, Peer


class Hosted(NamedTuple):
    """A node to host: ``cost`` if it is slower than this machine, ``facts`` for its report, last word to the runner.

    ``earlier`` is what it had done when the state was kept that it goes on from.
    """

    role: Role
    worker: Any
    cost: CostModel | None = None
    facts: Callable[[], Mapping[str, Any]] = dict
    last_word: AnyMessage | None = None
    earlier: Account | None = None


class HostPlan(NamedTuple):
    """The nodes ``names``, all of one process; ``build`` makes them, in a thread.

    The first node is connected to ``next`` and by the peers ``previous`` before it is ready. Others may come at any
    time if ``incoming`` gives the direction in which it sees them. ``lasting``: connections stay until the runner lets
    go, so that no neighbour takes the end of this node for a death.
    """

    names: Sequence[str]
    build: Callable[[], Sequence[Hosted]]
    threads: int | None
    payload_bytes: int
    next: Peer | None = None
    previous: Mapping[str, Direction] = {}
    incoming: Callable[[str], Direction] | None = None
    lasting: bool = False
