"""What a client, an edge server and a cloud decide, message by message; and what their workers refuse."""

import itertools
from unittest.mock import ANY

import pytest
import torch
from federations import JOB, NAMES, begun, come, hello, make_federation, task
from msgspec.structs import asdict, replace

from nodes.data.loading import load_data
from nodes.errors import ProtocolError
from nodes.federated import client_worker
from nodes.federated.client import Client
from nodes.federated.client_worker import (
    Adopted,
    AdoptPart,
    Answers,
    ClientData,
    ClientWorker,
    GivePart,
    ReturnGradient,
    TrainBatch,
)
from nodes.federated.cloud import AggregateEdges, Cloud, CloudWorker
from nodes.federated.edge.joint_step import JointReply
from nodes.federated.edge.server import EdgeServer
from nodes.federated.edge.worker import AdoptHandover, Aggregate, EdgeWorker, HandOver, JointStep
from nodes.federated.schemes import Update
from nodes.runtime.actions import Compute, Connect, Finish, Send, Wake
from nodes.spec.federation import Absence, ClientMove
from nodes.spec.job import StageSpec
from nodes.wire import messages
from nodes.wire.messages import (
    Begin,
    ChangeServer,
    ClientLost,
    ClientModel,
    ClientReturned,
    ClientUpdate,
    EdgeUpdate,
    Gradient,
    Handover,
    Peer,
    RoundTested,
    RoundTrained,
    Shutdown,
    TrainRound,
)

ORDERS = list(itertools.permutations(range(3)))


def started(scheme: str, **changes) -> EdgeServer:
    """An edge server whose three clients have come and been told to train."""
    return begun(make_federation(scheme, **changes))[0]


def done(round_number: int = 0) -> RoundTrained:
    return RoundTrained(round=round_number, loss=1.0, correct=3.0, count=16.0)


def part(value: float = 1.0, samples: int = 20) -> ClientUpdate:
    return ClientUpdate(round=0, samples=samples, tensors={"w": torch.full((2,), value)})


def gradient(metrics=None) -> Gradient:
    return Gradient(assignment=0, step=0, metrics=metrics or {"count": 8.0}, tensors={})


def stepped(clients: int = 1, metrics=None) -> JointReply:
    """The worker's reply to a joint step on the tasks of so many."""
    return JointReply([gradient(metrics)] * clients, forward_samples=24.0, backward_samples=24.0, backward_s=0.1)


def joined(step: JointStep) -> tuple[int, ...]:
    """The clients whose tasks ``step`` is on."""
    return tuple(message.step % 3 for message in step.messages)


@pytest.mark.parametrize("scheme", ["fl", "sflv1"])
def test_the_training_of_a_client_counts_only_with_its_part(scheme):
    server = started(scheme)
    for name in NAMES[:2]:
        server.receive(name, done(), 0.0)
        server.receive(name, part(), 0.0)
    server.receive(NAMES[2], done(), 0.0)
    server.lost(NAMES[2], 0.0)  # before its part came
    assert (server._stats.count, server._stats.loss, server._stats.steps_with_loss) == (32.0, 2.0, 4)
    assert server._stats.steps == (4 if scheme == "fl" else 0)


@pytest.mark.parametrize("order", ORDERS)
def test_a_joint_step_is_the_same_whoever_comes_first(order):
    server = started("psl")
    actions = [server.receive(NAMES[client], task(client), 0.0) for client in order]
    assert actions[:2] == [[], []]
    (step,) = actions[2]
    assert joined(step) == (0, 1, 2)
    assert (step.weights, step.positions) == ((1 / 3,) * 3, 0)


@pytest.mark.parametrize("order", ORDERS)
def test_one_part_for_all_takes_tasks_in_passes_over_the_clients(order):
    server = started("sflv2")
    calls = [action for client in order for action in server.receive(NAMES[client], task(client), 0.0)]
    assert [call.client for call in calls] == [0, 1, 2]


@pytest.mark.parametrize("order", ORDERS)
def test_parts_are_averaged_in_the_clients_order(order):
    server = started("fl")
    actions = []
    for client in order:
        server.receive(NAMES[client], done(), 0.0)
        actions += server.receive(NAMES[client], part(client), 0.0)
    (average,) = actions
    assert isinstance(average, Aggregate)
    assert [(update.client, update.state["w"][0].item()) for update in average.trained] == [
        (0, 0.0),
        (1, 1.0),
        (2, 2.0),
    ]


