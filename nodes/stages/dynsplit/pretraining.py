"""Pre-training of an encoder and a decoder to reconstruct their input, before the network trains with them.

DynSplit mentions pre-trained auto-encoders (Fig. 2) without details. Adam on the mean squared error over activations
of the untrained network, through the quantisation of the wire, is our choice.
"""

import torch
from torch import nn

from nodes.stages.bottleneck import quantise_straight_through

LEARNING_RATE = 0.01


def pretrain(
    encoder: nn.Module,
    decoder: nn.Module,
    activations: torch.Tensor,
    *,
    bits: int | None,
    epochs: int,
    batch_size: int,
    seed: int,
) -> list[float]:
    """Train both on ``activations`` (N, C, H, W); return the mean error of each epoch. Drops a short last batch."""
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=LEARNING_RATE)
    encoder.train()
    decoder.train()
    errors = []
    for _ in range(epochs):
        order = torch.randperm(len(activations), generator=generator)
        steps, total = max(1, len(order) // batch_size), 0.0
        for step in range(steps):
            value = activations[order[step * batch_size : (step + 1) * batch_size].to(activations.device)]
            code = encoder(value)
            crossed = code if bits is None else quantise_straight_through(code, bits)
            loss = nn.functional.mse_loss(decoder(crossed), value)
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
            total += float(loss.detach())
        errors.append(total / steps)
    return errors
