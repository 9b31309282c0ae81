"""One path of DynSplit's stage: its coders, its bytes on the wire, and the tables of its entropy coder."""

import math
from typing import Literal

import torch
from torch import nn

from nodes.stages import bottleneck
from nodes.stages.bottleneck import Geometry
from nodes.stages.deflate import deflate, inflate
from nodes.stages.entropy_coder import Counts, decode_levels, encode_levels

Lossless = Literal["deflate", "entropy"] | None


class Coders:
    """Encoder and decoder of a code with ``channels`` for samples of ``shape`` (C, H, W); 0 for no coders."""

    def __init__(self, shape: tuple[int, int, int], channels: int, geometry: Geometry) -> None:
        deep, height, width = shape
        self.channels = channels
        self.code_shape = (channels, geometry.code_side(height), geometry.code_side(width)) if channels else shape
        self.encoder = bottleneck.encoder(deep, channels, geometry) if channels else nn.Identity()
        self.decoder = bottleneck.decoder(channels, deep, (height, width), geometry) if channels else nn.Identity()


class Prior(nn.Module):
    """Factorised prior of a code's levels: a logistic distribution for each channel, as wide as a level at least."""

    def __init__(self, channels: int, levels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.full((channels, 1, 1), (levels - 1) / 2))
        self.log_scale = nn.Parameter(torch.full((channels, 1, 1), math.log(levels / 8)))

    def bits(self, levels: torch.Tensor) -> torch.Tensor:
        """Bits of ``levels`` (N, C, H, W), not rounded, a sample: by the density of each, blurred by a level."""
        distance, scale = levels - self.mean, self.log_scale.exp()
        upper, lower = ((distance + half) / scale for half in (0.5, -0.5))
        chance = torch.sigmoid(upper) - torch.sigmoid(lower)
        return -chance.clamp_min(1e-9).log2().sum() / len(levels)


class CodedPath:
    """One path whose code has the first ``channels`` of what ``coders`` give; 0 without coders.

    Codes cross at ``bits`` a number, or as float32 (None, and without coders). ``lossless`` compresses them further:
    deflated, or entropy-coded at inference with tables that both ends learn from the packed codes of training.
    """

    def __init__(self, coders: Coders, channels: int, bits: int | None, lossless: Lossless) -> None:
        self.coders, self.channels = coders, channels
        self.bits = bits if channels else None
        self.lossless = lossless if self.bits else None
        self.code_shape = (channels, *coders.code_shape[1:]) if channels else coders.code_shape
        places = math.prod(self.code_shape[1:])
        counted = self.lossless == "entropy"
        self.sent_counts, self.received_counts = (
            Counts(channels, places, 2 ** (bits or 0)) if counted else None for _ in range(2)
        )

    @property
    def sample_bytes(self) -> int:
        """Bytes of the code of one sample on the wire, without lossless coding."""
        size = math.prod(self.code_shape)
        return bottleneck.packed_bytes(size, self.bits) if self.bits else 4 * size

    def widened(self, code: torch.Tensor) -> torch.Tensor:
        """``code`` (N, C', H', W') with all the channels of its coders, those that did not cross being 0."""
        return nn.functional.pad(code, (0, 0, 0, 0, 0, self.coders.channels - self.channels))

    def rows(self, code: torch.Tensor, training: bool) -> torch.Tensor:
        """The wire tensor of ``code`` (N, C', H', W'): float32, a row of bytes a sample, or one lossless stream."""
        if not self.bits:
            return code
        numbers = bottleneck.to_levels(code, self.bits).flatten(1)
        if self.sent_counts is not None and not code.is_meta:
            if not training:
                return encode_levels(numbers, self.sent_counts.frequencies()).to(code.device)
            self.sent_counts.add(numbers)
        rows = bottleneck.pack(numbers, self.bits)
        return deflate(rows) if self.lossless == "deflate" and not rows.is_meta else rows

    def code(self, rows: torch.Tensor) -> torch.Tensor:
        """The codes of the wire tensor ``rows``. Raises ValueError."""
        if self.bits:
            return bottleneck.from_levels(self._numbers(rows, self.bits), self.bits).view(-1, *self.code_shape)
        if rows.shape[1:] != self.code_shape or rows.dtype != torch.float32:
            raise ValueError(f"codes: got {rows.dtype} {list(rows.shape)}, expected float32 (N, {self.code_shape})")
        return rows

    def _numbers(self, rows: torch.Tensor, bits: int) -> torch.Tensor:
        if self.received_counts is not None and rows.ndim == 1:
            return decode_levels(rows, self.received_counts.frequencies())
        if self.lossless == "deflate" and not rows.is_meta:
            rows = inflate(rows, self.sample_bytes)
        numbers = bottleneck.unpack(rows, bits, math.prod(self.code_shape))
        if self.received_counts is not None and not rows.is_meta:
            self.received_counts.add(numbers)
        return numbers
