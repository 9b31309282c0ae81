"""A federation in virtual time: bytes are those of the run with data, rounds take what formulas say."""

import asyncio

import pytest
from federations import JOB, make_federation, same, trained
from msgspec.structs import replace

from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.data.loading import load_data
from nodes.federated.client_worker import ClientWorker
from nodes.federated.edge.worker import EdgeWorker
from nodes.federated.in_process import run_in_process, run_in_virtual_time
from nodes.federated.schemes import SCHEMES, scheme_of
from nodes.federated.shape_workers import ClientShapes, ShapeClient, ShapeEdge
from nodes.model.chain import Part
from nodes.spec.federation import Absence, ClientMove
from nodes.spec.job import DataSpec, StageSpec, Timing
from nodes.wire.codec import wire_size
from nodes.wire.messages import ClientModel, RoundTrained, TrainRound

STILL = replace(JOB, model="user_models:Still", splits=(2,))
RATES_BPS = (1e6, 2e6, 5e6)
DELAY_S = 0.02


def links(federation, rates_bps=RATES_BPS, **more) -> dict[str, Duplex]:
    """One above each client, its rate up; ten times as much down."""
    above = {}
    for client, name in enumerate(federation.client_names):
        rate_bps = rates_bps[client % len(rates_bps)]
        above[name] = Duplex(
            up=LinkProfile(rate_bps=rate_bps, delay_s=DELAY_S, **more),
            down=LinkProfile(rate_bps=10 * rate_bps, delay_s=DELAY_S, **more),
        )
    return above | dict.fromkeys(federation.edge_names, Duplex(up=LinkProfile(rate_bps=1e9, delay_s=0.001)))


def own_options(scheme: str) -> dict[str, float]:
    return {"phi": 0.5} if scheme == "epsl" else {}


MOVES = {"rounds": 3, "moves": (ClientMove(1, 1, 1), ClientMove(0, 1, 1), ClientMove(2, 2, 0)), "test_every": 0}


@pytest.mark.parametrize(
    ("scheme", "stage", "changes"),
    [
        *((scheme, stage, {}) for scheme in SCHEMES for stage in ("identity", "int8")),
        *((scheme, "identity", MOVES) for scheme in ("sl", "sflv1", "psl", "fl")),
    ],
)
def test_bytes_and_counts_are_those_of_the_run_with_data(scheme, stage, changes):
    job = replace(JOB, stages=(StageSpec(name=stage),))
    changes = {"edges": 1 if scheme == "psl-async" else 2} | own_options(scheme) | changes
    federation = make_federation(scheme, job, **changes)
    above = links(federation)
    # Who joins whom in an asynchronous step depends on times.
    real = run_in_virtual_time(federation, above) if scheme == "psl-async" else run_in_process(federation)
    virtual = run_in_virtual_time(federation, above, learn=False)
    for one, other in zip(real.nodes, virtual.nodes, strict=True):
        assert (one.name, one.layers, one.steps, one.sent) == (other.name, other.layers, other.steps, other.sent)
    for one, imagined in zip(real.rounds, virtual.rounds, strict=True):
        for name in (
            "steps",
            "count",
            "forward_samples",
            "backward_samples",
            "uplink_bytes",
            "downlink_bytes",
            "shared_bytes",
            "moved_bytes",
            "participants",
        ):
            assert one.metrics[name] == imagined.metrics[name]
        assert one.total_by_class == (imagined.total_by_class if federation.test_every else [])
        assert sum(imagined.correct_by_class) == imagined.metrics["loss"] == 0


def test_a_task_without_data_is_numbered_as_one_with_data():
    federation = make_federation("psl")
    data = load_data(JOB)
    one, other = ClientWorker(federation, 2, data), ShapeClient(federation, 2, ClientShapes(federation, data))
    real, imagined = one.train(1, 70), other.train(1, 70)
    assert (real.assignment, real.step) == (imagined.assignment, imagined.step) == (1, 212)
    assert wire_size(real) == wire_size(imagined)


