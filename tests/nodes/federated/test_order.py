"""Each client's own order and augmentation, against an oracle of plain PyTorch that shares no helper with nodes."""

import itertools

import pytest
import torch
from family_oracle import Family, assert_trained_as, drawn_data, federation_of
from msgspec.structs import replace

from nodes.federated.client_worker import ClientWorker
from nodes.spec.federation import SchemeSpec
from nodes.spec.job import DataSpec
from nodes.training.in_process import run_in_process as run_chain

DATA = drawn_data()


@pytest.mark.parametrize("augment", [False, True])
def test_each_client_draws_its_own_batches(augment, tmp_path):
    """Over three epochs of each: batches equal the rule's, and no two clients take the same positions together."""
    federation = federation_of(tmp_path, "still", SchemeSpec(), {"data": DataSpec(augment=augment)})
    oracle = Family(federation, DATA)
    made = [ClientWorker(federation, client, DATA) for client in range(3)]
    for client, number in itertools.product(range(3), range(9)):
        images, labels = made[client]._source.draw(train=True, epoch=number // 3, batch=number % 3)
        expected, answers = oracle.batch(client, number)
        torch.testing.assert_close(images, expected, rtol=1e-6, atol=1e-6)
        assert labels.equal(answers)
    places = [
        [oracle.parts[client].tolist().index(one) for n in range(9) for one in oracle.indices(client, n)]
        for client in range(3)
    ]
    same = sum(one == other for one, other in zip(*places[:2], strict=True))
    assert same < len(places[0]) / 3


@pytest.mark.parametrize("model", ["still", "normed"])
def test_parallel_split_learning_equals_plain_pytorch(model, tmp_path):
    federation = federation_of(tmp_path, model, SchemeSpec(name="psl"), {"data": DataSpec(augment=True)})
    oracle = Family(federation, DATA)
    for _ in range(10):
        oracle.joint()
    assert_trained_as(oracle, federation, DATA)


def test_the_clients_of_a_chain_draw_their_own_batches_too(tmp_path):
    """Several UEs take turns at one server, and share nothing but it."""
    federation = federation_of(tmp_path, "still", SchemeSpec(), {"data": DataSpec(augment=True)})
    data = drawn_data(36)  # twelve for each, so that parts are equal in a chain as well
    oracle, losses = Family(federation, data), []
    for _, client in itertools.product(range(6), range(3)):
        images, labels = oracle.batch(client, oracle.taken[client])
        with torch.no_grad():
            logits = oracle.servers[0](oracle.clients[client](images))
            losses.append((client, torch.nn.functional.cross_entropy(logits, labels).item()))
        oracle.alone(client, 0)
    job = replace(federation.job, sources=3, epochs=2)
    found = run_chain(job, data)
    expected = [loss for client in range(3) for one, loss in losses if one == client]
    assert found.losses == pytest.approx(expected, rel=1e-4)