def test_clients_train_in_turn_and_hand_their_part_on():
    server = EdgeServer(make_federation("sl"), 0)
    server.receive("runner", Begin(), 0.0)
    first = [action for name in reversed(NAMES) for action in come(server, name)]
    assert [(action.to, action.message.steps) for action in first] == [("client1", 2)]
    assert server.receive("client1", done(), 0.0) == []
    handed, begin = server.receive("client1", part(5.0), 0.0)
    assert (handed.to, handed.message.tensors["w"][0], begin.to) == ("client2", 5.0, "client2")
    handed, begin = server.lost("client2", 0.0)  # in its turn: what it has not given is not handed on
    assert (handed.to, handed.message.tensors["w"][0], begin.to) == ("client3", 5.0, "client3")


def test_the_first_round_waits_for_all_that_live():
    server = EdgeServer(make_federation("psl"), 0)
    server.receive("runner", Begin(), 0.0)
    assert come(server, "client3") == come(server, "client1") == []
    died = server.receive("runner", ClientLost(client="client2"), 9.0)
    assert [action.to for action in died] == ["client1", "client3"]


def test_one_that_leaves_holds_no_joint_step_and_hears_no_more_of_it():
    server = started("psl")
    for client in (0, 1):
        assert server.receive(NAMES[client], task(client), 0.0) == []
    (step,) = server.lost("client3", 0.0)
    assert (joined(step), step.weights) == ((0, 1), (0.5, 0.5))
    server.lost("client1", 0.0)
    assert [action.to for action in server.computed(stepped(2), 0.0)] == ["client2"]


def test_one_that_comes_back_before_its_loss_was_seen_is_lost_first():
    """Its new channel replaces the old one, and nothing else tells of the end of that."""
    server = started("psl")
    for client in (0, 1):
        server.receive(NAMES[client], task(client), 0.0)
    (step,) = come(server, "client3")
    assert (type(step), joined(step)) == (JointStep, (0, 1))


@pytest.mark.parametrize("scheme", ["psl-async", "psl"])
def test_what_was_computed_for_one_that_left_is_not_for_it_when_it_is_back(scheme):
    server = started(scheme)
    for client in range(3 if scheme == "psl" else 1):
        actions = server.receive(NAMES[client], task(client), 0.0)
    assert isinstance(actions[0], JointStep)
    for name in NAMES if scheme == "psl" else NAMES[:1]:
        server.lost(name, 0.0)
    back = come(server, "client1")
    assert [action.message.steps for action in back if isinstance(action, Send) and action.to == "client1"] == [2]
    assert server.computed(stepped(3 if scheme == "psl" else 1), 0.0) == []


def test_what_is_said_of_a_round_that_was_left_counts_for_nothing():
    server = started("psl")
    server.lost("client3", 0.0)
    come(server, "client3")
    assert server.receive("client3", task(2), 0.0) == []
    assert server.receive("client3", done(), 0.0) == []


def test_what_was_said_of_an_earlier_round_is_not_of_this_one():
    server = started("psl", rounds=3, test_every=0)
    over(server, NAMES)
    for name in ("client1", *NAMES[1:]):
        assert server.receive(name, done(0 if name == "client1" else 1), 0.0) == []
    report, *_ = server.receive("client1", done(1), 0.0)
    assert (report.message.round, report.message.metrics["count"]) == (1, 48.0)


@pytest.mark.parametrize(("rounds", "tested"), [(1, [0]), (4, [2, 3])])
def test_clients_test_after_every_third_round_and_after_the_last(rounds, tested):
    server, seen = started("psl", rounds=rounds, test_every=3), []
    answers = {"correct_by_class": torch.zeros(10), "total_by_class": torch.ones(10)}
    for number in range(rounds):
        if [action for action in over(server, NAMES) if isinstance(action.message, messages.TestRound)]:
            seen.append(number)
            for name in NAMES:
                server.receive(name, RoundTested(round=number, **answers), 1.0)
    assert seen == tested


