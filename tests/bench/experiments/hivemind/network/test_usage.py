"""What tasks use, recounted from their traces, and short batches whose layers may move, against brute force."""

from itertools import combinations_with_replacement
from types import SimpleNamespace

import pytest

from bench.experiments.hivemind.network.inference import InferenceParameters, field_of
from bench.experiments.hivemind.network.moving import MovingParameters, batch_s, chosen, follow, moves_s, moving
from bench.experiments.hivemind.network.scenario import profiles
from bench.experiments.hivemind.network.usage import usage
from nodes.splitting.search import path_cost

SEED = SimpleNamespace(seed=1)


@pytest.mark.parametrize("load", ["low", "high"])
def test_shares_add_up_and_control_is_one_message_a_link(load: str) -> None:
    parameters = InferenceParameters(load=load, duration_s=60.0, tasks=20)
    found = {(one.metric, *one.case.values()): one.value for one in usage(parameters, SEED)}
    shares = {key[1]: value for key, value in found.items() if key[0] == "layers_share"}
    assert sum(shares.values()) == pytest.approx(1)
    assert found["core_and_cloud_share",] == pytest.approx(shares["core"] + shares["cloud"])
    field = field_of(parameters, SEED)
    hops = [len(field.network.route(0.49 * 6 * index).links) for index in range(20)]
    assert min(hops) <= found["control_bytes",] / field.sci_bytes <= max(hops) + 1
    assert found["communication_over_bound", "hivemind"] <= found["communication_over_bound_max", "hivemind"]


def test_the_search_that_counts_moves_finds_the_least_of_all_splits() -> None:
    """Brute force over splits at every eighth layer: none is better than that of the search."""
    parameters = MovingParameters(load="high", duration_s=60.0, tasks=3, pictures=8)
    field = field_of(parameters, SEED)
    route = field.network.route(0.0)
    rates = [field.links[link].rate_bps(0.0) for link in route.links]
    sizes = [4.0 * count for count in profiles(parameters.workload)["ue"].parameters]
    batch = batch_s(parameters, field, route, rates)
    held, forced_s = follow((route, [10] * len(rates)), route, field, sizes, 0.0)
    assert (held, forced_s) == ((route, [10] * len(rates)), 0.0)
    moves = moves_s(held, rates, field, sizes)

    def cost(splits) -> float:
        return path_cost(*batch, splits) + sum(row[split] for row, split in zip(moves, splits, strict=True))

    places = [*range(0, 52, 8), 52]
    others = [cost(splits) for splits in combinations_with_replacement(places, len(rates))]
    assert cost(chosen("counted", batch, moves, held)) <= min(others) * (1 + 1e-12)
    assert cost(chosen("counted", batch, moves, held)) <= cost(chosen("ignored", batch, moves, held)) * (1 + 1e-12)
    assert chosen("never", batch, moves, held) == [10] * len(rates)
    assert moves_s(None, rates, field, sizes) == [[0.0] * 53] * len(rates)


def test_a_batch_of_one_picture_moves_only_if_moves_are_ignored() -> None:
    parameters = MovingParameters(load="mid", duration_s=140.0, tasks=60, pictures=1)
    found = {(one.metric, *one.case.values()): one.value for one in moving(parameters, SEED)}
    assert found["moving_share", "counted"] <= found["moving_share", "ignored"]
    assert found["batch_s", "counted"] <= found["batch_s", "ignored"]


def test_layers_of_nodes_that_a_route_leaves_travel_over_it() -> None:
    """From iab1 to iab2: what iab1 and iab3 hold goes over A and C to the first node on both routes, iab6."""
    parameters = MovingParameters(load="mid", duration_s=200.0)
    field = field_of(parameters, SEED)
    topology = field.network.topology
    old, new = topology.route("iab1"), topology.route("iab2")
    sizes = [4.0 * count for count in profiles(parameters.workload)["ue"].parameters]
    held, seconds = follow((old, [0, 20, 52, 52, 52, 52]), new, field, sizes, 0.0)
    assert held == (new, [0, 0, 0, 0, 52, 52, 52])
    rate_a, rate_c = (field.links[link].rate_bps(0.0) for link in ("A", "C"))
    carried = 8 * sum(sizes[:20]) / rate_a + 8 * sum(sizes) / rate_c + 2 * field.delay_s
    assert seconds == pytest.approx(carried)
