"""Node shell: reads messages, lets its role decide, acts.

A node is given its role, its worker, an executor (a thread, inline, or a sleep from a profile), a clock and channels,
so the same roles run live, in process and in virtual time. All channels are read at all times: no full window can
stand in the way of a gradient. What is in flight is bounded by the UE, which starts nothing above its window.

Neighbours may connect and disconnect at run time. The role asks for a next node (``Connect``); others come through
``attach``. A neighbour that is replaced is told so (``Replaced``), or it would take this node for dead; what its
channel still brings is dropped. One that comes after the role's end is told to shut down.
"""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec.structs import replace

from nodes.errors import PeerLostError, ProtocolError
from nodes.runtime.account import Account, of_channels
from nodes.runtime.actions import Action, Compute, Connect, Direction, Finish, Keep, Role, Send, Wake
from nodes.runtime.executors import Executor
from nodes.wire.channel import Channel, ChannelClosed
from nodes.wire.messages import RUNNER, AnyMessage, EpochReport, Peer, Replaced, RoundReport, Shutdown

T = TypeVar("T")
Reach = Callable[[Peer], Awaitable[Channel]]


class Usage(msgspec.Struct):
    """A node's time, in seconds of its clock."""

    compute_s: float = 0.0
    total_s: float = 0.0  # from the first event to the last


class _Neighbour(NamedTuple):
    channel: Channel
    hearing: asyncio.Task[None]
    speaking: asyncio.Task[ChannelClosed | None]


