"""Host control: what a runner asks of a node's machine beside the node's job, over a WebSocket of its own.

The machine reads its clock, emulates the links that lead away from it, tries how well it can, and measures the network
below them. Requests and answers are JSON, one answer to each request, in order. A machine serves one runner at a time:
another one is told that the node is busy. The emulator of a runner ends with its connection.
"""

import asyncio
import time
from contextlib import AsyncExitStack, suppress
from statistics import median
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from netem.calibrate import Calibration, measure, open_probe, timestamp_server
from netem.emulate import Command, Emulator, EmulatorError, Play, Reply
from netem.kernel.namespace import connect_from
from netem.link import LinkProfile
from netem.profiles import Duplex
from netem.trace_schedule import files_of, with_absolute_paths
from nodes.process.attendance import SILENCE_S
from nodes.wire.channel import PARTS
from nodes.wire.listener import BUSY_S

HOST_PATH = "/host"
BUSY_STATUS = 503
MOST_BYTES = 1 << 20  # of a request
CONNECTS, CONNECT_S = 5, 5.0


class ReadClock(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Read the clock (``time.monotonic``), of which tasks and traces take their times."""


class TryLinks(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Emulate ``profiles`` on this machine alone, all at once, and measure them."""

    profiles: list[LinkProfile]
    bulk_s: float
    messages: int


class TimeConnection(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    """Connect to ``address`` a few times: the network's own round trip, below any emulated link."""

    address: tuple[str, int]


class ClockReading(msgspec.Struct, frozen=True):
    """The machine's clock when a request came and when it was answered."""

    received_s: float
    answered_s: float


Request = Command | ReadClock | TryLinks | TimeConnection
Result = ClockReading | list[Calibration] | float | Reply


class Answer(msgspec.Struct, frozen=True):
    """The result of a request as plain data, or why there is none."""

    result: Any = None
    error: str = ""


class Host:
    """This machine at the service of a node's runner."""

    def __init__(self) -> None:
        self.held = False  # by a runner
        self._session: web.WebSocketResponse | None = None  # the present one, or the last
        self._free = asyncio.Event()

    async def attend(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer a runner's requests until it leaves or is silent; another one is refused meanwhile.

        One that comes while the session of a runner that has left still ends waits for that.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(BUSY_S):
                while self.held and self._session is not None and self._session.closed:
                    await self._free.wait()
        if self.held:
            return web.Response(status=BUSY_STATUS, text="busy")
        self.held = True
        self._free.clear()
        try:
            self._session = websocket = web.WebSocketResponse(compress=False, max_msg_size=MOST_BYTES)
            await websocket.prepare(request)
            async with _Session() as session:
                while (message := await _next(websocket)).type is aiohttp.WSMsgType.BINARY:
                    answer = await session.answer(message.data, time.monotonic())
                    await websocket.send_bytes(msgspec.json.encode(answer))
            return websocket
        finally:
            self.held = False
            self._free.set()


async def _next(websocket: web.WebSocketResponse) -> aiohttp.WSMessage:
    """The next message of a runner; its end, also where it is silent for too long."""
    for _ in range(PARTS):
        with suppress(TimeoutError):
            return await websocket.receive(SILENCE_S / PARTS)
    return aiohttp.WSMessage(aiohttp.WSMsgType.CLOSED, None, None)


class _Session(AsyncExitStack):
    """One runner's emulated links; the emulator starts with the first."""

    _emulator: Emulator | None = None

    async def answer(self, data: bytes, now: float) -> Answer:
        try:
            request = msgspec.json.decode(data, type=Request)
            if isinstance(request, ReadClock):
                return Answer(ClockReading(now, time.monotonic()))
            return Answer(await self._do(request))
        except (msgspec.DecodeError, EmulatorError, OSError, ValueError) as error:
            return Answer(error=" ".join(str(error).split()) or type(error).__name__)

    async def _do(self, request: Command | TryLinks | TimeConnection) -> Result:
        match request:
            case TimeConnection(address=address):
                return median([await _connect_s(address) for _ in range(CONNECTS)])
            case TryLinks():
                return await self._try(request)
            case Play(link=link):
                if files := files_of(link):
                    raise ValueError(f"{', '.join(files)}: not a packaged trace, and a runner reads no files here")
                request = msgspec.structs.replace(request, link=with_absolute_paths(link))
        return await (await self._links()).request(request)

    async def _links(self) -> Emulator:
        if self._emulator is None:
            self._emulator = await self.enter_async_context(Emulator())
        return self._emulator

    async def _try(self, request: TryLinks) -> list[Calibration]:
        emulator = await self._links()

        async def row(profile: LinkProfile, far: tuple[str, int]) -> Calibration:
            near = await emulator.add_link(far, Duplex(up=profile))
            async with open_probe(connect_from(near, None)) as probe:
                return await measure(probe, profile, bulk_s=request.bulk_s, messages=request.messages, sizes=())

        async with timestamp_server() as far:
            return await asyncio.gather(*(row(profile, far) for profile in request.profiles))


async def _connect_s(address: tuple[str, int]) -> float:
    """Seconds until a TCP connection stands: one round trip. Raises OSError."""
    began = time.monotonic()
    async with asyncio.timeout(CONNECT_S):
        _, writer = await asyncio.open_connection(*address)
    took_s = time.monotonic() - began
    writer.close()
    return took_s
