"""How does a node run? It reads a message, its role decides, it acts; nothing else happens here.

A role is a plain state machine: ``receive`` and ``computed`` take a message and the time and return actions.
A node is given its channels, its ``compute`` (a thread, inline, or a sleep from a profile) and its clock, so
the same roles run live, in-process and in virtual time. All channels are read at all times, so that no full
window can stand in the way of a gradient; what is in flight is bounded by the UE, which starts nothing above
its window.
"""

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from nodes.errors import PeerLostError
from nodes.runtime.actions import Action, Compute, Direction, Finish, Role, Send, TransferObserver
from nodes.runtime.executors import Executor
from nodes.wire.channel import Channel, ChannelClosed
from nodes.wire.messages import AnyMessage, Result, Shutdown


async def inline(call: str, work: Callable[[], AnyMessage]) -> AnyMessage:
    """Compute on the loop itself: for nodes that share a process."""
    return work()


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
        compute: Executor,
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
        if channel.wire_bytes > wire_bytes and isinstance(self._role, TransferObserver):
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
