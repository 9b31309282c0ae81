"""A node's runner: heard by its heartbeats, and given up when it is silent for too long."""

import asyncio
from collections.abc import Sequence

from nodes.wire.channel import ChannelClosed, receive_within
from nodes.wire.messages import RUNNER, AnyMessage, Heartbeat
from nodes.wire.socket_channel import SocketChannel

# Without a heartbeat of the runner, which sends one a second. A network may be away for some seconds and a laptop may
# sleep for a moment; a runner that is stopped or cut off must not keep a node from others.
SILENCE_S = 60.0


class RunnerChannel:
    """The channel to a runner. Its heartbeats are received by nobody; ``silence_s`` None waits for ever."""

    def __init__(self, channel: SocketChannel, silence_s: float | None) -> None:
        self._channel, self._silence_s = channel, silence_s

    async def receive(self) -> AnyMessage:
        """The next message. Raises ChannelClosed, also if the runner is silent for too long."""
        while isinstance(message := await self._next(), Heartbeat):
            pass
        return message

    async def _next(self) -> AnyMessage:
        if self._silence_s is None:
            return await self._channel.receive()
        try:
            return await receive_within(self._channel, self._silence_s)
        except TimeoutError:
            why = f"the {RUNNER} has not been heard of for {self._silence_s:g} s"
            self._channel.fail(why)
            raise ChannelClosed(why) from None

    async def send(self, message: AnyMessage) -> None:
        await self._channel.send(message)

    async def send_last(self, messages: Sequence[AnyMessage]) -> None:
        """Send ``messages`` and stay until the runner is gone. Raises ChannelClosed."""
        listening = asyncio.create_task(self._drop_all())  # also while a runner that is stopped takes nothing
        try:
            for message in messages:
                await self.send(message)
            await listening
        finally:
            listening.cancel()

    async def _drop_all(self) -> None:
        while True:
            await self.receive()

    async def close(self) -> None:
        await self._channel.close()
