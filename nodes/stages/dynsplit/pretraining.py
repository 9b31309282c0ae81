"""How are a pair of coders trained before the network that they stand in? To give back what they are given.

DynSplit speaks of pre-trained auto-encoders (Fig. 2) and says no more: the mean squared error over activations of the
network as it is, through the quantisation of the wire, by Adam, is our choice.
"""

import torch
from torch import nn

from nodes.stages.bottleneck import quantise_straight_through


def pretrain(
    encoder: nn.Module,
    decoder: nn.Module,
    activations: torch.Tensor,
    *,
    bits: int | None,
    epochs: int,
    batch_size: int,
    seed: int,
    lr: float = 0.01,
) -> list[float]:
    """Train both on ``activations`` (N, C, H, W); the mean error of each epoch. A last batch that is short is left."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=lr)
    encoder.train()
    decoder.train()
    errors = []
    for _ in range(epochs):
        order = torch.randperm(len(activations), generator=generator)
        steps, total = max(1, len(order) // batch_size), 0.0
        for step in range(steps):
            value = activations[order[step * batch_size : (step + 1) * batch_size].to(activations.device)]
            code = encoder(value)
            loss = nn.functional.mse_loss(
                decoder(code if bits is None else quantise_straight_through(code, bits)), value
            )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach())
        errors.append(total / steps)
    return errors
