"""Virtual time: an event loop that jumps to its next timer, and links on its clock."""

import asyncio
import math
import random
import selectors
from collections import deque
from collections.abc import Coroutine
from typing import Any, TypeVar

from netem.link import Link
from netem.profiles import Duplex
from netem.trace_schedule import schedules
from nodes.runtime.sharing import SharedLink
from nodes.wire.channel import MemoryChannel, memory_pair
from nodes.wire.messages import AnyMessage

T = TypeVar("T")


class DeadlockError(RuntimeError):
    """All tasks wait and no timer is set."""


class _JumpingSelector(selectors.SelectSelector):
    """Advances the clock instead of waiting."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError("all tasks wait and no timer is set")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """Event loop with a virtual clock from 0 that stops while code runs."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        # asyncio fires timers due within this resolution; a fixed one would vanish in rounding in a long run.
        self._clock_resolution = math.ulp(self._jumping.now)
        return self._jumping.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a virtual clock. Raises DeadlockError."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class LinkChannel(MemoryChannel):
    """One end of an in-memory pair with the delays of a link."""

    link: Link | SharedLink

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self._travelling: deque[AnyMessage | None] = deque()

    def _deliver(self, message: AnyMessage | None, wire_bytes: int) -> None:
        self._travelling.append(message)
        loop = asyncio.get_running_loop()
        loop.call_at(self.link.send(loop.time(), wire_bytes), self._arrive)

    def _arrive(self) -> None:
        # Timers of one time fire in any order; messages keep theirs.
        super()._deliver(self._travelling.popleft(), 0)


def linked_pair(first: str, second: str, link: Duplex, seed: int) -> tuple[LinkChannel, LinkChannel]:
    """Two ends joined by ``link``, ``first`` on the UE's side."""
    one, two = memory_pair(first, second, LinkChannel)
    uplink, downlink = Link(link.up, random.Random(2 * seed)), Link(link.down, random.Random(2 * seed + 1))
    if link.half_duplex:
        uplink.medium = downlink.medium
    for direction, schedule in zip((uplink, downlink), schedules(link), strict=True):
        direction.play(schedule)
    one.link, two.link = uplink, downlink
    return one, two