def test_one_that_comes_and_leaves_before_the_next_round_takes_no_part_in_it():
    server = started("psl", test_every=0)
    server.lost("client3", 0.0)
    come(server, "client3")
    server.lost("client3", 0.5)
    sent = [action for action in over(server, NAMES[:2]) if isinstance(action, Send)]
    assert [action.to for action in sent if isinstance(action.message, TrainRound)] == ["client1", "client2"]
    assert come(server, "client3") == []


def test_the_loss_of_an_asynchronous_step_counts_though_its_client_has_left():
    server = started("psl-async")
    server.receive("client1", task(0), 0.0)
    server.lost("client1", 0.0)
    assert server.computed(stepped(metrics={"count": 8.0, "loss": 2.5}), 0.0) == []
    assert (server._stats.steps, server._stats.steps_with_loss, server._stats.loss) == (1, 1, 2.5)


def test_an_asynchronous_update_counts_the_less_the_more_it_missed():
    server = started("psl-async", staleness_exponent=1.0)
    scales = []
    for number, client in enumerate((0, 1, 0, 1, 2, 0)):  # each alone
        (step,) = server.receive(NAMES[client], task(client, number), 0.0)
        server.computed(stepped(), 0.0)
        scales.append(step.weights)
    assert scales == [(1.0,), (0.5,), (0.5,), (0.5,), (0.2,), (1 / 3,)]  # the first of a client since it came


def test_an_asynchronous_client_that_is_back_begins_with_the_slowest_and_has_missed_nothing_before():
    server = started("psl-async", staleness=0, staleness_exponent=1.0, rounds=9)
    for client in range(3):
        server.receive(NAMES[client], task(client), 0.0)
        server.computed(stepped(), 0.0)
    server.lost("client3", 1.0)
    come(server, "client3")
    (step,) = server.receive("client1", task(0, 1), 2.0)  # the slowest has taken one step, not none
    assert joined(step) == (0,)
    server.computed(stepped(), 2.0)
    (step,) = server.receive("client3", task(2), 3.0)
    assert (joined(step), step.weights) == ((2,), (0.5,))  # it has missed one since it is back
    server.computed(stepped(), 3.0)
    server.lost("client3", 4.0)
    come(server, "client3")
    (step,) = server.receive("client3", task(2), 5.0)  # client1 has taken two, but the slowest, client2, one as ever
    assert joined(step) == (2,)


def test_an_asynchronous_step_counts_by_the_data_of_those_in_it():
    server = started("psl-async", staleness_exponent=0.0)
    for name, samples in zip(NAMES, (10, 20, 30), strict=True):
        come(server, name, samples)
    counts: list[list[float]] = []
    before = 0
    for waiting in ((0,), (1, 2), (0, 1, 2)):  # what comes while a step is under way waits
        actions = [action for client in waiting for action in server.receive(NAMES[client], task(client), 0.0)]
        actions += server.computed(stepped(before), 0.0) if before else []
        *returned, step = actions
        assert (len(returned), joined(step)) == (before, waiting)
        counts.append(list(step.weights))
        before = len(waiting)
    mean = 20
    expected = [[10 / mean], [20 / (2 * mean), 30 / (2 * mean)], [1 / 6, 2 / 6, 3 / 6]]
    assert counts == [pytest.approx(one) for one in expected]


def test_one_too_far_ahead_waits_for_the_slowest():
    server = started("psl-async", staleness=0)

    def serve(client):
        return [joined(step) for step in server.receive(NAMES[client], task(client), 0.0)]

    def ended():
        return [joined(step) for step in server.computed(stepped(), 0.0) if isinstance(step, JointStep)]

    assert serve(0) == [(0,)]
    assert ended() == []
    assert serve(0) == []  # it has one step, the others none
    assert serve(1) == [(1,)]
    assert ended() == []
    assert serve(2) == [(2,)]
    assert ended() == [(0,)]


DATA = ClientData(samples=20, mean_samples=20.0, test_batches=1)


def test_a_client_goes_on_at_its_position_when_it_is_back():
    client = Client(make_federation("psl", absences=(Absence(0, 1, 3.0),)), 0, [Peer("edge1")], DATA)
    client.joined("next", "edge1", 0.0)
    assert client.receive("next", TrainRound(round=0, steps=2), 0.0) == [TrainBatch(0, 0)]
    away, wake = client.computed(gradient(), 7.0)
    assert (away, wake.at) == (Connect(None), 10.0)
    assert client.woke(wake.why, 10.0) == [Connect(Peer("edge1"))]
    (sent,) = client.joined("next", "edge1", 10.0)
    assert (sent.message.begun, sent.message.samples, sent.message.current) == (1, 20, False)
    assert client.receive("next", TrainRound(round=1, steps=2), 0.0) == [TrainBatch(1, 1)]
    assert client.lost("next", 0.0) is None


