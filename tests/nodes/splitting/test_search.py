"""The split search against brute force: all splits, their cost told anew here in exact fractions."""

import math
import random
from fractions import Fraction
from itertools import combinations_with_replacement, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.splitting.search import TIE, follow_stops, move_s, path_cost, search, sink_costs, split_node, transfer_s

Case = dict[str, Any]


def holder(splits: tuple[int, ...], layer: int) -> int:
    """The node (from 0) that computes ``layer`` (from 0)."""
    return sum(split <= layer for split in splits)


def oracle_cost(case: Case, splits: tuple[int, ...]) -> Fraction:
    """The cost of ``splits``, told layer by layer and link by link, without rounding."""
    layers = len(case["boundary_bytes"]) - 1
    total = sum((Fraction(case["compute_s"][holder(splits, layer)][layer]) for layer in range(layers)), Fraction(0))
    for link, (rate, delay) in enumerate(case["links"]):
        done = splits[link]
        if done < layers or case["boundary_bytes"][layers] > 0:
            total += Fraction(8 * case["boundary_bytes"][done]) / rate + delay
            if case["gradient_bytes"] is not None:
                total += Fraction(8 * case["gradient_bytes"][done]) / rate + delay
        if case["current_splits"] is not None:
            moved = 0
            for layer in range(layers):
                old, new = holder(case["current_splits"], layer), holder(splits, layer)
                if min(old, new) <= link < max(old, new):
                    moved += case["parameter_bytes"][layer]
            total += Fraction(8 * moved) / rate + (delay if moved else 0)
    return total


def all_splits(case: Case) -> list[tuple[int, ...]]:
    return list(combinations_with_replacement(range(len(case["boundary_bytes"])), len(case["links"])))


