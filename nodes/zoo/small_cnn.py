"""Small networks for runs of seconds: a CNN, a recurrent sequence labeller, and an agent of QMIX."""

import itertools
from typing import Any, cast

import torch
from torch import nn


def small_cnn(classes: int = 10, width: int = 32) -> nn.Module:
    """Three convolutions (3x3, ``width``, 2 and 4 times it) with batch norm and pooling, dropout, one linear layer."""
    channels = (3, width, 2 * width, 4 * width)
    blocks: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(channels):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
        blocks += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2)]
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * width, classes)]
    return nn.Sequential(*blocks, *head)


class SequenceLabeller(nn.Module):
    """Stacked GRU cells and a linear read-out, unrolled over ``steps``, with a label for each step.

    (N, 1, steps, features) to (N, steps, classes). All steps share the cells' parameters, which are frozen, so both
    sides of any cut may hold them. The first two layers of its chain separate the steps, then come ``cells + 1`` layers
    a step, and the last joins the labels (HiveMind, section VI-A).
    """

    def __init__(self, steps: int, features: int, hidden: int, cells: int, classes: int) -> None:
        super().__init__()
        self._steps = steps
        inputs = [features, *[hidden] * (cells - 1)]
        self.cells = nn.ModuleList(nn.GRUCell(size, hidden) for size in inputs)
        self.readout = nn.Linear(hidden, classes)
        self.requires_grad_(False)

    def forward(self, sequences: torch.Tensor) -> torch.Tensor:
        """The scores of the labels of each step of ``sequences``."""
        # Copies, so that a cut sends only the remaining steps. (The stub declares no return value.)
        steps_in = cast(Any, torch.unbind_copy)(sequences.squeeze(1), 1)
        inputs = [steps_in[step] for step in range(self._steps)]
        states: list[torch.Tensor | None] = [None] * len(self.cells)
        labels = []
        for value in inputs:
            for number, cell in enumerate(self.cells):
                value = states[number] = cell(value, states[number])  # noqa: PLW2901
            labels.append(self.readout(value))
        return torch.stack(labels, 1)


def sequence_labeller(classes: int = 10) -> SequenceLabeller:
    """HiveMind's recurrent model of 200 GRU modules; its sizes are our assumption. Inputs are 1 x 200 x 64."""
    return SequenceLabeller(steps=200, features=64, hidden=64, cells=1, classes=classes)


def recurrent_agent(classes: int = 14) -> nn.Module:
    """One step of a QMIX agent: observation 1 x 1 x 80 to ``classes`` action values (assumed: a small battle)."""
    return nn.Sequential(nn.Flatten(), nn.Linear(80, 64), nn.ReLU(), nn.GRUCell(64, 64), nn.Linear(64, classes))