def training(steps: int = 3, **data: int) -> Client:
    """A client in the first step of its first round."""
    servers = [Peer("edge1"), Peer("edge2")]
    client = Client(make_federation("fl"), 0, servers, DATA._replace(**data))
    client.joined("next", "edge1", 0.0)
    assert client.receive("next", TrainRound(round=0, steps=steps), 0.0) == [TrainBatch(0, 0)]
    return client


def test_a_client_takes_its_steps_and_gives_what_they_came_to():
    client = training(steps=2)
    assert client.computed(gradient({"count": 8.0, "loss": 2.0, "correct": 3.0}), 0.0) == [TrainBatch(0, 1)]
    trained, give = client.computed(gradient({"count": 8.0, "loss": 1.0}), 0.0)
    assert asdict(trained.message) == {"round": 0, "loss": 3.0, "correct": 3.0, "count": 16.0}
    assert give == GivePart(0)
    assert client.receive("next", TrainRound(round=1, steps=2), 0.0) == [TrainBatch(1, 2)]
    client.computed(replace(gradient(), assignment=1), 0.0)
    trained, _ = client.computed(replace(gradient(), assignment=1), 0.0)
    assert (trained.message.loss, trained.message.count) == (0.0, 16.0)  # of this round alone


@pytest.mark.parametrize("ended", ["by a part", "by tests elsewhere"])
def test_a_step_of_a_round_that_has_ended_leads_to_no_other(ended):
    client = training()
    if ended == "by a part":
        assert client.receive("next", ClientModel(round=0, tensors={}), 0.0) == [AdoptPart(ANY)]
    else:
        client.receive("next", ChangeServer(server="edge2", round=1), 0.0)
        assert client.computed(gradient(), 0.0) == []  # on its way
        client.joined("next", "edge2", 1.0)
        client.receive("next", messages.TestRound(round=1), 1.0)
    assert client.computed(gradient(), 1.0) == []


def test_the_step_under_way_is_the_last_once_all_test():
    client = training()
    assert client.receive("next", messages.TestRound(round=0), 0.0) == [client_worker.TestBatch(0, 0)]
    trained, _ = client.computed(gradient(), 0.0)
    assert trained.message.count == 8.0


def test_a_gradient_of_an_earlier_round_is_dropped():
    client = training()
    client.receive("next", TrainRound(round=1, steps=2), 0.0)
    assert client.receive("next", gradient(), 0.0) == []
    assert client.receive("next", replace(gradient(), assignment=1), 0.0) == [ReturnGradient(ANY)]


def test_tests_fill_the_window_and_no_more():
    client = training(test_batches=6)
    assert client.receive("next", messages.TestRound(round=0), 0.0) == [
        client_worker.TestBatch(0, batch) for batch in range(4)
    ]
    answers = Answers(torch.ones(2), torch.full((2,), 3))
    assert [client.computed(answers, 0.0) for _ in range(5)] == [
        [client_worker.TestBatch(0, 4)],
        [client_worker.TestBatch(0, 5)],
        [],
        [],
        [],
    ]
    (tested,) = client.computed(answers, 0.0)
    assert (tested.message.correct_by_class.tolist(), tested.message.total_by_class.tolist()) == ([6, 6], [18, 18])


def test_a_step_that_a_round_did_not_wait_for_is_forgotten():
    federation = make_federation("psl")
    worker = ClientWorker(federation, 0, load_data(federation.job))
    late = worker.train(0, 0)
    worker.train(1, 1)
    with pytest.raises(ProtocolError, match="unexpected gradient of step 0"):
        worker.backward(Gradient(assignment=0, step=late.step, tensors=dict(late.tensors)))


MOVES = (ClientMove(0, 1, 1),)  # the first of three clients, of which two begin at the first of two edge servers