class Costs:
    """What a round of ``steps`` costs each client, by hand."""

    def __init__(self, federation) -> None:
        data = load_data(federation.job)
        worker = ClientWorker(federation, 0, data)
        step = worker.train(0, 0)
        self.round = sum(wire_size(TrainRound(round=0, steps=2)))
        self.done = sum(wire_size(RoundTrained(round=0, loss=0.0, correct=0.0, count=0.0)))
        given = worker.give(0)
        self.given = sum(wire_size(given))
        self.handed = sum(wire_size(ClientModel(round=0, tensors=given.tensors)))
        scheme = scheme_of(federation)
        if scheme.server_parts != "none":
            server = EdgeWorker(federation, 0)
            (returned,) = server.joint([step], (1.0,), scheme.averaged_positions(8)).gradients
            self.up, self.down = sum(wire_size(step)), sum(wire_size(returned))

    @staticmethod
    def up_s(client: int, wire_bytes: float) -> float:
        return 8 * wire_bytes / RATES_BPS[client] + DELAY_S

    @staticmethod
    def down_s(client: int, wire_bytes: float) -> float:
        return 8 * wire_bytes / (10 * RATES_BPS[client]) + DELAY_S


CLIENT, SERVER = Timing(forward_s=0.010, backward_s=0.020), Timing(forward_s=0.003, backward_s=0.005)
SLOWDOWNS = (1.0, 2.0, 5.0)


def round_s(scheme: str, server: Timing = SERVER, **changes) -> tuple[float, Costs]:
    """Seconds of the training of one round."""
    federation = make_federation(
        scheme, STILL, rounds=1, slowdowns=SLOWDOWNS, client_timing=CLIENT, server_timing=server, **changes
    )
    (metrics,) = (one.metrics for one in run_in_virtual_time(federation, links(federation), learn=False).rounds)
    return metrics["trained"] - metrics["began"], Costs(federation)


def alone_s(costs: Costs, client: int, server_s: float) -> float:
    """Two steps of a client for whom the server has time."""
    own_s = SLOWDOWNS[client] * (CLIENT.forward_s + CLIENT.backward_s)
    return 2 * (own_s + costs.up_s(client, costs.up) + server_s + costs.down_s(client, costs.down))


def test_a_round_of_sl_takes_the_sum_of_its_clients():
    took_s, costs = round_s("sl")
    expected = 0.0
    for client in range(3):
        handed = costs.handed if client else 0
        expected += costs.down_s(client, handed + costs.round)
        expected += alone_s(costs, client, SERVER.forward_s + SERVER.backward_s)
        expected += costs.up_s(client, costs.done + costs.given)
    assert took_s == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("scheme", "phi"), [("psl", 0.0), ("epsl", 0.5), ("epsl", 1.0)])
def test_a_step_of_psl_waits_for_the_slowest_client_and_serves_all(scheme, phi):
    took_s, costs = round_s(scheme, **({"phi": phi} if scheme == "epsl" else {}))
    averaged, size = int(phi * 8), 8
    forward, backward = 3 * size + averaged, averaged + 3 * (size - averaged)
    server_s = (forward * SERVER.forward_s + backward * SERVER.backward_s) / size
    ready = [costs.down_s(client, costs.round) for client in range(3)]
    for _ in range(2):
        sent = [one + SLOWDOWNS[m] * CLIENT.forward_s + costs.up_s(m, costs.up) for m, one in enumerate(ready)]
        joint = max(sent) + server_s
        ready = [joint + costs.down_s(m, costs.down) + SLOWDOWNS[m] * CLIENT.backward_s for m in range(3)]
    expected = max(one + costs.up_s(m, costs.done) for m, one in enumerate(ready))
    assert took_s == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("scheme", ["sflv1", "fl"])
def test_clients_that_wait_for_nobody_take_as_long_as_the_slowest(scheme):
    took_s, costs = round_s(scheme, Timing())
    expected = []
    for client in range(3):
        part = costs.given if SCHEMES[scheme].client_parts == "aggregated" else 0
        one_s = costs.down_s(client, costs.round) + costs.up_s(client, costs.done + part)
        if scheme == "fl":
            one_s += 2 * SLOWDOWNS[client] * (CLIENT.forward_s + CLIENT.backward_s)
        else:
            one_s += alone_s(costs, client, 0.0)
        expected.append(one_s)
    assert took_s == pytest.approx(max(expected), rel=1e-9)


