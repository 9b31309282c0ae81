"""Rows come back exactly; what is none, or too much, is refused before memory is taken."""

import zlib

import pytest
import torch

from nodes.stages.deflate import deflate, inflate


@pytest.mark.parametrize(("count", "width", "share"), [(1, 1, None), (250, 64, 0.6), (3, 1000, None)])
def test_rows_come_back_exactly_and_of_levels_not_equally_frequent_from_fewer_bytes(count, width, share):
    rows = (torch.randn(count, width, generator=torch.Generator().manual_seed(0)) * 3 + 20).to(torch.uint8)
    deflated = deflate(rows)
    assert torch.equal(inflate(deflated, width), rows)
    assert share is None or deflated.nbytes < share * rows.nbytes


def packed(count: int, raw: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(count.to_bytes(4, "little") + raw), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (packed(2, zlib.compress(bytes(9))), "does not end after 2 rows of 4"),
        (packed(2, zlib.compress(bytes(7))), "does not end after 2 rows of 4"),
        (packed(2, zlib.compress(bytes(8))[:-2]), "does not end after"),
        (packed(2, zlib.compress(bytes(8)) + b"more"), "does not end after"),
        (packed(1, zlib.compress(bytes(1 << 24))), "does not end after 1 rows"),
        (packed(1 << 31, zlib.compress(bytes(8))), "expected at most"),
        (packed(2, b"nothing deflated"), "damaged stream"),
        (torch.zeros(2, 4, dtype=torch.uint8), "expected uint8"),
        (torch.zeros(2), "expected uint8"),
    ],
)
def test_what_is_no_deflated_rows_is_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        inflate(wrong, 4)
