"""Small federations for tests, and their training as plain torch would do it."""

import asyncio
import copy
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from msgspec.structs import replace
from oracle import draw_like_parts, optimizer
from torch import nn
from torch.nn import functional as F

from netem.profiles import Duplex
from nodes.data.batching import batches
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.federated.client_worker import pictures_of
from nodes.federated.edge.server import EdgeServer
from nodes.federated.in_process import FederationOutcome, LocalFederation, VirtualFederation, workers
from nodes.federated.schemes import build_scheme
from nodes.model.chain import Chain, Moment
from nodes.model.factory import build_model
from nodes.runtime.actions import Action
from nodes.runtime.virtual_time import run_virtual
from nodes.spec.federation import Federation, SchemeSpec
from nodes.spec.job import DataSpec, Job, OptimizerSpec, StageSpec
from nodes.wire.messages import Activation, Begin, ClientHello, EdgeUpdate

NAMES = ("client1", "client2", "client3")
OPTIONS = {"phi", "statistics", "staleness", "staleness_exponent"}
States = dict[str, dict[str, torch.Tensor]]

JOB = Job(
    model="user_models:slim_cnn",
    input_shape=(3, 16, 16),
    classes=10,
    nodes=("client", "edge"),
    splits=(4,),
    stages=(StageSpec(),),
    data=DataSpec(train_samples=62, test_samples=31),
    optimizer=OptimizerSpec(lr=0.05),
    batch_size=8,
    threads=1,
    seed=3,
)


def make_federation(scheme: str, job: Job = JOB, **changes) -> Federation:
    """Three clients, two rounds of two steps, or as ``changes`` say, which may hold options of the scheme.

    Where there is no server part clients have the whole network.
    """
    options = {name: changes.pop(name) for name in OPTIONS & changes.keys()}
    spec = SchemeSpec(name=scheme, options=options | changes.pop("options", {}))
    if build_scheme(spec).server_parts == "none":
        layers = len(Chain(build_model(job.model, job.classes, job.input_shape), job.input_shape))
        job = replace(job, splits=(layers,))
    return Federation(job=job, scheme=spec, **{"clients": 3, "rounds": 2, "local_steps": 2} | changes)


def begun(federation: Federation) -> tuple[EdgeServer, list[Action]]:
    """The edge server of ``federation`` whose three clients have come, and what it did then."""
    server = EdgeServer(federation, 0)
    server.receive("runner", Begin(), 0.0)
    return server, [action for name in NAMES for action in come(server, name)]


def come(server: EdgeServer, name: str, samples: int = 20) -> list[Action]:
    """Let a client join ``server`` and introduce itself."""
    return [*server.joined(name, name, 0.0), *server.receive(name, hello(samples), 0.0)]


def hello(samples: int = 20) -> ClientHello:
    return ClientHello(round=0, begun=0, samples=samples, mean_samples=20.0)


def task(client: int, number: int = 0) -> Activation:
    """Training step ``number`` of a client, without tensors."""
    return Activation(assignment=0, step=3 * number + client, train=True, tensors={})


class Trained(NamedTuple):
    outcome: FederationOutcome
    states: States  # of clients' and edge servers' parts, by name
    local: LocalFederation


def trained(federation: Federation, links: dict[str, Duplex] | None = None) -> Trained:
    """Run ``federation`` in this process; with ``links`` on a virtual clock, but with data."""
    made = workers(federation, load_data(federation.job))
    local = LocalFederation(federation, made) if links is None else VirtualFederation(federation, made, links)
    outcome = (asyncio.run if links is None else run_virtual)(local.run())
    states = {name: local.made[name][1].segment.state() for name in federation.client_names}
    for name in federation.edge_names:
        states[name] = local.made[name][1].give(EdgeUpdate(round=0, samples=1)).server
    return Trained(outcome, states, local)


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(tensor, other[name], rtol=tolerance, atol=tolerance)


