"""Convolutions on maps smaller than their kernel, as matrix products without the taps that only ever meet padding."""

import torch
from torch import nn
from torch.nn import functional as F


class SmallMapConv2d(nn.Conv2d):
    """``nn.Conv2d``; on maps of fewer pixels than the kernel has taps, one matrix product of all pixels.

    There most taps lie in the padding: of a 3x3 kernel on a map of one pixel, eight of nine, whose weights have no
    gradient. The product leaves them out. Outputs and gradients are those of ``nn.Conv2d`` but for rounding.
    """

    whole = True  # one layer: which way it computes depends on the size of the map

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, H, W) to maps (N, C', H', W')."""
        height, width = x.shape[-2:]
        if height * width >= self.kernel_size[0] * self.kernel_size[1] or not self._is_plain() or x.dim() != 4:
            return super().forward(x)
        down, right = (self._places(axis, size) for axis, size in enumerate((height, width)))
        seen = [self._window(top, left, height, width) for top in down for left in right]
        bias = None if self.bias is None else self.bias.repeat(len(seen))
        made = F.linear(x.permute(0, 2, 3, 1).flatten(1), torch.cat(seen), bias)
        return made.view(len(x), len(down), len(right), self.out_channels).permute(0, 3, 1, 2)

    def _is_plain(self) -> bool:
        plain = self.groups == 1 and self.dilation == (1, 1) and self.padding_mode == "zeros"
        return plain and not isinstance(self.padding, str)

    def _places(self, axis: int, size: int) -> list[int]:
        """The tap that meets the map's first pixel, for each place of the kernel along ``axis``; may lie outside."""
        (kernel, stride), padding = (self.kernel_size[axis], self.stride[axis]), int(self.padding[axis])
        return [padding - stride * place for place in range((size + 2 * padding - kernel) // stride + 1)]

    def _window(self, top: int, left: int, height: int, width: int) -> torch.Tensor:
        """The weights (C', H W C) that meet the map's pixels, from tap (top, left); 0 where the kernel ends."""
        taps = self.weight.permute(0, 2, 3, 1)
        met = taps[:, max(top, 0) : max(top + height, 0), max(left, 0) : max(left + width, 0)]
        above, before = min(max(-top, 0), height), min(max(-left, 0), width)
        below, after = height - above - met.shape[1], width - before - met.shape[2]
        return F.pad(met, (0, 0, before, after, above, below)).flatten(1)


def folded(model: nn.Module) -> nn.Module:
    """``model`` with its convolutions computed so; parameters, their names and what they learn stay the same."""
    for layer in model.modules():
        if type(layer) is nn.Conv2d and layer.kernel_size != (1, 1):
            layer.__class__ = SmallMapConv2d
    return model
