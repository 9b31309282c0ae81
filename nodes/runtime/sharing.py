"""Machines and links that several nodes share in virtual time: one queue each, first come, first served.

A queue knows whose each piece of work is: what is left of an owner's own work is no wait for its next task, which
starts after it.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Any

from netem.link import Link
from nodes.runtime.actions import Compute
from nodes.runtime.executors import CostModel, Executor


class WorkQueue:
    """Work that is done in the order in which it came."""

    def __init__(self) -> None:
        self._work: deque[tuple[float, float, Hashable]] = deque()  # (end, seconds, owner) of what may be left

    def add(self, now: float, end: float, seconds: float, owner: Hashable) -> None:
        """Add work of ``owner`` that comes at ``now``, takes ``seconds`` and ends at ``end``, after all before it."""
        self.free_at(now)
        self._work.append((end, seconds, owner))

    def free_at(self, now: float) -> float:
        """The time at which all work so far is done; ``now`` if it is."""
        while self._work and self._work[0][0] <= now:
            self._work.popleft()
        return self._work[-1][0] if self._work else now

    def backlog_s(self, now: float, owner: Hashable) -> float:
        """Seconds of work left at ``now``, without that of ``owner``."""
        self.free_at(now)
        return sum(min(seconds, end - now) for end, seconds, other in self._work if other != owner)


class SharedMachine:
    """A machine on the loop's clock."""

    def __init__(self) -> None:
        self.queue = WorkQueue()

    def executor(self, due_s: CostModel, owner: Hashable) -> Executor:
        """The executor of ``owner``'s calls, which take ``due_s``; the work itself is on meta tensors."""

        async def compute(call: Compute, work: Callable[[], Any]) -> Any:
            reply = work()
            now, seconds = asyncio.get_running_loop().time(), due_s(call, reply, 0.0)
            end = self.queue.free_at(now) + seconds
            self.queue.add(now, end, seconds, owner)
            await asyncio.sleep(end - now)
            return reply

        return compute


class SharedLink:
    """The use of ``link`` by ``owner``; ``queue`` is that of all owners."""

    def __init__(self, link: Link, queue: WorkQueue, owner: Hashable) -> None:
        self._link, self._queue, self._owner = link, queue, owner

    def send(self, now: float, n_bytes: int) -> float:
        """Send as ``Link.send`` does."""
        began = max(now, self._link.free_at)
        arrives = self._link.send(now, n_bytes)
        self._queue.add(now, self._link.free_at, self._link.free_at - began, self._owner)
        return arrives
