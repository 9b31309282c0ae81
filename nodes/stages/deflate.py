"""Lossless compression of rows of bytes by DEFLATE, with a bound on what is inflated. Beyond DynSplit's paper.

Every machine restores the same rows; the compressed size may depend on its zlib.
"""

import zlib

import torch

COUNT = 4  # bytes before the deflated ones: the number of rows, little-endian
LEVEL = 9
LARGEST = 1 << 28  # bytes of the inflated rows at most


def deflate(rows: torch.Tensor) -> torch.Tensor:
    """uint8 (N, B) -> uint8 (M,), where M depends on the rows."""
    raw = rows.cpu().contiguous().numpy().tobytes()
    packed = len(rows).to_bytes(COUNT, "little") + zlib.compress(raw, LEVEL)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def inflate(packed: torch.Tensor, row_bytes: int) -> torch.Tensor:
    """The rows (N, ``row_bytes``) given to ``deflate``. Raises ValueError for anything else."""
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise ValueError(f"deflated rows: got {packed.dtype} {list(packed.shape)}, expected uint8 (M,)")
    raw = packed.cpu().contiguous().numpy().tobytes()
    count = int.from_bytes(raw[:COUNT], "little")
    if count * row_bytes > LARGEST:
        raise ValueError(f"deflated rows: {count} rows of {row_bytes} bytes, expected at most {LARGEST} bytes")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(raw[COUNT:], count * row_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"deflated rows: damaged stream ({error})") from None
    if len(found) != count * row_bytes or not stream.eof or stream.unused_data:
        raise ValueError(f"deflated rows: the stream does not end after {count} rows of {row_bytes} bytes")
    return torch.frombuffer(bytearray(found), dtype=torch.uint8).view(count, row_bytes).to(packed.device)
