"""Who comes to a node that listens? Runners, and neighbours from upstream, each of one run."""

import asyncio
from collections import defaultdict

from nodes.wire.channel import Channel
from nodes.wire.codec import Limits
from nodes.wire.messages import RUNNER
from nodes.wire.transport import Server


def peer_id(name: str, run: str) -> str:
    """How ``name`` presents itself to a node; channels of one run are not taken for those of another."""
    return f"{name}/{run}"


class Listener:
    """Where a node is at home: it listens here, and channels that peers open are sorted by who they are."""

    def __init__(self, name: str, token: str, host: str, port: int) -> None:
        self.name, self.token = name, token
        self.limits = Limits()
        self._server = Server(token, self.limits, host, port)
        self._runners: asyncio.Queue[tuple[Channel, str]] = asyncio.Queue()
        self._neighbours: dict[str, asyncio.Queue[Channel]] = defaultdict(asyncio.Queue)  # by run

    async def open(self) -> int:
        """Listen; the port."""
        await self._server.start()
        self._sorting = asyncio.create_task(self._sort())
        return self._server.port

    async def runner(self) -> tuple[Channel, str]:
        """The channel of the next runner, and what it calls its run."""
        return await self._runners.get()

    async def neighbour(self, run: str) -> Channel:
        """The next channel that a neighbour opens in ``run``."""
        return await self._neighbours[run].get()

    async def close(self) -> None:
        """Close all channels and listen no more."""
        self._sorting.cancel()
        await self._server.close()

    async def _sort(self) -> None:
        while True:
            channel = await self._server.accept()
            channel.peer, _, run = channel.peer.rpartition("/")
            for connection in channel.connections:
                connection.peer = channel.peer
            if channel.peer == RUNNER:
                self._runners.put_nowait((channel, run))
            else:
                self._neighbours[run].put_nowait(channel)
