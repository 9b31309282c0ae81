"""Executors: where a node's computations run, and how long they take."""

import asyncio
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import FrameType
from typing import Any

import torch

from nodes.errors import NodeError
from nodes.runtime.actions import Compute
from nodes.spec.job import Device, Timing
from nodes.user_code import contained
from nodes.wire.messages import Gradient

LONG_S = 2.0  # of a computation that is told of
END_S = 30.0  # for a computation whose result nobody wants any more
CALLS = 3  # of its thread

Executor = Callable[[Compute, Callable[[], Any]], Awaitable[Any]]  # does the work of a call and returns its reply


class StuckThreadError(NodeError):
    """A compute thread that does not return: only the end of its process ends it."""


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
        self._running: tuple[int, float] | None = None  # the thread that computes, and since when
        self._left: set[Future[Any]] = set()  # neither ended nor cancelled

    async def __call__(self, call: Compute, work: Callable[[], Any]) -> Any:
        return await self.run(work)

    async def run(self, work: Callable[[], Any]) -> Any:
        """The result of ``work``."""
        submitted = self.pool.submit(self._do, contained()(work))
        self._left.add(submitted)
        submitted.add_done_callback(self._left.discard)
        return await asyncio.wrap_future(submitted)

    def long_since(self) -> tuple[float, str] | None:
        """Seconds for which the thread has been computing, and the call that it is in, if it takes long."""
        if (running := self._running) is None or (passed_s := time.monotonic() - running[1]) < LONG_S:
            return None
        frame = sys._current_frames().get(running[0])
        return passed_s, _call(frame) if frame else ""

    def _do(self, work: Callable[[], Any]) -> Any:
        self._running = threading.get_ident(), time.monotonic()
        try:
            return work()
        finally:
            self._running = None

    async def end(self) -> None:
        """Drop waiting work and await running work: no other may run while a model is traced.

        Raises StuckThreadError if it does not return within ``END_S``.
        """
        self.pool.shutdown(wait=False, cancel_futures=True)
        if left := [asyncio.wrap_future(one) for one in tuple(self._left)]:
            ended, stuck = await asyncio.wait(left, timeout=END_S)
            for one in ended:
                one.cancelled() or one.exception()  # which nobody wants any more
            if stuck:
                raise StuckThreadError(f"a compute thread has not returned {END_S:g} s after the end of its job")


def _call(frame: FrameType) -> str:
    """The innermost calls of ``frame``, the last of them first."""
    calls = reversed(traceback.extract_stack(frame)[-CALLS:])
    return ", called at ".join(f"{call.filename}:{call.lineno} in {call.name}" for call in calls)


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