def moving(edge: int, scheme: str = "psl", **changes) -> EdgeServer:
    """An edge server of two, its clients there and in their first round of two, or as ``changes`` say."""
    federation = make_federation(scheme, edges=2, moves=MOVES, **{"cloud_every": 9, "test_every": 0} | changes)
    server = EdgeServer(federation, edge, Peer("cloud"))
    server.receive("runner", Begin(), 0.0)
    server.joined("next", "cloud", 0.0)
    for name in NAMES[:2] if edge == 0 else NAMES[2:]:
        come(server, name)
    return server


def over(server: EdgeServer, names) -> list:
    """What it does once ``names`` have ended the round."""
    return [action for name in names for action in server.receive(name, done(server._round.number), 1.0)]


def handover(here: bool = True, **changes) -> Handover:
    return replace(Handover(round=1, client=0, to="edge2", here=here), **changes)


def test_a_client_is_told_where_it_belongs_and_its_new_server_too():
    server = moving(0)
    _, leave, change = over(server, NAMES[:2])
    assert (type(leave), asdict(leave.handover)) == (HandOver, asdict(handover()))
    assert (change.to, change.message.server, change.message.round) == ("client1", "edge2", 1)
    sent, begin = server.computed(handover(), 1.0)  # the next round begins with what follows the client on its way
    assert (sent.to, sent.message.here, begin.to) == ("next", True, "client2")
    assert server.lost("client1", 2.0) == []
    (change,) = come(server, "client1")  # in a new process, which knows no better
    assert change.message.server == "edge2"


def test_one_that_has_left_before_does_not_come():
    server = moving(0)
    server.lost("client1", 0.5)
    _, leave = over(server, NAMES[1:2])
    assert (type(leave), asdict(leave.handover)) == (HandOver, asdict(handover(here=False)))


def test_one_that_is_back_and_waits_for_the_next_round_is_told_where_that_is():
    server = moving(0)
    server.lost("client1", 0.5)
    assert come(server, "client1") == []
    _, leave, change = over(server, NAMES[1:2])
    assert (leave.handover.here, change.to, change.message.server) == (True, "client1", "edge2")


def test_one_that_comes_early_takes_no_part_in_the_round_before_its_own():
    server = moving(1, "psl-averaged", test_every=1)
    assert come(server, "client1") == []
    server.receive("client3", done(), 0.0)
    (average,) = server.receive("client3", part(), 0.0)
    assert [update.client for update in average.trained] == [2]
    shared = server.computed(ClientModel(round=0, tensors={"w": torch.ones(2)}), 0.0)
    assert [action.to for action in shared] == ["client3"] * 2
    assert [action.message.round for action in shared] == [0, 0]


def test_an_edge_server_needs_its_cloud_until_its_end():
    early = EdgeServer(make_federation("psl", edges=2), 0, Peer("cloud"))
    assert early.receive("runner", Shutdown(), 0.0) == [Connect(Peer("cloud"))]  # which waits for every edge server
    assert early.receive("runner", Begin(), 0.1) == early.receive("runner", Shutdown(), 0.1) == []
    (late,) = early.joined("client1", "client1", 0.1)
    last, end = early.joined("next", "cloud", 0.2)
    assert [(one.to, type(one.message)) for one in (late, last)] == [("client1", Shutdown), ("next", Shutdown)]
    assert end == Finish()
    server = moving(1)
    assert server.lost("next", 0.5) is None
    server.receive("runner", Shutdown(), 1.0)
    assert server.lost("next", 1.5) == [Finish()]


def test_a_client_that_is_dead_by_the_runner_s_word_is_not_waited_for_after_a_late_hello():
    server = EdgeServer(make_federation("psl"), 0)
    server.receive("runner", Begin(), 0.0)
    server.receive("runner", ClientLost(client="client1"), 0.0)
    come(server, "client1")  # sent before its death
    server.lost("client1", 0.0)
    assert come(server, "client2") == []
    assert [action.to for action in come(server, "client3")] == ["client2", "client3"]


def test_answers_of_another_round_count_for_nothing():
    server = started("psl", rounds=1)
    over(server, NAMES)
    tested = {"correct_by_class": torch.zeros(10), "total_by_class": torch.ones(10)}
    for round_number in (1, 0):
        for name in NAMES[:2]:
            assert server.receive(name, RoundTested(round=round_number, **tested), 1.0) == []
    report, *_ = server.receive("client3", RoundTested(round=0, **tested), 1.0)
    assert report.message.total_by_class.tolist() == [3.0] * 10


