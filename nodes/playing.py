"""How long do layers take on a device that is not there? As long as its profile says for the layers of each call.

A worker says for how long it would have computed (``seconds``). In virtual time that is slept on the loop's
clock. On a machine the layers are computed and the thread then waits until so much time has passed: a device
can be played that is slower than the machine, not one that is faster.
"""

import asyncio
import time
from collections.abc import Callable

from nodes.messages import AnyMessage
from nodes.node import Threaded
from nodes.whole_model import TaskWorker


class Slept:
    """Compute in no time, then sleep."""

    def __init__(self, worker: TaskWorker) -> None:
        self._worker = worker

    async def __call__(self, call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
        reply = work()
        await asyncio.sleep(self._worker.seconds)
        return reply


class Waited(Threaded):
    """Compute on a thread, which then waits. ``late_s`` sums up by how much the machine was slower than the device."""

    def __init__(self, worker: TaskWorker, threads: int | None = None) -> None:
        super().__init__(threads)
        self.late_s = 0.0
        self._worker = worker

    async def __call__(self, call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
        def take_time() -> AnyMessage:
            began = time.perf_counter()
            reply = work()
            left_s = began + self._worker.seconds - time.perf_counter()
            self.late_s -= min(0.0, left_s)
            time.sleep(max(0.0, left_s))
            return reply

        return await super().__call__(call, take_time)