def test_an_asynchronous_round_ends_with_as_many_steps_whoever_takes_them():
    took_s, costs = round_s("psl-async", Timing())
    arrivals = []
    for client in range(3):
        own_s = SLOWDOWNS[client] * CLIENT.forward_s
        at_s = costs.down_s(client, costs.round)
        for step in range(6):
            at_s += own_s + costs.up_s(client, costs.up)
            arrivals.append(at_s)
            at_s += costs.down_s(client, costs.down) + SLOWDOWNS[client] * CLIENT.backward_s
            if step % 2:  # it tells of two steps, and is asked for two more
                at_s += costs.up_s(client, costs.done) + costs.down_s(client, costs.round)
    assert took_s == pytest.approx(sorted(arrivals)[5], rel=1e-9)


def test_a_seed_gives_one_run_bit_for_bit():
    federation = make_federation("psl-async", STILL, slowdowns=SLOWDOWNS, client_timing=CLIENT, server_timing=SERVER)
    above = links(federation, jitter_s=0.005, loss=0.05)
    runs = [run_in_virtual_time(one, above, learn=False) for one in (federation, federation)]
    assert [one.metrics for one in runs[0].rounds] == [one.metrics for one in runs[1].rounds]
    other = run_in_virtual_time(replace(federation, job=replace(STILL, seed=4)), above, learn=False)
    assert other.rounds[-1].metrics["ended"] != runs[0].rounds[-1].metrics["ended"]


def test_what_hundreds_of_clients_compute_is_worked_out_a_few_times(monkeypatch):
    runs = 0
    forward = Part.forward

    def counted(part, *arguments):
        nonlocal runs
        runs += 1
        return forward(part, *arguments)

    monkeypatch.setattr(Part, "forward", counted)
    job = replace(STILL, data=DataSpec(name="none", train_samples=1600, test_samples=800))
    federation = make_federation("psl", job, clients=200, slowdowns=(1.0, 3.0, 2.0), client_timing=CLIENT)
    outcome = run_in_virtual_time(federation, links(federation), learn=False)
    assert [one.metrics["steps"] for one in outcome.rounds] == [400, 400]
    assert runs <= 6  # a client's in training and in a test, a joint step, a test


@pytest.mark.parametrize("scheme", ["sflv2", "epsl", "fl"])
def test_who_is_faster_changes_nothing(scheme):
    """With data, over links and at speeds that turn the order of arrival around."""
    changes = {"client_timing": CLIENT} | own_options(scheme)
    one, other = (
        trained(federation := make_federation(scheme, slowdowns=slowdowns, **changes), links(federation, rates_bps))
        for slowdowns, rates_bps in (((1.0, 9.0, 4.0), RATES_BPS), ((9.0, 1.0, 2.0), RATES_BPS[::-1]))
    )
    assert one.outcome.rounds[0].metrics["trained"] != other.outcome.rounds[0].metrics["trained"]
    for name, state in one.states.items():
        assert same(state, other.states[name])


@pytest.mark.parametrize("scheme", [name for name in SCHEMES if name != "psl-async"])
def test_a_client_that_drops_out_mid_round_comes_back_and_nothing_is_counted_twice(scheme):
    """The second client leaves after one of two steps of the second round, for less than a round."""
    changes = {"client_timing": CLIENT, "test_every": 4, "absences": (Absence(1, 3, 0.01),)} | own_options(scheme)
    federation = make_federation(scheme, rounds=4, **changes)
    taken: list[tuple[int, int]] = []
    run = trained_and_heard(federation, taken)
    metrics = [one.metrics for one in run.outcome.rounds]
    assert [one["participants"] for one in metrics] == [3, 3, 3, 3]
    alone = scheme == "fl"  # what is lost with a client is not known of
    assert [one["steps"] for one in metrics] == [6, 4 if alone else 5, 6, 6]
    assert [number for client, number in taken if client == 1] == list(range(7))  # goes on where it was
    assert [one["count"] for one in metrics] == [48, 32, 48, 48]  # of those who ended the round
    nodes = {node.name: node for node in run.outcome.nodes}
    clients = [nodes[name] for name in federation.client_names]
    if not alone:
        assert sum(one["steps"] for one in metrics) == sum(node.steps for node in clients)
        gradients = [traffic["gradient"] for traffic in nodes["edge1"].sent.values()]
        assert sum(traffic.messages for traffic in gradients) == sum(one["steps"] for one in metrics)
        forward = sum(one["steps"] for one in metrics) * 8
        joint_steps = nodes["edge1"].steps
        assert sum(one["forward_samples"] for one in metrics) == forward + 4 * joint_steps * (scheme == "epsl")
    if SCHEMES[scheme].client_parts == "kept":
        sent = [traffic["gradient"] for traffic in nodes["edge1"].sent.values()]
        assert sum(one["downlink_bytes"] for one in metrics) == sum(
            one.header_bytes + one.payload_bytes for one in sent
        )
    assert sum(run.outcome.rounds[-1].total_by_class) == 31


