"""A federation whose clients move as a controller says: what crosses is what it counts, and nothing else changes."""

import pytest
from msgspec.structs import replace

from bench.experiment import Context
from bench.experiments.edge_roaming import RoamingParameters, federation_moves, roaming
from nodes.federation import Move
from nodes.models import build_model

FEW = RoamingParameters(clients=1, rounds=3, batches=2, speed_m_per_s=15.0, test_samples=20)


def told(parameters: RoamingParameters, context: Context) -> dict[tuple, float]:
    return {(one.metric, *one.case.values()): one.value for one in roaming(parameters, context)}


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, seed=1, mode="in-process", shaping="none", dataset="digits")


def test_a_copy_follows_its_client_and_nothing_else_changes(context):
    found = told(FEW, context)
    network = list(build_model("nodes.networks:small_cnn", 10, (3, 32, 32)).children())
    assert found["moves",] == found["handovers",] >= 1
    assert found["moved", "wire"] == found["moved", "controller"]
    server = network[FEW.device_layers :]
    parameters = sum(tensor.nbytes for layer in server for tensor in layer.parameters())
    buffers = sum(tensor.nbytes for layer in server for tensor in layer.buffers())
    assert found["moved", "wire"] == found["moves",] * 2 * (2 * parameters + buffers)  # links, and momentum
    assert found["loss_difference",] == found["different_tensors",] == 0
    assert found["final_accuracy", "moving"] == found["final_accuracy", "staying"]
    assert found["crossing", "moving", "smashed"] == found["crossing", "staying", "smashed"] > 0
    assert found["crossing", "staying", "moved"] == 0


def test_moves_take_time_on_a_clock(context):
    found = told(replace(FEW, clients=2, storage_share=2.0), replace(context, mode="virtual"))
    assert found["moved", "wire"] == found["moved", "controller"] > 0
    assert found["round", "moving"] > found["round", "staying"] > 0


def test_a_copy_that_is_used_little_stays(context):
    found = told(replace(FEW, batches=1, batch_size=1), replace(context, mode="virtual"))
    assert found["handovers",] > found["moves",] == 0


def test_moves_are_the_changes_of_places():
    places = [("c", "a"), ("c", "a"), ("a", "a"), ("a", "c")]
    assert federation_moves(places) == (["a", "c"], (Move(0, 0, 1), Move(1, 0, 0), Move(0, 2, 0), Move(1, 3, 1)))
    assert federation_moves([("b",), ("b",)]) == (["b"], ())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model": "nodes.networks:nothing"}, "model"),
        ({"device_layers": 40}, "device_layers"),
        ({"storage_share": 0.5}, "storage_share"),
        ({"clients": 7}, "storage_share"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(change, key):
    assert [at for at, _ in replace(FEW, **change).check()] == [(key,)]
    assert not list(FEW.check())


def test_it_does_not_run_live():
    assert [at for at, _ in FEW.check_mode("live")] == [()]
    assert not list(FEW.check_mode("virtual"))
