"""What a client, an edge server and a cloud decide, message by message; and what their workers refuse."""

import itertools

import pytest
import torch
from federations import JOB, make_federation
from msgspec.structs import replace

from nodes.data.loading import load_data
from nodes.errors import NodeError, ProtocolError
from nodes.federated.client import Client
from nodes.federated.client_worker import ClientWork
from nodes.federated.cloud import Cloud, CloudWork
from nodes.federated.edge.async_server import AsyncEdgeServer
from nodes.federated.edge.server import EdgeServer
from nodes.federated.edge.worker import EdgeWork
from nodes.runtime.actions import Compute, Connect, Finish, Send
from nodes.spec.federation import ClientMove
from nodes.spec.job import StageSpec
from nodes.wire.messages import (
    Activation,
    Assign,
    Error,
    Gradient,
    Handover,
    Hello,
    Peer,
    Result,
    Round,
    Route,
    Shutdown,
    Weights,
)

NAMES = ("client1", "client2", "client3")
ORDERS = list(itertools.permutations(range(3)))
STEP = {"forward_samples": 24.0, "backward_samples": 24.0, "backward_s": 0.1}


def begun(scheme: str, server=None, **changes) -> EdgeServer:
    """An edge server whose three clients have come and been told to train."""
    federation = make_federation(scheme, **changes)
    server = server or (AsyncEdgeServer(federation) if scheme == "psl-async" else EdgeServer(federation, 0))
    server.receive("runner", Assign(assignment=0, splits=()), 0.0)
    for name in NAMES:
        come(server, name)
    return server


def come(server, name, samples=20.0):
    return [*server.joined(name, name, 0.0), *server.receive(name, hello(samples), 0.0)]


def hello(samples=20.0) -> Result:
    return Result(assignment=0, step=0, metrics={"samples": samples, "mean_samples": 20.0})


def task(client: int, number: int = 0, round_number: int = 0) -> Activation:
    return Activation(assignment=round_number, step=3 * number + client, train=True, tensors={})


def done(round_number: int = 0) -> Result:
    return Result(assignment=round_number, step=2, metrics={"loss": 1.0, "correct": 3.0, "count": 16.0})


def part(value: float = 1.0, samples: int = 20) -> Weights:
    return Weights(assignment=0, samples=samples, tensors={"w": torch.full((2,), value)})


def gradient(told=None) -> Gradient:
    return Gradient(assignment=0, step=0, metrics=told or {"count": 8.0}, tensors={})


@pytest.mark.parametrize("scheme", ["fl", "sflv1"])
def test_what_a_client_told_counts_only_with_its_part(scheme):
    server = begun(scheme)
    for name in NAMES[:2]:
        server.receive(name, done(), 0.0)
        server.receive(name, part(), 0.0)
    server.receive(NAMES[2], done(), 0.0)
    server.lost(NAMES[2], 0.0)  # before its part came
    assert (server._tally.count, server._tally.loss, server._tally.noted) == (32.0, 2.0, 2 * server._steps)
    assert server._tally.steps == (2 * server._steps if scheme == "fl" else 0)


@pytest.mark.parametrize("order", ORDERS)
def test_a_joint_step_is_the_same_whoever_comes_first(order):
    server = begun("psl")
    actions = [server.receive(NAMES[client], task(client), 0.0) for client in order]
    assert actions[:2] == [[], []]
    ((call, (messages, clients, weights, fades, positions)),) = actions[2]
    assert (call, [message.step for message in messages], clients) == ("joint", [0, 1, 2], (0, 1, 2))
    assert (weights, fades, positions) == ((1 / 3,) * 3, (1.0,) * 3, 0)


@pytest.mark.parametrize("order", ORDERS)
def test_one_part_for_all_takes_tasks_in_passes_over_the_clients(order):
    server = begun("sflv2")
    calls = [action for client in order for action in server.receive(NAMES[client], task(client), 0.0)]
    assert [action.arguments[1] for action in calls] == [0, 1, 2]


@pytest.mark.parametrize("order", ORDERS)
def test_parts_are_averaged_in_the_clients_order(order):
    server = begun("fl")
    actions = []
    for client in order:
        server.receive(NAMES[client], done(), 0.0)
        actions += server.receive(NAMES[client], part(client), 0.0)
    ((call, (given, clients)),) = actions
    assert (call, clients) == ("average", (0, 1, 2))
    assert [one.tensors["w"][0].item() for one in given] == [0.0, 1.0, 2.0]