class Node:
    """A role at work, with ``channels`` from the start and others that come and go."""

    def __init__(  # noqa: PLR0917 (all that a node is given)
        self,
        name: str,
        role: Role,
        worker: Any,
        compute: Executor,
        channels: Mapping[Direction, Channel],
        clock: Callable[[], float],
        reach: Reach | None = None,
        earlier: Account | None = None,
    ) -> None:
        """``earlier`` is what the node had done when its state was kept, if it goes on from one."""
        self.name = name
        self.usage = Usage()
        self.used: list[tuple[Direction, Channel]] = []  # every channel to a neighbour, past ones included
        self._role, self._worker, self._compute, self._clock, self._reach = role, worker, compute, clock, reach
        self._observes = type(role).carried is not Role.carried
        self._needs_all = type(role).lost is Role.lost
        self._events: asyncio.Queue[Callable[[float], list[Action]]] = asyncio.Queue()
        self._work: asyncio.Queue[tuple[Compute, str]] = asyncio.Queue()  # with the peer that sent what it carries
        self._last: tuple[Any, str] = None, ""  # message, and its sender
        self._initial = dict(channels)
        self._neighbours: dict[Direction, _Neighbour] = {}
        self._outgoing: dict[Direction, asyncio.Queue[AnyMessage | None]] = {}  # of neighbours that are gone too
        self._coming: list[Channel] = []  # attached, and the role has not been told yet
        self._background: set[asyncio.Task[Any]] = set()
        self._earlier = earlier or Account()
        # Of the bytes sent, those included in a report to the runner.
        self._reported_bytes = self._earlier.sent_bytes - self._earlier.unreported_bytes
        self._waiting_reports = 0  # to the runner, which will include all that is sent by then
        self._began: float | None = None  # while it runs
        self._finished = False

    async def attach(self, direction: Direction, channel: Channel) -> None:
        """Make ``channel`` the way to the neighbour in ``direction``; shut the peer down if the role has ended."""
        if self._finished:
            return await _dismiss(channel, Shutdown())
        self._coming.append(channel)
        self._events.put_nowait(partial(self._attach, direction, channel))

    async def run(self) -> None:
        """Do what the role decides until it finishes and all is sent.

        Raises:
            PeerLostError: A channel ended before, and the role cannot go on without it.
        """
        self._began = began = self._clock()
        for direction, channel in self._initial.items():
            self._take_up(direction, channel)
        tasks = [asyncio.create_task(self._decide()), asyncio.create_task(self._work_off())]
        try:
            pending = set(tasks)
            while tasks[0] in pending:  # of failures seen at once the first in this order counts
                _, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in tasks:
                    if task.done():
                        task.result()
            for neighbour in self._neighbours.values():  # what was decided last is still on its way
                failure = await neighbour.speaking
                if failure and self._needs_all:
                    raise PeerLostError(neighbour.channel.peer, failure)
            await asyncio.gather(*(_dismiss(channel, Shutdown()) for channel in self._coming))
        finally:
            for task in [*tasks, *self._background]:
                task.cancel()
            await asyncio.gather(*tasks, *self._background, return_exceptions=True)
            self.usage.total_s, self._began = self._clock() - began, None

    def account(self) -> Account:
        """What the node has done so far, also before its state was kept."""
        total_s = self.usage.total_s if self._began is None else self._clock() - self._began
        account = self._earlier.before(of_channels(self.used, self.usage.compute_s, total_s))
        unreported = 0 if self._waiting_reports else account.sent_bytes - self._reported_bytes
        return replace(account, unreported_bytes=unreported)

    async def _decide(self) -> None:
        """Let the role decide on each event until it finishes; then the senders end as well."""
        while not self._finished:
            event = await self._events.get()
            for action in event(self._clock()):
                if isinstance(action, Keep):
                    await self._sent()
                    keep = dataclasses.replace(action, account=self.account())
                    await self._compute(keep, partial(keep.run, self._worker))
                else:
                    self._act(action)
            self._last = None, ""
        for queue in self._outgoing.values():
            queue.put_nowait(None)

    async def _sent(self) -> None:
        """Return once all that was decided has been sent, or can be sent to nobody."""
        for direction, neighbour in list(self._neighbours.items()):
            if direction != RUNNER:
                sent = asyncio.ensure_future(self._outgoing[direction].join())
                await asyncio.wait([sent, neighbour.speaking], return_when=asyncio.FIRST_COMPLETED)
                sent.cancel()

    def _act(self, action: Action) -> None:
        match action:
            case Send(to, message):
                self._waiting_reports += isinstance(message, EpochReport | RoundReport)
                self._outgoing[to].put_nowait(message)
            case Compute():
                message, sender = self._last
                carries = message is not None and any(value is message for value in vars(action).values())
                self._work.put_nowait((action, sender if carries else ""))
            case Finish():
                self._finished = True
            case Connect(peer):
                self._replace("next")  # an end that is still to come from there says nothing of ``peer``
                if peer is not None:
                    self._spawn(self._connect(peer))
            case Wake(at, why):
                woke = partial(self._role.woke, why)
                asyncio.get_running_loop().call_later(max(0.0, at - self._clock()), self._events.put_nowait, woke)

    async def _work_off(self) -> None:
        while True:
            call, sender = await self._work.get()
            began = self._clock()
            with _naming(sender):
                reply = await self._compute(call, partial(call.run, self._worker))
            self.usage.compute_s += self._clock() - began
            self._events.put_nowait(partial(self._role.computed, reply))

    # Neighbours

    async def _connect(self, peer: Peer) -> None:
        assert self._reach is not None, "a role that connects needs a way to reach its peers"
        try:
            await self.attach("next", await self._reach(peer))
        except ChannelClosed as error:
            self._events.put_nowait(partial(self._without, "next", peer.name, error))

    def _attach(self, direction: Direction, channel: Channel, now: float) -> list[Action]:
        self._coming.remove(channel)
        self._replace(direction)
        self._take_up(direction, channel)
        return self._role.joined(direction, channel.peer, now)

    def _take_up(self, direction: Direction, channel: Channel) -> None:
        self._outgoing[direction] = asyncio.Queue()
        hearing, speaking = self._spawn(self._hear(direction, channel)), self._spawn(self._speak(direction, channel))
        self._neighbours[direction] = _Neighbour(channel, hearing, speaking)
        if direction != RUNNER:
            self.used.append((direction, channel))

    def _replace(self, direction: Direction) -> None:
        """Have no neighbour in ``direction`` any more, and let the one that was know."""
        if neighbour := self._forget(direction):
            self._spawn(_dismiss(neighbour.channel, Replaced()))

    def _forget(self, direction: Direction) -> _Neighbour | None:
        neighbour = self._neighbours.pop(direction, None)
        if neighbour:
            neighbour.hearing.cancel()
            neighbour.speaking.cancel()
        return neighbour

    def _is_neighbour(self, direction: Direction, channel: Channel) -> bool:
        neighbour = self._neighbours.get(direction)
        return neighbour is not None and neighbour.channel is channel

    def _lost(self, direction: Direction, channel: Channel, error: ChannelClosed, now: float) -> list[Action]:
        """Let the role know, unless ``channel`` has been replaced meanwhile or its end is known already."""
        if not self._is_neighbour(direction, channel):
            return []
        if direction != RUNNER:
            self._replace(direction)
        return self._without(direction, channel.peer, error, now)

    def _without(self, direction: Direction, peer: str, error: ChannelClosed, now: float) -> list[Action]:
        """Go on without the neighbour in ``direction``. Raises PeerLostError if the role cannot."""
        actions = None if direction == RUNNER else self._role.lost(direction, now)
        if actions is None:
            raise PeerLostError(peer, error) from None
        return actions

    # Messages

    async def _hear(self, direction: Direction, channel: Channel) -> None:
        """Take what a neighbour sends until its last word, or until the channel ends."""
        try:
            while True:
                message = await self._next(direction, channel)
                self._events.put_nowait(partial(self._heard, direction, channel, message))
                if isinstance(message, Shutdown | Replaced):
                    return
        except ChannelClosed as error:
            self._events.put_nowait(partial(self._lost, direction, channel, error))

    async def _next(self, direction: Direction, channel: Channel) -> AnyMessage:
        """The next message of ``channel``; the role learns what its transfer took. Raises ChannelClosed."""
        wire_bytes, wire_s = channel.wire_bytes, channel.wire_s
        message = await channel.receive()
        if self._observes and channel.wire_bytes > wire_bytes:
            brought = channel.wire_bytes - wire_bytes, channel.wire_s - wire_s
            self._events.put_nowait(partial(self._role.carried, direction, *brought))
        return message

    def _heard(self, direction: Direction, channel: Channel, message: AnyMessage, now: float) -> list[Action]:
        if not self._is_neighbour(direction, channel):
            return []
        if isinstance(message, Replaced):
            self._forget(direction)
            self._spawn(channel.close())
        self._last = message, channel.peer
        with _naming(channel.peer):
            return self._role.receive(direction, message, now)

    async def _speak(self, to: Direction, channel: Channel) -> ChannelClosed | None:
        """Send what is decided, in order; the failure, of which ``_hear`` tells the role too until its end."""
        outgoing = self._outgoing[to]
        try:
            while (message := await outgoing.get()) is not None:
                if to == RUNNER and isinstance(message, EpochReport | RoundReport):
                    metrics = {**message.metrics, "sent_bytes": self._newly_sent_bytes()}
                    message = replace(message, metrics=metrics)
                await channel.send(message)
                outgoing.task_done()
        except ChannelClosed as error:
            return error
        return None

    def _newly_sent_bytes(self) -> float:
        """Bytes of frames sent to the neighbours since the last report."""
        total, before = self.account().sent_bytes, self._reported_bytes
        self._reported_bytes, self._waiting_reports = total, self._waiting_reports - 1
        return float(total - before)

    # Tasks

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._background.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._events.put_nowait(partial(_fail, error))


@contextmanager
def _naming(peer: str) -> Iterator[None]:
    """Name the peer, if it is known, whose message cannot be used."""
    try:
        yield
    except ProtocolError as error:
        if not peer:
            raise
        raise ProtocolError(f"{peer}: {error}") from error


async def _dismiss(channel: Channel, word: Shutdown | Replaced) -> None:
    with suppress(ChannelClosed):
        await channel.send(word)
    await channel.close()


def _fail(error: BaseException, now: float) -> list[Action]:
    raise error
