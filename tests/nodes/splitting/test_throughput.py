"""Limits, room on nodes and a pipeline's slowest stage, against brute force over all splits."""

from itertools import combinations_with_replacement, pairwise
from math import inf
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodes.splitting.objectives import ChainMetric, Limit, search_within
from nodes.splitting.search import path_cost
from nodes.splitting.throughput import search_throughput, slowest_stage, stops_within

Splits = tuple[int, ...]


class Chain(NamedTuple):
    """Three metrics, sizes of layers, and room of nodes, of one small chain with relays."""

    metrics: list[ChainMetric]
    sizes: list[float]
    rooms: list[float]

    @property
    def splits(self) -> list[Splits]:
        layers, links = len(self.sizes), len(self.rooms) - 1
        return list(combinations_with_replacement(range(layers + 1), links))

    def held(self, splits: Splits) -> list[float]:
        """What each node holds."""
        return [sum(self.sizes[start:stop]) for start, stop in pairwise([0, *splits, len(self.sizes)])]

    def fits(self, splits: Splits) -> bool:
        return all(held <= room for held, room in zip(self.held(splits), self.rooms, strict=True))

    @property
    def last_stops(self) -> list[list[int]]:
        return [stops_within(self.sizes, room) for room in self.rooms]


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    nodes, layers = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    cost = st.sampled_from([0.0, 1.0, 2.0, 3.0, 5.0])

    def rows(count: int, width: int) -> Any:
        row = st.lists(cost | st.just(inf), min_size=width, max_size=width) | st.just([inf] * width)
        return st.lists(row | st.lists(cost, min_size=width, max_size=width), min_size=count, max_size=count)

    metrics = [ChainMetric(draw(rows(nodes, layers)), draw(rows(nodes - 1, layers + 1))) for _ in range(3)]
    sizes = draw(st.lists(st.sampled_from([0.0, 1.0, 2.0, 4.0]), min_size=layers, max_size=layers))
    rooms = draw(st.lists(st.sampled_from([0.0, 1.0, 3.0, 5.0, inf]), min_size=nodes, max_size=nodes))
    return Chain(metrics, sizes, rooms)


bounds = st.sampled_from([1.0, 4.0, 7.0, 12.0, inf])


@settings(max_examples=150)
@given(chains(), bounds, bounds, st.booleans())
def test_within_limits_and_room_the_cost_is_least(chain: Chain, one: float, other: float, held: bool) -> None:
    best, first, second = chain.metrics
    allowed = [
        splits
        for splits in chain.splits
        if all(path_cost(*metric, splits) < inf for metric in (best, first, second))
        and path_cost(*first, splits) <= one
        and path_cost(*second, splits) <= other
        and (chain.fits(splits) or not held)
    ]
    limits = [Limit(first, one), Limit(second, other)]
    found = search_within(best, limits, chain.last_stops if held else None)
    if not allowed:
        assert found is None
        return
    assert found is not None
    assert tuple(found.splits) in allowed
    assert found.cost == path_cost(*best, found.splits) == min(path_cost(*best, splits) for splits in allowed)
    if one == other == inf and not held:
        optima = [splits for splits in allowed if path_cost(*best, splits) == found.cost]
        used = {splits: (path_cost(*first, splits), path_cost(*second, splits)) for splits in optima}
        assert used[tuple(found.splits)] == min(used.values())


@settings(max_examples=200)
@given(chains(), st.booleans())
def test_without_limits_the_optimum_that_is_ahead_is_found(chain: Chain, held: bool) -> None:
    best = chain.metrics[0]
    costs = {splits: path_cost(*best, splits) for splits in chain.splits if chain.fits(splits) or not held}
    found = search_within(best, [], chain.last_stops if held else None)
    least = min(costs.values(), default=inf)
    if least == inf:
        assert found is None
    else:
        assert found is not None
        assert tuple(found.splits) == max(splits for splits, cost in costs.items() if cost == least)


def test_a_dearer_way_to_a_place_with_more_room_left_there_is_kept() -> None:
    """The second node holds two layers. If these are the first two, the third costs 50, or breaks the limit for 0."""
    nothing, links = [0.0] * 3, [[0.0] * 4] * 3
    best = ChainMetric([[5.0, inf, inf], [1.0, 1.0, 3.0], [inf, inf, 50.0], [inf, inf, 0.0]], links)
    limit = Limit(ChainMetric([nothing, nothing, nothing, [0.0, 0.0, 10.0]], links), 5.0)
    rooms = [[3] * 4, stops_within([1.0] * 3, 2.0), [3] * 4, [3] * 4]
    assert search_within(best, [limit], rooms) == (9.0, [1, 3, 3])
    assert search_within(best, [limit]) == (5.0, [0, 3, 3])
    assert search_within(best, [], rooms) == (2.0, [0, 2, 2])


def stage_times(stages: ChainMetric, splits: Splits) -> list[float]:
    """What each node and each link is busy with, counted one by one."""
    done = [0, *splits, len(stages.layers[0])]
    nodes = [sum(row[start:stop]) for row, (start, stop) in zip(stages.layers, pairwise(done), strict=True)]
    return [*nodes, *(stages.links[link][split] for link, split in enumerate(splits))]


@settings(max_examples=150)
@given(chains(), bounds, st.booleans())
def test_the_slowest_stage_is_least_and_of_such_splits_the_latency(chain: Chain, most: float, held: bool) -> None:
    stages, latency, limited = chain.metrics
    allowed = {
        splits: max(stage_times(stages, splits))
        for splits in chain.splits
        if max(path_cost(*latency, splits), path_cost(*limited, splits)) < inf
        and path_cost(*limited, splits) <= most
        and (chain.fits(splits) or not held)
    }
    least = min(allowed.values(), default=inf)
    found = search_throughput(stages, latency, [Limit(limited, most)], chain.last_stops if held else None)
    if least == inf:
        assert found is None
        return
    assert found is not None
    assert found.cost == least == slowest_stage(stages, found.splits) == allowed[tuple(found.splits)]
    fastest = min(path_cost(*latency, splits) for splits, slowest in allowed.items() if slowest == least)
    assert path_cost(*latency, found.splits) == fastest


def test_a_pipeline_is_split_otherwise_than_one_task() -> None:
    """Four layers of 1 s on two equal nodes: one task stays on the first, a pipeline uses both."""
    layers = ChainMetric([[1.0] * 4, [1.0] * 4], [[0.5] * 4 + [0.0]])
    assert search_within(layers, []).splits == [4]
    assert search_throughput(layers, layers) == (2.0, [2])
    slow_link = ChainMetric(layers.layers, [[3.5] * 4 + [0.0]])
    assert search_throughput(slow_link, slow_link) == (3.5, [3])


@pytest.mark.parametrize(("most", "stops"), [(0.0, [0, 1, 3, 3]), (2.0, [1, 1, 3, 3]), (6.5, [3, 3, 3, 3])])
def test_stops_within_a_size_are_the_last_that_fit(most: float, stops: list[int]) -> None:
    assert stops_within([2.0, 4.5, 0.0], most) == stops


def test_stage_sums_that_round_are_still_equal_to_the_bound_they_set() -> None:
    stages = ChainMetric([[0.1] * 9, [0.3] * 9], [[0.0] * 10])
    found = search_throughput(stages, stages)
    assert found.cost == pytest.approx(0.7)
    assert found.splits == [7]
