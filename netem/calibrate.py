"""What does a link really do? Measured at its two ends: rate, delay, round trip, times of whole messages."""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator
from statistics import median, quantiles

import msgspec

HEAD = struct.Struct("<Q")  # bytes that follow
ARRIVAL = struct.Struct("<dQd")  # when the first bytes were there, how many, and when all were
BLOCK = memoryview(bytes(1 << 16))
READ_BYTES = 1 << 20  # all that is there: a reader that is late must not count it as come later
SIZES = (4 << 10, 64 << 10, 512 << 10, 4 << 20)


class Calibration(msgspec.Struct, frozen=True):
    """What was measured, in seconds. The delay is one way, of messages of 8 bytes, from call to arrival."""

    rate_bps: float
    delay_s: float
    delay_p99_s: float
    round_trip_s: float
    round_trip_p99_s: float
    message_s: dict[int, float]  # bytes of a message -> from its sending to its last byte's arrival


@contextlib.asynccontextmanager
async def answering(host: str = "127.0.0.1") -> AsyncIterator[tuple[str, int]]:
    """The far end: an address that says when messages arrived, on the clock that all processes here share."""
    server = await asyncio.start_server(_answer, host, 0)
    async with server:
        yield server.sockets[0].getsockname()[:2]


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            (left,) = HEAD.unpack(await reader.readexactly(HEAD.size))
            begun_at, begun_bytes = time.monotonic(), 0
            while left and (data := await reader.read(min(left, READ_BYTES))):
                left -= len(data)
                if not begun_bytes:
                    begun_at, begun_bytes = time.monotonic(), len(data)
            writer.write(ARRIVAL.pack(begun_at, begun_bytes, time.monotonic()))
    writer.close()


async def measure(
    address: tuple[str, int],
    bulk_bytes: int,
    messages: int = 100,
    sizes: tuple[int, ...] = SIZES,
    repeats: int = 3,
) -> Calibration:
    """Measure the way to ``address``, where ``answering`` answers, one message at a time on one connection.

    ``bulk_bytes`` gives the rate: a second's worth is a good choice. A time in ``message_s`` is the median of
    ``repeats``.
    """
    reader, writer = await asyncio.open_connection(*address)

    async def ask(n_bytes: int) -> tuple[float, float, float]:
        """Send so many bytes, head included; return seconds to arrival and to the answer, and the rate."""
        sent_at = time.monotonic()
        writer.write(HEAD.pack(n_bytes - HEAD.size))
        for start in range(HEAD.size, n_bytes, len(BLOCK)):
            writer.write(BLOCK[: n_bytes - start])
            await writer.drain()
        begun_at, begun_bytes, done_at = ARRIVAL.unpack(await reader.readexactly(ARRIVAL.size))
        rate_bps = 8 * (n_bytes - HEAD.size - begun_bytes) / max(done_at - begun_at, 1e-9)
        return done_at - sent_at, time.monotonic() - sent_at, rate_bps

    await ask(HEAD.size)  # the first one pays for the connection
    small = [await ask(HEAD.size) for _ in range(messages)]
    delays, round_trips = [one for one, _, _ in small], [two for _, two, _ in small]
    message_s = {size: median([(await ask(size))[0] for _ in range(repeats)]) for size in sizes}
    rate_bps = (await ask(bulk_bytes))[2]
    writer.close()
    await writer.wait_closed()
    return Calibration(
        rate_bps=rate_bps,
        delay_s=median(delays),
        delay_p99_s=quantiles(delays, n=100)[-1],
        round_trip_s=median(round_trips),
        round_trip_p99_s=quantiles(round_trips, n=100)[-1],
        message_s=message_s,
    )
