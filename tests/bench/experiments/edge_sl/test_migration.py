"""A federation whose clients move as a controller says: what crosses is what it counts, and nothing else changes."""

import pytest
import torch
from measured import by_case
from msgspec.structs import replace

from bench.experiments import modes_of
from bench.experiments.edge_sl.migration import RoamingParameters, _differences, federation_moves, roaming
from bench.suite.experiment import Context
from nodes.federated.in_process import FederationOutcome, RoundOutcome
from nodes.model.factory import build_model
from nodes.spec.federation import ClientMove

FEW = RoamingParameters(clients=1, rounds=3, batches=2, speed_m_per_s=15.0, test_samples=20)


def told(parameters: RoamingParameters, context: Context) -> dict[tuple, float]:
    return by_case(roaming(parameters, context))


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, seed=1, mode="in-process", shaping="none", dataset="digits")


def test_a_copy_follows_its_client_and_nothing_else_changes(context):
    found = told(FEW, context)
    network = list(build_model("nodes.zoo.small_cnn:small_cnn", 10, (3, 32, 32)).children())
    assert found["moves",] == found["cell_changes",] >= 1
    assert found["moved_bytes", "wire"] == found["moved_bytes", "controller"]
    server = network[FEW.device_layers :]
    parameters = sum(tensor.nbytes for layer in server for tensor in layer.parameters())
    buffers = sum(tensor.nbytes for layer in server for tensor in layer.buffers())
    assert found["moved_bytes", "wire"] == found["moves",] * 2 * (2 * parameters + buffers)  # links, and momentum
    assert found["loss_difference_nats",] == found["different_tensors",] == 0
    assert found["final_accuracy", "moving"] == found["final_accuracy", "staying"]
    assert found["trained_pictures", "moving"] == FEW.rounds * FEW.batches * FEW.batch_size
    assert found["link_traffic_mb", "moving", "smashed"] == found["link_traffic_mb", "staying", "smashed"] > 0
    assert found["link_traffic_mb", "staying", "moved"] == 0


def test_answers_to_blank_pictures_tell_of_no_accuracy(context):
    found = told(replace(FEW, rounds=2, batches=1), replace(context, dataset="none"))
    assert found["tensors",] > found["different_tensors",] == 0
    assert not [key for key in found if "final_accuracy" in key]


def test_nothing_is_bit_equal_to_nothing_or_to_what_has_other_names(tmp_path):
    metrics = {"loss": 0.0, "steps_with_loss": 1.0}
    outcome = FederationOutcome(rounds=[RoundOutcome(round=0, edge=0, metrics=metrics)], nodes=[])
    part = {"modules": {"part": {"w": torch.zeros(1)}}, "optimizer": {"state": {0: {"momentum": torch.zeros(1)}}}}
    state = {"parts": [part]}
    for name in ("moving", "staying"):
        (tmp_path / name).mkdir()
    with pytest.raises(ValueError, match="cannot compare 0 tensors"):
        list(_differences(outcome, outcome, tmp_path))
    torch.save(state, tmp_path / "moving" / "client-0.pt")
    torch.save({"parts": [{**part, "optimizer": {"state": {}}}]}, tmp_path / "staying" / "client-0.pt")
    with pytest.raises(ValueError, match=r"client-0\.0\.0\.momentum"):
        list(_differences(outcome, outcome, tmp_path))
    torch.save(state, tmp_path / "staying" / "client-0.pt")
    assert {one.metric: one.value for one in _differences(outcome, outcome, tmp_path)}["tensors"] == 2


def test_moves_take_time_on_a_clock(context):
    found = told(replace(FEW, clients=2, storage_share=2.0), replace(context, mode="virtual"))
    assert found["moved_bytes", "wire"] == found["moved_bytes", "controller"] > 0
    assert found["round_s", "moving"] > found["round_s", "staying"] > 0


def test_a_copy_that_is_used_little_stays(context):
    found = told(replace(FEW, batches=1, batch_size=1), replace(context, mode="virtual"))
    assert found["cell_changes",] > found["moves",] == 0


def test_moves_are_the_changes_of_places():
    places = [("c", "a"), ("c", "a"), ("a", "a"), ("a", "c")]
    assert federation_moves(places) == (
        ["a", "c"],
        (ClientMove(0, 0, 1), ClientMove(1, 0, 0), ClientMove(0, 2, 0), ClientMove(1, 3, 1)),
    )
    assert federation_moves([("b",), ("b",)]) == (["b"], ())


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"model": "nodes.zoo.small_cnn:nothing"}, "model"),
        ({"device_layers": 40}, "device_layers"),
        ({"storage_share": 0.5}, "storage_share"),
        ({"clients": 7}, "storage_share"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(change, key, problems_of):
    assert list(problems_of(replace(FEW, **change))) == [(key,)]
    assert not problems_of(FEW)


def test_it_does_not_run_live():
    assert set(modes_of("edge_roaming.roaming")) == {"in-process", "virtual"}
