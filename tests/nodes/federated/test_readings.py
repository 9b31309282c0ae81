"""What EPSL's averaged gradients are back-propagated through: every reading against plain PyTorch and by its counts."""

import math

import pytest
import torch
from family_oracle import CLASSES, Family, drawn_data, federation_of, states, trained_states
from federations import JOB, assert_close, make_federation, same, trained
from msgspec.structs import replace
from oracle import Unsplit
from torch.utils.flop_counter import FlopCounterMode

from netem.profiles import Duplex
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.federated.client_worker import ClientWorker
from nodes.federated.edge.joint_step import JointSegment
from nodes.federated.edge.worker import EdgeWorker
from nodes.federated.in_process import run_in_process, run_in_virtual_time
from nodes.federated.schemes import build_scheme
from nodes.spec.federation import Federation, SchemeSpec
from nodes.spec.job import DataSpec, OptimizerSpec
from nodes.wire.messages import EdgeUpdate

DATA = drawn_data(43)  # fifteen pictures, fourteen and fourteen
READINGS = {
    "one": {"through": "one"},
    "each": {"through": "each"},
    "each broadcast": {"through": "each", "broadcast": True},
    "cut": {"through": "cut"},
}


def epsl(reading: str, phi: float) -> SchemeSpec:
    return SchemeSpec(name="epsl", options={"phi": phi, **READINGS[reading]})


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize(("model", "phi"), [("still", 0.5), ("still", 1.0), ("normed", 0.3)])
def test_a_reading_equals_plain_pytorch(reading, model, phi, tmp_path):
    federation = federation_of(tmp_path, model, epsl(reading, phi), local_steps=3)
    oracle = Family(federation, DATA)
    for _ in range(6):
        oracle.joint(a=math.ceil(4 * phi), through=reading)
    clients, (server,) = trained_states(federation, DATA)
    for found, expected in zip(clients, states(oracle.clients), strict=True):
        assert_close(found, expected)
    assert_close(server, oracle.servers[0].state_dict())


@pytest.mark.parametrize("reading", READINGS)
@pytest.mark.parametrize("phi", [0.5, 1.0])
def test_one_client_trains_as_the_unsplit_network(reading, phi):
    """With batch norm and dropout, to the bit."""
    job = replace(JOB, data=DataSpec(train_samples=24, test_samples=9), epochs=1)
    run = trained(make_federation("epsl", job, clients=1, rounds=1, local_steps=3, phi=phi, options=READINGS[reading]))
    oracle = Unsplit(replace(job, nodes=("all",), splits=(), stages=()), load_data(job))
    oracle.train()
    assert same(run.states["client1"] | run.states["edge1"], oracle.model.state_dict())


@pytest.mark.parametrize("reading", READINGS)
def test_without_averaged_positions_each_reading_is_parallel_split_learning(reading):
    one = trained(make_federation("psl"))
    other = trained(make_federation("epsl", phi=0.0, options=READINGS[reading]))
    assert all(same(one.states[name], other.states[name]) for name in one.states)


SHARES = (0.5, 0.2, 0.3)


def stepped(federation: Federation, data: Dataset) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """The server after one joint step of three clients, and what returns to the first."""
    server = EdgeWorker(federation, 0)
    tasks = [ClientWorker(federation, client, data).train(0, 0) for client in range(3)]
    positions = build_scheme(federation.scheme).averaged_positions(federation.job.batch_size)
    returned = server.joint(tasks, SHARES, positions).gradients[0].tensors
    state = server.give(EdgeUpdate(round=0, samples=1)).server
    return state, torch.cat([returned[name] for name in sorted(returned, reverse=True)])  # what is shared first


def test_the_server_of_gradients_averaged_at_the_cut_is_that_of_parallel_split_learning():
    """With batch norm and dropout, to the bit."""
    psl, cut = make_federation("psl"), make_federation("epsl", phi=0.6, options={"through": "cut"})
    assert same(*(stepped(federation, load_data(JOB))[0] for federation in (psl, cut)))


def test_through_each_client_is_the_mean_of_through_one(tmp_path, monkeypatch):
    """Over the clients that may be drawn for a position, by their shares; so without batch norm."""
    plain = {"optimizer": OptimizerSpec(lr=1.0, momentum=0.0, weight_decay=0.0)}
    one, each = (federation_of(tmp_path, "still", epsl(name, 0.25), plain) for name in ("one", "each broadcast"))
    expected, returned = stepped(each, DATA)
    states, gradients = [], []
    for client in range(3):
        monkeypatch.setattr(JointSegment, "_chosen_clients", lambda *_, client=client: [client])
        state, gradient = stepped(one, DATA)
        states.append(state)
        gradients.append(gradient)
    mean = {name: sum(share * state[name] for share, state in zip(SHARES, states, strict=True)) for name in expected}
    assert_close(mean, expected)
    torch.testing.assert_close(sum(share * one for share, one in zip(SHARES, gradients, strict=True)), returned)
    assert not torch.allclose(gradients[0], returned)


