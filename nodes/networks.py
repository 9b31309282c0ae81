"""Which networks does the project bring itself? Small ones, for runs that are to end in seconds."""

import itertools

from torch import nn


def small_cnn(classes: int = 10, width: int = 32) -> nn.Module:
    """Three convolutions (3x3, ``width``, 2 and 4 times it) with batch norm and pooling, dropout, one linear layer."""
    channels = (3, width, 2 * width, 4 * width)
    blocks: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(channels):
        blocks += [
            nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.MaxPool2d(2),
        ]
    return nn.Sequential(
        *blocks, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * width, classes)
    )