def test_clients_train_in_turn_and_hand_their_part_on():
    server = EdgeServer(make_federation("sl"), 0)
    server.receive("runner", Assign(assignment=0, splits=()), 0.0)
    first = [action for name in reversed(NAMES) for action in come(server, name)]
    assert [(action.to, action.message.steps) for action in first] == [("client1", 2)]
    assert server.receive("client1", done(), 0.0) == []
    handed, begin = server.receive("client1", part(5.0), 0.0)
    assert (handed.to, handed.message.tensors["w"][0], begin.to) == ("client2", 5.0, "client2")
    handed, begin = server.lost("client2", 0.0)  # in its turn: what it has not given is not handed on
    assert (handed.to, handed.message.tensors["w"][0], begin.to) == ("client3", 5.0, "client3")


def test_the_first_round_waits_for_all_that_live():
    server = EdgeServer(make_federation("psl"), 0)
    server.receive("runner", Assign(assignment=0, splits=()), 0.0)
    assert come(server, "client3") == come(server, "client1") == []
    died = server.receive("runner", Error(node="client2", reason="killed"), 9.0)
    assert [action.to for action in died] == ["client1", "client3"]


def test_one_that_leaves_holds_no_joint_step_and_hears_no_more_of_it():
    server = begun("psl")
    for client in (0, 1):
        assert server.receive(NAMES[client], task(client), 0.0) == []
    ((_, (_, clients, weights, _, _)),) = server.lost("client3", 0.0)
    assert (clients, weights) == ((0, 1), (0.5, 0.5))
    server.lost("client1", 0.0)
    assert server.computed(gradient(STEP), 0.0) == [Compute("returned", (1,))]


def test_one_that_comes_back_before_its_loss_was_seen_is_lost_first():
    """Its new channel replaces the old one, and nothing else tells of the end of that."""
    server = begun("psl")
    for client in (0, 1):
        server.receive(NAMES[client], task(client), 0.0)
    ((call, arguments),) = come(server, "client3")
    assert (call, arguments[1]) == ("joint", (0, 1))


@pytest.mark.parametrize("scheme", ["psl-async", "psl"])
def test_what_was_computed_for_one_that_left_is_not_for_it_when_it_is_back(scheme):
    server = begun(scheme)
    for client in range(3 if scheme == "psl" else 1):
        actions = server.receive(NAMES[client], task(client), 0.0)
    assert actions[0].call == "joint"
    for name in NAMES if scheme == "psl" else NAMES[:1]:
        server.lost(name, 0.0)
    back = come(server, "client1")
    assert [action.message.steps for action in back if isinstance(action, Send) and action.to == "client1"] == [2]
    assert not [action for action in server.computed(gradient(STEP), 0.0) if isinstance(action, Compute)]


def test_what_is_said_of_a_round_that_was_left_counts_for_nothing():
    server = begun("psl")
    server.lost("client3", 0.0)
    come(server, "client3")
    assert server.receive("client3", task(2), 0.0) == []
    assert server.receive("client3", done(), 0.0) == []


def test_the_loss_of_an_asynchronous_step_counts_though_its_client_has_left():
    server = begun("psl-async")
    server.receive("client1", task(0), 0.0)
    server.computed(gradient(STEP), 0.0)
    server.lost("client1", 0.0)
    assert server.computed(gradient({"count": 8.0, "loss": 2.5}), 0.0) == []
    assert (server._tally.steps, server._tally.noted, server._tally.loss) == (1, 1, 2.5)


def test_an_asynchronous_update_counts_the_less_the_more_it_missed():
    server = begun("psl-async", staleness_exponent=1.0)
    fades = []
    for number, client in enumerate((0, 1, 0, 1, 2, 0)):  # each alone
        ((_, (_, _, _, fade, _)),) = server.receive(NAMES[client], task(client, number), 0.0)
        server.computed(gradient(STEP), 0.0)
        server.computed(gradient(), 0.0)
        fades.append(fade)
    assert fades == [(1.0,), (0.5,), (0.5,), (0.5,), (0.2,), (1 / 3,)]  # the first of a client since it came


