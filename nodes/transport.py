"""How do messages cross a network? A ``Channel`` over aiohttp: one WebSocket, and one upgraded socket for tensors.

The opener asks for the upgraded socket first, then for the WebSocket, naming both by one random id; the channel
begins with the WebSocket. Each frame's sequence number counts over both connections of its direction; the
receiver puts them in order. The side that closes ends its directions of both connections; the other answers by
doing the same. Every connection needs the bearer token.
"""

import asyncio
import hmac
import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp
from aiohttp import web

from nodes.bulk import Bulk
from nodes.channel import ChannelClosed, Connection, Kind, Traffic, count
from nodes.codec import PREFIX, Decoder, FrameError, Limits, encode
from nodes.counted import PATIENCE_S, Counted, patiently
from nodes.messages import Activation, AnyMessage, Gradient, Parameters, Result

MAX_EARLY = 1 << 14  # messages that wait for one sent before them; small ones overtake a tensor on a slow link
OPENING_S = 10.0
CONTROL_PATH, BULK_PATH = "/control", "/bulk"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}

log = logging.getLogger(__name__)
WebSocket = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


def travels_in_bulk(message: AnyMessage) -> bool:
    """Whether ``message`` carries tensors so large that it goes over the upgraded socket."""
    return isinstance(message, Activation | Gradient | Parameters | Result)


class Reorder:
    """Messages of two connections in the order in which they were sent."""

    def __init__(self) -> None:
        self._next = 0
        self._early: dict[int, AnyMessage] = {}

    def take(self, sequence: int, message: AnyMessage) -> Iterator[AnyMessage]:
        """Yield the messages whose turn it now is. Raises FrameError for a number used twice or far ahead."""
        if sequence in self._early or not self._next <= sequence < self._next + MAX_EARLY:
            raise FrameError(f"message {sequence} came while {self._next} was due")
        self._early[sequence] = message
        while self._next in self._early:
            yield self._early.pop(self._next)
            self._next += 1

    @property
    def gap(self) -> bool:
        """Whether a message is missing that was sent before one that came."""
        return bool(self._early)


