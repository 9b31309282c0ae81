"""Schemes of one's own: they train what plain torch trains, in every mode; their mistakes are named."""

import copy
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from federations import JOB, NAMES, assert_close, begun, drawn, make_federation, same, task, trained
from msgspec.structs import replace
from torch.nn import functional as F
from user_models import Still

from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.data.loading import load_data
from nodes.errors import NodeError
from nodes.federated.client_worker import pictures_of
from nodes.federated.edge.worker import EdgeWorker, ServeTask
from nodes.federated.in_process import run_in_virtual_time
from nodes.federated.schemes import Update
from nodes.model.factory import build_model
from nodes.runtime.actions import Compute, Send
from nodes.spec.federation import Federation, Partition
from nodes.spec.job import OptimizerSpec, Timing
from nodes.wire.messages import (
    ClientModel,
    ClientUpdate,
    Enlist,
    RoundTrained,
    TrainRound,
)

EXAMPLES = Path(__file__).parents[3] / "examples"
STILL = replace(JOB, model="user_models:Still", splits=(2,), optimizer=OptimizerSpec(lr=0.05, momentum=0.9))
UNEQUAL = Partition(kind="dirichlet", alpha=0.5)
LINK = Duplex(up=LinkProfile(rate_bps=5e6, delay_s=0.01), down=LinkProfile(rate_bps=5e6, delay_s=0.01))
State = dict[str, torch.Tensor]
Combine = Callable[[list[State], list[int], State], State]


@pytest.fixture(autouse=True)
def _examples_can_be_imported(monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))


# -- what they train, against whole networks in plain torch


def trained_unsplit(federation: Federation, clients: Sequence[int], combine: Combine, mu: float = 0.0) -> State:
    """The network that ``clients`` train, each a whole one from the shared one on, combined after each round."""
    data, job = load_data(federation.job), federation.job
    torch.manual_seed(0)
    networks = {client: Still() for client in clients}
    optimizers = {
        client: torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
        for client, network in networks.items()
    }
    counts = [len(pictures_of(federation, client, data)[0]) for client in clients]
    batches = drawn(federation, data)
    shared = beginning(job)
    for _ in range(federation.rounds):
        for client in clients:
            networks[client].load_state_dict(shared)
            start = copy.deepcopy(networks[client])
            for _ in range(federation.local_steps):
                pictures, labels = next(batches[client])
                pairs = zip(networks[client].parameters(), start.parameters(), strict=True)
                distance = sum(((one - other.detach()) ** 2).sum() for one, other in pairs)
                (F.cross_entropy(networks[client](pictures), labels) + mu / 2 * distance).backward()
                optimizers[client].step()
                optimizers[client].zero_grad()
        states = [
            {name: tensor.clone() for name, tensor in networks[client].state_dict().items()} for client in clients
        ]
        shared = combine(states, counts, shared)
    return shared


def beginning(job) -> State:
    """Where all begin: the network of the job's seed."""
    return build_model(job.model, job.classes, job.input_shape, job.seed).state_dict()


def weighted(states: list[State], counts: list[int], _: State) -> State:
    return {
        name: torch.from_numpy(np.average([state[name].numpy() for state in states], axis=0, weights=counts)).float()
        for name in states[0]
    }


def median(states: list[State], counts: list[int], _: State) -> State:
    return {name: torch.from_numpy(np.median([state[name].numpy() for state in states], axis=0)) for name in states[0]}


def whole_of(run, client: str) -> State:
    """The network of ``client``, with the edge server's part where it has one."""
    return run.states[client] | run.states["edge1"]


@pytest.mark.parametrize("scheme", ["fl", "sflv1"])
def test_federated_averaging_is_that_of_whole_networks(scheme):
    federation = make_federation(scheme, STILL, rounds=3, partition=UNEQUAL)
    expected = trained_unsplit(federation, (0, 1, 2), weighted)
    run = trained(federation)
    for client in federation.client_names:
        assert_close(whole_of(run, client), expected, 1e-5)


TRIMMED = {"trim": 1, "participants": 3}  # a trimmed mean of three is their median


def trimmed(**changes) -> Federation:
    return make_federation(
        "scheme:TrimmedMean", STILL, clients=4, rounds=3, partition=UNEQUAL, options=TRIMMED, **changes
    )


