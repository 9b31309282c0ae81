"""How does time pass without waiting? A loop that jumps to its next timer, links that use its clock, no data."""

import asyncio
import math
import random
import selectors
from collections import deque
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec
import torch

from netem.link import Link
from netem.playback import schedules
from netem.profiles import Duplex
from nodes.channel import MemoryChannel, memory_pair
from nodes.job import Job
from nodes.messages import Activation, AnyMessage
from nodes.segment import Segment

T = TypeVar("T")


class DeadlockError(RuntimeError):
    """Everything waits and no timer is set, so that nothing would ever happen."""


class _JumpingSelector(selectors.SelectSelector):
    """Waits for nothing: moves the time on by as much as it was to wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise DeadlockError("all tasks wait and no timer is set")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop from time 0 on, whose clock stands still while code runs."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        """Seconds of virtual time."""
        # asyncio fires what is due in less than this; a fixed value would round away late in a long run.
        self._clock_resolution = math.ulp(self._jumping.now)
        return self._jumping.now


def run_virtual(main: Coroutine[Any, Any, T]) -> T:
    """Run ``main`` on a virtual clock. Raises DeadlockError when nothing would ever happen again."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main)


class LinkChannel(MemoryChannel):
    """One end of an in-memory pair whose messages take the time that a link takes."""

    link: Link

    def __init__(self, peer: str) -> None:
        super().__init__(peer)
        self._travelling: deque[AnyMessage | None] = deque()

    def _hand_over(self, message: AnyMessage | None, wire_bytes: int) -> None:
        self._travelling.append(message)
        loop = asyncio.get_running_loop()
        loop.call_at(self.link.send(loop.time(), wire_bytes), self._arrive)

    def _arrive(self) -> None:
        # Timers for one time fire in any order; messages arrive in theirs.
        super()._hand_over(self._travelling.popleft(), 0)


def linked_pair(first: str, second: str, link: Duplex, seed: int) -> tuple[LinkChannel, LinkChannel]:
    """Two ends joined by ``link``, ``first`` standing on the UE's side of it."""
    one, two = memory_pair(first, second, LinkChannel)
    one.link, two.link = Link(link.up, random.Random(2 * seed)), Link(link.down, random.Random(2 * seed + 1))
    if link.half_duplex:
        one.link.medium = two.link.medium
    for end, schedule in zip((one, two), schedules(link), strict=True):
        end.link.play(schedule)
    return one, two


class ShapeSegment(Segment):
    """A segment of tensors without data, which works out once what inference comes to for each shape of message.

    Inference leaves nothing behind, so of two replies to messages of one shape only the numbers differ.
    """

    def __init__(self, job: Job, index: int) -> None:
        super().__init__(job, index, meta=True)
        self._known: dict[Any, Any] = {}

    def source(self, pictures: torch.Tensor, labels: torch.Tensor | None, **about: Any) -> AnyMessage:
        if about["train"]:
            return super().source(pictures, labels, **about)
        return self._known_reply(pictures.shape, lambda: Segment.source(self, pictures, labels, **about), about)

    def forward(self, message: Activation) -> AnyMessage:
        if message.train:
            return super().forward(message)
        shapes = tuple((name, tensor.dtype, tensor.shape) for name, tensor in message.tensors.items())
        key = (shapes, tuple(message.views.items()), tuple(message.scalars.items()))
        numbers = {"assignment": message.assignment, "step": message.step, "microbatch": message.microbatch}
        return self._known_reply(key, lambda: Segment.forward(self, message), numbers)

    def _known_reply(self, key: Any, work: Callable[[], AnyMessage], numbers: dict[str, Any]) -> AnyMessage:
        """What ``work`` comes to for messages like ``key``, with the ``numbers`` of this one."""
        if key not in self._known:
            self._known[key] = work()
        reply: AnyMessage = msgspec.structs.replace(
            self._known[key], **{name: numbers[name] for name in NUMBERS if name in numbers}
        )
        return reply


NUMBERS = ("assignment", "step", "microbatch")  # by which messages of one task are told from those of another