@pytest.mark.parametrize("order", list(itertools.permutations(("handed", "come", "over"))))
def test_a_round_waits_for_who_comes_and_for_what_follows(order):
    server, begun = moving(1), []
    for what in order:
        assert not [action for action in begun if isinstance(action, Send) and action.to != "runner"]
        match what:
            case "handed":
                begun += server.receive("next", handover(), 1.0)
            case "come":
                begun += come(server, "client1")
            case "over":
                begun += over(server, NAMES[2:])
    assert [type(action) for action in begun if isinstance(action, Compute)] == [AdoptHandover]
    assert [action.to for action in begun if isinstance(action, Send)][-2:] == ["client1", "client3"]
    assert server.computed(Adopted(), 1.0) == []


@pytest.mark.parametrize("order", [("handed", "died"), ("died", "handed")])
def test_one_that_dies_on_its_way_is_missed_as_ever(order):
    server = moving(1)
    over(server, NAMES[2:])
    events = {"handed": ("next", handover()), "died": ("runner", ClientLost(client="client1"))}
    assert server.receive(*events[order[0]], 1.0) == []
    _, begin = server.receive(*events[order[1]], 1.0)
    assert (begin.to, begin.message.steps) == ("client3", 2)
    assert come(server, "client1") == []  # in a new process: from the next round on
    assert next(action.to for action in over(server, NAMES[2:]) if isinstance(action, Send)) == "runner"


def test_one_that_is_away_is_not_waited_for():
    server = moving(1)
    over(server, NAMES[2:])
    assert [action.to for action in server.receive("next", handover(here=False), 1.0)[1:]] == ["client3"]


@pytest.mark.parametrize("changes", [{"client": 1}, {"client": 7}, {"round": 0}, {"round": -1}, {"round": 9}])
def test_what_follows_nobody_is_refused(changes):
    with pytest.raises(ProtocolError, match="does not come to edge2 in round"):
        moving(1).receive("next", handover(**changes), 0.0)
    twice = moving(1)
    twice.receive("next", handover(), 0.0)
    with pytest.raises(ProtocolError, match="client 0 does not come to edge2 in round 1"):
        twice.receive("next", handover(), 0.0)


def test_an_edge_server_whose_clients_are_dead_lets_rounds_pass():
    server = moving(1, rounds=3)
    over(server, NAMES[2:])
    server.receive("next", handover(), 1.0)
    assert [action.message.round for action in server.lost("client3", 1.0)] == []
    for name in ("client1", "client3"):
        died = server.receive("runner", ClientLost(client=name), 2.0)
    settle, wake = died
    assert isinstance(settle, AdoptHandover)
    report, again = server.woke(wake.why, 2.0)
    assert (report.message.round, report.message.metrics["participants"]) == (1, 0.0)
    report, cloud, finish = server.woke(again.why, 2.0)
    assert (report.message.round, cloud.to, finish) == (2, "next", Finish())


def test_one_that_lives_again_is_expected_again():
    server = moving(1, rounds=3)
    over(server, NAMES[2:])
    server.receive("next", handover(), 1.0)
    server.receive("runner", ClientLost(client="client1"), 2.0)
    server.receive("runner", ClientReturned(client="client1"), 2.0)
    assert server.receive("runner", ClientLost(client="client3"), 3.0) == []
    assert [action.to for action in server.lost("client3", 3.0)] == ["runner"]  # round 1 is over, 2 is not passed by
    assert [action.to for action in come(server, "client1")] == ["client1"]


def test_one_whose_hello_comes_after_the_word_of_its_death_is_waited_for_no_more():
    server = moving(1, rounds=3)
    over(server, NAMES[2:])
    server.receive("next", handover(), 1.0)
    server.receive("runner", ClientLost(client="client1"), 2.0)
    come(server, "client1")
    server.receive("runner", ClientLost(client="client3"), 3.0)
    server.lost("client1", 3.0)
    report, passed = server.lost("client3", 3.0)
    assert (report.to, passed) == ("runner", Wake(3.0, "pass"))  # round 2 is passed by


