"""Encoding of messages as frames, without I/O or pickle; every error is a FrameError.

A frame is a prefix, a header and a payload. The prefix (21 bytes, little-endian) holds a version byte, the header's
length (u32), a sequence number (u32), the payload's length (u64) and the CRC-32 (u32) of the prefix so far and the
header. The header is the message in msgpack, each tensor as [dtype, shape]; the payload is the tensors' raw
little-endian buffers in that order, protected by TCP's checksum only.
"""

import math
import struct
import zlib
from typing import Any, NamedTuple

import msgspec
import torch

from nodes.wire.messages import AnyMessage
from nodes.wire.outgoing import LateNumber

VERSION = 2
PREFIX = struct.Struct("<BIIQI")
CHECKSUM = struct.Struct("<I")  # the last field of the prefix
JOINED_BYTES = 64 * 1024  # smaller pieces are read and written together: a copy costs less than a system call
MAX_RANK = 8
MAX_TENSORS = 4096
HEADER_BYTES = 1 << 20  # of the largest header that is sent or accepted
HEADER_MEMORY = 16  # bytes of memory that a byte of a header may take once it is decoded
MESSAGE_MEMORY = 1 << 10  # bytes of memory of any message, beside those of its header and its tensors

DTYPES = {
    "bool": torch.bool,
    "u8": torch.uint8,
    "i32": torch.int32,
    "i64": torch.int64,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f32": torch.float32,
}
DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}


class FrameError(ValueError):
    """An invalid frame, or a message that cannot be encoded."""


class Limits(msgspec.Struct):
    """Largest header and payload accepted in a frame; ``payload_bytes`` grows to what a job declares."""

    header_bytes: int = HEADER_BYTES
    payload_bytes: int = 1 << 20

    @property
    def message_memory(self) -> int:
        """Bytes of memory that the largest message takes."""
        return memory_bytes(self.header_bytes, self.payload_bytes)


class Received(NamedTuple):
    """A message with its sequence number, and the bytes of memory that it counts for while it waits."""

    sequence: int
    message: AnyMessage
    memory_bytes: int


def memory_bytes(header_bytes: int, payload_bytes: int) -> int:
    """Bytes of memory that a message of these sizes takes at most."""
    return MESSAGE_MEMORY + HEADER_MEMORY * header_bytes + payload_bytes


def wire_size(message: AnyMessage) -> tuple[int, int]:
    """Bytes of the frame of ``message``: (prefix and header, payload). Meta tensors are enough."""
    header, tensors = _header(message)
    return PREFIX.size + len(header), sum(tensor.nbytes for tensor in tensors)


def encode(message: AnyMessage, sequence: int = 0) -> list[bytes | memoryview]:
    """Frame of ``message`` as buffers in order: prefix with header, then each non-empty tensor.

    Contiguous CPU tensors are not copied: do not change them before the buffers are written.
    """
    header, tensors = _header(message)
    payload_bytes = sum(tensor.nbytes for tensor in tensors)
    start = PREFIX.pack(VERSION, len(header), sequence, payload_bytes, 0)[: -CHECKSUM.size]
    checksum = CHECKSUM.pack(zlib.crc32(header, zlib.crc32(start)))
    payload = [_raw(tensor.detach().cpu().contiguous()) for tensor in tensors if tensor.numel()]
    return [start + checksum + header, *payload]


