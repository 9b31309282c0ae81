"""Channel over two connections: a WebSocket for control and an upgraded socket for tensors.

Sequence numbers count frames over both connections of a direction; the receiver reorders them. The closing side ends
its direction of both connections, and the peer does the same in answer.
"""

import asyncio
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import aiohttp
from aiohttp import web

from nodes.wire.byte_counter import PATIENCE_S, Counted, Traffic, count, patiently
from nodes.wire.channel import ChannelClosed
from nodes.wire.codec import Decoder, FrameError, Limits, Received, encode
from nodes.wire.messages import AnyMessage, Bulk
from nodes.wire.tensor_socket import TensorSocket

MAX_EARLY = 1 << 14  # messages waiting for an earlier one: control overtakes tensors on a slow link
INBOX_MESSAGES = 16  # of the largest size, that wait to be received
LAST_WORD_S = 3.0  # for a peer to report over one connection why the other broke

WebSocket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


class Reorder:
    """Restores the sending order of messages from two connections."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, Received] = {}

    def take(self, received: Received) -> Iterator[Received]:
        """Yield the messages now due. Raises FrameError for a repeated number or one too far ahead."""
        sequence = received.sequence
        if sequence in self._early or not self._next <= sequence < self._next + MAX_EARLY:
            raise FrameError(f"got message {sequence}, expected {self._next}")
        self._early[sequence] = received
        while self._next in self._early:
            yield self._early.pop(self._next)
            self._next += 1

    @property
    def gap(self) -> bool:
        """Whether a message is missing before a received one."""
        return bool(self._early)


class SocketChannel:
    """See ``Channel``. Without ``bulk`` everything goes over the WebSocket.

    Messages are read at once and queued until ``receive``, so gradients and control always get through; the windows of
    the protocol above bound the queue, and a peer that sends more ends the channel. ``inbox_bytes`` is the most that
    of memory may wait; None: that of ``INBOX_MESSAGES`` of the largest size.
    """

    def __init__(
        self,
        peer: str,
        websocket: WebSocket,
        counted: Counted,
        *,
        bulk: TensorSocket | None,
        limits: Limits,
        resources: AsyncExitStack | None = None,
    ) -> None:
        self.peer = peer
        self.sent: dict[str, Traffic] = {}
        self.connections = [counted.record] + ([bulk.counted.record] if bulk else [])
        for connection in self.connections:
            connection.opening_bytes = connection.written_bytes
        self._resources = resources or AsyncExitStack()  # released at the end of the channel
        self._websocket = websocket
        self._counted = counted
        self._bulk = bulk
        self._sequence = 0
        self._serialise_s = 0.0
        self.inbox_bytes: int | None = None
        self._limits, self._waiting_bytes = limits, 0
        self._decoder = Decoder(limits)
        self._reorder = Reorder()
        self._inbox: asyncio.Queue[Received | None] = asyncio.Queue()
        self._end_reason = ""  # the channel ends once this is set
        self._ended = asyncio.Event()
        self._broken = ""  # how a connection first broke
        self._goodbye: asyncio.Task[bool]
        self._running = asyncio.create_task(self._run())
        if bulk is not None:
            bulk.attach(self.deliver, self.fail, self.broke)

    @property
    def wire_s(self) -> float:
        """Time of the upgraded socket only: messages of the WebSocket are small."""
        return self._bulk.wire_s if self._bulk else 0.0

    @property
    def wire_bytes(self) -> int:
        return self._bulk.wire_bytes if self._bulk else 0

    @property
    def serialise_s(self) -> float:
        return self._serialise_s + (self._bulk.serialise_s if self._bulk else 0.0)

    async def send(self, message: AnyMessage) -> None:
        """Return once the kernel has the whole frame, so that tensors may change."""
        if self._end_reason:
            raise self._closed()
        began = time.perf_counter()
        header, *payload = encode(message, self._sequence)
        self._serialise_s += time.perf_counter() - began
        self._sequence += 1
        count(self.sent, message, len(header), sum(map(len, payload)))
        try:
            if self._bulk is not None and isinstance(message, Bulk):
                await self._bulk.write([header, *payload])
            else:
                await self._websocket.send_bytes(b"".join([header, *payload]))
        except ConnectionError as error:
            if self._websocket.close_code != aiohttp.WSCloseCode.OK:  # else the peer has left in order
                self.broke(f"lost the connection: {error}")
            await self._ended.wait()
            raise self._closed() from None

    async def receive(self) -> AnyMessage:
        received = await self._inbox.get()
        if received is None:
            self._inbox.put_nowait(None)
            raise self._closed()
        self._waiting_bytes -= received.memory_bytes
        return received.message

    @property
    def ended(self) -> bool:
        """Whether nothing more can be sent."""
        return bool(self._end_reason)

    async def close(self) -> None:
        """Send pending messages, then close; drop what the peer still sends."""
        self._end("this end is closed")
        await self.wait_closed()

    async def wait_closed(self) -> None:
        """Return once the channel has ended and ``connections`` are final."""
        await asyncio.wait([self._running])

    def deliver(self, received: Received) -> None:
        """Queue a message of either connection. Raises FrameError for an impossible number, and if too much waits."""
        if not self._end_reason:
            self._waiting_bytes += received.memory_bytes
            most = self.inbox_bytes or INBOX_MESSAGES * self._limits.message_memory
            if self._waiting_bytes > most:
                raise FrameError(f"more than {most} bytes wait to be received")
            for ready in self._reorder.take(received):
                self._inbox.put_nowait(ready)

    def fail(self, why: str) -> None:
        """End the channel and send ``why`` to the peer."""
        self._end(why, aiohttp.WSCloseCode.PROTOCOL_ERROR)

    def broke(self, why: str) -> None:
        """End the channel because of ``why``, unless the peer's own reason arrives within ``LAST_WORD_S``."""
        if not self._broken:
            self._broken = why
            asyncio.get_running_loop().call_later(LAST_WORD_S, self.fail, why)

    def _closed(self) -> ChannelClosed:
        return ChannelClosed(f"{self.peer}: {self._end_reason}")

    def _end(self, why: str, code: int = aiohttp.WSCloseCode.OK) -> None:
        if not self._end_reason:
            self._end_reason = why
            self._ended.set()
            self._graceful = code == aiohttp.WSCloseCode.OK
            # A close frame holds 123 bytes. Closing also stops the reader.
            message = why.encode("ascii", "replace")[:120]
            self._goodbye = asyncio.create_task(self._websocket.close(code=code, message=message))

    async def _run(self) -> None:
        async with self._resources:
            try:
                self._end(await self._read())
            except (FrameError, ConnectionError) as error:
                self.fail(str(error))
            finally:  # wake receivers whatever ended the channel
                self._end_reason = self._end_reason or "the reader failed"
                self._ended.set()
                self._inbox.put_nowait(None)
            if self._counted.tls:
                await self._goodbye  # only then the peer has sent its last
            if self._bulk is not None:
                await self._bulk.finish(self._graceful)
            await self._goodbye
            await self._counted.settle(PATIENCE_S if self._graceful else 0)

    async def _read(self) -> str:
        """Deliver messages until both connections end; return the reason."""
        while True:
            received = await self._websocket.receive()
            match received.type:
                case aiohttp.WSMsgType.BINARY:
                    began = time.perf_counter()
                    frames = self._decoder.feed(received.data)
                    self._decoder.check_end()
                    self._serialise_s += time.perf_counter() - began
                    for received_message in frames:
                        self.deliver(received_message)
                case aiohttp.WSMsgType.CLOSE if received.data == aiohttp.WSCloseCode.OK:
                    break
                case aiohttp.WSMsgType.CLOSE:
                    raise ConnectionError(f"ended the connection: {received.extra}")
                case aiohttp.WSMsgType.CLOSING if self._end_reason:
                    return self._end_reason
                case aiohttp.WSMsgType.TEXT:
                    raise FrameError("text where a frame was expected")
                case _:
                    why = self._websocket.exception() or received.data or "connection dropped"
                    raise ConnectionError(self._broken or f"lost the connection: {why}")
        if (bulk := self._bulk) is not None:
            await patiently(lambda: bulk.ended, lambda: bulk.received_bytes)
        if self._broken:
            raise ConnectionError(self._broken)
        if self._reorder.gap:
            raise ConnectionError("closed the connection before all messages arrived")
        return "closed the connection"