class SocketChannel:
    """One peer, over a WebSocket and, unless ``bulk`` is None, an upgraded socket. See ``Channel``.

    All that comes is read at once and kept until ``receive`` takes it: the protocol above bounds it by its windows.
    """

    def __init__(
        self,
        peer: str,
        websocket: WebSocket,
        counted: Counted,
        bulk: Bulk | None,
        limits: Limits,
        resources: AsyncExitStack | None = None,
    ) -> None:
        self.peer = peer
        self.sent: dict[str, Traffic] = {}
        self.connections = [counted.record] + ([bulk.counted.record] if bulk else [])
        self._resources = resources or AsyncExitStack()  # released when the channel has ended
        self._websocket = websocket
        self._counted = counted
        self._bulk = bulk
        self._sequence = 0
        self._serialise_s = 0.0
        self._decoder = Decoder(limits)
        self._reorder = Reorder()
        self._inbox: asyncio.Queue[AnyMessage | None] = asyncio.Queue()
        self._why = ""  # the channel ends, once this is not empty
        self._goodbye: asyncio.Task[bool]
        self._running = asyncio.create_task(self._run())
        if bulk is not None:
            bulk.attach(self)

    @property
    def wire_s(self) -> float:
        """A WebSocket's messages are small and come whole: theirs counts as none."""
        return self._bulk.wire_s if self._bulk else 0.0

    @property
    def serialise_s(self) -> float:
        return self._serialise_s + (self._bulk.serialise_s if self._bulk else 0.0)

    async def send(self, message: AnyMessage) -> None:
        """Returns once the kernel has the whole frame: the message's tensors may be changed then."""
        if self._why:
            raise self._closed()
        began = time.perf_counter()
        header, *payload = encode(message, self._sequence)
        self._serialise_s += time.perf_counter() - began
        self._sequence += 1
        count(self.sent, message, len(header), sum(map(len, payload)))
        try:
            if self._bulk is not None and travels_in_bulk(message):
                await self._bulk.write([header, *payload])
            else:
                await self._websocket.send_bytes(b"".join([header, *payload]))
        except ConnectionError as error:
            self.fail(f"lost the connection: {error}")
            raise self._closed() from None

    async def receive(self) -> AnyMessage:
        message = await self._inbox.get()
        if message is None:
            self._inbox.put_nowait(None)
            raise self._closed()
        return message

    async def close(self) -> None:
        """Send what is pending, then close; what the peer still sends is dropped."""
        self._end("this end is closed")
        await asyncio.wait([self._running])

    def deliver(self, sequence: int, message: AnyMessage) -> None:
        """Take one message that came over either connection. Raises FrameError if its number is impossible."""
        if not self._why:
            for ready in self._reorder.take(sequence, message):
                self._inbox.put_nowait(ready)

    def fail(self, why: str) -> None:
        """End the channel because of ``why``, and tell the peer."""
        self._end(why, aiohttp.WSCloseCode.PROTOCOL_ERROR)

    def _closed(self) -> ChannelClosed:
        return ChannelClosed(f"{self.peer}: {self._why}")

    def _end(self, why: str, code: int = aiohttp.WSCloseCode.OK) -> None:
        if not self._why:
            self._why = why
            self._graceful = code == aiohttp.WSCloseCode.OK
            # A close frame has room for 123 bytes. Closing also breaks off the reader.
            message = why.encode("ascii", "replace")[:120]
            self._goodbye = asyncio.create_task(self._websocket.close(code=code, message=message))

    async def _run(self) -> None:
        try:
            self._end(await self._read())
        except (FrameError, ConnectionError) as error:
            self.fail(str(error))
        self._inbox.put_nowait(None)
        if self._bulk is not None:
            await self._bulk.finish(self._graceful)
        await self._goodbye
        await self._counted.settle(PATIENCE_S if self._graceful else 0)
        await self._resources.aclose()

    async def _read(self) -> str:
        """Deliver what comes over the WebSocket until it ends, then wait for the rest of the bulk; return why."""
        while True:
            received = await self._websocket.receive()
            match received.type:
                case aiohttp.WSMsgType.BINARY:
                    began = time.perf_counter()
                    frames = self._decoder.feed(received.data)
                    self._decoder.check_end()
                    self._serialise_s += time.perf_counter() - began
                    for sequence, message in frames:
                        self.deliver(sequence, message)
                case aiohttp.WSMsgType.CLOSE if received.data == aiohttp.WSCloseCode.OK:
                    break
                case aiohttp.WSMsgType.CLOSE:
                    raise ConnectionError(f"ended the connection: {received.extra}")
                case aiohttp.WSMsgType.CLOSING if self._why:
                    return self._why
                case aiohttp.WSMsgType.TEXT:
                    raise FrameError("text where a frame was expected")
                case _:
                    why = self._websocket.exception() or received.data or "its end came unannounced"
                    raise ConnectionError(f"lost the connection: {why}")
        if (bulk := self._bulk) is not None:
            await patiently(lambda: bulk.ended, lambda: bulk.received_bytes)
        if self._reorder.gap:
            raise ConnectionError("closed the connection before all messages had come")
        return "closed the connection"


class Server:
    """Accepts channels. ``limits`` hold for all of them and may grow later."""

    def __init__(self, token: str, limits: Limits | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.host, self.port = host, port
        self._token = token
        self._limits = limits or Limits()
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, keepalive_timeout=OPENING_S), shutdown_timeout=1.0
        )
        self._accepted: asyncio.Queue[SocketChannel] = asyncio.Queue()
        self._channels: set[SocketChannel] = set()
        self._unpaired: dict[str, Bulk] = {}

    async def start(self) -> None:
        """Listen; ``port`` then is the one bound."""
        await self._runner.setup()
        await web.TCPSite(self._runner, self.host, self.port).start()
        self.port = self._runner.addresses[0][1]

    async def accept(self) -> SocketChannel:
        """The next channel that a peer has opened."""
        return await self._accepted.get()

    async def close(self) -> None:
        """Close all channels, then stop to listen."""
        await asyncio.gather(*(channel.close() for channel in self._channels))
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if not hmac.compare_digest(bytes_of(request.headers.get("Authorization", "")), bytes_of(bearer(self._token))):
            log.warning("%s: refused, wrong token", request.remote)
            return web.Response(status=401)
        peer, key = request.query.get("node", ""), request.query.get("channel")
        if request.path == BULK_PATH and key and key not in self._unpaired:
            return await self._open_bulk(request, peer, key)
        if request.path == CONTROL_PATH and (key is None or key in self._unpaired):
            return await self._open_channel(request, peer, self._unpaired.pop(key) if key else None)
        return web.Response(status=404)

    async def _open_bulk(self, request: web.BaseRequest, peer: str, key: str) -> web.StreamResponse:
        counted = count_accepted(request, Connection(peer, "bulk"))
        response = web.StreamResponse(status=101, headers=UPGRADE)
        await response.prepare(request)
        self._unpaired[key] = bulk = Bulk(counted, self._limits)
        await asyncio.wait([bulk.lost], timeout=OPENING_S)
        if self._unpaired.pop(key, None):
            await bulk.finish(graceful=False)
        await bulk.lost
        return response

    async def _open_channel(self, request: web.BaseRequest, peer: str, bulk: Bulk | None) -> web.StreamResponse:
        counted = count_accepted(request, Connection(peer, "websocket"))
        websocket = web.WebSocketResponse(
            compress=False, max_msg_size=largest_message(self._limits), timeout=PATIENCE_S
        )
        try:
            await websocket.prepare(request)
        except BaseException:
            if bulk is not None:
                await bulk.finish(graceful=False)
            raise
        channel = SocketChannel(peer, websocket, counted, bulk, self._limits)
        self._channels.add(channel)
        self._accepted.put_nowait(channel)
        await asyncio.wait([channel._running])
        self._channels.discard(channel)
        return websocket