def test_clients_are_drawn_by_their_shares():
    segment = JointSegment(JOB, 1, scheme=build_scheme(epsl("one", 1.0)))
    federation = make_federation("psl")
    tasks = [ClientWorker(federation, client, load_data(JOB)).train(0, 0) for client in range(3)]
    counts = [0, 0, 0]
    arrived = [segment._decoded(task, weight) for task, weight in zip(tasks, (1.0, 0.4, 0.6), strict=True)]
    for client in segment._chosen_clients(arrived, 3000):
        counts[client] += 1
    for count, share in zip(counts, SHARES, strict=True):
        assert abs(count / 3000 - share) < 4 * math.sqrt(share * (1 - share) / 3000)


FORWARD = 2 * (48 * 6 + 6 * CLASSES)  # operations of the server's two linear layers on one sample
COUNTS = {  # samples forward, and backward, of M batches of four
    "averaged": lambda m, a: (4 * m + a, a + m * (4 - a)),
    "one": lambda m, a: (4 * m, a + m * (4 - a)),
    "each": lambda m, a: (4 * m, 4 * m),
    "cut": lambda m, a: (4 * m, 4 * m),
}


@pytest.mark.parametrize("through", COUNTS)
@pytest.mark.parametrize(("clients", "phi"), [(1, 1.0), (3, 0.5), (3, 1.0), (8, 1.0)])
def test_operations_are_those_that_torch_counts(through, clients, phi, tmp_path):
    scheme = SchemeSpec(name="epsl", options={"phi": phi, "through": through})
    federation = federation_of(tmp_path, "still", scheme, clients=clients)
    server = EdgeWorker(federation, 0)
    tasks = [ClientWorker(federation, client, DATA).train(0, 0) for client in range(clients)]
    with FlopCounterMode(display=False) as counter:
        reply = server.joint(tasks, (1 / clients,) * clients, a := math.ceil(4 * phi))
    forward, backward = COUNTS[through](clients, a)
    assert (reply.forward_samples, reply.backward_samples) == (forward, backward)
    assert counter.get_total_flops() == FORWARD * forward + 2 * FORWARD * backward


@pytest.mark.parametrize("reading", READINGS)
def test_what_returns_is_counted_once_where_it_is_the_same_for_all(reading):
    """By shapes alone as with data."""
    federation = make_federation("epsl", phi=0.3, options=READINGS[reading], test_every=0)
    links = dict.fromkeys((*federation.client_names, *federation.edge_names), Duplex())
    shapes = run_in_virtual_time(federation, links, learn=False).rounds
    for one, other in zip(run_in_process(federation).rounds, shapes, strict=True):
        common = 0 if reading == "each" else 2 * 3 * 3 * (4 * 8 * 8) * 4  # steps, clients, positions, floats at the cut
        assert one.metrics["shared_bytes"] == common
        for name in ("shared_bytes", "downlink_bytes", "forward_samples", "backward_samples"):
            assert other.metrics[name] == one.metrics[name]


@pytest.mark.parametrize("updates", [100, pytest.param(2000, marks=pytest.mark.nightly)])
@pytest.mark.parametrize("reading", ["one", "each", "cut"])
def test_many_updates_stay_finite(reading, updates, tmp_path):
    job = {"optimizer": OptimizerSpec(name="adam", lr=0.003, momentum=0.0, weight_decay=0.0)}
    federation = federation_of(tmp_path, "normed", epsl(reading, 1.0), job, clients=2)
    clients, server = [ClientWorker(federation, client, DATA) for client in range(2)], EdgeWorker(federation, 0)
    for number in range(updates):
        reply = server.joint([client.train(0, number) for client in clients], (0.5, 0.5), 4)
        for client, gradient in zip(clients, reply.gradients, strict=True):
            client.backward(gradient)
    held = [*(client.segment.state() for client in clients), server.give(EdgeUpdate(round=0, samples=1)).server]
    assert all(tensor.isfinite().all() for state in held for tensor in state.values())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"through": "two"}, "through two: expected one of averaged, one, each, cut"),
        ({"through": "cut", "broadcast": True}, "broadcast: only used with through each, and this is cut"),
        ({"through": "one", "statistics": "batch"}, "statistics: only used with through averaged, and this is one"),
    ],
)
def test_options_that_nothing_would_use_are_refused(options, expected):
    with pytest.raises(ValueError, match=expected):
        build_scheme(SchemeSpec(name="epsl", options=options))
