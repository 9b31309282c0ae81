"""Residual networks in torchvision's layout, at a fraction of its width."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from nodes.zoo.small_maps import folded


class Residual(nn.Module):
    """A basic residual block, or one with a bottleneck of a quarter of its ``outputs``."""

    def __init__(self, inputs: int, outputs: int, stride: int, bottleneck: bool) -> None:
        super().__init__()
        inner = outputs // 4 if bottleneck else outputs
        shape = [(inputs, inner, 1), (inner, inner, 3), (inner, outputs, 1)]
        if not bottleneck:
            shape = [(inputs, outputs, 3), (outputs, outputs, 3)]
        strided = 1 if bottleneck else 0
        layers: list[nn.Module] = []
        for index, (one, other, kernel) in enumerate(shape):
            step = stride if index == strided else 1
            layers += [nn.Conv2d(one, other, kernel, step, kernel // 2, bias=False), nn.BatchNorm2d(other), nn.ReLU()]
        self.body = nn.Sequential(*layers[:-1])
        same = stride == 1 and inputs == outputs
        across = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.shortcut = nn.Identity() if same else nn.Sequential(across, nn.BatchNorm2d(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


class ThinResNet(nn.Sequential):
    """A residual network of four groups of ``blocks``, with torchvision's names and stem of ``width`` channels."""

    def __init__(self, blocks: Sequence[int], bottleneck: bool, classes: int, width: int) -> None:
        super().__init__()
        self.add_module("conv1", nn.Conv2d(3, width, 7, 2, 3, bias=False))
        self.add_module("bn1", nn.BatchNorm2d(width))
        self.add_module("relu", nn.ReLU())
        self.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
        channels = width
        for group, count in enumerate(blocks):
            outputs = width * 2**group
            made = []
            for index in range(count):
                made.append(Residual(channels, outputs, 2 if group and not index else 1, bottleneck))
                channels = outputs
            self.add_module(f"layer{group + 1}", nn.Sequential(*made))
        self.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
        self.add_module("flatten", nn.Flatten())
        self.add_module("fc", nn.Linear(channels, classes))


def thin_resnet18(classes: int = 10) -> nn.Module:
    """ResNet-18's blocks at a quarter of its width."""
    return ThinResNet((2, 2, 2, 2), False, classes, 16)


def thin_resnet50(classes: int = 10) -> nn.Module:
    """ResNet-50's blocks at a sixteenth of its width."""
    return ThinResNet((3, 4, 6, 3), True, classes, 16)


def thin_resnet101(classes: int = 10) -> nn.Module:
    """ResNet-101's blocks at a sixteenth of its width."""
    return ThinResNet((3, 4, 23, 3), True, classes, 16)


def group_resnet18(classes: int = 10, groups: int = 32) -> nn.Module:
    """torchvision's ResNet-18 with group norm in the place of batch norm: a sample's result depends on no other."""
    from torchvision.models import resnet18  # noqa: PLC0415  (takes seconds to import)

    model: nn.Module = resnet18(num_classes=classes, norm_layer=partial(nn.GroupNorm, groups))
    return model


def folded_resnet18(classes: int = 10, groups: int | None = None) -> nn.Module:
    """torchvision's ResNet-18, or ``group_resnet18`` with ``groups``, computed faster for small pictures.

    Parameters, outputs and training are the same but for rounding. At 32x32 the last seven convolutions with a kernel
    of 3x3 see maps of 2x2 and 1x1 pixels, where ``SmallMapConv2d`` leaves out the taps that lie in the padding.
    """
    from torchvision.models import resnet18  # noqa: PLC0415  (takes seconds to import)

    return folded(group_resnet18(classes, groups) if groups else resnet18(num_classes=classes))


def cifar_resnet18(classes: int = 10) -> nn.Module:
    """torchvision's ResNet-18 with a stem for small pictures: 3x3, stride 1, no pooling."""
    from torchvision.models import resnet18  # noqa: PLC0415  (takes seconds to import)

    model: nn.Module = resnet18(num_classes=classes)
    model.conv1, model.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    return model
