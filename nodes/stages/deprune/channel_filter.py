"""Deprune's channel filter: learned strengths of the feature maps, of which the strongest cross.

Deprune, section 3.1: each map is multiplied by its strength f = sigmoid(f_hat). Eq. 1 draws the sum of all strengths to
the budget B (soft); only the B strongest maps are sent (hard). We read "larger than B entries" as top-B, since as
printed it would keep all but B, and "entries greater than 1" in resetting, which no sigmoid gives, as the kept ones.

A map that is not sent gets only the gradient of Eq. 1, which is equal for all strengths. So the maps left out keep
their order, and one enters only when the task pushes a kept map below it, never because it would serve better.
"""

from typing import Literal, get_args

import torch
from torch import nn

WIDEST, OPEN = 15.0, 0.9  # of f_hat in the authors' code: the largest value, and the least of an open map

# What the authors' code does otherwise than the paper prints it.
Fact = Literal[
    "sigmoid",  # one more sigmoid behind the encoder's batch norm
    "uniform",  # f_hat starts from 0 to WIDEST
    "squared",  # Eq. 1 sums the squares of the strengths
    "thrice",  # maps are multiplied by their strengths, and after the coding by their squares, as constants
    "half",  # maps cross in half precision
    "norm",  # batch norm of the coders has momentum 0.03 and epsilon 1e-4
    "frozen",  # where all maps cross, strengths act once, Eq. 1 is left out, and f_hat does not learn
    "opened",  # a reset opens all maps, see ``ChannelFilter.open``
]
FACTS: tuple[Fact, ...] = get_args(Fact)


class ChannelFilter(nn.Module):
    """Strengths (count,) of the maps; f_hat starts from a standard normal distribution (our assumption).

    ``uniform`` draws f_hat from 0 to WIDEST instead, as the authors' code does: the largest strengths are then
    saturated, so the maps that are kept are those of the first draw.
    """

    def __init__(self, count: int, uniform: bool = False) -> None:
        super().__init__()
        self.f_hat = nn.Parameter(WIDEST * torch.rand(count) if uniform else torch.randn(count))

    def forward(self) -> torch.Tensor:
        return self.f_hat.sigmoid()

    @torch.no_grad()
    def reset(self, which: torch.Tensor, generator: torch.Generator) -> None:
        """Draw f_hat of the maps ``which`` again (resetprune in Algorithm 3)."""
        self.f_hat[which] = torch.randn(len(which), generator=generator).to(self.f_hat.device)

    @torch.no_grad()
    def open(self, generator: torch.Generator) -> None:
        """Set every f_hat to WIDEST, but draw those below OPEN from 0 to WIDEST (the code's reset in deprune)."""
        drawn = (WIDEST * torch.rand(len(self.f_hat), generator=generator)).to(self.f_hat.device)
        self.f_hat.copy_(drawn.where(self.f_hat < OPEN, WIDEST))


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