class CountingConnector(aiohttp.TCPConnector):
    """Counts what crosses each connection, from the HTTP request on."""

    def __init__(self, peer: str) -> None:
        super().__init__()
        self.peer = peer
        self.opened: list[Counted] = []

    async def _create_connection(self, req: aiohttp.ClientRequest, *args: Any) -> Any:
        protocol = await super()._create_connection(req, *args)
        kind: Kind = "bulk" if req.url.path == BULK_PATH else "websocket"
        counted = Counted(cast(asyncio.Transport, protocol.transport), Connection(self.peer, kind), opened=True)
        protocol.transport = cast(asyncio.Transport, counted)
        self.opened.append(counted)
        return protocol

    async def settle(self) -> None:
        for counted in self.opened:
            await counted.settle(patience_s=0)


async def connect(
    host: str,
    port: int,
    node: str,
    token: str,
    limits: Limits | None = None,
    *,
    bulk: bool = True,
    peer: str | None = None,
) -> SocketChannel:
    """Open a channel to the server at ``host``, ``port``, which knows us as ``node`` and we it as ``peer``.

    Without ``bulk`` there is the WebSocket alone, and no message may be larger than ``limits`` are now.
    Raises ChannelClosed if the server cannot be reached or refuses.
    """
    limits, peer = limits or Limits(), peer or f"{host}:{port}"
    url, query, upgraded = f"http://{host}:{port}", {"node": node}, None
    connector = CountingConnector(peer)
    try:
        async with asyncio.timeout(OPENING_S), AsyncExitStack() as resources:
            resources.push_async_callback(connector.settle)
            session = aiohttp.ClientSession(connector=connector, headers={"Authorization": bearer(token)})
            await resources.enter_async_context(session)
            if bulk:
                query["channel"] = secrets.token_hex(16)
                response = await session.get(url + BULK_PATH, params=query, headers=UPGRADE)
                resources.callback(response.close)
                if response.status != 101:
                    raise ConnectionError(f"refused with status {response.status}")
                upgraded = Bulk(connector.opened[-1], limits)
            websocket = await session.ws_connect(
                url + CONTROL_PATH,
                params=query,
                max_msg_size=largest_message(limits),
                timeout=aiohttp.ClientWSTimeout(ws_close=PATIENCE_S),
            )
            return SocketChannel(peer, websocket, connector.opened[-1], upgraded, limits, resources.pop_all())
    except aiohttp.WSServerHandshakeError as error:
        raise ChannelClosed(f"{peer}: refused with status {error.status}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ChannelClosed(f"{peer}: {error or type(error).__name__}") from None


def count_accepted(request: web.BaseRequest, record: Connection) -> Counted:
    """Count what is written in answer to ``request``, on which nothing has been written yet."""
    counted = Counted(cast(asyncio.Transport, request.transport), record, opened=False)
    request.protocol.transport = cast(asyncio.Transport, counted)
    return counted


def largest_message(limits: Limits) -> int:
    """aiohttp's ``max_msg_size``, which a message must stay below."""
    return PREFIX.size + limits.header_bytes + limits.payload_bytes + 1


def bearer(token: str) -> str:
    return f"Bearer {token}"


def bytes_of(header: str) -> bytes:
    """The bytes of an HTTP header as they came."""
    return header.encode("utf-8", "surrogateescape")