def test_an_asynchronous_step_counts_by_the_data_of_those_in_it():
    server = begun("psl-async", staleness_exponent=0.0)
    for name, samples in zip(NAMES, (10.0, 20.0, 30.0), strict=True):
        come(server, name, samples)
    counts: list[list[float]] = []
    for waiting in ((0,), (1, 2), (0, 1, 2)):  # what comes while a step is under way waits
        actions = [action for client in waiting for action in server.receive(NAMES[client], task(client), 0.0)]
        actions += server.computed(gradient(STEP), 0.0) if counts else []
        *returned, (_, (_, clients, weights, fades, _)) = actions
        assert clients == waiting
        counts.append([weight * fade for weight, fade in zip(weights, fades, strict=True)])
        for _ in returned:
            server.computed(gradient(), 0.0)
    mean = 20
    expected = [[10 / mean], [20 / (2 * mean), 30 / (2 * mean)], [1 / 6, 2 / 6, 3 / 6]]
    assert counts == [pytest.approx(one) for one in expected]


def test_one_too_far_ahead_waits_for_the_slowest():
    server = begun("psl-async", staleness=0)

    def serve(client):
        actions = server.receive(NAMES[client], task(client), 0.0)
        return [action.arguments[1] for action in actions]

    def ended():
        actions = [*server.computed(gradient(STEP), 0.0)]
        return [action.arguments[1] for action in actions if action.call == "joint"]

    assert serve(0) == [(0,)]
    assert ended() == []
    server.computed(gradient(), 0.0)
    assert serve(0) == []  # it has one step, the others none
    assert serve(1) == [(1,)]
    assert ended() == []
    server.computed(gradient(), 0.0)
    assert serve(2) == [(2,)]
    assert ended() == [(0,)]


def test_a_client_goes_on_at_its_position_when_it_is_back():
    client = Client(make_federation("psl").rules, [Peer("edge1")], 20, 20.0, 1, 4, [(1, 3.0)])
    client.joined("down", "edge1", 0.0)
    assert client.receive("down", Round(assignment=0, steps=2), 0.0) == [Compute("train", (0, 0))]
    away, wake = client.computed(gradient(), 7.0)
    assert (away, wake.at) == (Connect(None), 10.0)
    assert client.woke(wake.why, 10.0) == [Connect(Peer("edge1"))]
    (said,) = client.joined("down", "edge1", 10.0)
    assert (said.message.step, said.message.metrics["samples"]) == (1, 20.0)
    assert client.receive("down", Round(assignment=1, steps=2), 0.0) == [Compute("train", (1, 1))]
    with pytest.raises(NodeError, match="edge1 is gone"):
        client.lost("down", 0.0)


MOVES = (ClientMove(0, 1, 1),)  # the first of three clients, of which two begin at the first of two edge servers


def moving(edge: int, rounds: int = 2) -> EdgeServer:
    """An edge server of two, its clients there and in their first round."""
    federation = make_federation("psl", edges=2, moves=MOVES, cloud_every=9, test_every=0, rounds=rounds)
    server = EdgeServer(federation, edge, Peer("cloud"))
    server.receive("runner", Assign(assignment=0, splits=()), 0.0)
    server.joined("down", "cloud", 0.0)
    for name in NAMES[:2] if edge == 0 else NAMES[2:]:
        come(server, name)
    return server


def over(server: EdgeServer, names) -> list:
    """What it does once ``names`` have ended the round."""
    return [action for name in names for action in server.receive(name, done(server._round), 1.0)]


def handover(here: bool = True, **changes) -> Handover:
    return replace(Handover(assignment=1, client=0, to="edge2", here=here), **changes)


def test_a_client_is_told_where_it_belongs_and_its_new_server_too():
    server = moving(0)
    _, leave, told = over(server, NAMES[:2])
    assert leave == Compute("leave", (1, 0, "edge2", True))
    assert (told.to, [peer.name for peer in told.message.nodes]) == ("client1", ["edge2"])
    sent, begin = server.computed(handover(), 1.0)  # the next round begins with what follows the client on its way
    assert (sent.to, sent.message.here, begin.to) == ("down", True, "client2")
    assert server.lost("client1", 2.0) == []
    (told,) = come(server, "client1")  # in a new process, which knows no better
    assert [peer.name for peer in told.message.nodes] == ["edge2"]


def test_one_that_has_left_before_does_not_come():
    server = moving(0)
    server.lost("client1", 0.5)
    _, leave = over(server, NAMES[1:2])
    assert leave == Compute("leave", (1, 0, "edge2", False))