def costs(case: Case, scale: float = 1.0) -> tuple[list[list[float]], list[list[float]]]:
    """The case as ``search`` wants it; every cost times ``scale``, so that sums round."""
    link_costs = []
    for p, (rate, delay) in enumerate(case["links"]):
        seconds = transfer_s(case["boundary_bytes"], rate, delay, case["gradient_bytes"])
        moves = [0.0] * len(seconds)
        if case["current_splits"] is not None:
            moves = move_s(case["parameter_bytes"], case["current_splits"][p], rate, delay)
        link_costs.append([scale * second + scale * move for second, move in zip(seconds, moves, strict=True)])
    return [[scale * second for second in row] for row in case["compute_s"]], link_costs


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small chains of small whole numbers, so that equal optima are common."""
    nodes, layers = draw(st.integers(1, 4)), draw(st.integers(1, 5))

    def numbers(count: int, most: int) -> Any:
        return st.lists(st.integers(0, most), min_size=count, max_size=count)

    current = draw(st.none() | numbers(nodes - 1, layers))
    return {
        "compute_s": [draw(numbers(layers, 3)) for _ in range(nodes)],
        "boundary_bytes": draw(numbers(layers + 1, 3)),
        "links": [(draw(st.sampled_from([2, 4, 8, 24])), draw(st.integers(0, 2))) for _ in range(nodes - 1)],
        "gradient_bytes": draw(st.none() | numbers(layers + 1, 3)),
        "parameter_bytes": draw(numbers(layers, 2)),
        "current_splits": None if current is None else tuple(sorted(current)),
    }


@settings(max_examples=300)
@given(cases(), st.sampled_from([1.0, 0.1, 1 / 3, 1e-9, 7e11]))
def test_the_search_finds_of_all_optima_the_one_that_finishes_earliest(case: Case, scale: float) -> None:
    oracle = {splits: oracle_cost(case, splits) for splits in all_splits(case)}
    for splits, cost in oracle.items():
        assert path_cost(*costs(case, scale), splits) == pytest.approx(scale * float(cost), rel=1e-14)
    least = min(oracle.values())
    optima = [splits for splits, cost in oracle.items() if cost == least]
    found = search(*costs(case, scale))
    assert tuple(found.splits) == max(optima)
    assert found.cost == pytest.approx(scale * float(least), rel=1e-14)
    for other in optima:  # no optimum is ahead of it anywhere along the chain
        assert all(mine >= theirs for mine, theirs in zip(found.splits, other, strict=True))


@settings(max_examples=100)
@given(cases())
def test_a_nodes_vector_is_the_least_cost_of_what_its_part_of_the_chain_still_has_to_do(case: Case) -> None:
    layer_costs, link_costs = costs(case)
    layers = len(case["boundary_bytes"]) - 1
    downstream = sink_costs(layers)
    for p in reversed(range(1, len(layer_costs))):
        downstream = split_node(layer_costs[p], link_costs[p - 1], downstream).cost
        for start, cost in enumerate(downstream):
            ways = []
            for rest in combinations_with_replacement(range(start, layers + 1), len(layer_costs) - 1 - p):
                done = [start, *rest, layers]
                parts = [sum(layer_costs[p + k][a:b]) for k, (a, b) in enumerate(pairwise(done))]
                ways.append(sum(parts) + sum(link_costs[p - 1 + k][a] for k, a in enumerate(done[:-1])))
            assert cost == pytest.approx(min(ways), rel=1e-13)


@settings(max_examples=50)
@given(cases(), st.integers(0, 2**32))
def test_updates_told_in_any_order_lead_to_the_central_split(case: Case, seed: int) -> None:
    """Each node updates from the newest it has heard, whenever; links change meanwhile; at last all is as searched."""
    generator = random.Random(seed)
    layer_costs, link_costs = costs(case)
    layers, last = len(layer_costs[0]), len(layer_costs) - 1
    arriving = [[0.0] * (layers + 1), *link_costs]
    known = [[generator.random() for _ in range(layers + 1)] for _ in range(last)]  # of costs that are long gone
    known.append(sink_costs(layers))
    stops = [[0]] * (last + 1)
    under_way: list[tuple[int, int, list[float]]] = []  # (receiver, number, vector)
    heard = [-1] * (last + 1)

    def update(p: int, number: int) -> None:
        cost, stops[p] = split_node(layer_costs[p], arriving[p], known[p])
        if p:
            under_way.append((p - 1, number, cost))

    number = 0
    for p in range(last + 1):
        update(p, number)
    while under_way:
        receiver, sent, vector = under_way.pop(generator.randrange(len(under_way)))
        if sent > heard[receiver]:
            heard[receiver], known[receiver] = sent, vector
            number += 1
            update(receiver, number)
    splits = []
    for p in range(last):
        splits.append(stops[p][splits[-1] if splits else 0])
    assert splits == search(layer_costs, link_costs).splits


@settings(max_examples=200)
@given(cases(), st.lists(st.booleans(), min_size=36, max_size=36))
def test_what_costs_infinity_is_avoided_and_hides_nothing(case: Case, infinite: list[bool]) -> None:
    layer_costs, link_costs = costs(case)
    which = iter(infinite)
    layer_costs = [[math.inf if next(which) else cost for cost in row] for row in layer_costs]
    link_costs = [[math.inf if next(which, False) else cost for cost in row] for row in link_costs]
    oracle = {splits: path_cost(layer_costs, link_costs, splits) for splits in all_splits(case)}
    found = search(layer_costs, link_costs)
    assert found.cost == min(oracle.values())
    assert found.cost == math.inf or tuple(found.splits) == max(s for s, cost in oracle.items() if cost == found.cost)


@st.composite
def relayed(draw: st.DrawFn) -> tuple[list[list[float]], list[list[float]], list[float]]:
    """Chains with relays, of which all layers cost infinity, with links that cannot carry some boundaries, and queues.

    Costs are multiples of 1/4, so that sums are exact.
    """
    nodes, layers = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    cost = st.integers(0, 12).map(lambda quarters: quarters / 4)

    def row(width: int, odd: st.SearchStrategy[float]) -> st.SearchStrategy[list[float]]:
        return st.lists(cost | odd, min_size=width, max_size=width)

    relay = st.just([math.inf] * layers)
    layer_costs = [draw(row(layers, cost) | relay | row(layers, st.just(math.inf))) for _ in range(nodes)]
    link_costs = [draw(row(layers + 1, st.just(math.inf))) for _ in range(nodes - 1)]
    return layer_costs, link_costs, draw(row(nodes, cost))


@settings(max_examples=300)
@given(relayed())
def test_relays_and_queues_leave_the_least_cost_of_all_splits(
    chain: tuple[list[list[float]], list[list[float]], list[float]],
) -> None:
    """Brute force: every split's layers and links, and a node's wait wherever it computes at least one layer."""
    layer_costs, link_costs, waits = chain
    layers, nodes = len(layer_costs[0]), len(layer_costs)
    oracle = {}
    for splits in combinations_with_replacement(range(layers + 1), nodes - 1):
        spans = list(pairwise([0, *splits, layers]))
        waited = sum(wait for wait, (start, stop) in zip(waits, spans, strict=True) if stop > start)
        oracle[splits] = path_cost(layer_costs, link_costs, splits) + waited
    least = min(oracle.values())
    downstream, stops = sink_costs(layers), []
    for layer_cost, link_cost, wait in zip(
        reversed(layer_costs), [*reversed(link_costs), [0.0] * (layers + 1)], reversed(waits), strict=True
    ):
        downstream, stop = split_node(layer_cost, link_cost, downstream, wait)
        stops.append(stop)
    assert downstream[0] == least
    if least < math.inf:
        assert oracle[tuple(follow_stops(stops[::-1]))] == least
    if not any(waits):
        found = search(layer_costs, link_costs)
        assert found.cost == least
        assert least == math.inf or tuple(found.splits) == max(way for way, cost in oracle.items() if cost == least)


def test_a_queue_is_paid_once_and_only_where_a_layer_is_computed() -> None:
    """Two layers of 1 s each behind a queue, or 4.5 s for both at the next node and 2.75 s for the second alone."""
    node = split_node([1.0, 1.0], [0.0, 0.0, 0.0], [4.5, 2.75, 0.0], wait=3.0)
    assert (node.cost, node.stop) == ([4.5, 2.75, 0.0], [0, 1, 2])
    node = split_node([1.0, 1.0], [0.0, 0.0, 0.0], [4.5, 2.75, 0.0], wait=2.0)
    assert (node.cost, node.stop) == ([4.0, 2.75, 0.0], [2, 1, 2])


def test_a_node_continues_where_the_task_left_its_neighbour() -> None:
    node = split_node([1.0, 5.0, 1.0], [0.5, 0.25, 0.125, 0.0], [9.0, 3.0, 9.0, 0.0])
    assert (node.stop, node.cost) == ([1, 1, 3, 3], [4.5, 3.25, 1.125, 0.0])


def test_sums_are_compared_and_rounded_as_if_they_were_exact() -> None:
    assert 0.3 + (0.2 + 0.1) > 0.6  # as floats
    assert search([[0.3, 0.2, 0.1], [0.0, 0.0, 0.6]], [[0.0] * 4]).splits == [3]
    assert split_node([TIE], [0.0, 0.0], [1.0, 0.0]).stop == [1, 1]
    assert split_node([math.nextafter(TIE, 2)], [0.0, 0.0], [1.0, 0.0]).stop == [0, 1]
    assert search([[1 + 1e-11], [1.0]], [[0.0, 0.0]]).splits == [0]
    assert search([[0.1] * 10], []).cost == 1.0
    slow, fast = [1e9, 1.3e-9], [0.0, 1.1e-9]
    node = split_node(slow, [0.0] * 3, split_node(fast, [0.0] * 3, sink_costs(2)).cost)
    assert node.cost[1] == 1.1e-9  # a small cost after a large one keeps its digits


def test_a_link_carries_what_is_left_its_gradients_and_moved_layers() -> None:
    assert transfer_s([4, 2, 0], rate_bps=16, delay_s=0.5) == [2.5, 1.5, 0.0]
    assert transfer_s([4, 0, 2], rate_bps=16, delay_s=0.5) == [2.5, 0.5, 1.5]
    assert transfer_s([4, 2, 0], 16, 0.5, gradient_bytes=[0, 2, 8]) == [3.0, 3.0, 0.0]
    assert transfer_s([4, 2, 2], 16, 0.5, gradient_bytes=[0, 2, 8]) == [3.0, 3.0, 6.0]
    assert move_s([2, 0, 4], current_split=2, rate_bps=16, delay_s=0.5) == [1.5, 0.0, 0.0, 2.5]


@pytest.mark.parametrize(
    ("capacity", "splits", "cost"), [(1, [0, 1], 0.6 + 1 + 0.5 / 3 + 0.5), (0.1, [0, 3], 0.6 + 5.5 / 3)]
)
def test_the_papers_example_of_three_layers_on_three_nodes(capacity: float, splits: list[int], cost: float) -> None:
    """HiveMind, section III, Fig. 2: loads over capacities; the MEC takes over as the cloud's link slows."""
    layer_costs = [[load / speed for load in (0.5, 1, 4)] for speed in (1, 3, 10)]
    link_costs = [[load / speed for load in (1.2, 1, 4)] + [0.0] for speed in (2, capacity)]
    found = search(layer_costs, link_costs)
    assert found.splits == splits
    assert found.cost == pytest.approx(cost, rel=1e-15)
