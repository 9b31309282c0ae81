"""VGG-11 as wide as the paper's up to cut 5, and next to nothing behind it."""

from torch import nn


def wide_beginning(classes: int = 10) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, classes))
