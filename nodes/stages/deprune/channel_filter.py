"""Deprune's channel filter: learned strengths of the feature maps, of which the strongest cross.

Deprune, section 3.1: each map is multiplied by its strength f = sigmoid(f_hat). Eq. 1 draws the sum of all strengths to
the budget B (soft); only the B strongest maps are sent (hard). We read "larger than B entries" as top-B, since as
printed it would keep all but B, and "entries greater than 1" in resetting, which no sigmoid gives, as the kept ones.

A map that is not sent gets only the gradient of Eq. 1, which is equal for all strengths. So the maps left out keep
their order, and one enters only when the task pushes a kept map below it, never because it would serve better.
"""

import torch
from torch import nn


class ChannelFilter(nn.Module):
    """Strengths (count,) of the maps; f_hat starts from a standard normal distribution (our assumption)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.f_hat = nn.Parameter(torch.randn(count))

    def forward(self) -> torch.Tensor:
        return self.f_hat.sigmoid()

    @torch.no_grad()
    def reset(self, which: torch.Tensor, generator: torch.Generator) -> None:
        """Draw f_hat of the maps ``which`` again (resetprune in Algorithm 3)."""
        self.f_hat[which] = torch.randn(len(which), generator=generator).to(self.f_hat.device)


def strongest_maps(strengths: torch.Tensor, budget: int) -> torch.Tensor:
    """Numbers of the ``budget`` largest of ``strengths`` (count,), ascending; of equal ones the first."""
    order = strengths.detach().sort(descending=True, stable=True).indices
    return order[:budget].sort().values


def prune_loss(strengths: torch.Tensor, budget: int, delta: float, barrier: float) -> torch.Tensor:
    """Eq. 1: exp(delta·excess) + lambda·exp(-delta·excess), ``excess`` the sum of ``strengths`` less the budget.

    ``barrier`` is lambda, from 0 to 1. The minimum is at the budget for 1, below it otherwise.
    """
    excess = delta * (strengths.sum() - budget)
    return excess.exp() + barrier * (-excess).exp()
