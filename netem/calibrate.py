"""Measurement of a link at its two ends: rate, delay, jitter, losses and transfer times of whole messages."""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import AsyncIterator
from statistics import median, quantiles

import msgspec

from netem.arrival_estimates import Stamp, estimate_deviation, estimate_stream
from netem.link import LinkProfile

HEADER = struct.Struct("<Q")  # number of bytes that follow
STAMP = struct.Struct("<dQ")  # time in seconds, bytes received by then, header included
BLOCK = memoryview(bytes(1 << 16))
READ_BYTES = 1 << 20  # everything received: a late reader must not stamp it as arriving later
SIZES = (4 << 10, 64 << 10, 512 << 10, 4 << 20)
UNLIMITED_BYTES = 64 << 20  # sent to measure the rate of a link of unlimited rate


class Calibration(msgspec.Struct, frozen=True):
    """Measured properties of one link direction; delays and round trips are those of 8-byte messages."""

    rate_bps: float  # of the TCP payload, without stalls
    delay_s: float  # median one-way delay, from the sending call to the arrival
    delay_p99_s: float
    jitter_s: float  # standard deviation of the one-way delay, from its quartiles
    round_trip_s: float  # median
    round_trip_p99_s: float
    losses: int  # stalls of about one round trip of the profile
    segments: float  # in which the losses were counted
    message_s: dict[int, float]  # by size in bytes: median from sending to the last byte's arrival


@contextlib.asynccontextmanager
async def timestamp_server(listener: socket.socket | None = None) -> AsyncIterator[tuple[str, int]]:
    """Run the far end, which replies with arrival times (time.monotonic), on ``listener`` if any; yield its address."""
    server = await asyncio.start_server(_reply_with_stamps, sock=listener or socket.create_server(("127.0.0.1", 0)))
    async with server:
        yield server.sockets[0].getsockname()[:2]


async def _reply_with_stamps(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            (unread_bytes,) = HEADER.unpack(await reader.readexactly(HEADER.size))
            read_bytes = HEADER.size
            stamps = [STAMP.pack(time.monotonic(), read_bytes)]
            while unread_bytes and (data := await reader.read(min(unread_bytes, READ_BYTES))):
                unread_bytes, read_bytes = unread_bytes - len(data), read_bytes + len(data)
                stamps.append(STAMP.pack(time.monotonic(), read_bytes))
            writer.write(HEADER.pack(len(stamps)) + b"".join(stamps))
    writer.close()


class Probe:
    """Near end: one connection over the link that sends one message at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def send(self, n_bytes: int) -> tuple[float, float, list[Stamp]]:
        """Send a message of ``n_bytes``, at least 8; return its delay and round trip in seconds, and its stamps."""
        sent_at = time.monotonic()
        self._writer.write(HEADER.pack(n_bytes - HEADER.size))
        for start in range(HEADER.size, n_bytes, len(BLOCK)):
            self._writer.write(BLOCK[: n_bytes - start])
            await self._writer.drain()
        (count,) = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        stamps = list(STAMP.iter_unpack(await self._reader.readexactly(count * STAMP.size)))
        return stamps[-1][0] - sent_at, time.monotonic() - sent_at, stamps


@contextlib.asynccontextmanager
async def open_probe(connection: socket.socket) -> AsyncIterator[Probe]:
    """Probe over ``connection`` to a ``timestamp_server``."""
    reader, writer = await asyncio.open_connection(sock=connection)
    probe = Probe(reader, writer)
    try:
        await probe.send(HEADER.size)  # warm-up: the first message is slower
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
    """Measure the link direction that ``probe`` sends over, configured as ``profile``.

    ``messages`` 8-byte messages, at least 2, measure delay and jitter; ``repeats`` messages of each of ``sizes`` bytes
    the transfer times; a stream of ``bulk_s`` seconds rate and losses.
    """
    delays, round_trips, _ = zip(*[await probe.send(HEADER.size) for _ in range(messages)], strict=True)
    message_s = {size: median([(await probe.send(size))[0] for _ in range(repeats)]) for size in sizes}
    bulk_bytes = UNLIMITED_BYTES if profile.rate_bps is None else max(round(profile.rate_bps * bulk_s / 8), 1 << 12)
    _, _, stamps = await probe.send(bulk_bytes)
    if len(stamps) > 2:
        del stamps[0]  # of the header; kept where a late reader found all the rest at once
    flow = estimate_stream(stamps, profile.rate_bps, 2 * profile.delay_s if profile.loss else 0.0)
    return Calibration(
        rate_bps=flow.rate_bps,
        delay_s=median(delays),
        delay_p99_s=quantiles(delays, n=100, method="inclusive")[-1],
        jitter_s=estimate_deviation(delays),
        round_trip_s=median(round_trips),
        round_trip_p99_s=quantiles(round_trips, n=100, method="inclusive")[-1],
        losses=flow.losses,
        segments=flow.segments,
        message_s=message_s,
    )
