"""Last-layer gradients of a joint step, against autograd."""

import torch
from torch.nn import functional as F

from nodes.federated.edge.joint_step import _own_gradients


def test_last_layer_gradients_are_those_of_the_smoothed_loss():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    for smoothing in (0.0, 0.3):
        (expected,) = torch.autograd.grad(F.cross_entropy(logits, labels, label_smoothing=smoothing), logits)
        torch.testing.assert_close(_own_gradients(logits.detach(), labels, 6, smoothing), expected)
