"""Listening side of a node: accepts channels from runners and from upstream neighbours, by run."""

import asyncio

from nodes.spec.credentials import Credentials
from nodes.wire.channel import Channel
from nodes.wire.codec import Limits
from nodes.wire.messages import RUNNER
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.tls import Tls
from nodes.wire.transport import Server

EARLY_BYTES = 1 << 20  # that may wait in a channel of a run that this node does not know yet
EARLY_S = 60.0  # until such a channel is closed
MOST_EARLY = 256  # of them
BUSY_S = 5.0  # that a runner waits for the end of a run whose own runner is gone


def peer_id(name: str, run: str) -> str:
    """Name of a peer on the wire; the run keeps channels of different runs apart."""
    return f"{name}/{run}"


class Listener(Server):
    """Server of a node that sorts accepted channels by peer and run."""

    def __init__(self, name: str, credentials: Credentials, host: str, port: int, tls: Tls | None = None) -> None:
        super().__init__("", Limits(), host, port, tls)
        self.name, self.credentials = name, credentials
        self._runners: asyncio.Queue[tuple[SocketChannel, str]] = asyncio.Queue()
        self._waiting: set[SocketChannel] = set()  # of these
        self._served: SocketChannel | None = None  # the runner of the present run, or of the last one
        self._neighbours: dict[str, asyncio.Queue[SocketChannel]] = {}  # by run
        self._early: dict[SocketChannel, str] = {}  # the run of each that no one has asked for

    async def runner(self) -> tuple[SocketChannel, str]:
        """Channel of the next runner, and the name of its run.

        Others that come are told that this node is busy: at once, but for ``BUSY_S`` in which a run ends.
        """
        while True:
            channel, run = await self._runners.get()
            if channel in self._waiting:
                self._waiting.discard(channel)
                self._served = channel
                return channel, run

    async def neighbour(self, run: str) -> Channel:
        """Next channel that a neighbour opens in ``run``."""
        waiting = self._neighbours.setdefault(run, asyncio.Queue())
        for channel in [channel for channel, early in self._early.items() if early == run]:
            del self._early[channel]
            channel.inbox_bytes = None
            waiting.put_nowait(channel)
        return await waiting.get()

    def drop(self, run: str) -> None:
        """Close the channels of ``run``, which is over, that no one has taken."""
        waiting = self._neighbours.pop(run, asyncio.Queue())
        while not waiting.empty():
            waiting.get_nowait().fail("the run is over")

    def _token_of(self, peer: str) -> str:
        return self.credentials.token(peer)

    def _take(self, channel: SocketChannel) -> None:
        channel.peer, _, run = channel.peer.rpartition("/")
        for connection in channel.connections:
            connection.peer = channel.peer
        if channel.peer == RUNNER:
            busy = self._served is not None and not self._served.ended
            self._waiting.add(channel)
            self._runners.put_nowait((channel, run))
            asyncio.get_running_loop().call_later(0 if busy else BUSY_S, self._turn_away, channel)
        elif run in self._neighbours:
            self._neighbours[run].put_nowait(channel)
        elif len(self._early) < MOST_EARLY:
            self._early[channel], channel.inbox_bytes = run, EARLY_BYTES
            asyncio.get_running_loop().call_later(EARLY_S, self._give_up, channel)
        else:
            channel.fail(f"{self.name} knows no run {run}, and {MOST_EARLY} channels wait for theirs")

    def _turn_away(self, channel: SocketChannel) -> None:
        if channel in self._waiting:
            self._waiting.discard(channel)
            channel.fail(f"{self.name} is busy with another run")

    def _give_up(self, channel: SocketChannel) -> None:
        if self._early.pop(channel, None) is not None:
            channel.fail(f"{self.name} has not become part of the run within {EARLY_S:g} s")
