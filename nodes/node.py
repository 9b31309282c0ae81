"""How does a node run? It reads a message, its role decides, it acts; nothing else happens here.

A role is a plain state machine: ``receive`` and ``computed`` take a message and the time and return actions.
A node is given its channels, its ``compute`` (a thread, inline, or a sleep from a profile) and its clock, so
the same roles run live, in-process and in virtual time. All channels are read at all times, so that no full
window can stand in the way of a gradient; what is in flight is bounded by the UE, which starts nothing above
its window.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import msgspec
import torch

from nodes.channel import Channel, ChannelClosed
from nodes.job import Device, Timing
from nodes.messages import AnyMessage, Gradient, Peer, Result, Shutdown

Direction = str  # "up", "down" or "runner"; below many sources the name of one


class NodeError(RuntimeError):
    """The job cannot go on at this node; says why."""


class PeerLostError(NodeError):
    """It cannot go on because the channel to ``peer`` ended before the job did."""

    def __init__(self, peer: str, why: object) -> None:
        super().__init__(str(why))
        self.peer = peer


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


class Connect(NamedTuple):
    """Let ``peer`` be the neighbour downstream, instead of what was; None: have none. For nodes that roam."""

    peer: Peer | None


class Wake(NamedTuple):
    """Call ``woke`` with ``why`` when the node's clock says ``at``. For nodes that roam."""

    at: float
    why: str


Action = Send | Compute | Finish | Connect | Wake


class Role(Protocol):
    """What a node decides."""

    def receive(self, sender: Direction, message: AnyMessage, now: float) -> list[Action]:
        """Take a message from a neighbour."""

    def computed(self, reply: AnyMessage, now: float) -> list[Action]:
        """Take the reply of a computation that was asked for."""


@runtime_checkable
class Attentive(Protocol):
    """A role that wants to know what transfers take."""

    def carried(self, direction: Direction, wire_bytes: float, wire_s: float, now: float) -> list[Action]:
        """Take note that the link from the neighbour in ``direction`` brought so many bytes in so long."""


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

    async def end(self) -> None:
        """Drop the work that waits and let what runs end: while a model is traced, no other may run in the process."""
        await asyncio.to_thread(self.pool.shutdown, cancel_futures=True)


# The seconds that a call which came to a reply takes on some device, where it took so many of CPU time here.
Due = Callable[[str, AnyMessage, float], float]