def trained_and_heard(federation, taken):
    """Run it in virtual time with data, and note each training step that a client begins."""
    train = ClientWorker.train

    def heard(worker, round_number, number):
        taken.append((worker.client, number))
        return train(worker, round_number, number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientWorker, "train", heard)
        return trained(federation, links(federation))


def test_a_round_that_all_have_left_ends_and_the_next_begins_with_those_that_return():
    absences = tuple(Absence(client, 1, 1.0 + client) for client in range(3))
    federation = make_federation("psl-averaged", absences=absences, rounds=3, client_timing=CLIENT)
    run = trained(federation, links(federation))
    metrics = [one.metrics for one in run.outcome.rounds]
    assert (metrics[0]["steps"], metrics[0]["count"]) == (3, 0)
    assert [one["participants"] for one in metrics][:2] == [3, 1]


@pytest.mark.parametrize("staleness", [None, 1])
def test_a_slow_client_holds_others_only_by_the_bound(staleness):
    """Without a bound the fast ones take all steps while the slow one is in its first."""
    federation = make_federation(
        "psl-async", STILL, rounds=4, slowdowns=(1.0, 1.0, 200.0), client_timing=CLIENT, staleness=staleness
    )
    ends: dict[int, list[float]] = {0: [], 1: [], 2: []}
    ahead: list[int] = []
    run_with_steps(federation, ends, ahead)
    counts = [len(one) for one in ends.values()]
    assert 4 * 6 <= sum(counts) <= 4 * 6 + 2 * 4  # a joint step may take a round past its count
    if staleness is None:
        assert counts[2] == 0
        assert min(counts[:2]) > 8
    else:
        assert max(ahead) == staleness + 1  # counting the step that is just served
        assert counts[2] >= 6


def run_with_steps(federation, ends, ahead):
    """Run it in virtual time; note when the server served each client's steps, and by how many one was ahead."""
    joint = ShapeEdge.joint

    def noted(worker, messages, *more):
        now = asyncio.get_running_loop().time()
        for message in messages:
            ends[message.step % 3].append(now)
        done = [len(one) for one in ends.values()]
        ahead.append(max(done) - min(done))
        return joint(worker, messages, *more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ShapeEdge, "joint", noted)
        return run_in_virtual_time(federation, links(federation), learn=False)


def test_an_asynchronous_client_comes_back_at_once():
    federation = make_federation(
        "psl-async", rounds=3, client_timing=CLIENT, staleness=2, absences=(Absence(1, 3, 0.3),), test_every=3
    )
    run = trained(federation, links(federation))
    metrics = [one.metrics for one in run.outcome.rounds]
    assert len(metrics) == 3
    edge = run.outcome.nodes[0]
    gradients = sum(traffic["gradient"].messages for traffic in edge.sent.values())
    assert sum(one["steps"] for one in metrics) == gradients
    assert sum(one["forward_samples"] for one in metrics) == sum(one["count"] for one in metrics) == 8 * gradients
    assert sum(one["updates"] for one in metrics) == edge.steps


@pytest.mark.parametrize("shared", [False, True])
def test_in_a_shared_cell_all_frames_of_a_step_are_transmitted_one_after_the_other(shared):
    """Clients of PSL whose compute takes no time: three times the seconds of a frame each way, and one delay."""
    federation = make_federation("psl", STILL, rounds=1, local_steps=1, test_every=0)
    cost, above = Costs(federation), links(federation, rates_bps=(1e6,))
    outcome = run_in_virtual_time(federation, above, learn=False, shared_cell=shared)
    times = 3 if shared else 1
    crossing_s = [(up, 1e6) for up in (cost.up, cost.done)] + [(down, 1e7) for down in (cost.down, cost.round)]
    expected = sum(times * 8 * wire_bytes / rate_bps + DELAY_S for wire_bytes, rate_bps in crossing_s)
    took = outcome.rounds[0].metrics["trained"] - outcome.rounds[0].metrics["began"]
    assert took == pytest.approx(expected, rel=2e-2)  # the first frames are short and overlap with the next ones
