"""The edge experiments: rounds counted by hand, and a training whose layers follow a client."""

from itertools import pairwise

import pytest
from measured import by_case
from msgspec.structs import replace

from bench.execution.loader import load
from bench.experiments import modes_of
from bench.experiments.edge_sl import placement as edge_placement
from bench.experiments.edge_sl.field import EdgeField, FieldParameters, edges_along_trajectory, make_field
from bench.experiments.hivemind.network.scenario import profiles
from bench.suite.experiment import Context
from nodes.splitting.migration import CLOUD, BackhaulLink, EdgeNetwork, Model, State


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, seed=1, mode="in-process", shaping="none", dataset="digits")


def by_hand(batches: int) -> EdgeField:
    """Two edges and two clients, both at the first edge, of whom one goes to the second."""
    link = BackhaulLink(8.0, 0.0)
    links = {("a", "b"): link, ("a", CLOUD): BackhaulLink(2.0, 0.0), ("b", CLOUD): BackhaulLink(2.0, 0.0)}
    return EdgeField(
        FieldParameters(clients=2, batches=batches, access=link, lateral=link),
        EdgeNetwork(("a", "b"), links, {server: [0.0, 0.0] for server in ("a", "b", CLOUD)}, 10),
        Model([4, 1, 0], [6, 20], [3, 10]),
        0.5,
        [("a", "a"), ("a", "b")],
    )


def kinds(smashed: int, in_step: int, moved: int) -> dict[str, int]:
    return {"smashed": smashed, "averaging": in_step, "moved": moved}


def test_rounds_counted_by_hand():
    """A byte takes 1 s between edges and on the access link, 4 s to the cloud; all data goes there and back."""
    field = by_hand(batches=1)
    assert field.stay_rounds == pytest.approx(4 / 3)
    together = (16 + 0.5 + 16 + 12, 0, kinds(20, 3, 0), 6)
    assert field.run("stay") == [together, (8 + 0.5 + 8 + 16 + 12, 0, kinds(28, 3, 0), 6)]
    assert field.run("migrate") == field.run("stay")  # with one batch a round a copy is not worth its keeping in step
    assert field.run("replicate") == [
        (16 + 0.5 + 16 + 12, 0, kinds(20, 6, 0), 12),
        (8 + 0.5 + 8 + 24, 0, kinds(20, 12, 0), 12),
    ]


def test_a_move_is_counted_in_the_round_that_it_opens():
    moved = by_hand(batches=4).run("migrate")[1]
    assert moved == (6 + 4 * (8 + 0.5 + 8) + 24, 6, kinds(80, 12, 6), 12)
    assert moved.communication_bytes == 98


def test_the_way_passes_all_six_cells():
    assert sorted(edges_along_trajectory()) == [f"iab{number}" for number in range(1, 7)]
    field = make_field(FieldParameters(rounds=200, speed_m_per_s=1.0), profiles("resnet18-88"), 0)
    neighbours = {*pairwise([*edges_along_trajectory(), edges_along_trajectory()[0]])}
    for one, other in pairwise(field.attached):
        assert {(a, b) for a, b in zip(one, other, strict=True) if a != b} <= neighbours


def test_placement_and_course_tell_the_same_rounds(context):
    parameters = edge_placement.CourseParameters(rounds=4, clients=2)
    told = by_case(edge_placement.placement(parameters, context))
    rounds = by_case(edge_placement.course(parameters, context))
    for strategy in ("stay", "migrate", "replicate"):
        parts = sum(told["link_traffic_mb", strategy, kind] for kind in ("smashed", "averaging", "moved"))
        assert told["communication_mb", strategy] == pytest.approx(parts)
        assert told["round_s", strategy] == pytest.approx(rounds["time_passed_s", strategy, 4] / 4)


def test_without_storage_all_strategies_are_one(context):
    told = list(edge_placement.placement(edge_placement.PlacementParameters(rounds=6, storage_share=0.0), context))
    for metric in ("round_s", "communication_mb"):
        values = [one.value for one in told if one.metric == metric]
        assert len(values) == 3
        assert len(set(values)) == 1


def test_a_tree_stores_no_more_than_it_may(context):
    for share in (0.0, 0.1, 0.4):
        told = by_case(edge_placement.tree(edge_placement.TreeParameters(storage_share=share), context))
        whole_mb = 2 * 4 * sum(profiles("resnet18-88")["ue"].parameters) / 1e6
        assert told["metro_stored_mb", "together"] <= share * whole_mb
        assert told["edges_stored_mb",] <= 3 * share * whole_mb
        assert told["metro_stored_mb", "together"] <= told["metro_stored_mb", "apart"]
        assert told["smashed_mb", "edge to metro"] >= told["smashed_mb", "metro to cloud"]


def test_the_holder_is_the_node_that_has_layers():
    edges = ("a", "b", "c")
    assert edge_placement.chain_splits(State({"b": 3}, {"b": 3}, ("b",)), edges, 4) == (4, 4, 7, 7)
    assert edge_placement.chain_splits(State({}, {"a": 0}, ("a",)), edges, 4) == (4, 4, 4, 4)


def test_layers_follow_a_client_and_nothing_else_changes(context):
    parameters = edge_placement.MigrationParameters(rounds=3, batches=1, batch_size=8, speed_m_per_s=15.0)
    told = by_case(edge_placement.migration(parameters, context))
    assert told["moves",] >= 2
    assert told["moved_bytes", "wire"] == told["moved_bytes", "controller"] > 0
    assert told["loss_difference_nats",] == 0
    assert told["different_tensors",] == 0
    assert told["tensors",] == 20  # three convolutions, three norms of five, one linear layer


@pytest.mark.parametrize(
    ("parameters", "key"),
    [
        (edge_placement.PlacementParameters(device_layers=52), "device_layers"),
        (edge_placement.PlacementParameters(access=BackhaulLink(0.0, 0.0)), "access"),
        (edge_placement.PlacementParameters(backhaul=BackhaulLink(1e6, -1.0)), "backhaul"),
        (edge_placement.TreeParameters(device_layers=52), "device_layers"),
        (edge_placement.TreeParameters(core=BackhaulLink(float("nan"), 0.0)), "core"),
        (edge_placement.MigrationParameters(clients=2), "clients"),
        (edge_placement.MigrationParameters(device_layers=99), "device_layers"),
        (edge_placement.MigrationParameters(side=4), "model"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(parameters, key, problems_of):
    assert list(problems_of(parameters)) == [(key,)]


def test_a_network_is_trained_in_no_virtual_time():
    assert set(modes_of("edge_placement.migration")) == {"in-process", "live"}


def test_nothing_that_claims_are_of_is_left_out_at_smoke():
    (suite,) = load(["edge_placement"], checked=True)
    claimed = {selector.experiment for claim in suite.file.claims for selector in claim.selectors}
    assert not [one.name for one in suite.experiments if one.spec.name in claimed and one.skipped("smoke")]
