"""Opening and accepting of channels over aiohttp, with a bearer token.

The opener requests the upgraded socket, then the WebSocket, under one random id: once the WebSocket is open, both ends
have upgraded the other socket and the channel begins.
"""

import asyncio
import hmac
import logging
import secrets
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, cast

import aiohttp
from aiohttp import web

from netem.kernel.namespace import in_namespace
from netem.proxy import authority
from nodes.wire.byte_counter import PATIENCE_S, ChannelKind, Connection, Counted
from nodes.wire.channel import ChannelClosed
from nodes.wire.codec import PREFIX, Limits
from nodes.wire.socket_channel import SocketChannel
from nodes.wire.tensor_socket import TensorSocket
from nodes.wire.tls import Tls, names_of

OPENING_S = 10.0
MOST_WEBSOCKET = (1 << 32) - 1  # that aiohttp can be told
CONTROL_PATH, BULK_PATH = "/control", "/bulk"
UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
HEALTH_PATH = "/health"

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)


class Server:
    """Accepts channels; ``limits`` apply to all of them and may grow later.

    ``handlers`` answer other requests with the token, by path, and ``health`` is what is told without it.
    """

    def __init__(
        self,
        token: str,
        limits: Limits | None = None,
        host: str = "127.0.0.1",
        port: int = 0,
        tls: Tls | None = None,
    ) -> None:
        self.host, self.port, self.tls = host, port, tls
        self.token, self.limits = token, limits or Limits()
        self.handlers: dict[str, Handler] = {}
        self.health: Callable[[], dict[str, str]] = dict
        self._runner = web.ServerRunner(
            web.Server(self._handle, access_log=None, keepalive_timeout=OPENING_S), shutdown_timeout=0.1
        )
        self._accepted: asyncio.Queue[SocketChannel] = asyncio.Queue()
        self._channels: set[SocketChannel] = set()
        self._unpaired: dict[str, TensorSocket] = {}

    async def start(self, listening: socket.socket | None = None) -> None:
        """Start to listen, on ``listening`` if it is given, and set ``port`` to the bound one."""
        await self._runner.setup()
        secured = self.tls and self.tls.accepting
        if listening is None:
            await web.TCPSite(self._runner, self.host, self.port, ssl_context=secured).start()
        else:
            await web.SockSite(self._runner, listening, ssl_context=secured).start()
        self.port = self._runner.addresses[0][1]

    async def accept(self) -> SocketChannel:
        """Next channel opened by a peer."""
        return await self._accepted.get()

    def _token_of(self, peer: str) -> str:
        """The token that ``peer`` must have."""
        return self.token

    def _take(self, channel: SocketChannel) -> None:
        self._accepted.put_nowait(channel)

    async def close(self) -> None:
        """Stop listening, then close all channels."""
        for site in list(self._runner.sites):
            await site.stop()
        await asyncio.gather(*(channel.close() for channel in self._channels))
        for bulk in self._unpaired.values():
            bulk.counted.abort()
        await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == HEALTH_PATH:
            return web.json_response(self.health())
        if refusal := self._refusal(request):
            refused = web.Response(status=refusal)
            refused.force_close()
            return refused
        if handler := self.handlers.get(request.path):
            return await handler(request)
        peer, key = request.query.get("node", ""), request.query.get("channel")
        if request.path == BULK_PATH and key and key not in self._unpaired:
            return await self._open_bulk(request, peer, key)
        if request.path == CONTROL_PATH and (key is None or key in self._unpaired):
            return await self._open_channel(request, peer, self._unpaired.pop(key) if key else None)
        return web.Response(status=404)

    def _refusal(self, request: web.BaseRequest) -> int | None:
        """The status with which ``request`` is refused: for its token, or the name in its certificate."""
        given = request.headers.get("Authorization", "").encode("utf-8", "surrogateescape")
        expected = bearer(self._token_of(request.query.get("node", ""))).encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(given, expected):
            log.warning("%s: refused, wrong token", request.remote)
            return 401
        named = request.query.get("node", "").partition("/")[0]
        if self.tls is not None and named not in names_of(peer_certificate(request)):
            log.warning("%s: refused, its certificate is not that of %r", request.remote, named)
            return 403
        return None

    async def _open_bulk(self, request: web.BaseRequest, peer: str, key: str) -> web.StreamResponse:
        counted = count_accepted(request, Connection(peer, "bulk"))
        response = web.StreamResponse(status=101, headers=UPGRADE)
        await response.prepare(request)
        self._unpaired[key] = bulk = TensorSocket(counted, self.limits)
        await asyncio.wait([bulk.lost], timeout=OPENING_S)
        if self._unpaired.pop(key, None):
            await bulk.finish(graceful=False)
        await bulk.lost
        return response

    async def _open_channel(self, request: web.BaseRequest, peer: str, bulk: TensorSocket | None) -> web.StreamResponse:
        counted = count_accepted(request, Connection(peer, "websocket"))
        largest = largest_message(self.limits, bulk is not None)
        websocket = web.WebSocketResponse(compress=False, max_msg_size=largest, timeout=PATIENCE_S)
        try:
            await websocket.prepare(request)
        except BaseException:
            if bulk is not None:
                await bulk.finish(graceful=False)
            raise
        channel = SocketChannel(peer, websocket, counted, bulk=bulk, limits=self.limits)
        self._channels.add(channel)
        self._take(channel)
        await channel.wait_closed()
        self._channels.discard(channel)
        return websocket


