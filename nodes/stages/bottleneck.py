"""Bottleneck coders: convolutional encoder and decoder, uniform quantisation, bit packing.

The coders are those of BottleNet++, which DynSplit adopts (DynSplit, section IV-A). The sigmoid bounds a code in
[0, 1], so n bits are 2^n even levels and no range is sent. The level is sent, its value is used in the computation,
and the gradient passes straight through.
"""

from typing import NamedTuple

import torch
from torch import nn

BYTE = 8


class Geometry(NamedTuple):
    """Window of both coders in pixels, along height and width."""

    kernel: int = 2
    stride: int = 2
    padding: int = 0

    def code_side(self, side: int) -> int:
        """Pixels along a side of the code for ``side`` pixels of the boundary's tensor. Raises ValueError for none."""
        code_side = (side + 2 * self.padding - self.kernel) // max(self.stride, 1) + 1
        if min(self.kernel, self.stride, side, code_side) < 1 or self.padding < 0:
            raise ValueError(f"{side} pixels give no code with kernel, stride and padding {tuple(self)}")
        return code_side

    def output_padding(self, side: int) -> int:
        """Pixels that the transposed convolution adds at the far edge to restore ``side``. Raises ValueError."""
        missing = side - ((self.code_side(side) - 1) * self.stride - 2 * self.padding + self.kernel)
        if not 0 <= missing < self.stride:
            raise ValueError(f"a decoder with kernel, stride and padding {tuple(self)} cannot restore {side} pixels")
        return missing


BOTTLENET = Geometry()


def encoder(inputs: int, channels: int, geometry: Geometry = BOTTLENET, sigmoid: bool = True) -> nn.Sequential:
    """(N, ``inputs``, H, W) -> (N, ``channels``, H', W'): convolution, batch norm and optional sigmoid."""
    end = [nn.Sigmoid()] if sigmoid else []
    return nn.Sequential(nn.Conv2d(inputs, channels, *geometry), nn.BatchNorm2d(channels), *end)


def decoder(channels: int, outputs: int, size: tuple[int, int], geometry: Geometry = BOTTLENET) -> nn.Sequential:
    """(N, ``channels``, H', W') -> (N, ``outputs``, *``size``): transposed convolution, batch norm, ReLU."""
    padding = (geometry.output_padding(size[0]), geometry.output_padding(size[1]))
    up = nn.ConvTranspose2d(channels, outputs, *geometry, output_padding=padding)
    return nn.Sequential(up, nn.BatchNorm2d(outputs), nn.ReLU())


def to_levels(code: torch.Tensor, bits: int) -> torch.Tensor:
    """Numbers (uint8) of the nearest of 2^``bits`` even levels from 0 to 1, for 1 to 8 bits."""
    return (code.clamp(0, 1) * float(2**bits - 1)).round().to(torch.uint8)


def from_levels(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """Values of levels by number: float32 in [0, 1]."""
    return numbers.float() / float(2**bits - 1)


def quantise_straight_through(code: torch.Tensor, bits: int) -> torch.Tensor:
    """``code`` at its nearest levels, with the gradient of the identity, as if it had crossed the wire."""
    crossed: torch.Tensor = _StraightThrough.apply(code, bits)
    return crossed


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: object, code: torch.Tensor, bits: int) -> torch.Tensor:
        return from_levels(to_levels(code, bits), bits)

    @staticmethod
    def backward(ctx: object, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradient, None


def packed_bytes(count: int, bits: int) -> int:
    return -(-count * bits // BYTE)


def pack(numbers: torch.Tensor, bits: int) -> torch.Tensor:
    """uint8 (N, M), each below 2^``bits`` -> (N, packed_bytes(M)): rows padded to whole bytes, low bits first."""
    rows, count = numbers.shape
    if bits == BYTE:
        return numbers
    bit_values = (numbers[..., None] >> _shifts(bits, numbers.device)) & 1
    width = packed_bytes(count, bits)
    padded = nn.functional.pad(bit_values.view(rows, count * bits), (0, width * BYTE - count * bits))
    eights = padded.view(rows, width, BYTE)
    return (eights << _shifts(BYTE, numbers.device)).sum(-1, dtype=torch.uint8)


def unpack(packed: torch.Tensor, bits: int, count: int) -> torch.Tensor:
    """The numbers (N, ``count``) given to ``pack``. Raises ValueError for rows of another length."""
    width = packed_bytes(count, bits)
    if packed.dtype != torch.uint8 or packed.ndim != 2 or packed.shape[1] != width:
        expected = f"uint8 of {width} bytes a row, for {count} numbers of {bits} bits"
        raise ValueError(f"packed numbers: got {packed.dtype} {list(packed.shape)}, expected {expected}")
    if bits == BYTE:
        return packed
    bit_values = (packed[..., None] >> _shifts(BYTE, packed.device)) & 1
    numbers = bit_values.flatten(1)[:, : count * bits].reshape(len(packed), count, bits)
    return (numbers << _shifts(bits, packed.device)).sum(-1, dtype=torch.uint8)


def _shifts(count: int, device: torch.device) -> torch.Tensor:
    return torch.arange(count, dtype=torch.uint8, device=device)
