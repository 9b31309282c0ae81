"""What does a link really do? Measured at its two ends: rate, delay, jitter, loss, times of whole messages."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from statistics import median, quantiles

import msgspec

from netem.arrival_estimates import Stamp, spread, stream
from netem.link import LinkProfile

HEAD = struct.Struct("<Q")  # bytes that follow
STAMP = struct.Struct("<dQ")  # when so many bytes, head included, had come
BLOCK = memoryview(bytes(1 << 16))
READ_BYTES = 1 << 20  # all that is there: a reader that is late must not count it as come later
SIZES = (4 << 10, 64 << 10, 512 << 10, 4 << 20)
UNLIMITED_BYTES = 64 << 20  # what gives the rate where the profile has none


class Calibration(msgspec.Struct, frozen=True):
    """What was measured, in seconds. The delay is one way, of messages of 8 bytes, from call to arrival."""

    rate_bps: float  # while it flowed
    delay_s: float  # the median
    delay_p99_s: float
    jitter_s: float
    round_trip_s: float
    round_trip_p99_s: float
    losses: int  # stalls of about one round trip of the profile
    segments: float  # among so many
    message_s: dict[int, float]  # bytes of a message -> from its sending to its last byte's arrival


@contextlib.asynccontextmanager
async def timestamp_server(listener: socket.socket | None = None) -> AsyncIterator[tuple[str, int]]:
    """The far end: an address that says when messages arrived, on the clock that all processes here share.

    ``listener``, if given, may be in another network namespace.
    """
    server = await asyncio.start_server(_answer, sock=listener or socket.create_server(("127.0.0.1", 0)))
    async with server:
        yield server.sockets[0].getsockname()[:2]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            (left,) = HEAD.unpack(await reader.readexactly(HEAD.size))
            count = HEAD.size
            stamps = [STAMP.pack(time.monotonic(), count)]
            while left and (data := await reader.read(min(left, READ_BYTES))):
                left, count = left - len(data), count + len(data)
                stamps.append(STAMP.pack(time.monotonic(), count))
            writer.write(HEAD.pack(len(stamps)) + b"".join(stamps))
    writer.close()


class Probe:
    """The near end: one connection over the link, one message at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def ask(self, n_bytes: int) -> tuple[float, float, list[Stamp]]:
        """Send so many bytes, 8 or more: seconds until all had arrived and until this was known, and their stamps."""
        sent_at = time.monotonic()
        self._writer.write(HEAD.pack(n_bytes - HEAD.size))
        for start in range(HEAD.size, n_bytes, len(BLOCK)):
            self._writer.write(BLOCK[: n_bytes - start])
            await self._writer.drain()
        (count,) = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        stamps = list(STAMP.iter_unpack(await self._reader.readexactly(count * STAMP.size)))
        return stamps[-1][0] - sent_at, time.monotonic() - sent_at, stamps


@contextlib.asynccontextmanager
async def open_probe(connection: socket.socket) -> AsyncIterator[Probe]:
    """A probe of the way that ``connection`` goes, to where ``timestamp_server`` answers."""
    reader, writer = await asyncio.open_connection(sock=connection)
    probe = Probe(reader, writer)
    try:
        await probe.ask(HEAD.size)  # the first one pays for the connection
        yield probe
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def measure(
    probe: Probe,
    profile: LinkProfile,
    *,
    bulk_s: float = 1.0,
    messages: int = 100,
    sizes: tuple[int, ...] = SIZES,
    repeats: int = 3,
) -> Calibration:
    """Measure a link that is to follow ``profile``, of which only losses and the amount to send make use.

    What takes ``bulk_s`` to send gives the rate and the losses, ``messages`` (2 or more) the delay and the jitter.
    A time in ``message_s`` is the median of ``repeats``.
    """
    small = [await probe.ask(HEAD.size) for _ in range(messages)]
    delays, round_trips = [one for one, _, _ in small], [two for _, two, _ in small]
    message_s = {size: median([(await probe.ask(size))[0] for _ in range(repeats)]) for size in sizes}
    bulk_bytes = UNLIMITED_BYTES if profile.rate_bps is None else max(round(profile.rate_bps * bulk_s / 8), 1 << 12)
    _, _, stamps = await probe.ask(bulk_bytes)
    if len(stamps) > 2:
        del stamps[0]  # that of the head, but where a late reader found all of the rest at once
    flow = stream(stamps, profile.rate_bps, 2 * profile.delay_s if profile.loss else 0.0)
    return Calibration(
        rate_bps=flow.rate_bps,
        delay_s=median(delays),
        delay_p99_s=quantiles(delays, n=100, method="inclusive")[-1],
        jitter_s=spread(delays),
        round_trip_s=median(round_trips),
        round_trip_p99_s=quantiles(round_trips, n=100, method="inclusive")[-1],
        losses=flow.losses,
        segments=flow.segments,
        message_s=message_s,
    )
