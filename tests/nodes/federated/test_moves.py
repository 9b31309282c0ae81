"""Clients that change their edge server while they train: nothing is lost, nothing is counted twice."""

import itertools

import msgspec
import pytest
from federations import JOB, PlainEdges, assert_close, make_federation, same, trained
from msgspec.structs import replace
from oracle import Unsplit

from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.data.loading import load_data
from nodes.federated.in_process import FederationOutcome, run_in_process, run_in_virtual_time
from nodes.model.factory import build_model
from nodes.spec.federation import Absence, ClientMove, Federation
from nodes.spec.job import DataSpec, OptimizerSpec, Timing
from nodes.wire.codec import wire_size
from nodes.wire.messages import Handover

NEVER = 99  # the cloud averages
SWAP = (
    ClientMove(0, 1, 1),
    ClientMove(1, 1, 0),
    ClientMove(0, 2, 0),
    ClientMove(1, 2, 1),
)  # two clients change places, and back
LINK = Duplex(up=LinkProfile(rate_bps=20e6, delay_s=0.002), down=LinkProfile(rate_bps=20e6, delay_s=0.002))


def handed_over(outcome: FederationOutcome, node: str) -> dict[str, tuple[int, int]]:
    """By direction: messages and bytes of handovers that ``node`` sent."""
    (sent,) = [one.sent for one in outcome.nodes if one.name == node]
    return {
        to: (kinds["handover"].messages, kinds["handover"].header_bytes + kinds["handover"].payload_bytes)
        for to, kinds in sent.items()
        if "handover" in kinds
    }


@pytest.mark.parametrize("optimizer", [OptimizerSpec(lr=0.05, schedule="cosine"), OptimizerSpec(name="adam", lr=0.01)])
@pytest.mark.parametrize("cloud_every", [1, NEVER])
def test_one_that_moves_between_two_edge_servers_trains_as_the_unsplit_network(cloud_every, optimizer):
    """With batch norm, dropout, momentum and a falling rate; also where only its own copy follows it."""
    job = replace(JOB, data=DataSpec(train_samples=24, test_samples=9, augment=True), optimizer=optimizer, epochs=3)
    moves = (ClientMove(0, 1, 1), ClientMove(0, 2, 0))
    run = trained(
        make_federation(
            "sflv1", job, clients=1, edges=2, rounds=3, local_steps=None, moves=moves, cloud_every=cloud_every
        )
    )
    alone = Unsplit(replace(job, nodes=("all",), splits=(), stages=()), load_data(job))
    losses = alone.train()
    metrics = [one.metrics for one in run.outcome.rounds]
    assert [one["loss"] for one in metrics] == [sum(losses[:3]), 0.0, sum(losses[6:]), 0.0, sum(losses[3:6]), 0.0]
    assert [one["participants"] for one in metrics] == [1, 0, 1, 0, 1, 0]
    assert same(run.states["client1"] | run.states["edge1"], alone.model.state_dict())
    steps = {node.name: node.steps for node in run.outcome.nodes}
    assert (steps["edge1"], steps["edge2"], steps["client1"]) == (6, 3, 9)


@pytest.mark.parametrize("scheme", ["sflv1", "fl"])
def test_clients_that_change_places_train_as_if_they_had_stayed(scheme):
    """Each is its edge server's only one, so no mean is of other groups; the clients' data are unequal."""
    job = replace(JOB, data=DataSpec(train_samples=61, test_samples=31))
    stay = trained(make_federation(scheme, job, clients=2, edges=2, rounds=3))
    swap = trained(make_federation(scheme, job, clients=2, edges=2, rounds=3, moves=SWAP))
    for name in ("client1", "client2", "edge1", "edge2"):
        assert same(swap.states[name], stay.states[name])
    for number in range(3):  # the edge server tells of another client in the round between
        one, other = ([one for one in run.outcome.rounds if one.round == number] for run in (swap, stay))
        for mine, theirs in zip(one[::-1] if number == 1 else one, other, strict=True):
            assert (mine.correct_by_class, mine.total_by_class) == (theirs.correct_by_class, theirs.total_by_class)
            for count in ("loss", "correct", "count", "steps", "uplink_bytes", "downlink_bytes", "participants"):
                assert mine.metrics[count] == theirs.metrics[count]


GROUPS = [[(0, 1), (2,)], [(0,), (1, 2)], [(), (0, 1, 2)], [(1, 2), (0,)]]
MOVES = (ClientMove(1, 3, 0), ClientMove(2, 3, 0), ClientMove(0, 2, 1), ClientMove(1, 1, 1))


