"""Shell of the modes in-process and virtual: all nodes of a protocol as tasks of one loop, joined over memory."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch

from nodes.runtime.account import Account
from nodes.runtime.actions import Direction, Role
from nodes.runtime.executors import Executor, inline
from nodes.runtime.node import Node
from nodes.wire.channel import Channel, ChannelClosed, MemoryChannel, memory_pair
from nodes.wire.messages import RUNNER, AnyMessage, Peer

T = TypeVar("T")


class Member(NamedTuple):
    """A node's role, its worker and its executor, and what it had done earlier if it goes on from a kept state."""

    role: Role
    worker: Any
    compute: Executor = inline
    earlier: Account | None = None


class Mode(NamedTuple):
    """What tells one mode from the other: the clock, and the pair of channels between two nodes."""

    clock: Callable[[], float] = time.perf_counter
    pair: Callable[[str, str], tuple[Channel, Channel]] = memory_pair


class Conductor(ABC):
    """The runner's part of a protocol, in one process."""

    @abstractmethod
    async def begin(self, run: "LocalRun") -> None:
        """Let the nodes begin, and whatever else happens at a time of its own."""

    @abstractmethod
    async def heard(self, run: "LocalRun", node: str, message: AnyMessage) -> None:
        """Take what ``node`` says to the runner."""

    async def ended(self, run: "LocalRun", node: str) -> None:  # noqa: B027 (most protocols need no hook)
        """Take note that ``node`` has ended."""


class LocalRun:
    """The nodes ``members``, by name; ``joins`` are the pairs that have channels from the start, the UE's side first.

    ``incoming(node)`` is the direction in which the next node sees ``node``.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        mode: Mode,
        joins: Iterable[tuple[str, str]] = (),
        incoming: Callable[[str], Direction] = lambda node: "previous",
    ) -> None:
        self._mode, self._incoming = mode, incoming
        self._runners: dict[str, MemoryChannel] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._killed: set[str] = set()
        channels: dict[str, dict[Direction, Channel]] = {name: {} for name in members}
        for upper, lower in joins:
            channels[upper]["next"], channels[lower][incoming(upper)] = mode.pair(upper, lower)
        self.nodes: dict[str, Node] = {}
        for name, member in members.items():
            ours: MemoryChannel
            ours, self._runners[name] = memory_pair(name, RUNNER)
            channels[name][RUNNER] = ours
            reach = partial(self._reach, name)
            self.nodes[name] = Node(name, *member[:3], channels[name], mode.clock, reach, member.earlier)

    @property
    def now(self) -> float:
        """Seconds of the run's clock."""
        return self._mode.clock()

    async def conduct(self, conductor: Conductor) -> None:
        """Run all nodes to their end. Raises what the first that fails raises."""
        try:
            async with asyncio.TaskGroup() as group:
                self._running = {name: group.create_task(self._live(name, conductor)) for name in self.nodes}
                for name in self.nodes:
                    group.create_task(self._listen(name, conductor))
                script = group.create_task(conductor.begin(self))
                await asyncio.wait(self._running.values())
                script.cancel()
                for runner in self._runners.values():
                    await runner.close()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None

    async def send(self, node: str, message: AnyMessage) -> None:
        """Say ``message`` to ``node`` as the runner, unless it has ended."""
        with suppress(ChannelClosed):
            await self._runners[node].send(message)

    async def kill(self, node: str) -> None:
        """End ``node`` as a power cut would."""
        self._killed.add(node)
        self._running[node].cancel()
        await asyncio.gather(*(channel.close() for _, channel in self.nodes[node].used))

    async def _live(self, name: str, conductor: Conductor) -> None:
        await self.nodes[name].run()
        await conductor.ended(self, name)

    async def _listen(self, name: str, conductor: Conductor) -> None:
        with suppress(ChannelClosed):
            while True:
                await conductor.heard(self, name, await self._runners[name].receive())

    async def _reach(self, name: str, peer: Peer) -> Channel:
        if peer.name in self._killed:
            raise ChannelClosed(f"{peer.name} is dead")
        near, far = self._mode.pair(name, peer.name)
        await self.nodes[peer.name].attach(self._incoming(name), far)
        return near


def run_here(main: Coroutine[Any, Any, T], threads: int | None) -> T:
    """Run ``main`` at full speed, with ``threads`` of torch (None: as many as there are)."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return asyncio.run(main)
    finally:
        torch.set_num_threads(before)
