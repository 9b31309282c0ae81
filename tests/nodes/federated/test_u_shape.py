"""U-shaped split of a federation: the last layers and the labels stay with the clients, against plain PyTorch."""

import asyncio
import copy

import pytest
import torch
from federations import JOB, NAMES, PlainLoop, States, assert_close, begun, make_federation, same, task
from msgspec.structs import replace
from oracle import Unsplit, optimizer, seed_before
from torch import nn
from torch.nn import functional as F

from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.errors import ProtocolError
from nodes.federated.edge.returning import JointStart
from nodes.federated.edge.worker import EndJoint, ServeGradient, ServeTask, StartJoint
from nodes.federated.in_process import FederationOutcome, LocalFederation, run_in_virtual_time, workers
from nodes.federated.schemes import SCHEMES, scheme_of
from nodes.runtime.actions import Send
from nodes.spec.federation import ClientMove, Federation
from nodes.spec.job import DataSpec, OptimizerSpec, StageSpec, Timing
from nodes.wire.channel import MemoryChannel
from nodes.wire.codec import encode
from nodes.wire.messages import Activation, EdgeUpdate, Gradient

TAIL = 9  # batch norm, dropout and the linear layer
RETURNING = replace(JOB, tail=TAIL, stages=(StageSpec(),) * 2)
BATCHED = ("sl", "sflv1", "sflv2", "psl", "psl-averaged")


def trained(federation: Federation) -> tuple[FederationOutcome, States]:
    """The outcome, and the states of the clients' first and last layers and of the server's."""
    made = workers(federation, load_data(federation.job))
    outcome = asyncio.run(LocalFederation(federation, made).run())
    states = {}
    for name in federation.client_names:
        worker = made[name][1]
        states[name] = worker.segment.state() | (worker.tail.segment.state() if worker.tail else {})
    return outcome, states | {"edge1": made["edge1"][1].give(EdgeUpdate(round=0, samples=1)).server}


@pytest.mark.parametrize("scheme", [*BATCHED, "epsl"])
def test_one_client_trains_as_the_unsplit_network(scheme):
    """To the bit, with batch norm, dropout, augmentation and a schedule."""
    job = replace(
        RETURNING,
        data=DataSpec(train_samples=24, test_samples=9, augment=True),
        optimizer=OptimizerSpec(lr=0.05, schedule="cosine"),
        epochs=2,
    )
    options = {"phi": 0.5, "through": "cut"} if scheme == "epsl" else {}
    outcome, states = trained(make_federation(scheme, job, clients=1, local_steps=None, options=options))
    oracle = Unsplit(replace(job, nodes=("all",), splits=(), stages=(), tail=None), load_data(job))
    losses = oracle.train()
    assert [one.metrics["loss"] for one in outcome.rounds] == [sum(losses[:3]), sum(losses[3:])]
    assert same(states["client1"] | states["edge1"], oracle.model.state_dict())
    oracle.model.eval()
    pictures = load_data(job).test
    right = sum(int(oracle.model(one).argmax() == label) for one, label in oracle.test_batches())
    assert sum(outcome.rounds[1].correct_by_class) == right
    assert len(pictures) == 9