@pytest.mark.parametrize(
    ("scheme", "cloud_every"),
    [
        ("sl", 1),
        ("sl", NEVER),
        ("sflv1", 1),
        ("sflv1", 3),
        ("sflv1", NEVER),
        ("sflv2", 3),
        ("psl", 3),
        ("psl", NEVER),
        ("psl-averaged", 3),
    ],
)
def test_schemes_equal_a_plain_loop_with_a_server_for_each_edge(scheme, cloud_every):
    federation = make_federation(scheme, rounds=4, edges=2, moves=MOVES, cloud_every=cloud_every)
    assert [[federation.group(edge, number) for edge in (0, 1)] for number in range(4)] == GROUPS
    run = trained(federation)
    expected = PlainEdges(federation, load_data(JOB), GROUPS).train()
    for name, state in run.states.items():
        if scheme.startswith("psl"):
            assert_close(state, expected[name], 1e-4)
        else:
            assert same(state, expected[name]), name
    if scheme == "sflv1" and cloud_every == 1:  # where moves change no more than the rounding of means
        stay = trained(replace(federation, moves=()))
        assert_close(stay.states["client1"], run.states["client1"])


@pytest.mark.parametrize("scheme", ["sl", "sflv2", "psl", "epsl", "psl-averaged", "fl", "sflv1"])
def test_what_follows_a_client_is_counted_where_it_crosses(scheme):
    federation = make_federation(scheme, rounds=3, edges=2, moves=(ClientMove(2, 2, 0),), test_every=0)
    outcome = run_in_process(federation)
    empty = sum(wire_size(Handover(round=2, client=2, to="edge1", here=True)))
    ((_, (messages, up)),) = handed_over(outcome, "edge2").items()
    assert handed_over(outcome, "cloud") == {"edge1": (1, up)}
    assert messages == 1
    if scheme == "sflv1":
        server = build_model(JOB.model, 10, JOB.input_shape)[JOB.splits[0] :]
        own = 2 * sum(tensor.nbytes for tensor in server.parameters()) + sum(
            tensor.nbytes for tensor in server.buffers()
        )
        (sent,) = [one.sent for one in outcome.nodes if one.name == "edge2"]
        assert sent["next"]["handover"].payload_bytes == own  # with momentum
    else:
        assert up == empty < 100
    moved = {(one.edge, one.round): one.metrics["moved_bytes"] for one in outcome.rounds}
    assert moved.pop((0, 2)) == up
    assert set(moved.values()) == {0}
    assert sum(one.metrics["steps"] for one in outcome.rounds) == 3 * 3 * 2


@pytest.mark.parametrize("scheme", ["sl", "sflv1", "psl", "psl-averaged", "fl"])
@pytest.mark.parametrize("changes", [{"edges": 1}, {"edges": 2, "rounds": 4, "moves": MOVES}])
def test_tests_outside_of_a_virtual_run_are_those_of_the_run_itself(scheme, changes):
    inside = make_federation(scheme, **changes)
    outside = replace(inside, test_every=0)
    links = dict.fromkeys((*inside.client_names, *inside.edge_names), LINK)
    one, other = run_in_process(inside), run_in_virtual_time(outside, links)
    assert [(each.correct_by_class, each.total_by_class) for each in one.rounds] == [
        # where nobody tests, a run reports no answers, and a test outside of it zeros
        (each.correct_by_class, each.total_by_class) if sum(each.total_by_class) else ([], [])
        for each in other.rounds
    ]


@pytest.mark.parametrize("scheme", ["sl", "sflv1", "psl", "psl-averaged", "fl"])
def test_one_that_is_away_when_it_should_move_is_sent_on_when_it_is_back(scheme):
    """Client 2 leaves in round 0, should come to edge 2 in round 1, in which it is away, and returns to edge 1."""
    federation = make_federation(
        scheme,
        rounds=6,
        edges=2,
        test_every=0,
        moves=(ClientMove(1, 1, 1),),
        absences=(Absence(1, 1, 0.5),),
        client_timing=Timing(forward_s=0.05, backward_s=0.05),
    )
    run = trained(federation, dict.fromkeys((*federation.client_names, *federation.edge_names), LINK))
    metrics = {(one.edge, one.round): one.metrics for one in run.outcome.rounds}
    here = [metrics[1, number]["participants"] for number in range(6)]
    assert here[:2] == [1, 1]
    assert here[-1] == 2
    assert here == sorted(here)
    assert [metrics[0, number]["participants"] for number in range(6)] == [2, 1, 1, 1, 1, 1]
    rounds = sum(one - 1 for one in here)
    steps = {node.name: node.steps for node in run.outcome.nodes}
    served = 0 if scheme == "fl" else 1
    assert steps["client2"] == 2 * rounds + 1  # of its first round it took one step
    assert sum(one["steps"] for one in metrics.values()) == 2 * (6 + 6 + rounds) + served
    if scheme == "sflv1":
        assert (steps["edge1"], steps["edge2"]) == (2 * 6 + 1, 2 * (6 + rounds))
    assert handed_over(run.outcome, "edge1")["next"][0] == 1


