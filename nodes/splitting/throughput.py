"""Split for the most tasks a second of a pipeline: the least time of its slowest stage.

A pipeline has a task at every stage at once. A node is a stage, and so is a link while it sends: its delay holds no
task up. The slowest stage sets the time between two results. HiveMind minimises the latency of one task; this
objective is that of PipeDream (Narayanan et al., SOSP 2019), without copies of stages.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from math import fsum, inf

import torch
from torch import Tensor

from nodes.splitting.objectives import ChainMetric, Limit, search_within
from nodes.splitting.search import TIE, BestSplit

LastStops = Sequence[Sequence[int]]  # [P][L+1], see ``search_within``


def search_throughput(
    stages: ChainMetric, latency: ChainMetric, limits: Sequence[Limit] = (), last_stops: LastStops | None = None
) -> BestSplit | None:
    """The split with the fastest slowest stage, whose seconds are its cost, and of several the one of least latency.

    ``stages`` are the seconds that each layer keeps its node and each boundary its link busy. Limits as in
    ``search_within``. None if no split is within them.
    """
    spans = [_spans(row) for row in stages.layers]
    sending_s = torch.tensor(stages.links, dtype=torch.float64)
    times = torch.cat([seconds.flatten() for seconds in (*spans, sending_s)])
    finite = times[times < inf].sort().values.tolist()

    def within(most_s: float) -> BestSplit | None:
        bound = most_s * TIE
        links = [
            [cost if busy <= bound else inf for cost, busy in zip(row, column, strict=True)]
            for row, column in zip(latency.links, stages.links, strict=True)
        ]
        stops = [_last_stops(span, bound) for span in spans]
        if last_stops is not None:
            stops = [list(map(min, row, other)) for row, other in zip(stops, last_stops, strict=True)]
        return search_within(ChainMetric(latency.layers, links), limits, stops)

    first = bisect_left(finite, True, key=lambda most_s: within(most_s) is not None)
    if first == len(finite):
        return None
    found = within(finite[first])
    assert found is not None
    return BestSplit(slowest_stage(stages, found.splits), found.splits)


def slowest_stage(stages: ChainMetric, splits: Sequence[int]) -> float:
    """The seconds of the slowest stage of ``splits`` [P-1]."""
    done = [0, *splits, len(stages.layers[0])]
    nodes = [fsum(row[start:stop]) for row, (start, stop) in zip(stages.layers, pairwise(done), strict=True)]
    return max([*nodes, *(row[split] for row, split in zip(stages.links, splits, strict=True))])


def stops_within(sizes: Sequence[float], most: float) -> list[int]:
    """The last boundary [L+1] up to which layers from each boundary on add up to at most ``most``."""
    return _last_stops(_spans(sizes), most)


def _spans(costs: Sequence[float]) -> Tensor:
    """Sums [L+1, L+1] of the costs between two boundaries; infinite where the second is before the first."""
    row = torch.tensor(costs, dtype=torch.float64)
    boundary = torch.arange(len(costs) + 1)
    sums = row.repeat(len(boundary), 1).masked_fill(boundary[:-1] < boundary[:, None], 0.0).cumsum(1)
    return torch.nn.functional.pad(sums, (1, 0)).masked_fill(boundary < boundary[:, None], inf)


def _last_stops(spans: Tensor, most: float) -> list[int]:
    within: list[int] = (torch.arange(len(spans)) + (spans <= most).triu().sum(1) - 1).tolist()
    return within