class Profiled:
    """Take as long as ``due_s`` says, on the loop's clock; the work itself is on meta tensors."""

    def __init__(self, due_s: Due) -> None:
        self._due_s = due_s

    async def __call__(self, call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
        reply = work()
        await asyncio.sleep(self._due_s(call, reply, 0.0))
        return reply


class Stretched:
    """Take as long as ``due_s`` says: the thread of ``compute`` does the work, then sleeps until the device is done.

    The time counts from when the work begins, so what the work itself took does not add to it. CPU time is that
    of the thread: others that run on its core do not stretch it further. ``overrun_s`` sums by how much work
    took longer here than on the device, which nothing can make up for.
    """

    def __init__(self, compute: ComputeSeam, due_s: Due) -> None:
        self.overrun_s = 0.0
        self._compute, self._due_s = compute, due_s

    def __call__(self, call: str, work: Callable[[], AnyMessage]) -> Awaitable[AnyMessage]:
        return self._compute(call, partial(self._stretch, call, work))

    def _stretch(self, call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
        began, cpu_began = time.perf_counter(), time.thread_time()
        reply = work()
        due_s = self._due_s(call, reply, time.thread_time() - cpu_began)
        left_s = began + due_s - time.perf_counter()
        self.overrun_s += max(0.0, -left_s)
        time.sleep(max(0.0, left_s))  # of the thread, not the loop: its timers are finer than uvloop's
        return reply


def on_device(device: Device) -> Due:
    """How long calls take on ``device``."""

    def due_s(call: str, reply: AnyMessage, cpu_s: float) -> float:
        return device.slowdown * cpu_s if device.timing is None else cost_s(device.timing, call, reply)

    return due_s


def cost_s(timing: Timing, call: str, reply: AnyMessage) -> float:
    """What ``call``, which came to ``reply``, costs; where the model ends, forward goes straight on to backward."""
    forward, backward = call in ("train", "test", "forward"), isinstance(reply, Gradient)
    return forward * timing.forward_s + backward * timing.backward_s


class Usage(msgspec.Struct):
    """Where a node's time went, in seconds of its clock."""

    compute_s: float = 0.0
    total_s: float = 0.0  # from the first event to the last


class Node:
    """One node at work."""

    def __init__(  # noqa: PLR0917 (all that a node is given)
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
        self._told_bytes = 0  # of those sent, that a report to the runner has told of
        self._role, self._worker, self._compute, self._channels = role, worker, compute, channels
        self._clock = clock
        self._events: asyncio.Queue[Callable[[float], list[Action]]] = asyncio.Queue()
        self._work: asyncio.Queue[Compute] = asyncio.Queue()
        self._outgoing: dict[Direction, asyncio.Queue[AnyMessage | None]]
        self._outgoing = {to: asyncio.Queue() for to in channels}
        self._finished = False

    async def run(self) -> None:
        """Do what the role decides until it finishes and all is sent.

        Raises PeerLostError if a channel ends before, and whatever the role or the worker raises.
        """
        began = self._clock()
        decide, work = asyncio.create_task(self._decide()), asyncio.create_task(self._work_off())
        writers = [asyncio.create_task(self._write(to)) for to in self._channels]
        readers = [asyncio.create_task(self._read(to)) for to in self._channels]
        tasks = [decide, work, *writers, *readers]  # of failures seen at once the first in this order counts
        try:
            pending = set(tasks)
            while pending.intersection([decide, *writers]):
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self.usage.total_s += self._clock() - began

    async def _decide(self) -> None:
        """Let the role decide on each event until it finishes; then the writers end as well."""
        while not self._finished:
            event = await self._events.get()
            for action in event(self._clock()):
                self._act(action)
        for queue in self._outgoing.values():
            queue.put_nowait(None)

    def _act(self, action: Action) -> None:
        match action:
            case Send(to, message):
                self._outgoing[to].put_nowait(message)
            case Compute():
                self._work.put_nowait(action)
            case Finish():
                self._finished = True
            case _:
                raise TypeError(f"{type(action).__name__} is for a node that roams")

    async def _read(self, sender: Direction) -> None:
        """Take what a peer sends until its Shutdown, or until the channel ends."""
        channel = self._channels[sender]
        try:
            while True:
                message = await self._next(sender, channel)
                self._events.put_nowait(partial(self._role.receive, sender, message))
                if isinstance(message, Shutdown):
                    return
        except ChannelClosed as error:
            if not self._finished:  # else the peer, told of the end, was faster to close
                raise PeerLostError(channel.peer, error) from None

    async def _next(self, sender: Direction, channel: Channel) -> AnyMessage:
        """The next message of ``channel``; the role learns what it took, if it wants to. Raises ChannelClosed."""
        wire_bytes, wire_s = channel.wire_bytes, channel.wire_s
        message = await channel.receive()
        if channel.wire_bytes > wire_bytes and isinstance(self._role, Attentive):
            brought = channel.wire_bytes - wire_bytes, channel.wire_s - wire_s
            self._events.put_nowait(partial(self._role.carried, sender, *brought))
        return message

    async def _write(self, to: Direction) -> None:
        """Send what is decided, one message after the other."""
        channel, queue = self._channels[to], self._outgoing[to]
        while (message := await queue.get()) is not None:
            if to == "runner" and isinstance(message, Result):
                message = msgspec.structs.replace(
                    message, metrics={**message.metrics, "sent_bytes": self._newly_sent_bytes()}
                )
            try:
                await channel.send(message)
            except ChannelClosed as error:
                raise PeerLostError(channel.peer, error) from None

    def _newly_sent_bytes(self) -> float:
        """Frames sent to the neighbours since this was last asked."""
        sent = [
            traffic for to, channel in self._channels.items() if to != "runner" for traffic in channel.sent.values()
        ]
        total, before = sum(traffic.header_bytes + traffic.payload_bytes for traffic in sent), self._told_bytes
        self._told_bytes = total
        return float(total - before)

    async def _work_off(self) -> None:
        """Compute what is decided, in order."""
        while True:
            call, arguments = await self._work.get()
            began = self._clock()
            reply = await self._compute(call, partial(getattr(self._worker, call), *arguments))
            self.usage.compute_s += self._clock() - began
            self._events.put_nowait(partial(self._role.computed, reply))
