"""Entropy coder of quantised levels: lossless, and the same bytes on every machine. Beyond DynSplit's paper.

Interleaved range asymmetric numeral systems (J. Duda, arXiv 1311.2540; F. Giesen, arXiv 1402.3392): many states, each
for some of the rows, share one stream of 16-bit words. Each position in a row has a frequency table of integers that
both ends derive from the levels that cross in training. There is no floating-point arithmetic.
"""

import torch
from torch import nn

BITS = 15  # the frequencies of a table sum to 2^15
LOW = 1 << 16  # lower bound of a state; below it the decoder reads a word
HELD = 1 << 12  # counts of a position are halved beyond this sum, so old levels fade
TRUST = 32  # count of a position at which it weighs as much as its channel
LANE = 512  # levels per state, unless a single row has more
COUNT, STATE, WORD = 4, 4, 2  # bytes of the number of rows, of a state, of a word; little-endian


class Counts(nn.Module):
    """Recent counts of each level at each position: ``seen`` (``channels``, ``places`` a channel, ``levels``)."""

    def __init__(self, channels: int, places: int, levels: int) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(channels, places, levels, dtype=torch.int64))
        self.seen: torch.Tensor

    def add(self, rows: torch.Tensor) -> None:
        levels = self.seen.shape[-1]
        first = levels * torch.arange(rows.shape[1], device=rows.device)
        self.seen += torch.bincount((rows + first).flatten(), minlength=self.seen.numel()).view_as(self.seen)
        self.seen >>= (self.seen.sum(-1, keepdim=True) > HELD).long()

    def frequencies(self) -> torch.Tensor:
        """Frequency tables (channels * places, levels) on the CPU, each at least 1 and with the sum 2^15.

        In proportion to the counts of the position, blended with those of its channel where they are few; uniform
        without any counts. At most 2^15 levels.
        """
        own = self.seen.cpu()
        channel = own.sum(1, keepdim=True)
        channel = channel + (channel.sum(-1, keepdim=True) == 0)
        weights = (own * channel.sum(-1, keepdim=True) + TRUST * channel).flatten(0, 1)
        spare = (1 << BITS) - weights.shape[1]
        shares = 1 + weights * spare // weights.sum(-1, keepdim=True)
        lacking = (1 << BITS) - shares.sum(-1, keepdim=True)
        return shares.scatter_add(1, weights.argmax(1, keepdim=True), lacking)


def encode_levels(rows: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """Encode levels (N, S), uint8, with the tables ``frequencies`` (S, L), as uint8 (M,)."""
    rows = rows.cpu()
    count, size = rows.shape
    lanes = _lanes(count, size)
    below = frequencies.cumsum(1) - frequencies
    states, words = torch.full((lanes,), LOW), []
    for start in reversed(range(0, count, lanes)):
        numbers = rows[start : start + lanes].T.long()  # (S, lanes), fewer in the last block
        chosen, under = frequencies.gather(1, numbers), below.gather(1, numbers)
        some = states[: numbers.shape[1]]
        for share, before in zip(reversed(chosen.unbind()), reversed(under.unbind()), strict=True):
            full = some >= share << (32 - BITS)
            words.append(some[full] & (LOW - 1))
            rest = torch.where(full, some >> 16, some)
            some.copy_((rest // share << BITS) + rest % share + before)
    parts = _bytes(torch.tensor([count]), COUNT), _bytes(states, STATE), _bytes(torch.cat(words[::-1]), WORD)
    return torch.cat(parts)


def decode_levels(packed: torch.Tensor, frequencies: torch.Tensor) -> torch.Tensor:
    """The rows (N, S) given to ``encode_levels`` with the same ``frequencies``.

    Raises ValueError for anything else: too short, too long, or changed, which the final states reveal. N is bounded
    by the received bytes, with a state for each ``LANE`` levels.
    """
    if packed.dtype != torch.uint8 or packed.ndim != 1:
        raise ValueError(f"coded levels: got {packed.dtype} {list(packed.shape)}, expected uint8 (M,)")
    raw = packed.cpu()
    count, size = int(_numbers(raw[:COUNT], COUNT)[0]) if len(raw) >= COUNT else 0, len(frequencies)
    lanes = _lanes(count, size)
    stream = raw[COUNT + STATE * lanes :]
    if not count or len(raw) < COUNT + STATE * lanes or len(stream) % WORD:
        raise ValueError(f"coded levels: {len(raw)} bytes cannot hold {count} rows of {size} levels")
    states, words = _numbers(raw[COUNT : COUNT + STATE * lanes], STATE), _numbers(stream, WORD)
    rows, taken = _run(states, words, frequencies, count)
    if taken != len(words) or not (states == LOW).all():
        raise ValueError(
            f"coded levels: {len(raw)} bytes for {count} rows of {size}: damaged, or coded with other tables"
        )
    return rows.to(packed.device)


def _run(states: torch.Tensor, words: torch.Tensor, frequencies: torch.Tensor, count: int) -> tuple[torch.Tensor, int]:
    """``count`` rows, and how many of ``words`` they took; ``states`` end at their initial values."""
    below = frequencies.cumsum(1) - frequencies
    levels = torch.arange(frequencies.shape[1], dtype=torch.uint8)
    which = torch.stack([levels.repeat_interleave(one) for one in frequencies])  # (S, 2^15)
    rows, taken = torch.empty(count, len(frequencies), dtype=torch.uint8), 0
    for start in range(0, count, len(states)):
        block = rows[start : start + len(states)]
        some = states[: len(block)]
        for place in range(len(frequencies)):
            slot = some & ((1 << BITS) - 1)
            block[:, place] = number = which[place][slot]
            level = number.long()
            rest = frequencies[place][level] * (some >> BITS) + slot - below[place][level]
            due = (rest < LOW).nonzero()[:, 0]
            given = words[taken : taken + len(due)]
            if len(given) < len(due):
                return rows, len(words) + 1
            rest[due] = rest[due] << 16 | given
            some.copy_(rest)
            taken += len(due)
    return rows, taken


def _lanes(count: int, size: int) -> int:
    """Number of states for ``count`` rows of ``size`` levels; row r uses state r modulo that."""
    return -(-count // max(1, LANE // size))


def _bytes(numbers: torch.Tensor, width: int) -> torch.Tensor:
    """(N,) -> uint8 (N * ``width``,)."""
    return (numbers[:, None] >> (8 * torch.arange(width)) & 255).to(torch.uint8).flatten()


def _numbers(raw: torch.Tensor, width: int) -> torch.Tensor:
    """The numbers given to ``_bytes``."""
    return (raw.view(-1, width).long() << (8 * torch.arange(width))).sum(1)
