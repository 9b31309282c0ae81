"""Executors: where a node's computations run, and how long they take."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Protocol

import torch

from nodes.runtime.actions import Compute
from nodes.spec.job import Device, Timing
from nodes.wire.messages import Gradient


class Executor(Protocol):
    """Where and how long work runs."""

    def __call__(self, call: Compute, work: Callable[[], Any]) -> Awaitable[Any]:
        """Do ``work``, which is what ``call`` asks for; its reply."""


async def inline(call: Compute, work: Callable[[], Any]) -> Any:
    """Compute on the loop itself: for nodes that share a process."""
    return work()


class ThreadExecutor:
    """Compute on one thread of its own, so that the loop goes on."""

    def __init__(self, threads: int | None = None) -> None:
        # OpenMP's thread count belongs to the thread that computes.
        begin = (lambda: torch.set_num_threads(threads)) if threads else None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=begin)

    async def __call__(self, call: Compute, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)

    async def end(self) -> None:
        """Drop the work that waits and let what runs end: while a model is traced, no other may run in the process."""
        await asyncio.to_thread(self.pool.shutdown, cancel_futures=True)


# The seconds that a call which came to a reply takes on some device, where it took so many of CPU time here.
CostModel = Callable[[Compute, Any, float], float]


class ProfiledExecutor:
    """Take as long as ``due_s`` says, on the loop's clock; the work itself is on meta tensors."""

    def __init__(self, due_s: CostModel) -> None:
        self._due_s = due_s

    async def __call__(self, call: Compute, work: Callable[[], Any]) -> Any:
        reply = work()
        await asyncio.sleep(self._due_s(call, reply, 0.0))
        return reply


class PacedExecutor:
    """Take as long as ``due_s`` says: the thread of ``compute`` does the work, then sleeps until the device is done.

    The time counts from when the work begins, so what the work itself took does not add to it. CPU time is that
    of the thread: others that run on its core do not stretch it further. ``overrun_s`` sums by how much work
    took longer here than on the device, which nothing can make up for.
    """

    def __init__(self, compute: Executor, due_s: CostModel) -> None:
        self.overrun_s = 0.0
        self._compute, self._due_s = compute, due_s

    def __call__(self, call: Compute, work: Callable[[], Any]) -> Awaitable[Any]:
        return self._compute(call, partial(self._stretch, call, work))

    def _stretch(self, call: Compute, work: Callable[[], Any]) -> Any:
        began, cpu_began = time.perf_counter(), time.thread_time()
        reply = work()
        due_s = self._due_s(call, reply, time.thread_time() - cpu_began)
        left_s = began + due_s - time.perf_counter()
        self.overrun_s += max(0.0, -left_s)
        time.sleep(max(0.0, left_s))  # of the thread, not the loop: its timers are finer than uvloop's
        return reply


def on_device(device: Device) -> CostModel:
    """How long calls take on ``device``."""

    def due_s(call: Compute, reply: Any, cpu_s: float) -> float:
        return device.slowdown * cpu_s if device.timing is None else cost_s(device.timing, call, reply)

    return due_s


def cost_s(timing: Timing, call: Compute, reply: Any) -> float:
    """What ``call``, which came to ``reply``, costs; where the model ends, forward goes straight on to backward."""
    forward, backward = call.runs_forward, isinstance(reply, Gradient)
    return forward * timing.forward_s + backward * timing.backward_s
