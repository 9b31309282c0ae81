"""Deadlines of rounds: who is late, what counts, when they are back, how few are too few; and on a virtual clock."""

import pytest
import torch
from federations import NAMES, begun, make_federation, task

from netem.profiles import Duplex
from nodes.errors import NodeError
from nodes.federated.edge.joint_step import JointReply
from nodes.federated.edge.server import EdgeServer
from nodes.federated.edge.worker import Aggregate, JointStep
from nodes.federated.in_process import run_in_virtual_time
from nodes.federated.schemes import build_scheme
from nodes.federated.schemes.builtin import scheme_of
from nodes.runtime.actions import Action, Send, Wake
from nodes.spec.federation import ClientMove, SchemeSpec
from nodes.spec.job import Timing
from nodes.wire import messages
from nodes.wire.messages import (
    ClientModel,
    ClientUpdate,
    Gradient,
    RoundReport,
    RoundTested,
    RoundTrained,
    TrainRound,
)

LIMIT_S = 30.0


def started(scheme: str, **changes) -> tuple[EdgeServer, str]:
    """An edge server whose clients train in round 0, and its deadline."""
    server, actions = begun(make_federation(scheme, round_deadline_s=LIMIT_S, **changes))
    (wake,) = [action for action in actions if isinstance(action, Wake)]
    assert wake.at == LIMIT_S
    return server, wake.why


def deadline_of(actions: list[Action]) -> str:
    (wake,) = [action for action in actions if isinstance(action, Wake)]
    return wake.why


def sent(actions: list[Action], kind: type) -> list[str]:
    return [action.to for action in actions if isinstance(action, Send) and isinstance(action.message, kind)]


def train(server: EdgeServer, name: str, number: int = 0, now: float = 5.0) -> list[Action]:
    """Let client ``name`` complete a round of federated learning."""
    done = RoundTrained(round=number, loss=1.0, correct=3.0, count=16.0)
    part = ClientUpdate(round=number, samples=20, tensors={"w": torch.ones(2)})
    return [*server.receive(name, done, now), *server.receive(name, part, now)]


def aggregated(actions: list[Action]) -> list[int]:
    (step,) = [action for action in actions if isinstance(action, Aggregate)]
    return [update.client for update in step.trained]


def averaged(server: EdgeServer) -> list[Action]:
    return server.computed(ClientModel(round=0, tensors={"w": torch.ones(2)}), LIMIT_S)


def reports(actions: list[Action]) -> list[RoundReport]:
    return [
        action.message for action in actions if isinstance(action, Send) and isinstance(action.message, RoundReport)
    ]


def answers() -> RoundTested:
    return RoundTested(round=0, correct_by_class=torch.ones(10), total_by_class=torch.ones(10))


def test_a_round_goes_on_without_the_late_client_whose_results_are_dropped() -> None:
    server, deadline = started("fl")
    for name in NAMES[:2]:
        train(server, name)
    actions = server.woke(deadline, LIMIT_S)
    assert aggregated(actions) == [0, 1]
    assert (server._stats.late, server._stats.count) == (1, 32.0)
    assert train(server, NAMES[2]) == []  # too late
    assert server._stats.count == 32.0


def test_a_late_client_is_passed_by_until_it_is_heard_of() -> None:
    server, deadline = started("fl", rounds=4, test_every=0)
    for name in NAMES[:2]:
        train(server, name)
    server.woke(deadline, LIMIT_S)
    assert sent(averaged(server), TrainRound) == list(NAMES[:2])  # of round 1
    for name in NAMES[:2]:
        actions = train(server, name, 1)
    assert aggregated(actions) == [0, 1]  # at once
    train(server, NAMES[2], 0)  # its first word since
    assert sent(averaged(server), TrainRound) == list(NAMES)  # of round 2


def test_a_late_client_is_not_waited_for_in_tests_and_tests_have_a_deadline_too() -> None:
    server, deadline = started("fl")
    for name in NAMES[:2]:
        train(server, name)
    server.woke(deadline, LIMIT_S)
    actions = averaged(server)
    assert sent(actions, messages.TestRound) == list(NAMES[:2])
    server.receive(NAMES[0], answers(), LIMIT_S + 1)
    assert server.woke(deadline, LIMIT_S + 2) == []  # that of the training is over
    (report,) = reports(server.woke(deadline_of(actions), 2 * LIMIT_S))
    assert report.total_by_class is not None
    assert report.total_by_class.sum() == 10  # of the client that answered
    assert report.metrics["late"] == 1


@pytest.mark.promise(
    "Time", "fewer clients than `least_clients` are done at the deadline", "the run ends and names the late ones"
)
def test_fewer_than_the_least_clients_end_the_run() -> None:
    server, deadline = started("fl", least_clients=3)
    for name in NAMES[:2]:
        train(server, name)
    with pytest.raises(NodeError) as raised:
        server.woke(deadline, LIMIT_S)
    told = "round 0: 2 clients have trained (within 30 s, late were client3), least_clients is 3"
    assert str(raised.value) == told