def test_one_that_is_back_goes_after_what_is_its_own():
    """Its first server waits in round 2 for what the one in between is to send: it is there, not here."""
    federation = make_federation(
        "sflv1", edges=2, clients=2, rounds=4, moves=(ClientMove(0, 1, 1), ClientMove(0, 2, 0))
    )
    server = EdgeServer(replace(federation, cloud_every=9, test_every=0), 0, Peer("cloud"))
    server.receive("runner", Begin(), 0.0)
    server.joined("next", "cloud", 0.0)
    come(server, "client1")
    server.lost("client1", 0.5)
    server.computed(handover(here=False), 1.0)
    server.woke("pass", 1.0)
    assert server._round.number == 2
    (change,) = come(server, "client1")
    assert (change.message.server, change.message.round) == ("edge2", 1)
    server.joined("client1", "client1", 4.0)
    assert server.receive("client1", replace(hello(), round=2), 4.0) == []  # ahead of what follows it
    settle, begin = server.receive("next", Handover(round=2, client=0, to="edge1", here=True), 5.0)
    assert (type(settle), begin.to) == (AdoptHandover, "client1")
    server.lost("client1", 6.0)
    (begin,) = come(server, "client1")  # in a new process: it belongs here now
    assert (begin.to, type(begin.message)) == ("client1", TrainRound)


def test_a_client_goes_where_it_is_told_among_its_servers():
    client = Client(make_federation("psl"), 0, [Peer("edge1"), Peer("edge2", "here", 7)], DATA)
    client.joined("next", "edge1", 0.0)
    client.receive("next", TrainRound(round=0, steps=2), 0.0)
    change = ChangeServer(server="edge2", round=1)
    assert client.receive("next", change, 0.0) == [Connect(Peer("edge2", "here", 7))]
    (sent,) = client.joined("next", "edge2", 1.0)
    assert (sent.message.round, sent.message.current) == (1, True)
    assert client.receive("next", Shutdown(), 1.0) == [Finish()]
    with pytest.raises(ProtocolError, match="unexpected ChangeServer from next"):
        client.receive("next", replace(change, server="edge3"), 0.0)


def test_a_cloud_keeps_what_comes_too_early():
    cloud = Cloud(make_federation("psl", edges=2, rounds=3, moves=(*MOVES, ClientMove(0, 2, 0))))
    cloud.joined("edge1", "edge1", 0.0)
    assert cloud.receive("edge1", handover(), 0.0) == []
    assert [action.to for action in cloud.joined("edge2", "edge2", 0.0)] == ["edge2"]
    back = handover(round=2, to="edge1")
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
        ("edge1", {"round": 0}),
        ("edge1", {"round": 2}),
        ("edge1", {"round": -1}),
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
    left = EdgeWorker(make_federation("sflv1", edges=2, moves=MOVES), 0).hand_over(handover())
    if scheme == "psl":
        with pytest.raises(ProtocolError, match="client 0: unexpected tensors in the handover"):
            EdgeWorker(federation, 1).adopt_handover(left)
        return
    name = next(iter(left.tensors))
    for tensors in ({}, left.tensors | {name: torch.zeros(1)}, left.tensors | {"more": torch.zeros(1)}):
        with pytest.raises(ProtocolError, match=r"got nothing|got torch|unexpected tensors \['more'\]"):
            EdgeWorker(federation, 1).adopt_handover(replace(left, tensors=tensors))


def edge_update(value: float, samples: int) -> EdgeUpdate:
    w = torch.full((2,), value)
    return EdgeUpdate(round=0, samples=samples, server={"w": w}, client={"w": -w})


def test_a_cloud_averages_by_samples_what_all_that_are_left_have_sent():
    cloud = Cloud(make_federation("psl", edges=3))
    assert cloud.receive("edge2", edge_update(2.0, 10), 0.0) == []
    cloud.receive("edge3", edge_update(5.0, 9), 0.0)
    assert cloud.lost("edge3", 0.0) == []  # what it has sent is not averaged any more
    (average,) = cloud.receive("edge1", edge_update(8.0, 30), 0.0)
    assert isinstance(average, AggregateEdges)
    assert [update.samples for update in average.updates] == [30, 10]
    assert average.edges == (0, 1)
    worker = CloudWorker(make_federation("psl-averaged", edges=3))
    mean = worker.aggregate(average.updates, average.edges)
    assert (mean.server["w"].tolist(), mean.client["w"].tolist()) == ([6.5, 6.5], [-6.5, -6.5])
    assert [action.to for action in cloud.computed(mean, 0.0)] == ["edge1", "edge2"]
    untrained = worker.aggregate((edge_update(1.0, 0), edge_update(3.0, 5)), (0, 1))
    assert untrained.server["w"].tolist() == [3.0, 3.0]
    nobody = worker.aggregate((edge_update(1.0, 0),), (0,))
    assert (nobody.server, nobody.client) == ({}, {})
    assert cloud.receive("edge1", Shutdown(), 0.0) == []
    assert cloud.receive("edge2", Shutdown(), 0.0) == [Finish()]


