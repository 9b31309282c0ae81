"""How does a node run whose neighbours come and go? As any node does; and its role is told who came and who went.

A channel that ends is no failure here: the role decides whom to reach instead, and ``connect`` opens the way
there. A neighbour upstream comes by itself, through ``attach``. One that is replaced is told so (Shutdown), or it
would take this node for dead; what its channel still brings is dropped. So is one told that comes after the role's end.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

from nodes.errors import PeerLostError
from nodes.runtime.actions import Action, Connect, Direction, RoamingRole, Wake
from nodes.runtime.executors import Executor
from nodes.runtime.node import Node
from nodes.wire.channel import Channel, ChannelClosed
from nodes.wire.messages import AnyMessage, Peer, Shutdown

ENDED = "has ended"


class _Neighbour(NamedTuple):
    channel: Channel
    hearing: asyncio.Task[None]
    speaking: asyncio.Task[None]


class RoamingNode(Node):
    """A node whose role is a ``RoamingRole``; ``channels`` lead to the runner alone."""

    def __init__(  # noqa: PLR0917 (all that a node is given)
        self,
        name: str,
        role: RoamingRole,
        worker: Any,
        compute: Executor,
        channels: dict[Direction, Channel],
        clock: Callable[[], float],
        connect: Callable[[Peer], Awaitable[Channel]],
    ) -> None:
        super().__init__(name, role, worker, compute, channels, clock)
        self.used: list[tuple[Direction, Channel]] = []  # every channel to a neighbour that was ever had
        self._roaming = role
        self._connect = connect
        self._neighbours: dict[Direction, _Neighbour] = {}
        self._coming: list[Channel] = []  # attached, and the role has not been told yet
        self._background: set[asyncio.Task[None]] = set()

    async def attach(self, direction: Direction, channel: Channel) -> None:
        """Let ``channel`` lead to the neighbour in ``direction`` from now on; if the role has ended by then, say so."""
        if self._finished:
            return await _part(channel, ENDED)
        self._coming.append(channel)
        self._events.put_nowait(partial(self._attach, direction, channel))

    async def run(self) -> None:
        try:
            await super().run()
            if self._neighbours:  # what was decided last is still on its way
                await asyncio.wait([neighbour.speaking for neighbour in self._neighbours.values()])
            await asyncio.gather(*(_part(channel, ENDED) for channel in self._coming))
        finally:
            for task in self._background:
                task.cancel()
            await asyncio.gather(*self._background, return_exceptions=True)

    def _act(self, action: Action) -> None:
        match action:
            case Connect(None):
                self._detach("down")
            case Connect(Peer() as peer):
                self._detach("down")  # an end that is still to come from there tells nothing of ``peer``
                self._spawn(self._reach(peer))
            case Wake(at, why):
                wait_s = max(0.0, at - self._clock())
                woke = partial(self._roaming.woke, why)
                asyncio.get_running_loop().call_later(wait_s, self._events.put_nowait, woke)
            case _:
                super()._act(action)

    def _attach(self, direction: Direction, channel: Channel, now: float) -> list[Action]:
        self._coming.remove(channel)
        self._detach(direction)
        self._channels[direction] = channel
        self._outgoing[direction] = asyncio.Queue()
        hearing, speaking = self._spawn(self._hear(direction, channel)), self._spawn(self._speak(direction, channel))
        self._neighbours[direction] = _Neighbour(channel, hearing, speaking)
        self.used.append((direction, channel))
        return self._roaming.joined(direction, channel.peer, now)

    def _detach(self, direction: Direction) -> None:
        if neighbour := self._neighbours.pop(direction, None):
            neighbour.hearing.cancel()
            neighbour.speaking.cancel()
            self._spawn(_part(neighbour.channel, "another neighbour"))

    def _is_neighbour(self, direction: Direction, channel: Channel) -> bool:
        neighbour = self._neighbours.get(direction)
        return neighbour is not None and neighbour.channel is channel

    def _lost(self, direction: Direction, channel: Channel, why: ChannelClosed, now: float) -> list[Action]:
        """Let the role know, unless ``channel`` has been replaced meanwhile or told of already."""
        if not self._is_neighbour(direction, channel):
            return []
        self._detach(direction)
        return self._without(direction, why, now)

    def _without(self, direction: Direction, why: ChannelClosed, now: float) -> list[Action]:
        """Go on without the neighbour in ``direction``. Raises PeerLostError that says why, if the role cannot."""
        try:
            return self._roaming.lost(direction, now)
        except PeerLostError as lost:
            raise PeerLostError(lost.peer, why) from None

    async def _reach(self, peer: Peer) -> None:
        try:
            await self.attach("down", await self._connect(peer))
        except ChannelClosed as error:
            self._events.put_nowait(partial(self._without, "down", error))

    async def _hear(self, direction: Direction, channel: Channel) -> None:
        try:
            while True:
                message = await self._next(direction, channel)
                self._events.put_nowait(partial(self._heard, direction, channel, message))
        except ChannelClosed as error:
            self._events.put_nowait(partial(self._lost, direction, channel, error))

    def _heard(self, direction: Direction, channel: Channel, message: AnyMessage, now: float) -> list[Action]:
        if not self._is_neighbour(direction, channel):
            return []
        if isinstance(message, Shutdown):
            self._detach(direction)
        return self._roaming.receive(direction, message, now)

    async def _speak(self, direction: Direction, channel: Channel) -> None:
        queue = self._outgoing[direction]
        with suppress(ChannelClosed):  # which is heard as well, behind the peer's last word
            while (message := await queue.get()) is not None:
                await channel.send(message)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._events.put_nowait(partial(_fail, error))


async def _part(channel: Channel, reason: str) -> None:
    with suppress(ChannelClosed):
        await channel.send(Shutdown(reason=reason))
    await channel.close()


def _fail(error: BaseException, now: float) -> list[Action]:
    raise error
