"""Which feature maps cross, and how is that learned? Deprune's filter, its soft budget and its hard one.

Deprune, section 3.1. Every map (or feature, where none is a picture) has a strength f = sigmoid(f_hat), by which it
is multiplied. Eq. 1 draws the sum of all strengths to the budget B; the B strongest maps are sent, no others.
"Larger than B entries" is read as top-B: as printed it would keep all but B. Where resetting speaks of "entries
greater than 1", which no sigmoid gives, the kept ones are meant.

What this can learn is less than it seems. A map that is not sent gets no gradient but Eq. 1's, which is the same
for all strengths and moves f_hat by an increasing function of itself: so the maps left out keep their order, and
one comes in only when the task pushes a kept one below it, never because it would serve better.
"""

import torch
from torch import nn


class ChannelFilter(nn.Module):
    """The strengths (count,) of as many maps; f_hat is drawn from a standard normal distribution (our assumption)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.f_hat = nn.Parameter(torch.randn(count))

    def forward(self) -> torch.Tensor:
        return self.f_hat.sigmoid()

    @torch.no_grad()
    def reset(self, which: torch.Tensor, generator: torch.Generator) -> None:
        """Algorithm 3's resetprune: draw f_hat of the maps ``which`` anew, as at the beginning."""
        drawn = torch.randn(len(which), generator=generator)
        self.f_hat[which] = drawn.to(self.f_hat.device)


def strongest_maps(strengths: torch.Tensor, budget: int) -> torch.Tensor:
    """The ``budget`` largest of ``strengths`` (count,) by number, ascending; of equal ones the first."""
    order = strengths.detach().sort(descending=True, stable=True).indices
    return order[:budget].sort().values


def prune_loss(strengths: torch.Tensor, budget: int, delta: float, barrier: float) -> torch.Tensor:
    """Eq. 1: exp(delta·excess) + lambda·exp(-delta·excess), ``excess`` the sum of ``strengths`` less the budget.

    ``barrier`` is lambda, from 0 to 1. The least value is at the budget if it is 1, below it else.
    """
    excess = delta * (strengths.sum() - budget)
    return excess.exp() + barrier * (-excess).exp()