class CountingConnector(aiohttp.TCPConnector):
    """Counts the bytes of each connection from the HTTP request on."""

    def __init__(self, peer: str, namespace: str | None) -> None:
        def make(info: aiohttp.AddrInfoType) -> socket.socket:
            with in_namespace(namespace):
                return socket.socket(*info[:3])

        super().__init__(socket_factory=make)
        self.peer = peer
        self.opened: list[Counted] = []

    async def _create_connection(self, req: aiohttp.ClientRequest, *args: Any) -> Any:
        protocol = await super()._create_connection(req, *args)
        kind: ChannelKind = "bulk" if req.url.path == BULK_PATH else "websocket"
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
    namespace: str | None = None,
    tls: Tls | None = None,
) -> SocketChannel:
    """Open a channel to the server ``peer`` at ``host``, ``port`` as ``node``. Raises ChannelClosed.

    ``namespace`` is the path of the network namespace to connect from; over ``tls`` the server must be ``peer`` by its
    certificate. Without ``bulk`` only the WebSocket is opened,
    and messages must fit the present ``limits``.
    """
    limits, peer = limits or Limits(), peer or authority(host, port)
    url, query, upgraded = f"{'https' if tls else 'http'}://{authority(host, port)}", {"node": node}, None
    secured = secured_by(tls, peer)
    connector = CountingConnector(peer, namespace)
    try:
        async with asyncio.timeout(OPENING_S), AsyncExitStack() as resources:
            resources.push_async_callback(connector.settle)
            session = aiohttp.ClientSession(connector=connector, headers={"Authorization": bearer(token)})
            await resources.enter_async_context(session)
            if bulk:
                query["channel"] = secrets.token_hex(16)
                response = await session.get(url + BULK_PATH, params=query, headers=UPGRADE, **secured)
                resources.callback(response.close)
                if response.status != 101:
                    raise ConnectionError(f"refused with status {response.status}")
                upgraded = TensorSocket(connector.opened[-1], limits)
            websocket = await session.ws_connect(
                url + CONTROL_PATH,
                params=query,
                max_msg_size=largest_message(limits, bulk),
                timeout=aiohttp.ClientWSTimeout(ws_close=PATIENCE_S),
                **secured,
            )
            return SocketChannel(
                peer, websocket, connector.opened[-1], bulk=upgraded, limits=limits, resources=resources.pop_all()
            )
    except aiohttp.WSServerHandshakeError as error:
        raise ChannelClosed(f"{peer}: refused with status {error.status}") from None
    except (aiohttp.ClientError, OSError) as error:
        raise ChannelClosed(f"{peer}: {str(error) or type(error).__name__}") from None


def secured_by(tls: Tls | None, peer: str) -> dict[str, Any]:
    """Arguments of a request over ``tls`` to ``peer``."""
    return {} if tls is None else {"ssl": tls.connecting, "server_hostname": peer}


def peer_certificate(request: web.BaseRequest) -> object:
    return request.transport.get_extra_info("peercert") if request.transport else None


def count_accepted(request: web.BaseRequest, record: Connection) -> Counted:
    """Count bytes written in answer to ``request``, before the first."""
    counted = Counted(cast(asyncio.Transport, request.transport), record, opened=False)
    request.protocol.transport = cast(asyncio.Transport, counted)
    return counted


def largest_message(limits: Limits, bulk: bool) -> int:
    """aiohttp's ``max_msg_size``, an exclusive bound; what is large has a connection of its own where there is one."""
    payload_bytes = min(limits.payload_bytes, Limits().payload_bytes) if bulk else limits.payload_bytes
    return min(PREFIX.size + limits.header_bytes + payload_bytes + 1, MOST_WEBSOCKET)


def bearer(token: str) -> str:
    return f"Bearer {token}"
