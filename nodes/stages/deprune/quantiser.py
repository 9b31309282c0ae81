"""Quantisation of maps of any range: even levels between each map's minimum and maximum over the batch.

Beyond deprune, which sends float32 in both directions. Ranges cost 8 bytes per map (or feature) and batch.
"""

import math

import torch

from nodes.stages.bottleneck import pack, to_levels, unpack


def quantise(maps: torch.Tensor, bits: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(N, B, ...) float32 -> rows (N, bytes) uint8 of ``bits`` a value, and ranges (B, 2): minimum and width."""
    others = [axis for axis in range(maps.ndim) if axis != 1]
    least, largest = maps.amin(others), maps.amax(others)
    spread = (largest - least).clamp_min(torch.finfo(torch.float32).tiny)
    scaled = (maps - _along(least, maps.ndim)) / _along(spread, maps.ndim)
    return pack(to_levels(scaled, bits).flatten(1), bits), torch.stack([least, spread], dim=1)


def dequantise(rows: torch.Tensor, ranges: torch.Tensor, bits: int, shape: tuple[int, ...]) -> torch.Tensor:
    """The maps (N, *``shape``), shape (B, ...), of ``rows`` and ``ranges``. Raises ValueError."""
    if ranges.dtype != torch.float32 or tuple(ranges.shape) != (shape[0], 2):
        raise ValueError(f"ranges: got {ranges.dtype} {list(ranges.shape)}, expected float32 ({shape[0]}, 2)")
    numbers = unpack(rows, bits, math.prod(shape)).view(-1, *shape)
    least, spread = ranges.unbind(1)
    maps: torch.Tensor = _along(least, numbers.ndim) + numbers * (_along(spread, numbers.ndim) / (2**bits - 1))
    return maps


def _along(per_map: torch.Tensor, axes: int) -> torch.Tensor:
    return per_map.view(-1, *[1] * (axes - 2))