def test_the_scheme_of_the_examples_is_that_of_whole_networks():
    federation = trimmed()
    sizes = [len(pictures_of(federation, client, load_data(STILL))[0]) for client in range(4)]
    most = sorted(sorted(range(4), key=lambda client: -sizes[client])[:3])
    assert sorted(sizes)[0] < sorted(sizes)[1]
    expected = trained_unsplit(federation, most, median)
    run = trained(federation)
    for client in federation.client_names:  # the one that rests tests with it as well
        assert_close(whole_of(run, client), expected, 1e-5)
    assert [one.metrics["participants"] for one in run.outcome.rounds] == [3.0] * 3
    assert [one.metrics["steps"] for one in run.outcome.rounds] == [6.0] * 3
    assert [sum(one.total_by_class) for one in run.outcome.rounds] == [31] * 3  # all test
    mean_run = trained(replace(federation, scheme=make_federation("sflv1").scheme))
    assert not same(whole_of(run, "client1"), whole_of(mean_run, "client1"))


def test_it_is_the_same_in_virtual_time_and_its_shapes_cross_alike():
    federation = trimmed(slowdowns=(1.0, 7.0), client_timing=Timing(forward_s=0.01, backward_s=0.02))
    links = dict.fromkeys((*federation.client_names, *federation.edge_names), LINK)
    here, virtual = trained(federation), trained(federation, links)
    for name, state in here.states.items():
        assert same(state, virtual.states[name])
    untested = replace(federation, test_every=0)
    real, shapes = (run_in_virtual_time(untested, links, learn=learn) for learn in (True, False))
    for one, other in zip(real.nodes, shapes.nodes, strict=True):
        assert (one.name, one.steps, one.sent) == (other.name, other.steps, other.sent)
    assert [one.metrics["ended"] for one in real.rounds] == [one.metrics["ended"] for one in shapes.rounds]


def test_shared_parts_go_to_those_that_train_next():
    """Four clients, of which one rests: it gets no part for training, three do before each round but the first."""
    sent = trained(replace(trimmed(), test_every=0)).outcome.nodes[0].sent
    messages = sorted(kinds["client-model"].messages if "client-model" in kinds else 0 for kinds in sent.values())
    assert messages == [0, 2, 2, 2]


def test_a_scheme_travels_by_its_name():
    federation = trimmed()
    enlist = Enlist(federation=federation, names=("edge1",))
    there = msgspec.msgpack.decode(msgspec.msgpack.encode(enlist), type=Enlist).federation
    assert (there.scheme.name, there.scheme.options) == ("scheme:TrimmedMean", TRIMMED)


def test_clients_may_be_drawn_back_to_where_they_began():
    federation = make_federation("user_schemes:Proximal", STILL, rounds=3, options={"mu": 2.0}, local_steps=3)
    expected = trained_unsplit(federation, (0, 1, 2), weighted, mu=2.0)
    assert_close(trained(federation).states["client1"], expected, 1e-4)
    without = trained_unsplit(federation, (0, 1, 2), weighted)
    assert not torch.allclose(without["head.1.weight"], expected["head.1.weight"], atol=1e-3)


@pytest.mark.parametrize("edges", [1, 2])
def test_aggregation_knows_what_a_round_began_with(edges):
    """At two edge servers whose averages the cloud averages, the momentum of each is that of its own clients."""
    federation = make_federation("user_schemes:ServerMomentum", STILL, rounds=3, options={"momentum": 0.5}, edges=edges)
    run = trained(federation)
    if edges == 2:
        assert same(run.states["client1"], run.states["client3"])
        return
    velocity: State = {}

    def with_momentum(states: list[State], counts: list[int], before: State) -> State:
        for name, value in weighted(states, counts, before).items():
            velocity[name] = 0.5 * velocity.get(name, torch.zeros(())) + before[name] - value
        return {name: before[name] - velocity[name] for name in velocity}

    expected = trained_unsplit(federation, (0, 1, 2), with_momentum)
    assert_close(run.states["client1"], expected, 1e-4)


