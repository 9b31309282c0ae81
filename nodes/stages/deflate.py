"""How do rows of bytes become fewer bytes, and exactly those rows again? DEFLATE, bounded before it is undone.

What was quantised and packed is not yet as small as it can be: levels are not equally frequent. Beyond the paper.
The same rows come back on every machine; how many bytes they take may depend on the machine's zlib.
"""

import zlib

import torch

COUNT = 4  # bytes before the deflated ones: the number of rows, little-endian
LEVEL = 9
LARGEST = 1 << 28  # bytes that rows may take


def deflate(rows: torch.Tensor) -> torch.Tensor:
    """uint8 (N, B) -> uint8 (M,), M as the rows permit."""
    raw = rows.cpu().contiguous().numpy().tobytes()
    packed = len(rows).to_bytes(COUNT, "little") + zlib.compress(raw, LEVEL)
    return torch.frombuffer(bytearray(packed), dtype=torch.uint8)


def inflate(packed: torch.Tensor, row_bytes: int) -> torch.Tensor:
    """The rows (N, ``row_bytes``) that ``deflate`` was given. Raises ValueError for anything else."""
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise ValueError(f"{packed.dtype} {list(packed.shape)} came for deflated bytes")
    raw = packed.cpu().contiguous().numpy().tobytes()
    count = int.from_bytes(raw[:COUNT], "little")
    if count * row_bytes > LARGEST:
        raise ValueError(f"{count} rows of {row_bytes} bytes are more than {LARGEST}")
    stream = zlib.decompressobj()
    try:
        found = stream.decompress(raw[COUNT:], count * row_bytes + 1)
    except zlib.error as error:
        raise ValueError(f"no deflated bytes: {error}") from None
    if len(found) != count * row_bytes or not stream.eof or stream.unused_data:
        raise ValueError(f"deflated bytes do not make {count} rows of {row_bytes}")
    return torch.frombuffer(bytearray(found), dtype=torch.uint8).view(count, row_bytes).to(packed.device)
