"""TCP proxy of one emulated link: two sockets per connection, one queue per direction for all connections."""

import asyncio
import contextlib
import logging
import random
import socket
import struct

import msgspec

from netem.kernel.namespace import in_namespace
from netem.link import SEGMENT_BYTES, LinkProfile
from netem.link_queue import CHUNK_BYTES, LinkQueue
from netem.profiles import Duplex
from netem.trace_schedule import paces, schedules

logger = logging.getLogger(__name__)

Address = tuple[str, int]

# Kernel buffers, which the profile does not model, let a sender write ahead, so the receive buffer is small. The send
# buffer grows with the segment size: it took 4 MB at once with loopback's 64 KiB, 0.8 MB with Ethernet's, as on a real
# link. The sender can reduce the rest: TCP_NOTSENT_LOWAT of 16 KiB leaves 80 KB ahead.
RECEIVE_BUFFER_BYTES = 32 * 1024
ACCEPT_RETRY_S = 0.1
RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def authority(host: str, port: int) -> str:
    """``host:port`` as in a URL, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class Carried(msgspec.Struct):
    """What one direction has delivered so far."""

    n_bytes: int = 0
    busy_s: float = 0.0  # in which at least one byte was in the direction, from its reading to its delivery
    byte_delay_s: float = 0.0  # sum over all bytes of the time from reading to delivery, waiting included
    delivered_at: float = 0.0  # the last of them, in event loop time
    rate_bps: float | None = None  # of the bytes sent last, when this was asked for

    def add(self, n_bytes: int, read_at: float, now: float) -> None:
        """Count a chunk that is delivered ``now``; chunks are in the order of their reading."""
        self.n_bytes += n_bytes
        self.busy_s += now - max(read_at, self.delivered_at)
        self.byte_delay_s += n_bytes * (now - read_at)
        self.delivered_at = now


class LinkDirection:
    """One direction of a running link: its queue, a timer, and the connection ends that feed it."""

    def __init__(self, queue: LinkQueue) -> None:
        self.queue = queue
        self.carried = Carried()
        self.sources: set[End] = set()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: bytes | None, sink: "End") -> None:
        self.queue.put(self._loop.time(), data, sink)
        self._run()

    def change(self, profile: LinkProfile) -> None:
        self.queue.change(self._loop.time(), profile)

    def measure(self) -> Carried:
        """What was carried so far, with the rate now."""
        self.carried.rate_bps = self.queue.profile.rate_bps
        return self.carried

    def _run(self) -> None:
        """Deliver what has arrived, set the timer for the next event, pause or resume reading at the sources."""
        was_full = self.queue.full
        for chunk in self.queue.pop_arrived(now := self._loop.time()):
            if chunk.data:
                self.carried.add(len(chunk.data), chunk.read_at, now)
            chunk.sink.deliver(chunk.data)
        if self._timer is not None:
            self._timer.cancel()
        wake_at = self.queue.wake_at
        self._timer = None if wake_at is None else self._loop.call_at(wake_at, self._run)
        if self.queue.full != was_full:
            for source in self.sources:
                source.update_reading()


class End(asyncio.BufferedProtocol):
    """One end of a proxied connection: data read here goes through ``out`` to ``other``."""

    other: "End"
    transport: asyncio.Transport

    def __init__(self, out: LinkDirection) -> None:
        self.out = out
        self.write_paused = False  # the program at this end does not read
        self._read_ended = False
        self._write_ended = False
        self._buffer = bytearray(CHUNK_BYTES)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.pause_reading()  # until the other end is connected

    def start(self) -> None:
        self.out.sources.add(self)
        self.update_reading()

    def update_reading(self) -> None:
        if self._read_ended:  # a resume would make asyncio report the end of the stream again
            return
        if self.out.queue.full or self.other.write_paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def get_buffer(self, sizehint: int) -> memoryview:
        return memoryview(self._buffer)[: self.out.queue.chunk_bytes]

    def buffer_updated(self, nbytes: int) -> None:
        self.out.put(bytes(memoryview(self._buffer)[:nbytes]), self.other)

    def eof_received(self) -> bool:
        self._read_ended = True
        self.out.put(b"", self.other)
        self._close_if_ended()
        return True  # the other direction goes on

    def connection_lost(self, exc: Exception | None) -> None:
        self._read_ended = True
        self.out.sources.discard(self)
        self.write_paused = False
        self.other.update_reading()
        if exc is not None:  # a reset by the program here; the data before it is delivered first
            self.out.put(None, self.other)

    def pause_writing(self) -> None:
        self.write_paused = True
        self.other.update_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        self.other.update_reading()

    def deliver(self, data: bytes | None) -> None:
        """Write what arrived; repeat an end of stream or a reset of the other end."""
        if data is None:
            reset(self.transport)
        elif self.transport.is_closing():
            return
        elif data:
            self.transport.write(data)
        else:
            self._write_ended = True
            with contextlib.suppress(OSError):  # reset in the meantime; connection_lost follows
                self.transport.write_eof()
            self._close_if_ended()

    def _close_if_ended(self) -> None:
        if self._read_ended and self._write_ended:
            self.transport.close()  # after flushing its write buffer


def reset(transport: asyncio.Transport) -> None:
    """Close with a TCP reset, not an orderly end of stream."""
    if not transport.is_closing():
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
    transport.abort()


def tcp_socket(host: str, namespace: str | None) -> socket.socket:
    """A socket with the buffers above and TCP_NODELAY (asyncio may leave it out); accepted sockets inherit both."""
    with in_namespace(namespace):
        sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, SEGMENT_BYTES)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


class Proxy:
    """One emulated link: connects each accepted connection to the target, both in one network namespace."""

    def __init__(self, target: Address, link: Duplex, listen: Address, *, seed: int, namespace: str | None) -> None:
        """``listen`` is the address to listen on; port 0 takes a free one."""
        profiles = (link.up, link.down)
        up, down = (LinkQueue(profile, random.Random(2 * seed + index)) for index, profile in enumerate(profiles))
        if link.half_duplex:
            up.share_medium(down)
        self.up, self.down = LinkDirection(up), LinkDirection(down)
        self._target, self._namespace = target, namespace
        self._listener = tcp_socket(listen[0], namespace)
        # Else connections of an earlier run that have ended hold a chosen port for a minute.
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind(listen)
        self._listener.listen(128)
        self.address: Address = self._listener.getsockname()[:2]
        self._tasks = {asyncio.create_task(self._accept())}

    def play(self, link: Duplex, began_at: float) -> None:
        """Follow the traces of ``link``, which began at ``began_at`` (event loop time). Raises TraceError."""
        for direction, schedule, pace in zip((self.up, self.down), schedules(link), paces(link), strict=True):
            direction.queue.play(((began_at + at, profile) for at, profile in schedule), pace)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                client, _ = await loop.sock_accept(self._listener)
            except OSError as error:  # out of file descriptors; retry when other connections have closed
                logger.error("link %s:%d: cannot accept: %s", *self.address, error)
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            task = asyncio.create_task(self._connect_target(client))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _connect_target(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        near, far = End(self.up), End(self.down)
        near.other, far.other = far, near
        target = tcp_socket(self._target[0], self._namespace)
        try:
            await loop.sock_connect(target, self._target)
        except OSError as error:
            logger.error("link %s:%d: target %s:%d unreachable: %s", *self.address, *self._target, error)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET_ON_CLOSE)
            client.close()
            target.close()
            return
        await loop.create_connection(lambda: far, sock=target)
        await loop.connect_accepted_socket(lambda: near, client)
        near.start()
        far.start()
