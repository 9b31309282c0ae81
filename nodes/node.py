"""How does a node run? It reads a message, its role decides, it acts; nothing else happens here.

A role is a plain state machine: ``receive`` and ``computed`` take a message and the time and return actions. A
node is given its channels, its ``compute`` (a thread, inline, or a sleep from a profile) and its clock, so the
same roles run live, in-process and in virtual time. All channels are read at all times, so that no full window
can stand in the way of a gradient; what is in flight is bounded by the UE, which starts nothing above its window.
"""

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple, Protocol

import msgspec
import torch

from nodes.channel import Channel, ChannelClosed
from nodes.messages import AnyMessage, Gradient, Shutdown

Direction = Literal["up", "down", "runner"]


class NodeError(RuntimeError):
    """The job cannot go on at this node; says why."""


class Send(NamedTuple):
    """Send ``message`` to the neighbour in direction ``to``."""

    to: Direction
    message: AnyMessage


class Compute(NamedTuple):
    """Do ``call`` of the node's worker with ``arguments``; its reply comes back through ``computed``."""

    call: str
    arguments: tuple[Any, ...]


class Finish(NamedTuple):
    """Nothing more will be done here."""


Action = Send | Compute | Finish


class Role(Protocol):
    """What a node decides."""

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a message from a neighbour."""

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Take the reply of a computation that was asked for."""


class ComputeSeam(Protocol):
    """Where and how long work runs."""

    def __call__(self, call: str, work: Callable[[], AnyMessage]) -> Awaitable[AnyMessage]:
        """Do ``work``, which is the worker's ``call``."""


async def inline(call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
    """Compute on the loop itself: for nodes that share a process."""
    return work()


class Threaded:
    """Compute on one thread of its own, so that the loop goes on."""

    def __init__(self, threads: int | None = None) -> None:
        # OpenMP's thread count belongs to the thread that computes.
        begin = (lambda: torch.set_num_threads(threads)) if threads else None
        self.pool = ThreadPoolExecutor(1, thread_name_prefix="compute", initializer=begin)

    async def __call__(self, call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
        return await asyncio.get_running_loop().run_in_executor(self.pool, work)


class Timing(msgspec.Struct, frozen=True):
    """What one batch costs a node, in seconds: forward, and backward with the optimizer's step."""

    forward_s: float = 0.0
    backward_s: float = 0.0


class Profiled:
    """Take as long as ``timing`` says, on the loop's clock; the work itself is on meta tensors."""

    def __init__(self, timing: Timing) -> None:
        self._timing = timing

    async def __call__(self, call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
        reply = work()
        forward = call in ("train", "test", "forward")
        backward = isinstance(reply, Gradient)  # where the model ends, forward goes straight on to backward
        await asyncio.sleep(forward * self._timing.forward_s + backward * self._timing.backward_s)
        return reply


class Usage(msgspec.Struct):
    """Where a node's time went, in seconds of its clock."""

    compute_s: float = 0.0
    total_s: float = 0.0  # from the first event to the last


class Node:
    """One node at work."""

    def __init__(
        self,
        name: str,
        role: Role,
        worker: Any,
        compute: ComputeSeam,
        channels: dict[Direction, Channel],
        clock: Callable[[], float],
    ) -> None:
        self.name = name
        self.usage = Usage()
        self._role, self._worker, self._compute, self._channels = role, worker, compute, channels
        self._clock = clock
        self._events: asyncio.Queue[Callable[[float], list[Action]]] = asyncio.Queue()
        self._work: asyncio.Queue[Compute] = asyncio.Queue()
        self._outgoing: dict[Direction, asyncio.Queue[AnyMessage]] = {to: asyncio.Queue() for to in channels}
        self._finished = False

    async def run(self) -> None:
        """Do what the role decides until it finishes and all is sent. Raises NodeError, or what the worker raised."""
        began = self._clock()
        tasks = [asyncio.create_task(self._read(to)) for to in self._channels]
        tasks += [asyncio.create_task(self._write(to)) for to in self._channels]
        tasks.append(asyncio.create_task(self._work_off()))
        decide = asyncio.create_task(self._decide())
        try:
            while not decide.done():
                done, _ = await asyncio.wait([decide, *tasks], return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # a task that failed ends the node
                tasks = [task for task in tasks if not task.done()]
            await self._flushed(tasks)
        finally:
            for task in [decide, *tasks]:
                task.cancel()
            await asyncio.gather(decide, *tasks, return_exceptions=True)
            self.usage.total_s += self._clock() - began

    async def _flushed(self, tasks: list["asyncio.Task[None]"]) -> None:
        """Return when every message is sent; raise what a task raised before that."""
        joins = asyncio.gather(*(queue.join() for queue in self._outgoing.values()))
        while not joins.done():
            done, _ = await asyncio.wait([joins, *tasks], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            tasks = [task for task in tasks if not task.done()]

    async def _decide(self) -> None:
        while True:
            event = await self._events.get()
            for action in event(self._clock()):
                match action:
                    case Send(to, message):
                        self._outgoing[to].put_nowait(message)
                    case Compute():
                        self._work.put_nowait(action)
                    case Finish():
                        self._finished = True
                        return

    async def _read(self, sender: Direction) -> None:
        channel = self._channels[sender]
        try:
            while True:
                message = await channel.receive()
                self._events.put_nowait(
                    lambda now, message=message: self._role.receive(sender, message, now)  # type: ignore[misc]
                )
                if isinstance(message, Shutdown):
                    return
        except ChannelClosed as error:
            if not self._finished:
                raise NodeError(f"{self.name}: {error}") from None

    async def _write(self, to: Direction) -> None:
        channel, queue = self._channels[to], self._outgoing[to]
        while True:
            message = await queue.get()
            try:
                await channel.send(message)
            except ChannelClosed as error:
                if not isinstance(message, Shutdown):
                    raise NodeError(f"{self.name}: {error}") from None
            queue.task_done()

    async def _work_off(self) -> None:
        while True:
            call, arguments = await self._work.get()
            began = self._clock()
            reply = await self._compute(call, lambda: getattr(self._worker, call)(*arguments))
            self.usage.compute_s += self._clock() - began
            self._events.put_nowait(lambda now, reply=reply: self._role.computed(reply, now))  # type: ignore[misc]