class PlainReturning(PlainLoop):
    """A copy of the first and of the last layers for each client, and one server part between them."""

    def __init__(self, federation: Federation, data: Dataset) -> None:
        super().__init__(federation, data)
        cut, tail = self.job.cuts
        self.tails = [copy.deepcopy(self.whole)[tail:] for _ in self.clients]
        self.server = self.whole[cut:tail]
        self.servers = optimizer(self.job, list(self.server.parameters()))
        self.ends = [optimizer(self.job, list(one.parameters())) for one in self.tails]
        for one in self.tails:
            for layer, module in enumerate(one, tail):
                module._forward_pre_hooks.clear()
                if isinstance(module, nn.Dropout):
                    seed_before(module, layer, self.moment)

    def states(self) -> States:
        pairs = zip(self.federation.client_names, self.clients, self.tails, strict=True)
        found = {name: first.state_dict() | last.state_dict() for name, first, last in pairs}
        return found | {"edge1": self.server.state_dict()}

    def alone(self, client: int) -> None:
        pictures, labels = next(self.drawn[client])
        self.at(client)
        self.number[client] += 1
        F.cross_entropy(self.tails[client](self.server(self.clients[client](pictures))), labels).backward()
        for one in (self.own[client], self.servers, self.ends[client]):
            one.step()
            one.zero_grad()

    def round_in_turn(self) -> None:
        for client, own in enumerate(self.clients):
            if self.number != [0] * len(self.clients):
                own.load_state_dict(self.clients[client - 1].state_dict())
                self.tails[client].load_state_dict(self.tails[client - 1].state_dict())
            self.alone(client)
            self.alone(client)

    def together(self) -> None:
        """The server's gradient is of the weighted sum of losses, a client's of its own mean loss."""
        total = sum(self.samples)
        drawn = [next(one) for one in self.drawn]
        smashed = [part(pictures) for part, (pictures, _) in zip(self.clients, drawn, strict=True)]
        self.at(0)
        made = self.server(torch.cat(smashed)).split(self.job.batch_size)
        loss = torch.zeros(())
        for client, (_, labels) in enumerate(drawn):
            self.at(client)
            share = self.samples[client] / total
            loss = loss + share * F.cross_entropy(self.tails[client](made[client]), labels)
        loss.backward()
        for client, (first, last) in enumerate(zip(self.clients, self.tails, strict=True)):
            for parameter in (*first.parameters(), *last.parameters()):
                parameter.grad /= self.samples[client] / total
            self.number[client] += 1
        for one in (*self.own, *self.ends, self.servers):
            one.step()
            one.zero_grad()

    def average(self) -> None:
        super().average()
        first, self.clients = self.clients, self.tails
        super().average()
        self.clients = first


@pytest.mark.parametrize("scheme", ["sl", "sflv2", "psl", "psl-averaged"])
def test_schemes_equal_a_plain_loop(scheme):
    federation = make_federation(scheme, RETURNING)
    loop = PlainReturning(federation, load_data(federation.job))
    for _ in range(federation.rounds):
        if scheme == "sl":
            loop.round_in_turn()
        elif scheme == "sflv2":
            for client in (0, 1, 2, 0, 1, 2):
                loop.alone(client)
        else:
            loop.together()
            loop.together()
        if SCHEMES[scheme].client_parts == "aggregated":
            loop.average()
    expected = loop.states()
    if scheme == "sl":  # all test with the last one's
        expected |= dict.fromkeys(("client1", "client2"), expected["client3"])
    _, states = trained(federation)
    for name, state in states.items():
        if scheme in ("sl", "sflv2"):
            assert same(state, expected[name])
        else:
            assert_close(state, expected[name])


@pytest.mark.parametrize("scheme", ["sl", "sflv1"])
def test_where_all_layers_are_handed_on_or_averaged_it_does_not_matter_who_holds_the_last(scheme):
    """SL hands on, and SFL averages, the last layers with the first ones, but in SL a client's momentum is its own."""
    steps = OptimizerSpec(lr=0.05, momentum=0.0 if scheme == "sl" else 0.9)
    (straight, one), (returning, other) = (
        trained(make_federation(scheme, replace(job, optimizer=steps))) for job in (JOB, RETURNING)
    )
    for name in NAMES:
        assert same(one[name] | one["edge1"], other[name] | other["edge1"])
    assert [round.metrics["loss"] for round in straight.rounds] == [round.metrics["loss"] for round in returning.rounds]
    assert straight.rounds[-1].correct_by_class == returning.rounds[-1].correct_by_class


@pytest.mark.parametrize(("scheme", "options"), [("psl", {}), ("epsl", {"phi": 0.5, "through": "cut"})])
def test_last_layers_without_parameters_may_be_anywhere(scheme, options):
    """Two clients with as many pictures each, whose weights are powers of two: to the bit."""
    job = replace(JOB, model="user_models:bounded_cnn", data=DataSpec(train_samples=40, test_samples=10))
    straight, returning = (
        trained(make_federation(scheme, each, clients=2, options=options))[1]
        for each in (job, replace(job, tail=16, stages=RETURNING.stages))
    )
    assert all(same(straight[name], returning[name]) for name in straight)