class Decoder:
    """Incremental decoder of a byte stream into messages.

    Write the next bytes into ``buffer()``, then call ``advance(n)``: large tensors are filled in place, without a copy;
    all else is read in one piece. Unusable after a FrameError, which leaves the start of the next frame unknown.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self.frame_bytes = 0  # received of the frame that is incomplete
        self._joined = memoryview(bytearray(JOINED_BYTES))
        self._head = bytearray()  # a prefix with its header that did not come in one piece,
        self._head_bytes = PREFIX.size  # and up to where to collect it
        self._message: Received | None = None  # complete once its tensors are filled
        self._tensors: list[torch.Tensor] = []
        self._missing: list[memoryview] = []  # buffers of the tensors to fill, last first
        self._payload_bytes = 0  # not yet claimed by a tensor
        self._decode_header = msgspec.msgpack.Decoder(AnyMessage, dec_hook=self._allocate).decode

    def buffer(self) -> memoryview:
        """Buffer for the next bytes."""
        return self._missing[-1] if self._in_place else self._joined

    def advance(self, count: int) -> list[Received]:
        """Consume ``count`` bytes written into ``buffer()``; return the completed messages."""
        if not self._in_place:
            return self.feed(self._joined[:count])
        self._fill(count)
        return self._completed()

    def feed(self, data: bytes | memoryview) -> list[Received]:
        """Consume ``data``; return the completed messages."""
        completed: list[Received] = []
        data = memoryview(data)
        while data:
            if self._missing:
                missing = self._missing[-1]
                count = min(len(data), len(missing))
                missing[:count] = data[:count]
                self._fill(count)
            else:
                count = self._read(data)
                self.frame_bytes += count
            data = data[count:]
            completed += self._completed()
        return completed

    def check_end(self) -> None:
        """Raise FrameError if the stream ended inside a frame."""
        if self.frame_bytes:
            raise FrameError("the stream ended inside a frame")

    @property
    def _in_place(self) -> bool:
        return bool(self._missing) and len(self._missing[-1]) >= JOINED_BYTES

    def _fill(self, count: int) -> None:
        """Take ``count`` bytes of the tensor that is due as filled."""
        self.frame_bytes += count
        self._missing[-1] = self._missing[-1][count:]
        if not self._missing[-1]:
            self._missing.pop()

    def _completed(self) -> list[Received]:
        if self._missing or self._message is None:
            return []
        completed = [self._message]
        self._message, self.frame_bytes = None, 0
        return completed

    def _read(self, data: memoryview) -> int:
        """Read prefix and header from ``data``, or collect what has come of them; return the bytes taken."""
        if not self._head and len(data) >= PREFIX.size and len(data) >= (end := self._end_of_header(data)):
            self._read_header(data[:end])
            return end
        count = min(len(data), self._head_bytes - len(self._head))
        self._head += data[:count]
        if len(self._head) == PREFIX.size:
            self._head_bytes = self._end_of_header(self._head)
        elif len(self._head) == self._head_bytes:
            self._read_header(memoryview(self._head))
            self._head, self._head_bytes = bytearray(), PREFIX.size
        return count

    def _end_of_header(self, head: bytearray | memoryview) -> int:
        """Where the header ends, by the prefix."""
        version, header_bytes, _, payload_bytes, _ = PREFIX.unpack_from(head)
        if version != VERSION:
            raise FrameError(f"frame version {version}, expected {VERSION}")
        if not 0 < header_bytes <= self.limits.header_bytes:
            raise FrameError(f"header of {header_bytes} bytes, 1 to {self.limits.header_bytes} accepted")
        if payload_bytes > self.limits.payload_bytes:
            raise FrameError(f"payload of {payload_bytes} bytes, up to {self.limits.payload_bytes} accepted")
        return PREFIX.size + int(header_bytes)

    def _read_header(self, head: memoryview) -> None:
        _, _, sequence, payload_bytes, checksum = PREFIX.unpack_from(head)
        header, self._payload_bytes = head[PREFIX.size :], payload_bytes
        if zlib.crc32(header, zlib.crc32(head[: PREFIX.size - CHECKSUM.size])) != checksum:
            raise FrameError("the header's checksum does not match")
        self._tensors = []
        try:
            message = self._decode_header(header)
        except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: nesting, or no memory
            raise FrameError(f"header: {error}") from None
        self._message = Received(sequence, message, memory_bytes(len(header), payload_bytes))
        if self._payload_bytes:
            raise FrameError(f"{self._payload_bytes} payload bytes belong to no tensor")
        self._missing = [_raw(tensor) for tensor in reversed(self._tensors) if tensor.numel()]

    def _allocate(self, kind: type, spec: Any) -> torch.Tensor:
        """Unfilled tensor of the header; never allocates more than the payload fills."""
        dtype, shape = _tensor_spec(spec)
        self._payload_bytes -= math.prod(shape) * dtype.itemsize
        if self._payload_bytes < 0:
            raise FrameError("tensors are larger than the payload")
        if len(self._tensors) == MAX_TENSORS:
            raise FrameError(f"more than {MAX_TENSORS} tensors")
        self._tensors.append(torch.empty(shape, dtype=dtype))
        return self._tensors[-1]


def _raw(tensor: torch.Tensor) -> memoryview:
    """Bytes of a contiguous CPU tensor, without a copy."""
    if tensor.dtype is torch.bfloat16:  # numpy has none
        tensor = tensor.view(torch.int16)
    return tensor.numpy().data.cast("B")


def _header(message: AnyMessage) -> tuple[bytes, list[torch.Tensor]]:
    """``message`` in msgpack, and its tensors in the header's order."""
    tensors: list[torch.Tensor] = []

    def spec(value: Any) -> float | tuple[str, tuple[int, ...]]:
        if isinstance(value, LateNumber):
            return 0.0  # of any float's size; a message that is sent has none
        if not isinstance(value, torch.Tensor):
            raise FrameError(f"a {type(value).__name__} cannot be sent")
        if value.dtype not in DTYPE_NAMES:
            raise FrameError(f"a tensor of {value.dtype} cannot be sent; send one of {', '.join(DTYPES)}")
        tensors.append(value)
        return DTYPE_NAMES[value.dtype], tuple(value.shape)

    header = msgspec.msgpack.encode(message, enc_hook=spec)
    if len(header) > HEADER_BYTES:
        raise FrameError(f"{type(message).__name__}: header of {len(header)} bytes, 1 to {HEADER_BYTES} can be sent")
    return header, tensors


def _tensor_spec(spec: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    """(dtype, shape) of a tensor. Sizes beside a 0 cost no bytes but may overflow strides."""
    match spec:
        case [str(name), [*shape]] if name in DTYPES and len(shape) <= MAX_RANK:
            valid = all(type(size) is int and size >= 0 for size in shape)
            if valid and math.prod(max(size, 1) for size in shape) < 1 << 48:
                return DTYPES[name], tuple(shape)
    raise FrameError(f"invalid tensor {spec!r:.80}: expected [dtype, shape] with a dtype of {', '.join(DTYPES)}")