@pytest.mark.parametrize("order", list(itertools.permutations(("handed", "come", "over"))))
def test_a_round_waits_for_who_comes_and_for_what_follows(order):
    server, begun = moving(1), []
    for what in order:
        assert not [action for action in begun if isinstance(action, Send) and action.to != "runner"]
        match what:
            case "handed":
                begun += server.receive("down", handover(), 1.0)
            case "come":
                begun += come(server, "client1")
            case "over":
                begun += over(server, NAMES[2:])
    assert [action.call for action in begun if isinstance(action, Compute)] == ["settle"]
    assert [action.to for action in begun if isinstance(action, Send)][-2:] == ["client1", "client3"]
    assert server.computed(handover(), 1.0) == []


@pytest.mark.parametrize("order", [("handed", "died"), ("died", "handed")])
def test_one_that_dies_on_its_way_is_missed_as_ever(order):
    server = moving(1)
    over(server, NAMES[2:])
    events = {"handed": ("down", handover()), "died": ("runner", Error(node="client1", reason="killed"))}
    assert server.receive(*events[order[0]], 1.0) == []
    _, begin = server.receive(*events[order[1]], 1.0)
    assert (begin.to, begin.message.steps) == ("client3", 2)
    assert come(server, "client1") == []  # in a new process: from the next round on
    assert next(action.to for action in over(server, NAMES[2:]) if isinstance(action, Send)) == "runner"


def test_one_that_is_away_is_not_waited_for():
    server = moving(1)
    over(server, NAMES[2:])
    assert [action.to for action in server.receive("down", handover(here=False), 1.0)[1:]] == ["client3"]


@pytest.mark.parametrize(
    "changes", [{"client": 1}, {"client": 7}, {"assignment": 0}, {"assignment": -1}, {"assignment": 9}]
)
def test_what_follows_nobody_is_refused(changes):
    with pytest.raises(ProtocolError, match="does not come to edge2 in round"):
        moving(1).receive("down", handover(**changes), 0.0)
    twice = moving(1)
    twice.receive("down", handover(), 0.0)
    with pytest.raises(ProtocolError, match="client 0 does not come to edge2 in round 1"):
        twice.receive("down", handover(), 0.0)


def test_an_edge_server_whose_clients_are_dead_lets_rounds_pass():
    server = moving(1, rounds=3)
    over(server, NAMES[2:])
    server.receive("down", handover(), 1.0)
    assert [action.message.assignment for action in server.lost("client3", 1.0)] == []
    for name in ("client1", "client3"):
        died = server.receive("runner", Error(node=name, reason="killed"), 2.0)
    settle, wake = died
    assert settle.call == "settle"
    told, again = server.woke(wake.why, 2.0)
    assert (told.message.assignment, told.message.metrics["participants"]) == (1, 0.0)
    told, cloud, finish = server.woke(again.why, 2.0)
    assert (told.message.assignment, cloud.to, finish) == (2, "down", Finish())


def test_one_that_lives_again_is_expected_again():
    server = moving(1, rounds=3)
    over(server, NAMES[2:])
    server.receive("down", handover(), 1.0)
    server.receive("runner", Error(node="client1", reason="killed"), 2.0)
    server.receive("runner", Hello(node="client1"), 2.0)
    assert server.receive("runner", Error(node="client3", reason="killed"), 3.0) == []
    assert [action.to for action in server.lost("client3", 3.0)] == ["runner"]  # round 1 is over, 2 is not passed by
    assert [action.to for action in come(server, "client1")] == ["client1"]


def test_one_that_is_back_goes_after_what_is_its_own():
    """Its first server waits in round 2 for what the one in between is to send: it is there, not here."""
    federation = make_federation(
        "sflv1", edges=2, clients=2, rounds=3, moves=(ClientMove(0, 1, 1), ClientMove(0, 2, 0))
    )
    server = EdgeServer(replace(federation, cloud_every=9, test_every=0), 0, Peer("cloud"))
    server.receive("runner", Assign(assignment=0, splits=()), 0.0)
    server.joined("down", "cloud", 0.0)
    come(server, "client1")
    server.lost("client1", 0.5)
    server.computed(handover(here=False), 1.0)
    server.woke("pass", 1.0)
    assert server._round == 2
    (told,) = come(server, "client1")
    assert (told.message.nodes[0].name, told.message.assignment) == ("edge2", 1)
    server.joined("client1", "client1", 4.0)
    assert server.receive("client1", replace(hello(), assignment=2), 4.0) == []  # ahead of what follows it
    settle, begin = server.receive("down", Handover(assignment=2, client=0, to="edge1", here=True), 5.0)
    assert (settle.call, begin.to) == ("settle", "client1")