def test_a_round_in_which_nobody_is_done_ends_the_run() -> None:
    server, deadline = started("fl")
    with pytest.raises(NodeError, match=r"0 clients have trained .*client1, client2, client3.*least_clients is 1"):
        server.woke(deadline, LIMIT_S)


def test_clients_that_are_gone_count_as_little_as_late_ones() -> None:
    server, _ = begun(make_federation("fl", least_clients=2))
    train(server, NAMES[0])
    server.lost(NAMES[1], 1.0)
    with pytest.raises(NodeError, match=r"1 clients have trained \(the others are gone\), least_clients is 2"):
        server.lost(NAMES[2], 1.0)


# Joint steps, for which all wait


def stepped(clients: int) -> JointReply:
    gradient = Gradient(assignment=0, step=0, metrics={"count": 8.0}, tensors={})
    return JointReply([gradient] * clients, forward_samples=24.0, backward_samples=24.0, backward_s=0.1)


def tasks(server: EdgeServer, *clients: int) -> list[Action]:
    return [action for client in clients for action in server.receive(NAMES[client], task(client), 1.0)]


def steps(actions: list[Action]) -> list[int]:
    return [len(action.messages) for action in actions if isinstance(action, JointStep)]


def test_a_joint_step_goes_on_without_the_client_whose_task_is_missing() -> None:
    server, deadline = started("psl")
    assert steps(tasks(server, 0, 2)) == []
    actions = server.woke(deadline, LIMIT_S)
    assert steps(actions) == [2]
    assert server._stats.late == 1
    assert tasks(server, 1) == []  # too late for this round
    again = deadline_of(actions)
    server.computed(stepped(2), LIMIT_S)
    assert steps(tasks(server, 0)) == []
    assert steps(server.woke(again, 2 * LIMIT_S)) == [1]  # and without the next one


def test_no_client_is_late_while_the_server_computes_for_all() -> None:
    server, deadline = started("psl")
    assert steps(tasks(server, 0, 1, 2)) == [3]
    actions = server.woke(deadline, LIMIT_S)
    assert [type(action) for action in actions] == [Wake]
    assert server._stats.late == 0


# What cannot be


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"round_deadline_s": 0.0}, "round_deadline_s 0.0: above 0"),
        ({"least_clients": 4}, "least_clients 4: from 1 to 3"),
        ({"least_clients": 2, "participants": 1}, "least_clients 2: from 1 to 1"),
        ({"least_clients": 2, "edges": 2}, "least_clients 2: from 1 to 1"),
        (
            {"round_deadline_s": 1.0, "edges": 2, "clients": 4, "moves": (ClientMove(0, 1, 1),)},
            "round_deadline_s: not with moves",
        ),
    ],
)
def test_impossible_deadlines_are_refused(changes, told) -> None:
    with pytest.raises(ValueError, match="^" + told):
        make_federation("fl", **changes)


@pytest.mark.parametrize("changes", [{"round_deadline_s": 1.0}, {"least_clients": 2}])
def test_schemes_that_wait_for_nobody_have_no_deadline(changes) -> None:
    assert not build_scheme(SchemeSpec(name="psl-async")).waits
    with pytest.raises(ValueError, match=f"^{next(iter(changes))}: scheme psl-async ends no round"):
        scheme_of(make_federation("psl-async", **changes))


# On a virtual clock


@pytest.mark.promise(
    "Time",
    "a client of a federation is later than `round_deadline_s`",
    "the round goes on without it; rounds tell who was late",
)
@pytest.mark.parametrize("scheme", ["psl", "sflv1", "sflv2", "fl"])
def test_a_client_that_is_much_slower_is_left_behind(scheme: str) -> None:
    """The others take a second a step, it takes 1,000: it is late once, and is not heard of again before the end."""
    timings = {"client_timing": Timing(forward_s=0.5, backward_s=0.5), "slowdowns": (1.0, 1.0, 1000.0)}
    federation = make_federation(scheme, rounds=3, round_deadline_s=20.0, **timings)
    came = run_in_virtual_time(federation, dict.fromkeys(NAMES, Duplex()), learn=False)
    assert [one.metrics["late"] for one in came.rounds] == [1, 0, 0]
    assert [one.metrics["participants"] for one in came.rounds] == [3, 2, 2]
    assert [one.metrics["steps"] for one in came.rounds] == [4, 4, 4]
    assert 20 <= came.rounds[0].metrics["trained"] - came.rounds[0].metrics["began"] < 25
    assert came.rounds[1].metrics["trained"] - came.rounds[1].metrics["began"] < 10
