"""How does a message become bytes, and bytes a message? No I/O, no pickle; each error is a FrameError.

A frame is a prefix, a header and a payload. The prefix (21 bytes, little-endian) holds a version byte, the
header's length (u32), a sequence number (u32), the payload's length (u64) and the CRC-32 (u32) of the prefix
before it and the header. The header is the message in msgpack, each tensor as [dtype, shape]; the payload is
the tensors' raw little-endian buffers in that order. TCP's checksum alone guards the payload.
"""

import math
import struct
import zlib
from typing import Any

import msgspec
import torch

from nodes.wire.messages import AnyMessage

VERSION = 2
PREFIX = struct.Struct("<BIIQI")
CHECKSUM = struct.Struct("<I")  # the last field of the prefix
MAX_RANK = 8
MAX_TENSORS = 4096

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
    """Bytes that are no valid frame, or a message that cannot become one; says what was wrong."""


class Limits(msgspec.Struct):
    """The most a peer may send in one frame; ``payload_bytes`` grows to what a job declares."""

    header_bytes: int = 1 << 20
    payload_bytes: int = 1 << 20


def wire_size(message: AnyMessage) -> tuple[int, int]:
    """Bytes of the frame of ``message``: (prefix and header, payload). Shapes suffice, so meta tensors do."""
    header, tensors = _header(message)
    return PREFIX.size + len(header), sum(tensor.nbytes for tensor in tensors)


def encode(message: AnyMessage, sequence: int = 0) -> list[bytes | memoryview]:
    """The frame of ``message`` as buffers to write in order: prefix with header, then each tensor with bytes.

    Tensors are not copied if contiguous and on the CPU: they must not change before the buffers are written.
    """
    header, tensors = _header(message)
    payload_bytes = sum(tensor.nbytes for tensor in tensors)
    start = PREFIX.pack(VERSION, len(header), sequence, payload_bytes, 0)[: -CHECKSUM.size]
    checksum = CHECKSUM.pack(zlib.crc32(header, zlib.crc32(start)))
    payload = [_raw(tensor.detach().cpu().contiguous()) for tensor in tensors if tensor.numel()]
    return [start + checksum + header, *payload]


