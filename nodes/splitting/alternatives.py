"""What a chain could do else: the best cost for each place of a cut, the next best splits, and what flips the choice.

``find`` is a search for the chain's objective, such as ``nodes.splitting.search.search``; it gives None if no split is
possible. A cut is fixed by making all other boundaries of its link infinitely dear.
"""

import math
from collections.abc import Callable, Sequence

from nodes.splitting.search import BestSplit, CostTable

Find = Callable[[CostTable], BestSplit | None]  # takes the links' costs [P-1][L+1]
SAME = 1 + 1e-9  # costs within this factor are no reason to change a split
CLOSE = 1.001  # factors are found to a thousandth


def by_split_point(link_costs: CostTable, find: Find) -> list[list[BestSplit | None]]:
    """The best split [P-1][L+1] that leaves each node after each number of layers; None where there is none."""
    return [
        [_possible(find([*link_costs[:p], _fixed(costs, i), *link_costs[p + 1 :]])) for i in range(len(costs))]
        for p, costs in enumerate(link_costs)
    ]


def next_best(curves: Sequence[Sequence[BestSplit | None]], best: BestSplit, most: int) -> list[BestSplit]:
    """The cheapest ``most`` splits of ``by_split_point`` but ``best``: each is best of those with one of its cuts."""
    found = {tuple(one.splits): one for curve in curves for one in curve if one and one.splits != best.splits}
    return sorted(found.values(), key=lambda one: (one.cost, one.splits))[:most]


def flip(other_at: Callable[[float], BestSplit | None], most: float) -> tuple[float, BestSplit] | None:
    """The factor between 1 and ``most`` at which the choice changes, to a thousandth, and what it changes to.

    ``other_at`` gives the split that is chosen at a factor, None while it is the present one. Costs of a split are
    linear in the time of one node or link, so the present one is best on one interval of factors around 1.
    """
    if (other := other_at(most)) is None:
        return None
    near, far = 1.0, most
    while max(near, far) > CLOSE * min(near, far):
        middle = math.sqrt(near * far)
        if found := other_at(middle):
            far, other = middle, found
        else:
            near = middle
    return far, other


def _fixed(costs: Sequence[float], kept: int) -> list[float]:
    return [cost if i == kept else math.inf for i, cost in enumerate(costs)]


def _possible(split: BestSplit | None) -> BestSplit | None:
    return split if split and math.isfinite(split.cost) else None
