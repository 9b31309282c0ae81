"""Coders restricted to the kept maps, by the rows of their kernels.

Deprune, section 3.4, counts the coders' work for as many maps as the budget. Batch norm works map by map: its
statistics of a kept map are those of the full computation, and those of the other maps stay unchanged.
"""

from typing import cast

import torch
from torch import nn
from torch.nn import functional as F


def encode_maps(encoder: nn.Sequential, value: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Maps ``which`` of ``encoder(value)``, (N, B, H', W')."""
    convolution, norm = cast(nn.Conv2d, encoder[0]), cast(nn.BatchNorm2d, encoder[1])
    if len(which) == convolution.out_channels:
        return cast(torch.Tensor, encoder(value))
    bias = None if convolution.bias is None else convolution.bias[which]
    maps = F.conv2d(value, convolution.weight[which], bias, convolution.stride, convolution.padding)
    return cast(torch.Tensor, encoder[2:](_normalised(norm, maps, which)))


def decode_maps(decoder: nn.Sequential, maps: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """``decoder`` applied to ``maps`` (N, B, H', W') at the channels ``which``, with zeros at all others."""
    up = cast(nn.ConvTranspose2d, decoder[0])
    if len(which) == up.in_channels:
        return cast(torch.Tensor, decoder(maps))
    padding = tuple(int(size) for size in up.padding)
    value = F.conv_transpose2d(maps, up.weight[which], up.bias, up.stride, padding, up.output_padding)
    return cast(torch.Tensor, decoder[1:](value))


def _normalised(norm: nn.BatchNorm2d, maps: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """``norm`` of the maps ``which`` alone; training updates only their running estimates."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    mean, variance = norm.running_mean[which], norm.running_var[which]
    weight, bias = norm.weight[which], norm.bias[which]
    result = F.batch_norm(maps, mean, variance, weight, bias, norm.training, norm.momentum or 0.0, norm.eps)
    if norm.training:
        with torch.no_grad():
            norm.running_mean[which], norm.running_var[which] = mean, variance
            norm.num_batches_tracked += 1
    return result