@pytest.mark.parametrize("server_parts", ["none", "copies"])
def test_the_work_of_a_client_that_is_late_is_dropped(server_parts):
    """The third client is slow: each round ends without it, it gets what the others made, and begins anew."""
    options = {"count": 2, "server_parts": server_parts}
    federation = make_federation(
        "user_schemes:FirstDone",
        STILL,
        rounds=4,
        options=options,
        slowdowns=(1.0, 1.0, 6.5),
        client_timing=Timing(forward_s=0.01, backward_s=0.02),
        partition=UNEQUAL,
    )
    links = dict.fromkeys((*federation.client_names, "edge1"), LINK)
    run = trained(federation, links)
    metrics = [one.metrics for one in run.outcome.rounds]
    assert [one["participants"] for one in metrics] == [3.0] * 4
    assert [one["count"] for one in metrics] == [2 * 2 * 8] * 4
    assert [sum(one.total_by_class) for one in run.outcome.rounds] == [31] * 4
    expected = trained_unsplit(federation, (0, 1), weighted)
    for client in federation.client_names:
        assert_close(whole_of(run, client), expected, 1e-5)
    outside = run_in_virtual_time(replace(federation, test_every=0), links)  # it is tested in the middle of a step
    assert [one.correct_by_class for one in outside.rounds] == [one.correct_by_class for one in run.outcome.rounds]


# -- what an edge server decides


def told(actions, kind) -> list[str]:
    return [action.to for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


def complete(server, name: str, round_number: int = 0) -> list:
    server.receive(name, RoundTrained(round=round_number, loss=0.0, correct=0.0, count=16.0), 0.0)
    return server.receive(name, ClientUpdate(round=round_number, samples=20, tensors={"w": torch.ones(2)}), 0.0)


def test_a_scheme_says_who_begins_and_who_gets_the_shared_part():
    server, actions = begun(make_federation("user_schemes:Pairs"))
    assert told(actions, TrainRound) == ["client1", "client2"]
    assert told(complete(server, "client2"), TrainRound) == ["client3"]
    assert complete(server, "client1") == []
    complete(server, "client3")
    averaged = server.computed(ClientModel(round=0, tensors={"w": torch.ones(2)}), 0.0)
    assert told(averaged, ClientModel) == ["client2", "client3"]


def test_what_comes_late_of_a_round_counts_for_nothing():
    server, _ = begun(make_federation("user_schemes:FirstDone", options={"count": 2, "server_parts": "copies"}))
    assert [type(action) for action in server.receive("client3", task(2), 0.0)] == [ServeTask]
    complete(server, "client1")
    (aggregate,) = complete(server, "client2")
    assert [one.client for one in aggregate.trained] == [0, 1]
    assert server.receive("client3", task(2), 0.0) == []
    assert complete(server, "client3") == []
    assert (server._stats.count, server._samples) == (32.0, 40)


@pytest.mark.parametrize(
    ("hook", "answer", "error"),
    [
        ("select", "a stranger", r"select of scheme .*Answering: chose \[7\], expected some of \['client1', 'client2'"),
        ("start", "a stranger", r"start of .* chose \[7\]"),
        ("start", "nothing", r"round 0 cannot go on: tasks of \[\] wait, \['client1', 'client2', 'client3'\] are idle"),
        ("due", "twice", r"due of .* chose \['client1', 'client1'\]"),
        ("due", "nothing", r"round 0 cannot go on: tasks of \['client1', 'client2', 'client3'\] wait"),
        ("weights", "zeros", r"weights of .* got \[0.0, 0.0, 0.0\], expected 3 numbers above 0"),
        ("weights", "too few", r"weights of .* got \[1.0\], expected 3 numbers above 0"),
    ],
)
def test_a_decision_that_cannot_be_is_named(hook, answer, error):
    with pytest.raises(NodeError, match=error):  # noqa: PT012 (it may be the last that comes which shows it)
        server, _ = begun(make_federation("user_schemes:Answering", options={"hook": hook, "answer": answer}))
        for client, name in enumerate(NAMES):
            server.receive(name, task(client), 0.0)


def test_a_round_in_which_nobody_is_selected_passes():
    server, actions = begun(make_federation("user_schemes:Answering", options={"hook": "select", "answer": "nothing"}))
    assert told(actions, TrainRound) == []
    assert not [action for action in actions if isinstance(action, Compute)]
    assert server._round.clients == []
    assert told(server.woke("pass", 1.0), ClientModel) == []
    assert server._phase == "testing"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ("half", r"aggregate_clients of scheme .*Answering: w is torch.float32 \[1\], expected torch.float32 \[2\]"),
        ("failure", r"aggregate_clients of .* ZeroDivisionError"),
        ("nothing", r"aggregate_clients of .* AttributeError"),
    ],
)
def test_an_aggregate_that_cannot_be_is_named(answer, error):
    federation = make_federation("user_schemes:Answering", options={"hook": "aggregate_clients", "answer": answer})
    with pytest.raises(NodeError, match=error):
        EdgeWorker(federation, 0).aggregate(0, [Update(0, 1, {"w": torch.ones(2)})])