def test_a_client_goes_where_it_is_told_among_its_servers():
    client = Client(make_federation("psl").rules, [Peer("edge1"), Peer("edge2", "here", 7)], 20, 20.0, 1, 4)
    client.joined("down", "edge1", 0.0)
    client.receive("down", Round(assignment=0, steps=2), 0.0)
    assert client.receive("down", Route(nodes=(Peer("edge2"),)), 0.0) == [Connect(Peer("edge2", "here", 7))]
    (said,) = client.joined("down", "edge2", 1.0)
    assert said.message.metrics["current"] == 1.0
    with pytest.raises(NodeError, match="edge2 is gone"):
        client.lost("down", 1.0)
    assert client.receive("down", Shutdown(reason="has ended"), 1.0) == [Finish()]  # before it came
    with pytest.raises(ProtocolError, match="unexpected Route from down"):
        client.receive("down", Route(nodes=(Peer("edge3"),)), 0.0)


def test_a_cloud_keeps_what_comes_too_early():
    cloud = Cloud(make_federation("psl", edges=2, rounds=3, moves=(*MOVES, ClientMove(0, 2, 0))))
    cloud.joined("edge1", "edge1", 0.0)
    assert cloud.receive("edge1", handover(), 0.0) == []
    assert [action.to for action in cloud.joined("edge2", "edge2", 0.0)] == ["edge2"]
    back = handover(assignment=2, to="edge1")
    assert [action.to for action in cloud.receive("edge2", back, 0.0)] == ["edge1"]
    cloud = Cloud(make_federation("psl", edges=2, moves=MOVES))
    cloud.joined("edge2", "edge2", 0.0)
    cloud.lost("edge2", 1.0)
    assert cloud.receive("edge1", handover(), 0.0) == []


@pytest.mark.parametrize(
    ("sender", "changes"),
    [
        ("edge2", {}),
        ("edge2", {"to": "edge1"}),
        ("edge1", {"to": "edge3"}),
        ("edge1", {"to": "edge1"}),
        ("edge1", {"client": 1}),
        ("edge1", {"client": -3}),
        ("edge1", {"assignment": 0}),
        ("edge1", {"assignment": 2}),
        ("edge1", {"assignment": -1}),
    ],
)
def test_a_cloud_passes_on_what_moves_ask_for_and_nothing_twice(sender, changes):
    cloud = Cloud(make_federation("psl", edges=2, moves=MOVES))
    with pytest.raises(ProtocolError, match=f"does not move from {sender} to"):
        cloud.receive(sender, handover(**changes), 0.0)
    cloud.receive("edge1", handover(), 0.0)
    with pytest.raises(ProtocolError, match="client 0 does not move from edge1 to edge2 in round 1"):
        cloud.receive("edge1", handover(), 0.0)


@pytest.mark.parametrize("scheme", ["sflv1", "psl"])
def test_a_copy_that_does_not_fit_is_refused(scheme):
    federation = make_federation(scheme, edges=2, moves=MOVES)
    left = EdgeWork(make_federation("sflv1", edges=2, moves=MOVES), 0).leave(1, 0, "edge2", here=True)
    if scheme == "psl":
        with pytest.raises(ProtocolError, match="came after client 0 for nothing"):
            EdgeWork(federation, 1).settle(left)
        return
    name = next(iter(left.tensors))
    for tensors in ({}, left.tensors | {name: torch.zeros(1)}, left.tensors | {"more": torch.zeros(1)}):
        with pytest.raises(ProtocolError, match=r"got nothing|got torch|unexpected tensors \['more'\]"):
            EdgeWork(federation, 1).settle(replace(left, tensors=tensors))


def test_a_cloud_averages_by_samples_what_all_that_are_left_have_sent():
    cloud = Cloud(make_federation("psl", edges=3))
    assert cloud.receive("edge2", part(2.0, 10), 0.0) == []
    assert cloud.lost("edge3", 0.0) == []
    ((call, (given,)),) = cloud.receive("edge1", part(8.0, 30), 0.0)
    assert (call, [one.samples for one in given]) == ("average", [30, 10])
    mean = CloudWork().average(given)
    assert mean.tensors["w"].tolist() == [6.5, 6.5]
    assert [action.to for action in cloud.computed(mean, 0.0)] == ["edge1", "edge2"]
    untrained = CloudWork().average((part(1.0, 0), part(3.0, 5)))
    assert untrained.tensors["w"].tolist() == [3.0, 3.0]
    assert cloud.receive("edge1", Shutdown(), 0.0) == []
    assert cloud.receive("edge2", Shutdown(), 0.0) == [Finish()]


