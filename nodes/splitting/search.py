"""Search of the cheapest split of a model over a chain of nodes, by split-cost information (SCI).

HiveMind, section IV-C. A boundary i means "i layers are done". Node p knows its layers' costs t_l, the costs
e_i of its incoming link at each boundary, and its downstream neighbour's costs V'_i from each boundary on:

    V_i = e_i + G_i,    G_i = min(V'_i, t_{i+1} + G_{i+1}),    G_L = V'_L

that is, hand the task on, or compute one more layer. V is the node's SCI, all that its upstream neighbour needs.
It includes the incoming link, as in Algorithm 1. Two departures from that algorithm: a node takes O(L), not O(L^2),
and subtracts nothing, so the relative error of a cost is at most (layers + 2 nodes) * 2^-53 and costs may be
infinite; and each boundary pays its own incoming transfer (line 13 of Algorithm 1 keeps that of the first boundary).

A node with a queue (our addition) makes a task wait before its first layer there, whatever the boundary; one that is
handed on does not wait. This adds a fixed cost to computing at all, and the update stays O(L).

Costs are seconds, or any weighted sum that is never negative (Eq. 11). Without queues a path's cost is a sum of terms
that each depend on one node's split: of two optima, the later split at each node is optimal too. The one ahead of all
is returned.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from math import fsum, inf
from typing import NamedTuple

CostTable = Sequence[Sequence[float]]  # of each layer by node, or of each boundary by link
TIE = 1 + 1e-12  # costs within this factor count as equal: more than the rounding error of 8,000 terms


class NodeSplit(NamedTuple):
    """One node's result for each boundary i [L+1] at which a task may reach it."""

    cost: list[float]  # the least cost from boundary i on, incoming link included: the SCI vector
    stop: list[int]  # layers done when the task leaves this node


class BestSplit(NamedTuple):
    """The best split: its cost and the layers done when the task leaves node 1 to P-1."""

    cost: float
    splits: list[int]


def transfer_s(
    boundary_bytes: Sequence[float], rate_bps: float, delay_s: float, gradient_bytes: Sequence[float] | None = None
) -> list[float]:
    """Seconds [L+1] that a link takes for the data of each boundary: 8 * bytes / rate + delay (HiveMind, Eq. 10).

    The paper's psi may differ by boundary; here it is one ``delay_s``. In training ``gradient_bytes`` [L+1] return over
    the same link (epsilon' in Eq. 8), each with a delay of its own, even if empty. With no result to deliver (0 of
    ``boundary_bytes`` at L) a finished task leaves the link unused, in both directions.
    """
    trips = [boundary_bytes] if gradient_bytes is None else [boundary_bytes, gradient_bytes]
    times = [8 * sum(sizes) / rate_bps + len(trips) * delay_s for sizes in zip(*trips, strict=True)]
    return times if boundary_bytes[-1] else [*times[:-1], 0.0]


def move_s(parameter_bytes: Sequence[float], current_split: int, rate_bps: float, delay_s: float) -> list[float]:
    """Seconds [L+1] to move parameters over a link if its split changes from ``current_split`` to each boundary.

    A layer, of ``parameter_bytes`` [L], moves over all links between its old and its new node (eta in HiveMind, Eq. 8,
    which leaves it open). So it crosses a link exactly if it lies between that link's old and new split: moving is one
    more cost of each link. The layers that cross a link go in one message; without layers there is no delay.
    """
    before = list(accumulate(parameter_bytes, initial=0.0))  # exact: whole bytes below 2^53
    sizes = [abs(size - before[current_split]) for size in before]
    return [8 * size / rate_bps + delay_s if size else 0.0 for size in sizes]


def sink_costs(layers: int) -> list[float]:
    """The downstream costs [L+1] of the last node: no layer is computed beyond it."""
    return [*([inf] * layers), 0.0]


def split_node(
    layer_cost: Sequence[float], link_cost: Sequence[float], downstream: Sequence[float], wait: float = 0.0
) -> NodeSplit:
    """One SCI update of one node (HiveMind, Algorithm 1), in O(L). Of equal costs it computes rather than hands on.

    ``layer_cost`` [L] is the node's, ``link_cost`` [L+1] that of its incoming link at each boundary (zeros at the first
    node), ``downstream`` [L+1] the SCI of the downstream neighbour (``sink_costs`` at the last node). ``wait`` is the
    cost of the node's queue, paid once by a task that computes at least one layer here.
    """
    stop = len(layer_cost)
    rest = downstream[stop]  # cost of a task that computes here already
    cost, stops = [link_cost[stop] + rest], [stop]
    for i in range(stop - 1, -1, -1):
        rest += layer_cost[i]
        hand_on = downstream[i]
        begun = wait + rest
        cost.append(link_cost[i] + min(begun, hand_on))
        stops.append(i if begun > hand_on * TIE else stop)
        if rest > hand_on:
            if rest > hand_on * TIE:
                stop = i
            rest = hand_on
    return NodeSplit(cost[::-1], stops[::-1])


def search(layer_costs: CostTable, link_costs: CostTable) -> BestSplit:
    """The cheapest split of a chain, by the updates of all its nodes (HiveMind, section IV-C), in O(P L).

    ``layer_costs`` [P][L] are by node and layer, ``link_costs`` [P-1][L+1] by link and boundary. Of equal optima the
    one that is ahead at every node is returned.
    """
    layers = len(layer_costs[0])
    downstream, stops = sink_costs(layers), []
    for layer_cost, link_cost in zip(reversed(layer_costs), [*reversed(link_costs), [0.0] * (layers + 1)], strict=True):
        downstream, stop = split_node(layer_cost, link_cost, downstream)
        stops.append(stop)
    splits = follow_stops(stops[::-1])
    return BestSplit(path_cost(layer_costs, link_costs, splits), splits)


def follow_stops(stops: Iterable[Sequence[int]]) -> list[int]:
    """The splits [P-1] of a task; node p of P stops at ``stops[p][i]`` if it receives the task at boundary i."""
    _, *splits, _ = accumulate(stops, lambda start, stop: stop[start], initial=0)
    return splits


def path_cost(layer_costs: CostTable, link_costs: CostTable, splits: Sequence[int]) -> float:
    """The cost of the split ``splits`` [P-1], rounded once."""
    done = [0, *splits, len(layer_costs[0])]
    layers = (cost for p, costs in enumerate(layer_costs) for cost in costs[done[p] : done[p + 1]])
    return fsum([*layers, *(costs[split] for costs, split in zip(link_costs, splits, strict=True))])
