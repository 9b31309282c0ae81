"""Listening side of a node: accepts channels from runners and from upstream neighbours, by run."""

import asyncio
from collections import defaultdict

from nodes.wire.channel import Channel
from nodes.wire.codec import Limits
from nodes.wire.messages import RUNNER
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.transport import Server


def peer_id(name: str, run: str) -> str:
    """Name of a peer on the wire; the run keeps channels of different runs apart."""
    return f"{name}/{run}"


class Listener(Server):
    """Server of a node that sorts accepted channels by peer and run."""

    def __init__(self, name: str, token: str, host: str, port: int) -> None:
        super().__init__(token, Limits(), host, port)
        self.name = name
        self._runners: asyncio.Queue[tuple[Channel, str]] = asyncio.Queue()
        self._neighbours: dict[str, asyncio.Queue[Channel]] = defaultdict(asyncio.Queue)  # by run

    async def runner(self) -> tuple[Channel, str]:
        """Channel of the next runner, and the name of its run."""
        return await self._runners.get()

    async def neighbour(self, run: str) -> Channel:
        """Next channel that a neighbour opens in ``run``."""
        return await self._neighbours[run].get()

    def _take(self, channel: SocketChannel) -> None:
        channel.peer, _, run = channel.peer.rpartition("/")
        for connection in channel.connections:
            connection.peer = channel.peer
        if channel.peer == RUNNER:
            self._runners.put_nowait((channel, run))
        else:
            self._neighbours[run].put_nowait(channel)