def test_strangers_and_strange_messages_are_refused():
    server = begun("psl")
    with pytest.raises(ProtocolError, match="client9 is no client"):
        server.joined("client9", "client9", 0.0)
    with pytest.raises(ProtocolError, match="unexpected Round from client1"):
        server.receive("client1", Round(assignment=0), 0.0)
    with pytest.raises(ProtocolError, match="edge9 is no edge server"):
        Cloud(make_federation("psl", edges=2)).joined("edge9", "edge9", 0.0)
    with pytest.raises(ProtocolError, match="unexpected Round from edge1"):
        Cloud(make_federation("psl", edges=2)).receive("edge1", Round(assignment=0), 0.0)


def test_weights_that_do_not_fit_are_refused():
    federation = make_federation("fl")
    work = ClientWork(federation, 0, load_data(federation.job))
    given = work.give(0)
    narrow = replace(given, tensors=given.tensors | {"0.weight": torch.zeros(1)})
    with pytest.raises(ProtocolError, match=r"0\.weight: got torch\.float32"):
        work.take(narrow)
    with pytest.raises(ProtocolError, match=r"do not fit: .*0\.weight"):
        work.take(replace(given, tensors={k: v for k, v in given.tensors.items() if k != "0.weight"}))
    with pytest.raises(ProtocolError, match="clients' parts cannot be averaged"):
        EdgeWork(federation, 0).average((given, narrow), (0, 1))
    with pytest.raises(ProtocolError, match="edge servers' parts cannot be averaged"):
        CloudWork().average((given, narrow))


def tasks(federation, clients=(0, 1)):
    data = load_data(federation.job)
    return [ClientWork(federation, client, data).train(0, 0) for client in clients]


@pytest.mark.parametrize(
    ("stage", "split", "positions", "said"),
    [
        ("user_stages:Indexed", 4, 4, "indices has no row for each sample"),
        ("user_stages:Gated", 4, 4, "gate has no row for each sample"),
        ("user_stages:Counts", 4, 4, "counts holds no numbers that have a mean"),
    ],
)
def test_codes_of_no_single_samples_cannot_be_averaged(stage, split, positions, said):
    federation = make_federation("epsl", replace(JOB, splits=(split,), stages=(StageSpec(name=stage),)), phi=0.5)
    with pytest.raises(ProtocolError, match=said):
        EdgeWork(federation, 0).joint(tasks(federation), (0, 1), (0.5, 0.5), (1.0, 1.0), positions)


def test_batches_that_cannot_be_joined_are_refused():
    federation = make_federation("psl")
    one, other = tasks(federation)
    server = EdgeWork(federation, 0)
    short = replace(other, labels=other.labels[:5], tensors={name: t[:5] for name, t in other.tensors.items()})
    with pytest.raises(ProtocolError, match=r"batches of \[5, 8\] samples cannot be joined"):
        server.joint((one, short), (0, 1), (0.5, 0.5), (1.0, 1.0), 0)
    less = replace(other, tensors={name: t[:5] for name, t in other.tensors.items()})
    with pytest.raises(ProtocolError, match="cannot be joined over clients"):
        server.joint((one, less), (0, 1), (0.5, 0.5), (1.0, 1.0), 0)
    with pytest.raises(ProtocolError, match="came without labels"):
        server.joint((one, replace(other, labels=None)), (0, 1), (0.5, 0.5), (1.0, 1.0), 0)
    scalars = make_federation("psl", replace(JOB, model="user_models:Everything", splits=(3,)))
    with pytest.raises(ProtocolError, match="cannot be joined over clients"):
        EdgeWork(scalars, 0).joint(tasks(scalars), (0, 1), (0.5, 0.5), (1.0, 1.0), 0)


def test_only_fl_needs_no_server_part():
    whole = make_federation("fl").job
    with pytest.raises(ValueError, match="only fl needs no server part"):
        EdgeWork(replace(make_federation("psl"), job=whole), 0)