ABROAD = (
    ClientMove(1, 1, 1),
    ClientMove(2, 1, 0),
)  # leaves nobody but client 2 of three, which is away, to edge server 2


@pytest.mark.parametrize("scheme", ["sflv1", "psl"])
@pytest.mark.parametrize(
    ("changes", "participants"),
    [
        # back in time to be sent abroad, and it comes home in round 5; where edge servers wait for each other, and not
        (
            {"moves": (*ABROAD, ClientMove(1, 5, 0)), "absences": (Absence(1, 1, 0.5),)},
            [[2, 2, 2, 2, 2, 3], [1] * 5 + [0]],
        ),
        (
            {"moves": (*ABROAD, ClientMove(1, 5, 0)), "absences": (Absence(1, 1, 1.5),), "cloud_every": NEVER},
            [[2, 2, 2, 2, 2, 3], [1] * 5 + [0]],
        ),
        # back when its first server is in round 4, by when it should be at its third: it goes by its second's
        (
            {
                "moves": (ClientMove(1, 1, 2), ClientMove(2, 1, 0), ClientMove(1, 3, 1)),
                "absences": (Absence(1, 1, 1.5),),
                "cloud_every": NEVER,
                "edges": 3,
            },
            [[1, 2, 2, 2, 2, 2], [1, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0]],
        ),
        # back when its first server has ended
        (
            {"moves": ABROAD, "absences": (Absence(1, 1, 50.0),), "cloud_every": NEVER},
            [[2, 2, 2, 2, 2, 2], [1] + [0] * 5],
        ),
        # back while its first server, whose other client is slow, goes on, and when the one that it moved to has ended
        (
            {
                "clients": 4,
                "slowdowns": (8, 1, 1, 1),
                "moves": (ClientMove(1, 1, 1),),
                "absences": (Absence(1, 1, 3.0),),
                "cloud_every": NEVER,
            },
            [[2, 1, 1, 1, 1, 1], [2] * 6],
        ),
    ],
)
def test_one_that_is_back_goes_where_what_is_its_own_went_and_nobody_waits_for_ever(scheme, changes, participants):
    federation = make_federation(
        scheme,
        **{"rounds": 6, "edges": 2, "test_every": 0} | changes,
        client_timing=Timing(forward_s=0.05, backward_s=0.05),
    )
    links = dict.fromkeys((*federation.client_names, *federation.edge_names), LINK)
    metrics = [one.metrics for one in run_in_virtual_time(federation, links, learn=False).rounds]
    assert [one["participants"] for one in metrics] == list(itertools.chain.from_iterable(participants))


@pytest.mark.parametrize(
    "changes",
    [
        {"clients": 10**12},
        {"clients": 0},
        {"edges": 10**12},
        {"rounds": 10**12},
        {"moves": [[0, 0, 1]] * 100_001},
        {"absences": [[0, 0, 1.0]] * 100_001},
    ],
)
def test_what_is_received_is_bounded_before_anything_is_made_of_it(changes):
    fields = msgspec.to_builtins(make_federation("psl", edges=2))
    with pytest.raises(msgspec.ValidationError, match=rf"Expected .* at `\$\.{next(iter(changes))}`"):
        msgspec.convert(fields | changes, Federation)


def test_edge_servers_may_be_more_than_clients_if_each_is_come_to():
    federation = make_federation(
        "psl", clients=1, edges=3, rounds=3, moves=(ClientMove(0, 0, 2), ClientMove(0, 1, 0), ClientMove(0, 2, 1))
    )
    assert (federation.visits(0), federation.visitors(1)) == ((2, 0, 1), (0,))
    assert [federation.places(number) for number in range(3)] == [[2], [0], [1]]
    outcome = run_in_process(federation)
    assert {node.name: node.steps for node in outcome.nodes if node.name != "cloud"} == {
        "edge1": 2,
        "edge2": 2,
        "edge3": 2,
        "client1": 6,
    }