def drawn(federation: Federation, data: Dataset) -> list[Iterator[tuple[torch.Tensor, torch.Tensor]]]:
    """Each client's batches, again and again."""
    job = federation.job

    def cycle(client: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pictures, _ = pictures_of(federation, client, data)
        for epoch in itertools.count():
            yield from batches(
                pictures,
                job.batch_size,
                seed=job.seed,
                epoch=epoch,
                shuffle=False,
                augment=False,
                indices=own_order(job.seed, epoch, client, len(pictures)),
                drop_last=True,
            )

    return [cycle(client) for client in range(federation.clients)]


def own_order(seed: int, epoch: int, client: int, count: int) -> np.ndarray:
    """The order of a client's pictures in its epoch, as docs/data.md has it."""
    return np.random.default_rng((1, seed, epoch, client) if client else (1, seed, epoch)).permutation(count)


class PlainLoop:
    """A copy of the network for each client, cut as a list of modules is, and one server part: no node, no message."""

    def __init__(self, federation: Federation, data: Dataset) -> None:
        self.federation, self.job = federation, federation.job
        (cut,) = self.job.splits
        self.moment = [Moment(self.job.seed, 0)]
        whole = build_model(self.job.model, 10, self.job.input_shape, self.job.seed)
        chain = Chain(build_model(self.job.model, 10, self.job.input_shape), self.job.input_shape)
        self.clients = [copy.deepcopy(whole)[:cut] for _ in range(federation.clients)]
        draw_like_parts(whole, chain, self.moment)
        self.whole, self.server = whole, whole[cut:]
        self.own = [optimizer(self.job, list(client.parameters())) for client in self.clients]
        self.servers = optimizer(self.job, list(self.server.parameters()))
        parts = [pictures_of(federation, client, data)[0] for client in range(federation.clients)]
        self.samples = [len(part) for part in parts]
        self.drawn = drawn(federation, data)
        self.number = [0] * federation.clients
        for module in (*self.clients, self.whole):
            module.train()

    def states(self) -> States:
        named = {name: part.state_dict() for name, part in zip(self.federation.client_names, self.clients, strict=True)}
        return named | {"edge1": self.server.state_dict()}

    def at(self, client: int) -> None:
        """The server draws as for this client's next step."""
        self.moment[0] = Moment(self.job.seed, self.number[client] * len(self.clients) + client)

    def alone(self, client: int) -> None:
        """One step of one client and the server."""
        pictures, labels = next(self.drawn[client])
        self.at(client)
        self.number[client] += 1
        loss = F.cross_entropy(self.server(self.clients[client](pictures)), labels)
        loss.backward()
        for one in (self.own[client], self.servers):
            one.step()
            one.zero_grad()

    def round_in_turn(self) -> None:
        """Two steps of each client, which begins with the weights of the one before; momentum is its own."""
        for client, own in enumerate(self.clients):
            if self.number != [0] * len(self.clients):
                own.load_state_dict(self.clients[client - 1].state_dict())
            self.alone(client)
            self.alone(client)

    def together(self, group: Sequence[int] | None = None) -> None:
        """One step of ``group``, or all clients, on their joint batch: a client's gradient is of its own mean loss."""
        group = range(len(self.clients)) if group is None else group
        total = sum(self.samples[client] for client in group)
        self.shares = {client: self.samples[client] / total for client in group}
        drawn = [next(self.drawn[client]) for client in group]
        smashed = [self.clients[client](pictures) for client, (pictures, _) in zip(group, drawn, strict=True)]
        leaves = [one.detach().requires_grad_() for one in smashed]
        self.at(group[0])
        self._back(leaves, [labels for _, labels in drawn])
        for client, one, leaf in zip(group, smashed, leaves, strict=True):
            one.backward(self.returned(self.shares[client], leaf))
            self.own[client].step()
            self.own[client].zero_grad()
            self.number[client] += 1
        self.servers.step()
        self.servers.zero_grad()

    def _back(self, leaves: list[torch.Tensor], labels: list[torch.Tensor]) -> None:
        logits = self.server(torch.cat(leaves)).split(self.job.batch_size)
        losses = [F.cross_entropy(*pair) for pair in zip(logits, labels, strict=True)]
        sum(share * loss for share, loss in zip(self.shares.values(), losses, strict=True)).backward()

    def returned(self, share: float, leaf: torch.Tensor) -> torch.Tensor:
        return leaf.grad / share

    def average(self) -> None:
        """The clients' parts become their mean by samples; momentum stays where it was made."""
        _set(self.clients, _mean_of([client.state_dict() for client in self.clients], self.samples))


class PlainEpsl(PlainLoop):
    """EPSL as its definition reads, by autograd alone."""

    def _back(self, leaves: list[torch.Tensor], labels: list[torch.Tensor]) -> None:
        size = self.job.batch_size
        a = math.ceil(self.federation.scheme.options["phi"] * size)
        with torch.no_grad():
            logits = [one.clone() for one in self.server(torch.cat([leaf[:a] for leaf in leaves])).split(a)]
        gradients = []
        for one, answers in zip([some.requires_grad_() for some in logits], labels, strict=True):
            (F.cross_entropy(one, answers[:a], reduction="sum") / size).backward()
            gradients.append(one.grad)
        self.mean = self._mean([leaf.detach()[:a] for leaf in leaves]).requires_grad_()
        norms = [module for module in self.server if isinstance(module, nn.BatchNorm2d)]
        kept = [copy.deepcopy(norm.state_dict()) for norm in norms]
        for norm in norms:
            norm.train(self.federation.scheme.options.get("statistics") == "batch")
        self.server(self.mean).backward(self._mean(gradients))
        for norm, state in zip(norms, kept, strict=True):
            norm.train()
            norm.load_state_dict(state)
        if a == size:
            return
        logits = self.server(torch.cat([leaf[a:] for leaf in leaves])).split(size - a)
        losses = [
            F.cross_entropy(one, answers[a:], reduction="sum") / size
            for one, answers in zip(logits, labels, strict=True)
        ]
        sum(share * loss for share, loss in zip(self.shares.values(), losses, strict=True)).backward()

    def _mean(self, values: Sequence[torch.Tensor]) -> torch.Tensor:
        return sum(share * value for share, value in zip(self.shares.values(), values, strict=True))

    def returned(self, share: float, leaf: torch.Tensor) -> torch.Tensor:
        a = len(self.mean)
        own = leaf.grad[a:] / share if a < len(leaf) else leaf[:0]
        return torch.cat([self.mean.grad, own])


Groups = list[list[tuple[int, ...]]]  # by round and edge server: its clients


class PlainEdges(PlainLoop):
    """A server part for each edge server, or for each client (SFLv1), and who trains with which is written down."""

    def __init__(self, federation: Federation, data: Dataset, groups: Groups) -> None:
        super().__init__(federation, data)
        self.groups, self.scheme = groups, federation.scheme.name
        count = federation.clients if self.scheme == "sflv1" else federation.edges
        parts = [copy.deepcopy(self.server) for _ in range(count)]
        self.parts = [(part, optimizer(self.job, list(part.parameters()))) for part in parts]
        self.handed: dict[int, States] = {}  # by edge server, in sl
        self.weights = [0] * federation.edges  # since the cloud's last average
        self.averaged: dict[int, States] = {}  # by edge server, its last round's: the clients' part, and a copy's

    def train(self) -> States:
        """All rounds; the clients' states, and the servers'."""
        last: dict[int, tuple[int, ...]] = {}  # who trained at an edge server last
        for number, groups in enumerate(self.groups):
            for edge, group in enumerate(groups):
                self._round(edge, group)
                last |= {edge: group} if group else {}
            if (number + 1) % self.federation.cloud_every == 0:
                self._cloud()
            for edge, group in enumerate(groups if self.scheme == "sl" else ()):
                for client in group:  # which all test with the last one's
                    self.clients[client].load_state_dict(self.handed[edge])
        names = zip(self.federation.client_names, self.clients, strict=True)
        states = {name: part.state_dict() for name, part in names}
        for edge, name in enumerate(self.federation.edge_names):
            serving = last[edge][0] if self.scheme == "sflv1" else edge
            states[name] = self.parts[serving][0].state_dict()
        return states

    def _round(self, edge: int, group: tuple[int, ...]) -> None:
        steps = self.federation.local_steps
        match self.scheme:
            case "sl":
                for client in group:
                    if edge in self.handed:
                        self.clients[client].load_state_dict(self.handed[edge])
                    for _ in range(steps):
                        self._one(client, edge)
                    self.handed[edge] = copy.deepcopy(self.clients[client].state_dict())
            case "sflv1" | "sflv2":
                for client in group * steps:
                    self._one(client, client if self.scheme == "sflv1" else edge)
            case _ if group:
                self.server, self.servers = self.parts[edge]
                for _ in range(steps):
                    self.together(group)
        if group and self.scheme != "psl":
            self._mean([self.clients[client] for client in group] if self.scheme != "sl" else [], group)
        if group and self.scheme == "sflv1":
            self._mean([self.parts[client][0] for client in group], group)
        if group:
            self.weights[edge] += sum(self.samples[client] for client in group)
            served = self.parts[group[0] if self.scheme == "sflv1" else edge][0]
            self.averaged[edge] = copy.deepcopy((self.clients[group[0]].state_dict(), served.state_dict()))

    def _one(self, client: int, part: int) -> None:
        self.server, self.servers = self.parts[part]
        self.alone(client)

    def _cloud(self) -> None:
        """The mean of what the edge servers have, by the samples of their clients in all rounds since the last one."""
        trained = [edge for edge, weight in enumerate(self.weights) if weight]
        counts = [self.weights[edge] for edge in trained]
        self.weights = [0] * len(self.weights)
        _set([part for part, _ in self.parts], _mean_of([self.averaged[one][1] for one in trained], counts))
        if self.scheme == "sl":
            mean = _mean_of([self.handed[edge] for edge in trained], counts)
            self.handed = dict.fromkeys(range(len(self.weights)), mean)
        elif self.scheme != "psl":
            _set(self.clients, _mean_of([self.averaged[edge][0] for edge in trained], counts))

    def _mean(self, modules: list[nn.Module], group: tuple[int, ...]) -> None:
        if modules:
            counts = [self.samples[client] for client in group]
            _set(modules, _mean_of([module.state_dict() for module in modules], counts))


def _set(modules: list[nn.Module], state: dict[str, torch.Tensor]) -> None:
    for module in modules:
        module.load_state_dict(state)


def _mean_of(states: list[dict[str, torch.Tensor]], counts: list[int]) -> dict[str, torch.Tensor]:
    mean = {}
    for name, first in states[0].items():
        values = [state[name].double() * count for state, count in zip(states, counts, strict=True)]
        value = torch.stack(values).sum(0) / sum(counts)
        mean[name] = (value if first.is_floating_point() else value.round()).to(first.dtype)
    return mean