def test_strangers_and_strange_messages_are_refused():
    server = started("psl")
    with pytest.raises(ProtocolError, match="client9 is no client"):
        server.joined("client9", "client9", 0.0)
    with pytest.raises(ProtocolError, match="unexpected TrainRound from client1"):
        server.receive("client1", TrainRound(round=0, steps=1), 0.0)
    with pytest.raises(ProtocolError, match="edge9 is no edge server"):
        Cloud(make_federation("psl", edges=2)).joined("edge9", "edge9", 0.0)
    with pytest.raises(ProtocolError, match="unexpected TrainRound from edge1"):
        Cloud(make_federation("psl", edges=2)).receive("edge1", TrainRound(round=0, steps=1), 0.0)


def test_weights_that_do_not_fit_are_refused():
    federation = make_federation("fl")
    worker = ClientWorker(federation, 0, load_data(federation.job))
    given = worker.give(0)
    narrow = replace(given, tensors=given.tensors | {"0.weight": torch.zeros(1)})
    with pytest.raises(ProtocolError, match=r"0\.weight: got torch\.float32"):
        worker.adopt(ClientModel(round=0, tensors=narrow.tensors))
    with pytest.raises(ProtocolError, match=r"do not fit: .*0\.weight"):
        worker.adopt(ClientModel(round=0, tensors={k: v for k, v in given.tensors.items() if k != "0.weight"}))
    with pytest.raises(ProtocolError, match=r"aggregate_clients of scheme fl: part of 1: 0\.weight is"):
        EdgeWorker(federation, 0).aggregate(
            0, [Update(client, 1, one.tensors) for client, one in enumerate((given, narrow))]
        )
    updates = tuple(EdgeUpdate(round=0, samples=1, client=update.tensors) for update in (given, narrow))
    with pytest.raises(ProtocolError, match=r"aggregate_edges of scheme fl: part of 1: 0\.weight is"):
        CloudWorker(federation).aggregate(updates, (0, 1))


def tasks(federation, clients=(0, 1)):
    data = load_data(federation.job)
    return [ClientWorker(federation, client, data).train(0, 0) for client in clients]


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
        EdgeWorker(federation, 0).joint(tasks(federation), (0.5, 0.5), positions)


def test_batches_that_cannot_be_joined_are_refused():
    federation = make_federation("psl")
    one, other = tasks(federation)
    server = EdgeWorker(federation, 0)
    short = replace(other, labels=other.labels[:5], tensors={name: t[:5] for name, t in other.tensors.items()})
    with pytest.raises(ProtocolError, match=r"batches of \[5, 8\] samples cannot be joined"):
        server.joint((one, short), (0.5, 0.5), 0)
    less = replace(other, tensors={name: t[:5] for name, t in other.tensors.items()})
    with pytest.raises(ProtocolError, match="cannot be joined over clients"):
        server.joint((one, less), (0.5, 0.5), 0)
    with pytest.raises(ProtocolError, match="came without labels"):
        server.joint((one, replace(other, labels=None)), (0.5, 0.5), 0)
    scalars = make_federation("psl", replace(JOB, model="user_models:Everything", splits=(3,)))
    with pytest.raises(ProtocolError, match="cannot be joined over clients"):
        EdgeWorker(scalars, 0).joint(tasks(scalars), (0.5, 0.5), 0)


def test_a_server_part_has_layers():
    whole = make_federation("fl").job
    with pytest.raises(ValueError, match="scheme psl: all layers are the clients'"):
        EdgeWorker(replace(make_federation("psl"), job=whole), 0)