@pytest.mark.parametrize("scheme", ["sflv1", "psl"])
def test_no_label_crosses_a_link(scheme, monkeypatch):
    sent, send = [], MemoryChannel.send

    async def noted(channel, message, *rest):
        sent.append(message)
        return await send(channel, message, *rest)

    monkeypatch.setattr(MemoryChannel, "send", noted)
    trained(make_federation(scheme, rounds=1))
    assert with_integers(sent)
    sent.clear()
    trained(make_federation(scheme, RETURNING, rounds=1))
    assert not with_integers(sent)
    metrics = [message.metrics for message in sent if isinstance(message, Gradient)]
    assert metrics
    assert all({"loss", "correct"}.isdisjoint(names) for names in metrics)


def with_integers(sent: list) -> list[bytes]:
    """The headers of tasks' frames in which a tensor of integers lies, as labels are."""
    headers = [bytes(encode(message)[0]) for message in sent if isinstance(message, Activation | Gradient)]
    return [header for header in headers if b"i64" in header]


@pytest.mark.parametrize("scheme", BATCHED)
def test_both_cuts_are_counted_in_both_directions(scheme):
    """After layer 4 cross 4 x 8 x 8 numbers, after 9 16 x 4 x 4; two rounds of two steps of 8 pictures."""
    outcome, _ = trained(make_federation(scheme, RETURNING, test_every=0))
    first, last = 4 * (4 * 8 * 8), 4 * (16 * 4 * 4)
    by_name = {node.name: node for node in outcome.nodes}
    for name in NAMES:
        sent = {kind: traffic.payload_bytes for kind, traffic in by_name[name].sent_uplink.items()}
        assert (sent["activation"], sent["gradient"]) == (2 * 2 * 8 * first, 2 * 2 * 8 * last)
    sent = {kind: traffic.payload_bytes for kind, traffic in by_name["edge1"].sent_downlink.items()}
    assert (sent["activation"], sent["gradient"]) == (3 * 2 * 2 * 8 * last, 3 * 2 * 2 * 8 * first)


MOVES = {"rounds": 3, "edges": 2, "moves": (ClientMove(1, 1, 1), ClientMove(0, 1, 1), ClientMove(2, 2, 0))}


@pytest.mark.parametrize(
    ("scheme", "changes"),
    [*((scheme, {}) for scheme in BATCHED), ("sflv1", MOVES), ("epsl", {"options": {"phi": 0.5, "through": "cut"}})],
)
def test_bytes_and_counts_by_shapes_alone_are_those_of_the_run_with_data(scheme, changes):
    federation = make_federation(scheme, RETURNING, test_every=0, **changes)
    links = dict.fromkeys((*federation.client_names, *federation.edge_names), Duplex())
    real = asyncio.run(LocalFederation(federation, workers(federation, load_data(JOB))).run())
    virtual = run_in_virtual_time(federation, links, learn=False)
    for one, other in zip(real.nodes, virtual.nodes, strict=True):
        assert (one.name, one.layers, one.steps, one.sent) == (other.name, other.layers, other.steps, other.sent)
    names = ("steps", "count", "forward_samples", "backward_samples", "uplink_bytes", "downlink_bytes", "shared_bytes")
    for one, other in zip(real.rounds, virtual.rounds, strict=True):
        assert all(one.metrics[name] == other.metrics[name] for name in names)


