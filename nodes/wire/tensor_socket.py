"""Transfer of large tensors over an upgraded HTTP connection that carries bare frames.

Tensors are read and written in place. Reading never pauses, so gradients always get through; the windows of the
protocol above bound the unread bytes.
"""

import asyncio
import time
from collections.abc import Callable

from nodes.wire.byte_counter import Counted, patiently
from nodes.wire.codec import JOINED_BYTES, Decoder, FrameError, Limits, Received

Deliver = Callable[[Received], None]  # may raise FrameError


class TensorSocket(asyncio.BufferedProtocol):
    """Protocol on an upgraded HTTP connection; reads nothing before it is attached."""

    def __init__(self, transport: Counted, limits: Limits) -> None:
        self.counted = transport
        self.received_bytes = 0
        self.wire_s = 0.0  # see Channel
        self.wire_bytes = 0
        self.serialise_s = 0.0
        self.ended = False  # no more bytes will arrive
        self.lost = asyncio.get_running_loop().create_future()
        self._decoder = Decoder(limits)
        self._first_at = 0.0  # when the first bytes of the frame came that is incomplete,
        self._first_bytes = 0  # and how many
        self._deliver: Deliver | None = None
        self._fail: Callable[[str], None]
        self._broke: Callable[[str], None]
        self._writable = asyncio.Event()
        self._writable.set()
        self._http = transport.get_protocol()  # aiohttp's, which must learn of the connection's end
        transport.pause_reading()
        transport.set_protocol(self)
        # A write then returns only when the kernel has all bytes, so tensors may change.
        # A transport over TLS pauses from the limit on, not above it, so that 0 would pause it for good.
        transport.set_write_buffer_limits(high=int(transport.tls), low=0)

    def attach(self, deliver: Deliver, fail: Callable[[str], None], broke: Callable[[str], None]) -> None:
        """Begin to read. ``fail`` is told why received bytes are invalid, ``broke`` why the connection is lost."""
        self._deliver, self._fail, self._broke = deliver, fail, broke
        self.counted.resume_reading()

    async def write(self, buffers: list[bytes | memoryview]) -> None:
        """Write one frame; return once the kernel has it. Raises ConnectionError."""
        if self.counted.is_closing():
            raise ConnectionResetError("the bulk connection is closed")
        # Joining a header to a large tensor makes the kernel's copies unaligned: twice as slow.
        if sum(map(len, buffers)) <= JOINED_BYTES:
            buffers = [b"".join(buffers)]
        for buffer in buffers:
            self.counted.write(buffer)
        await self._writable.wait()
        if self.lost.done():
            raise ConnectionResetError("the bulk connection is lost")

    async def finish(self, graceful: bool) -> None:
        """Flush, end our direction, wait for the peer's end, and close; close at once if not ``graceful``."""
        if graceful:
            self.ended = self.ended or self.counted.tls  # TLS here ends both directions at once
            await self.counted.settle()
            await patiently(lambda: self.ended, lambda: self.received_bytes)
        self.counted.abort()
        await self.counted.settle(patience_s=0)

    def get_buffer(self, hint: int) -> memoryview:
        return self._decoder.buffer()

    def buffer_updated(self, count: int) -> None:
        began = time.perf_counter()
        self.received_bytes += count
        if self.ended or self._deliver is None:
            return
        earlier = self._decoder.frame_bytes
        try:
            frames = self._decoder.advance(count)
            self.serialise_s += time.perf_counter() - began
            self._time_transfer(count, earlier, len(frames), began)
            for received in frames:
                self._deliver(received)
        except FrameError as error:
            self.ended = True
            self._fail(str(error))
            self.counted.pause_reading()  # the start of the next frame is unknown

    def _time_transfer(self, count: int, earlier: int, frames: int, now: float) -> None:
        """Time the frame of which ``earlier`` bytes had come before, unless more than one ended with these ``count``.

        A frame's first bytes came at once, whatever the link's rate: those after them are counted, and their time.
        """
        if earlier and frames == 1:
            self.wire_bytes += earlier - self._first_bytes + count - self._decoder.frame_bytes
            self.wire_s += now - self._first_at
        if frames or not earlier:
            self._first_bytes, self._first_at = self._decoder.frame_bytes, now

    def eof_received(self) -> bool:
        self._end("the stream ended inside a frame" if self._decoder.frame_bytes else None)
        return not self.counted.tls  # keep our direction open, which TLS cannot

    def connection_lost(self, error: Exception | None) -> None:
        self._end(None if self.ended else f"lost the bulk connection: {error or 'reset'}")
        self._writable.set()
        if not self.lost.done():
            self.lost.set_result(None)
        self._http.connection_lost(error)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _end(self, why: str | None) -> None:
        self.ended = True
        if why is not None and self._deliver is not None:
            self._broke(why)
