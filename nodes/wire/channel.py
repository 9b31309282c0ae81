"""Ordered channels between two nodes: the interface, and the in-memory pair."""

import asyncio
from contextlib import suppress
from typing import Any, Protocol, TypeVar

import msgspec
import torch

from nodes.wire.byte_counter import Connection, Traffic, count
from nodes.wire.codec import wire_size
from nodes.wire.messages import AnyMessage

HEARTBEAT_S = 1.0  # between two heartbeats of a node, and of its runner
PARTS = 5  # of a time of silence: who stood still itself, as by Ctrl-Z, then takes what has come meanwhile


class ChannelClosed(ConnectionError):  # noqa: N818 (a normal end, not an error)
    """The channel to a peer has ended; names the peer and the reason."""


class Channel(Protocol):
    """Ordered channel to one peer of a node."""

    peer: str
    sent: dict[str, Traffic]  # by message tag
    connections: list[Connection]  # none in memory

    @property
    def wire_s(self) -> float:
        """Time between first and last byte of each received frame, summed."""

    @property
    def wire_bytes(self) -> int:
        """Bytes received within ``wire_s``: each frame without what came of it at first, at once."""

    @property
    def serialise_s(self) -> float:
        """Time spent encoding and decoding."""

    async def send(self, message: AnyMessage) -> None:
        """Send ``message``; return when more may be sent. Raises ChannelClosed."""

    async def receive(self) -> AnyMessage:
        """Return the next message. Raises ChannelClosed after the last."""

    async def close(self) -> None:
        """Send pending messages, then close. Idempotent."""


class MemoryChannel:
    """One end of an in-memory pair."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.sent: dict[str, Traffic] = {}
        self.connections: list[Connection] = []
        self.wire_s = self.serialise_s = 0.0
        self.wire_bytes = 0
        self._inbox: asyncio.Queue[AnyMessage | None] = asyncio.Queue()
        self._other: MemoryChannel
        self._closed = False

    async def send(self, message: AnyMessage) -> None:
        if self._closed or self._other._closed:
            raise ChannelClosed(f"{self.peer} is closed")
        header_bytes, payload_bytes = wire_size(message)
        count(self.sent, message, header_bytes, payload_bytes)
        self._deliver(owned(message), header_bytes + payload_bytes)

    def _deliver(self, message: AnyMessage | None, wire_bytes: int) -> None:
        """Put ``message`` (None: the end) into the other end's inbox."""
        self._other._inbox.put_nowait(message)

    async def receive(self) -> AnyMessage:
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise ChannelClosed(f"{self.peer} closed the connection")
        return message

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._inbox.put_nowait(None)
            self._deliver(None, 0)


M = TypeVar("M", bound=MemoryChannel)


def memory_pair(
    first: str,
    second: str,
    kind: type[M] = MemoryChannel,  # type: ignore[assignment]  # a default is of no one M
) -> tuple[M, M]:
    """Two connected ends: that of ``first``, then that of ``second``."""
    one, two = kind(second), kind(first)
    one._other, two._other = two, one
    return one, two


async def receive_within(channel: Channel, within_s: float) -> AnyMessage:
    """The next message of ``channel``. Raises TimeoutError if none comes ``within_s``, and ChannelClosed."""
    for _ in range(PARTS):
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s / PARTS):
                return await channel.receive()
    raise TimeoutError


def owned(message: AnyMessage) -> AnyMessage:
    """``message`` with copied tensors, as received over a wire."""
    changes: dict[str, Any] = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, torch.Tensor):
            changes[name] = value.detach().clone()
        elif isinstance(value, dict) and isinstance(next(iter(value.values()), None), torch.Tensor):
            changes[name] = {key: tensor.detach().clone() for key, tensor in value.items()}
    return msgspec.structs.replace(message, **changes) if changes else message
