"""How do connections pass through an emulated link? Two sockets each, one line per direction for them all."""

import asyncio
import contextlib
import logging
import random
import socket
import struct

from netem.kernel.namespace import in_namespace
from netem.link import SEGMENT_BYTES, LinkProfile
from netem.link_queue import CHUNK_BYTES, Line
from netem.profiles import Duplex
from netem.trace_schedule import schedules

logger = logging.getLogger(__name__)

Address = tuple[str, int]

# The kernel's buffers, which no profile knows of, let a sender write ahead. The receive buffer is small. The
# sender's own grows with its segments: with loopback's of 64 KiB it took 4 MB at once, with Ethernet's
# 0.8 MB, as on a real link. The rest is up to the sender: TCP_NOTSENT_LOWAT of 16 KiB leaves 80 KB ahead.
RECEIVE_BUFFER_BYTES = 32 * 1024
ACCEPT_AGAIN_S = 0.1
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


class LinkDirection:
    """One direction of a link at work: its line, a timer, and the ends that feed it."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.forwarded_bytes = 0
        self.sources: set[End] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: bytes | None, sink: "End") -> None:
        self.line.put(self._loop.time(), data, sink)
        self._run()

    def change(self, profile: LinkProfile) -> None:
        self.line.change(self._loop.time(), profile)

    def _run(self) -> None:
        """Write on what has arrived, set the timer for what comes next, let the sources read or not."""
        was_full = self.line.full
        for piece in self.line.due(self._loop.time()):
            self.forwarded_bytes += len(piece.data or b"")
            piece.sink.deliver(piece.data)
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self.line.wake_at
        self._timer = None if wake_at is None else self._loop.call_at(wake_at, self._run)
        if self.line.full != was_full:
            for source in self.sources:
                source.read_or_pause()


class End(asyncio.BufferedProtocol):
    """One end of a proxied connection: what it reads goes into ``out``, for ``other``."""

    other: "End"
    transport: asyncio.Transport

    def __init__(self, out: LinkDirection) -> None:
        self.out = out
        self.choked = False  # the far program does not read
        self._reading_over = False
        self._writing_over = False
        self._buffer = bytearray(CHUNK_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()  # until the other end stands as well

    def start(self) -> None:
        self.out.sources.add(self)
        self.read_or_pause()

    def read_or_pause(self) -> None:
        if self._reading_over:  # asyncio would report the end once more after a resume
            return
        if self.out.line.full or self.other.choked:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[: self.out.line.chunk_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        self.out.put(bytes(memoryview(self._buffer)[:nbytes]), self.other)

    def eof_received(self) -> bool:
        self._reading_over = True
        self.out.put(b"", self.other)
        self._close_if_over()
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._reading_over = True
        self.out.sources.discard(self)
        self.choked = False
        self.other.read_or_pause()
        if exc is not None:  # reset by the program at this end: what it sent before still goes ahead of that
            self.out.put(None, self.other)

    def pause_writing(self) -> None:
        self.choked = True
        self.other.read_or_pause()

    def resume_writing(self) -> None:
        self.choked = False
        self.other.read_or_pause()

    def deliver(self, data: bytes | None) -> None:
        """Write what arrived; an end of stream or a reset is done here as it was there."""
        if data is None:
            reset(self.transport)
        elif self.transport.is_closing():
            return
        elif data:
            self.transport.write(data)
        else:
            self._writing_over = True
            with contextlib.suppress(OSError):  # reset meanwhile; connection_lost will say so
                self.transport.write_eof()
            self._close_if_over()

    def _close_if_over(self) -> None:
        if self._reading_over and self._writing_over:
            self.transport.close()  # writes out what it still holds


def reset(transport: asyncio.Transport) -> None:
    """Close so that the peer gets a connection reset, not an orderly end."""
    if not transport.is_closing():
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()


def tcp_socket(host: str, namespace: str | None) -> socket.socket:
    """A socket with the buffers above, set before it listens or connects, and without Nagle's delay.

    Those it accepts inherit all that. asyncio sets TCP_NODELAY only where a socket names its protocol.
    """
    with in_namespace(namespace):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Proxy:
    """One emulated link: accepts connections and joins each to the target, both in one network namespace."""

    def __init__(self, target: Address, link: Duplex, host: str, *, seed: int, namespace: str | None) -> None:
        up, down = Line(link.up, random.Random(2 * seed)), Line(link.down, random.Random(2 * seed + 1))
        if link.half_duplex:
            up.share_medium(down)
        self.up, self.down = LinkDirection(up), LinkDirection(down)
        self._target, self._namespace = target, namespace
        self._listener = tcp_socket(host, namespace)
        self._listener.bind((host, 0))
        self._listener.listen(128)
        self.address: Address = self._listener.getsockname()[:2]
        self._tasks = {asyncio.create_task(self._accept())}

    def play(self, link: Duplex, began_at: float) -> None:
        """Follow the traces of ``link`` from ``began_at`` on. Raises TraceError."""
        for direction, schedule in zip((self.up, self.down), schedules(link), strict=True):
            direction.line.play((began_at + at, profile) for at, profile in schedule)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # out of descriptors; others may close
                logger.error("link %s:%d: cannot accept: %s", *self.address, error)
                await asyncio.sleep(ACCEPT_AGAIN_S)
                continue
            task = asyncio.create_task(self._join(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _join(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        near, far = End(self.up), End(self.down)
        near.other, far.other = far, near
        target = tcp_socket(self._target[0], self._namespace)
        try:
            await loop.sock_connect(target, self._target)
        except OSError as error:
            link, aim = ("{}:{}".format(*address) for address in (self.address, self._target))
            logger.error("link %s: its target %s cannot be reached: %s", link, aim, error)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
            target.close()
            return
        await loop.create_connection(lambda: far, sock=target)
        await loop.connect_accepted_socket(lambda: near, client)
        near.start()
        far.start()