def test_a_round_takes_what_formulas_say():
    """Equal clients: each step crosses its link four times, and the server waits for all last layers."""
    client = Timing(forward_s=0.010, backward_s=0.020, tail_forward_s=0.004, tail_backward_s=0.008)
    server = Timing(forward_s=0.003, backward_s=0.005)
    federation = make_federation(
        "psl", RETURNING, rounds=1, local_steps=1, client_timing=client, server_timing=server, test_every=0
    )
    up, down = LinkProfile(rate_bps=1e6, delay_s=0.02), LinkProfile(rate_bps=4e6, delay_s=0.01)
    links = dict.fromkeys(federation.client_names, Duplex(up=up, down=down))
    outcome = run_in_virtual_time(federation, links, learn=False)
    expected = 0.010 + 0.020 + 0.004 + 0.008 + 3 * (0.003 + 0.005)
    nodes = {node.name: node.sent_uplink | node.sent_downlink for node in outcome.nodes}
    for sent, link, share in ((nodes["client1"], up, 1), (nodes["edge1"], down, 3)):
        for kind in ("activation", "gradient"):
            wire_bytes = (sent[kind].header_bytes + sent[kind].payload_bytes) / share
            expected += 8 * wire_bytes / link.rate_bps + link.delay_s
    took = outcome.rounds[0].metrics["trained"] - outcome.rounds[0].metrics["began"]
    others = {"edge1": ("train-round", down), "client1": ("round-trained", up)}
    for name, (kind, link) in others.items():
        traffic = nodes[name][kind]
        wire_bytes = (traffic.header_bytes + traffic.payload_bytes) / traffic.messages
        expected += 8 * wire_bytes / link.rate_bps + link.delay_s
    assert took == pytest.approx(expected, rel=1e-3)


def gradient(client: int, number: int = 0) -> Gradient:
    return Gradient(assignment=0, step=3 * number + client, tensors={}, metrics={"count": 8.0})


def returned(clients: int) -> JointStart:
    return JointStart([task(client) for client in range(clients)], 8.0 * clients)


def test_a_step_ends_with_those_that_are_left():
    server, _ = begun(make_federation("psl", RETURNING))
    for client, name in enumerate(NAMES):
        actions = server.receive(name, task(client), 0.0)
    (start,) = actions
    assert isinstance(start, StartJoint)
    sent = server.computed(returned(3), 0.0)
    assert [one.to for one in sent if isinstance(one, Send)] == list(NAMES)
    assert server.receive("client1", gradient(0), 0.0) == []
    assert server.receive("client3", gradient(2), 0.0) == []
    (end,) = server.lost("client2", 0.0)
    assert isinstance(end, EndJoint)
    assert [one.step for one in end.gradients] == [0, 2]
    assert sum(end.weights) == pytest.approx(2 / 3)  # the weights of the step that began


def test_a_server_with_one_part_takes_the_next_task_when_a_gradient_has_come():
    server, _ = begun(make_federation("sflv2", RETURNING))
    (first,) = server.receive("client1", task(0), 0.0)
    assert isinstance(first, ServeTask)
    assert server.receive("client2", task(1), 0.0) == []
    server.computed(task(0), 0.0)
    (back,) = server.receive("client1", gradient(0), 0.0)
    assert isinstance(back, ServeGradient)
    actions = server.computed(gradient(0), 0.0)
    assert [one.client for one in actions if isinstance(one, ServeTask)] == [1]


def test_a_server_with_one_part_goes_on_when_the_client_that_it_waits_for_is_lost():
    server, _ = begun(make_federation("sflv2", RETURNING))
    server.receive("client1", task(0), 0.0)
    server.computed(task(0), 0.0)
    assert server.receive("client2", task(1), 0.0) == []
    (goes_on,) = server.lost("client1", 0.0)
    assert isinstance(goes_on, ServeTask)
    assert goes_on.client == 1


@pytest.mark.parametrize("scheme", ["psl", "sflv1"])
def test_a_gradient_of_last_layers_that_are_the_servers_is_refused(scheme):
    server, _ = begun(make_federation(scheme))
    with pytest.raises(ProtocolError):
        server.receive("client1", gradient(0), 0.0)


@pytest.mark.parametrize(
    ("scheme", "options", "words"),
    [
        ("psl-async", {}, "for nobody"),
        ("epsl", {"phi": 0.5}, "only through cut"),
        ("epsl", {"phi": 0.5, "through": "one"}, "only through cut"),
    ],
)
def test_schemes_that_are_not_defined_with_returning_tasks_are_refused(scheme, options, words):
    with pytest.raises(ValueError, match=words):
        scheme_of(make_federation(scheme, RETURNING, options=options))


def test_epsl_without_averaged_positions_may_return():
    assert scheme_of(make_federation("epsl", RETURNING)).averaged_positions(8) == 0


def test_federated_learning_has_nothing_to_return_from():
    with pytest.raises(ValueError, match="all layers with the clients"):
        scheme_of(Federation(job=RETURNING, scheme=make_federation("fl", replace(JOB)).scheme))
