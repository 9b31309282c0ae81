"""The runner's end of a node's host control: clocks, and emulators of links on other machines."""

import asyncio
import time
from typing import TypeVar

import aiohttp
import msgspec

from bench.live.processes import RunError
from netem.emulate import Command, Emulator, Reply
from netem.emulate import Play as PlayTrace
from netem.profiles import Duplex
from netem.proxy import Address, authority
from nodes.process.host_control import BUSY_STATUS, HOST_PATH, Answer, ClockReading, ReadClock, Request
from nodes.wire.messages import RUNNER
from nodes.wire.tls import Tls
from nodes.wire.transport import bearer, secured_by

OPEN_S = 5.0
CLOCK_READINGS = 12  # of which the one with the least round trip counts

REFUSALS = {401: "the token is another one", 403: f"the certificate here is not that of {RUNNER!r}"}

T = TypeVar("T")


class AbsentError(Exception):
    """A node that does not listen yet."""


class HostControl:
    """A connection to the machine of node ``name``."""

    def __init__(self, name: str, session: aiohttp.ClientSession, websocket: aiohttp.ClientWebSocketResponse) -> None:
        self.name = name
        self._session, self._websocket, self._lock = session, websocket, asyncio.Lock()

    @classmethod
    async def open(cls, name: str, address: Address, token: str, tls: Tls | None = None) -> "HostControl":
        """Raises AbsentError, and RunError if the node is busy, refuses this run, or is not ``name``."""
        session = aiohttp.ClientSession(headers={"Authorization": bearer(token)})
        try:
            async with asyncio.timeout(OPEN_S):
                url = f"{'https' if tls else 'http'}://{authority(*address)}{HOST_PATH}"
                websocket = await session.ws_connect(url, params={"node": RUNNER}, **secured_by(tls, name))
            return cls(name, session, websocket)
        except BaseException as error:
            await session.close()
            if isinstance(error, aiohttp.WSServerHandshakeError):
                where = f"{name} at {authority(*address)}"
                if error.status == BUSY_STATUS:
                    raise RunError(f"{where} is busy with another run; wait for its end", weight=2) from None
                why = REFUSALS.get(error.status, f"status {error.status}")
                raise RunError(f"{where} refused the runner: {why}", weight=2) from None
            if isinstance(error, aiohttp.ClientSSLError):
                why = f"{name} at {authority(*address)} is not to be trusted: {error.__cause__ or error}"
                raise RunError(" ".join(why.split()), weight=2) from None
            if isinstance(error, aiohttp.ClientError | OSError):
                raise AbsentError("does not answer") from None
            raise

    async def ask(self, request: Request, kind: type[T]) -> T:
        """The result of ``request``. Raises RunError."""
        async with self._lock:
            try:
                await self._websocket.send_bytes(msgspec.json.encode(request))
                data = await self._websocket.receive_bytes()
            except (aiohttp.ClientError, TypeError, OSError):  # TypeError: of a connection that has ended
                raise RunError(f"lost {self.name}: its host control ended", weight=1) from None
        answer = msgspec.json.decode(data, type=Answer)
        if answer.error:
            raise RunError(f"{self.name}: {answer.error}", weight=2)
        return msgspec.convert(answer.result, kind)

    async def clock(self) -> tuple[float, float]:
        """By how much the machine's clock is ahead of this one's, and how far off that may be, in seconds."""
        readings = [await self._read_clock() for _ in range(CLOCK_READINGS)]
        uncertainty_s, offset_s = min(readings)
        return offset_s, uncertainty_s

    async def _read_clock(self) -> tuple[float, float]:
        """Half a round trip without the machine's own time, and the offset (RFC 5905, section 8)."""
        asked_s = time.monotonic()
        reading = await self.ask(ReadClock(), ClockReading)
        heard_s = time.monotonic()
        round_trip_s = (heard_s - asked_s) - (reading.answered_s - reading.received_s)
        offset_s = ((reading.received_s - asked_s) + (reading.answered_s - heard_s)) / 2
        return round_trip_s / 2, offset_s

    async def close(self) -> None:
        await self._websocket.close()
        await self._session.close()


class RemoteEmulator(Emulator):
    """The emulator of a node's machine, which is started and ended there."""

    def __init__(self, control: HostControl) -> None:
        super().__init__()
        self._control = control

    async def play(self, address: Address, link: Duplex, began_at: float) -> None:
        await self.request(PlayTrace(address, link, began_at))  # the machine has the packaged traces itself

    async def request(self, command: Command) -> Reply:
        return await self._control.ask(command, Reply)