class Decoder:
    """Bytes in, (sequence, message) pairs out, at any chunking.

    Ask ``buffer()`` for where the next bytes belong, put them there, tell ``advance(n)``: first the
    prefix, then the header, then each tensor itself, so its bytes are never copied. After a FrameError the
    decoder is of no more use: where the next frame starts is unknown.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits()
        self._prefix = bytearray(PREFIX.size)
        self._header = bytearray()
        self._message: tuple[int, AnyMessage] | None = None  # whole once its tensors are filled
        self._missing = [memoryview(self._prefix)]  # what is to be filled, the last first
        self._tensors: list[torch.Tensor] = []
        self._payload_bytes = 0  # not yet claimed by a tensor of the header
        self._decode_header = msgspec.msgpack.Decoder(AnyMessage, dec_hook=self._allocate).decode

    @property
    def inside_frame(self) -> bool:
        """Whether a frame has begun and not ended."""
        return len(self._missing[-1]) != PREFIX.size or self._missing[-1].obj is not self._prefix

    def buffer(self) -> memoryview:
        """Where the next bytes are to be written."""
        return self._missing[-1]

    def advance(self, count: int) -> list[tuple[int, AnyMessage]]:
        """Take the ``count`` bytes now in ``buffer()``; return the (sequence, message) that became whole."""
        filled = self._missing[-1]
        self._missing[-1] = filled[count:]
        if self._missing[-1]:
            return []
        if self._message is not None:
            self._missing.pop()
        elif filled.obj is self._prefix:
            self._read_prefix()
        else:
            self._read_header()
        return self._whole()

    def feed(self, data: bytes | memoryview) -> list[tuple[int, AnyMessage]]:
        """Take ``data`` and return the (sequence, message) pairs now whole."""
        whole: list[tuple[int, AnyMessage]] = []
        data = memoryview(data)
        while data:
            buffer = self.buffer()
            count = min(len(data), len(buffer))
            buffer[:count] = data[:count]
            data = data[count:]
            whole += self.advance(count)
        return whole

    def check_end(self) -> None:
        """Raise FrameError if the stream ended inside a frame."""
        if self.inside_frame:
            raise FrameError("the stream ended inside a frame")

    def _whole(self) -> list[tuple[int, AnyMessage]]:
        if self._missing or self._message is None:
            return []
        whole = [self._message]
        self._message, self._tensors, self._missing = None, [], [memoryview(self._prefix)]
        return whole

    def _read_prefix(self) -> None:
        version, header_bytes, _, payload_bytes, _ = PREFIX.unpack(self._prefix)
        if version != VERSION:
            raise FrameError(f"frame of version {version}, this version reads {VERSION}")
        if not 0 < header_bytes <= self.limits.header_bytes:
            raise FrameError(f"header of {header_bytes} bytes, 1 to {self.limits.header_bytes} accepted")
        if payload_bytes > self.limits.payload_bytes:
            raise FrameError(f"payload of {payload_bytes} bytes, up to {self.limits.payload_bytes} accepted")
        self._header = bytearray(header_bytes)
        self._missing = [memoryview(self._header)]

    def _read_header(self) -> None:
        _, _, sequence, payload_bytes, checksum = PREFIX.unpack(self._prefix)
        if zlib.crc32(self._header, zlib.crc32(self._prefix[: -CHECKSUM.size])) != checksum:
            raise FrameError("the header's checksum does not match")
        self._tensors, self._payload_bytes = [], payload_bytes
        try:
            self._message = (sequence, self._decode_header(self._header))
        except (ValueError, TypeError, RuntimeError) as error:  # RuntimeError: nesting, or no memory
            raise FrameError(f"header: {error}") from None
        if self._payload_bytes:
            raise FrameError(f"{self._payload_bytes} bytes of the payload are in no tensor")
        self._missing = [_raw(tensor) for tensor in reversed(self._tensors) if tensor.numel()]

    def _allocate(self, kind: type, spec: Any) -> torch.Tensor:
        """A tensor as the header names it, not filled. No more is allocated than the payload will fill."""
        dtype, shape = _tensor_spec(spec)
        self._payload_bytes -= math.prod(shape) * dtype.itemsize
        if self._payload_bytes < 0:
            raise FrameError("tensors of more bytes than the payload's")
        if len(self._tensors) == MAX_TENSORS:
            raise FrameError(f"more than {MAX_TENSORS} tensors")
        self._tensors.append(torch.empty(shape, dtype=dtype))
        return self._tensors[-1]


def _raw(tensor: torch.Tensor) -> memoryview:
    """The bytes of a contiguous CPU tensor, not copied."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _header(message: AnyMessage) -> tuple[bytes, list[torch.Tensor]]:
    """``message`` in msgpack, and its tensors in the order in which the header names them."""
    tensors: list[torch.Tensor] = []

    def spec(value: Any) -> tuple[str, tuple[int, ...]]:
        if not isinstance(value, torch.Tensor):
            raise FrameError(f"a {type(value).__name__} cannot be sent")
        if value.dtype not in DTYPE_NAMES:
            raise FrameError(f"a tensor of {value.dtype} cannot be sent; send one of {', '.join(DTYPES)}")
        tensors.append(value)
        return DTYPE_NAMES[value.dtype], tuple(value.shape)

    return msgspec.msgpack.encode(message, enc_hook=spec), tensors


def _tensor_spec(spec: Any) -> tuple[torch.dtype, tuple[int, ...]]:
    """The (dtype, shape) that the header names. Beside a 0 sizes cost nothing, but strides may overflow."""
    match spec:
        case [str(name), [*shape]] if name in DTYPES and len(shape) <= MAX_RANK:
            whole = all(type(size) is int and size >= 0 for size in shape)
            if whole and math.prod(max(size, 1) for size in shape) < 1 << 48:
                return DTYPES[name], tuple(shape)
    raise FrameError(f"{spec!r:.80} is no tensor: [dtype, shape] with one of {', '.join(DTYPES)} is")
