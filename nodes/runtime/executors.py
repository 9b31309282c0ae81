"""Executors: where a node's computations run, and how long they take."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import torch

from nodes.runtime.actions import Compute
from nodes.spec.job import Device, Timing
from nodes.user_code import contained
from nodes.wire.messages import Gradient

Executor = Callable[[Compute, Callable[[], Any]], Awaitable[Any]]  # does the work of a call and returns its reply


async def inline(call: Compute, work: Callable[[], Any]) -> Any:
    """Compute on the event loop, for nodes that share a process."""
    with contained():
        return work()


class ThreadExecutor:
    """Compute on its own thread, so that the loop continues."""

    def __init__(self, threads: int | None = None) -> None:
        # OpenMP's thread count belongs to the thread that computes.
        begin = (lambda: torch.set_num_threads(threads)) if threads else None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=begin)

    async def __call__(self, call: Compute, work: Callable[[], Any]) -> Any:
        return await self.run(work)

    async def run(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``."""
        return await asyncio.get_running_loop().run_in_executor(self.pool, contained()(work))

    async def end(self) -> None:
        """Drop waiting work and await running work: no other may run while a model is traced."""
        await asyncio.to_thread(self.pool.shutdown, cancel_futures=True)


CostModel = Callable[[Compute, Any, float], float]  # device seconds of (call, reply, CPU seconds used here)


class ProfiledExecutor:
    """Take ``due_s`` on the loop's clock; the work itself is on meta tensors."""

    def __init__(self, due_s: CostModel) -> None:
        self._due_s = due_s

    async def __call__(self, call: Compute, work: Callable[[], Any]) -> Any:
        with contained():
            reply = work()
        await asyncio.sleep(self._due_s(call, reply, 0.0))
        return reply


class PacedExecutor:
    """Take ``due_s`` from the start of the work: the thread of ``compute`` works, then sleeps for the rest.

    ``overrun_s`` sums the excess of work that took longer here than on the device. CPU time is the thread's, so other
    load on its core does not extend it.
    """

    def __init__(self, compute: Executor, due_s: CostModel) -> None:
        self.overrun_s = 0.0
        self._compute, self._due_s = compute, due_s

    def __call__(self, call: Compute, work: Callable[[], Any]) -> Awaitable[Any]:
        return self._compute(call, partial(self._run, call, work))

    def _run(self, call: Compute, work: Callable[[], Any]) -> Any:
        began, cpu_began = time.perf_counter(), time.thread_time()
        reply = work()
        due_s = self._due_s(call, reply, time.thread_time() - cpu_began)
        left_s = began + due_s - time.perf_counter()
        self.overrun_s += max(0.0, -left_s)
        time.sleep(max(0.0, left_s))  # not asyncio's: finer timers than uvloop's
        return reply


def on_device(device: Device) -> CostModel:
    """Cost model of ``device``."""

    def due_s(call: Compute, reply: Any, cpu_s: float) -> float:
        return device.slowdown * cpu_s if device.timing is None else cost_s(device.timing, call, reply)

    return due_s


def cost_s(timing: Timing, call: Compute, reply: Any) -> float:
    """Time of ``call``; at the last node forward continues into backward."""
    forward, backward = call.runs_forward, isinstance(reply, Gradient)
    tail_s: float = sum(getattr(timing, name) for name in call.tail_passes)
    return forward * timing.forward_s + backward * timing.backward_s + tail_s
