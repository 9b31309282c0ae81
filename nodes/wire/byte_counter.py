"""Bytes of frames by kind of message, bytes written to a socket, and bytes that the kernel saw acknowledged."""

import asyncio
import fcntl
import os
import socket
import struct
import sys
import termios
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Literal

import msgspec

from nodes.wire.messages import AnyMessage

ChannelKind = Literal["websocket", "bulk"]

TCP_INFO_BYTES = 216
STATE = struct.Struct("<B")  # struct tcp_info begins with tcpi_state
BYTES_ACKED, BYTES_RETRANS = 120, 208  # offsets of u64 fields of struct tcp_info
TCP_CLOSE = 7
ENDED = (6, TCP_CLOSE, 9, 11)  # TIME_WAIT, CLOSE, LAST_ACK, CLOSING: both FINs were sent
PATIENCE_S = 10.0


class Traffic(msgspec.Struct):
    """Messages and bytes sent by one end of a channel."""

    messages: int = 0
    header_bytes: int = 0  # frames' prefixes and headers
    payload_bytes: int = 0


class Connection(msgspec.Struct):
    """Bytes sent by one end of a TCP connection, with HTTP handshakes and WebSocket framing.

    Once the channel is closed, ``acked_bytes`` (the kernel's count) equals ``written_bytes`` unless it broke. Over TLS
    ``written_bytes`` are those before encryption, and the kernel's further ones are ``tls_bytes``.
    """

    peer: str
    kind: ChannelKind
    written_bytes: int = 0
    acked_bytes: int = 0
    retransmitted_bytes: int = 0
    tls_bytes: int = 0
    opening_bytes: int = 0  # of those written, up to the first frame


def count(sent: dict[str, Traffic], message: AnyMessage, header_bytes: int, payload_bytes: int) -> None:
    """Count the frame of ``message`` in ``sent``, by the message's type as named on the wire."""
    traffic = sent.setdefault(str(message.__struct_config__.tag), Traffic())
    traffic.messages += 1
    traffic.header_bytes += header_bytes
    traffic.payload_bytes += payload_bytes


class Counted:
    """Wrapper of an asyncio transport that counts written bytes.

    Its own descriptor of the socket keeps the kernel's counters readable after the transport closes, and holds back
    the FIN, which counts as a byte, until ``settle`` has read them.
    """

    def __init__(self, transport: asyncio.Transport, record: Connection, opened: bool) -> None:
        self.record = record
        self._transport = transport
        self._socket = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
        self.tls = transport.get_extra_info("ssl_object") is not None
        self._syn_bytes = int(opened)  # the kernel counts the opener's SYN as an acknowledged byte

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.record.written_bytes += len(data)
        self._transport.write(data)

    def writelines(self, buffers: Iterable[bytes | bytearray | memoryview]) -> None:
        buffers = list(buffers)
        self.record.written_bytes += sum(map(len, buffers))
        self._transport.writelines(buffers)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    async def settle(self, patience_s: float = PATIENCE_S) -> None:
        """Wait until the peer's kernel has acknowledged all bytes, record them, and end our direction."""
        if self._socket.fileno() < 0:
            return
        await patiently(lambda: not self._unsettled(), self._unsettled, patience_s)
        info = self._info()
        self.record.acked_bytes = self._acked(info)
        if self.tls:
            self.record.tls_bytes = max(0, self.record.acked_bytes - self.record.written_bytes)
            self.record.acked_bytes -= self.record.tls_bytes
            self._transport.close()  # tells the peer's TLS that this end is on purpose
            await asyncio.sleep(0)
        self.record.retransmitted_bytes = struct.unpack_from("<Q", info, BYTES_RETRANS)[0]
        with suppress(OSError):  # the peer may have reset the connection
            self._socket.shutdown(socket.SHUT_WR)
        # Keep the socket until the peer ends its direction: a reset would leave the peer's bytes unacknowledged.
        await patiently(self._ended, lambda: 0, patience_s)
        self._socket.close()

    def _ended(self) -> bool:
        return STATE.unpack_from(self._info())[0] in ENDED

    def _unsettled(self) -> int:
        """Bytes written and not yet acknowledged; 0 on a closed connection."""
        info = self._info()
        if STATE.unpack_from(info)[0] == TCP_CLOSE:
            return 0
        if self.tls:
            return self._transport.get_write_buffer_size() + self._queued()
        return self.record.written_bytes - self._acked(info)

    def _queued(self) -> int:
        """Bytes that the kernel has and that are not acknowledged."""
        return int.from_bytes(fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

    def _acked(self, info: bytes) -> int:
        return int(struct.unpack_from("<Q", info, BYTES_ACKED)[0]) - self._syn_bytes

    def _info(self) -> bytes:
        return self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_BYTES)


async def patiently(done: Callable[[], bool], progress: Callable[[], int], patience_s: float = PATIENCE_S) -> None:
    """Return once ``done``, or without ``progress`` for ``patience_s``: a slow link is not dead.

    Only the pauses between looks count: a process that stood still has not looked, and may find all it waits for next.
    """
    seen, waited_s, pause_s = progress(), 0.0, 0.0005
    while not done() and waited_s < patience_s:
        await asyncio.sleep(pause_s)
        waited_s, pause_s = waited_s + pause_s, min(2 * pause_s, 0.02)
        if progress() != seen:
            seen, waited_s = progress(), 0.0
