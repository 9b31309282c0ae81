"""How does one node reach another? A channel sends and receives in order; here the in-memory pair."""

import asyncio
from typing import Any, Literal, Protocol, TypeVar

import msgspec
import torch

from nodes.wire.codec import wire_size
from nodes.wire.messages import AnyMessage

ChannelKind = Literal["websocket", "bulk"]


class ChannelClosed(ConnectionError):  # noqa: N818 (what it says is no error of its own)
    """The peer is gone, or this end is closed; says which peer and why."""


class Traffic(msgspec.Struct):
    """What one end of a channel has sent, counted where it crosses."""

    messages: int = 0
    header_bytes: int = 0  # frames' prefixes and headers
    payload_bytes: int = 0


class Connection(msgspec.Struct):
    """What one end of one TCP connection has sent: HTTP handshakes, WebSocket framing and frames.

    When the channel has closed, ``acked_bytes`` is the kernel's count of what the peer's kernel acknowledged:
    equal to ``written_bytes`` unless the connection broke.
    """

    peer: str
    kind: ChannelKind
    written_bytes: int = 0
    acked_bytes: int = 0
    retransmitted_bytes: int = 0


class Channel(Protocol):
    """One peer of a node. Messages arrive in the order in which they were sent."""

    peer: str
    sent: dict[str, Traffic]  # by message tag
    connections: list[Connection]  # none in memory

    @property
    def wire_s(self) -> float:
        """Time between the first and the last byte of each frame received, summed."""

    @property
    def wire_bytes(self) -> int:
        """Bytes that came within ``wire_s``: of each frame received all but the first segment."""

    @property
    def serialise_s(self) -> float:
        """Time spent to encode and decode."""

    async def send(self, message: AnyMessage) -> None:
        """Hand ``message`` over; returns when more may be sent. Raises ChannelClosed."""

    async def receive(self) -> AnyMessage:
        """The next message. Raises ChannelClosed when none will come."""

    async def close(self) -> None:
        """Send what is pending, then close. May be called again."""


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
        self._hand_over(owned(message), header_bytes + payload_bytes)

    def _hand_over(self, message: AnyMessage | None, wire_bytes: int) -> None:
        """Put ``message`` (None: the end) where the other end will find it."""
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
            self._hand_over(None, 0)


M = TypeVar("M", bound=MemoryChannel)


def memory_pair(first: str, second: str, kind: type[M] = MemoryChannel) -> tuple[M, M]:  # type: ignore[assignment]
    """Two connected ends: the one that ``first`` holds (its peer is ``second``), and the other."""
    one, two = kind(second), kind(first)
    one._other, two._other = two, one
    return one, two


def count(sent: dict[str, Traffic], message: AnyMessage, header_bytes: int, payload_bytes: int) -> None:
    """Add the frame of ``message`` to what was sent."""
    traffic = sent.setdefault(tag(message), Traffic())
    traffic.messages += 1
    traffic.header_bytes += header_bytes
    traffic.payload_bytes += payload_bytes


def tag(message: AnyMessage) -> str:
    """The name of the kind of ``message`` on the wire."""
    return str(message.__struct_config__.tag)


def owned(message: AnyMessage) -> AnyMessage:
    """``message`` with tensors of its own, as a receiver on the far side of a wire would have them."""
    changes: dict[str, Any] = {}
    for name in message.__struct_fields__:
        value = getattr(message, name)
        if isinstance(value, torch.Tensor):
            changes[name] = value.detach().clone()
        elif isinstance(value, dict) and isinstance(next(iter(value.values()), None), torch.Tensor):
            changes[name] = {key: tensor.detach().clone() for key, tensor in value.items()}
    return msgspec.structs.replace(message, **changes) if changes else message
