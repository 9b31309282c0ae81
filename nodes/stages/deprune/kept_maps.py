"""Coders restricted to the kept maps, by the rows of their kernels.

Deprune, section 3.4, counts the coders' work for as many maps as the budget. So only these are computed, at the
sender and, with zeros for all others, at the receiver. Batch norm works map by map: its statistics of a kept map are
those of the full computation, and those of the other maps stay unchanged.
"""

import torch
from torch import nn
from torch.nn import functional as F


def encode_maps(encoder: nn.Sequential, value: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """Maps ``which`` of ``encoder(value)``, (N, B, H', W')."""
    convolution, norm, *rest = encoder
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    if len(which) == convolution.out_channels:
        coded: torch.Tensor = encoder(value)
        return coded
    bias = None if convolution.bias is None else convolution.bias[which]
    maps = F.conv2d(value, convolution.weight[which], bias, convolution.stride, convolution.padding)
    maps = _normalised(norm, maps, which)
    for layer in rest:
        maps = layer(maps)
    return maps


def decode_maps(decoder: nn.Sequential, maps: torch.Tensor, which: torch.Tensor) -> torch.Tensor:
    """``decoder`` applied to ``maps`` (N, B, H', W') at the channels ``which``, with zeros at all others."""
    up, *rest = decoder
    assert isinstance(up, nn.ConvTranspose2d)
    if len(which) == up.in_channels:
        whole: torch.Tensor = decoder(maps)
        return whole
    padding = tuple(int(size) for size in up.padding)
    value = F.conv_transpose2d(maps, up.weight[which], up.bias, up.stride, padding, up.output_padding)
    for layer in rest:
        value = layer(value)
    return value


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
