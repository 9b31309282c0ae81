"""Federations in one process: all nodes as tasks of a loop, at full speed or in virtual time."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import torch

from netem.profiles import Duplex
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.federated.calls import Answers, JointStep, JointSummary, ServeTask
from nodes.federated.client import Client
from nodes.federated.client_worker import ClientWorker
from nodes.federated.cloud import Cloud, CloudWorker
from nodes.federated.edge.server import EdgeServer
from nodes.federated.edge.worker import EdgeWorker
from nodes.federated.shape_workers import ClientShapes, ShapeClient, ShapeCloud, ShapeEdge
from nodes.runtime.actions import Compute, Role
from nodes.runtime.executors import CostModel, Executor, ProfiledExecutor, inline, on_device
from nodes.runtime.local import Conductor, LocalRun, Member, Mode, run_here
from nodes.runtime.report import NodeReport, node_report
from nodes.runtime.virtual_time import linked_pair, run_virtual
from nodes.seeds import derive
from nodes.spec.federation import CLOUD, Federation
from nodes.spec.job import Timing
from nodes.wire.channel import Channel
from nodes.wire.messages import Activation, AnyMessage, Begin, ClientFinished, Gradient, Peer, RoundReport

ReportRound = Callable[[RoundReport], None]
Workers = dict[str, tuple[Role, Any]]  # the role and the worker of every node, by name


class RoundOutcome(msgspec.Struct, kw_only=True):
    """What one edge server reported of one round: its ``RoundStats``, and answers by class where clients tested."""

    round: int
    edge: int
    metrics: dict[str, float]
    correct_by_class: list[float] = []
    total_by_class: list[float] = []


class FederationOutcome(msgspec.Struct, kw_only=True):
    """Outcome of a federation: its rounds in their order, those of the first edge server first."""

    rounds: list[RoundOutcome]
    nodes: list[NodeReport]
    lost: dict[str, str] = {}  # clients that ended before the federation did and did not come back, and how
    uncalibrated: list[str] = []  # complaints of a live run's test of its links


def run_in_process(
    federation: Federation, data: Dataset | None = None, say: ReportRound | None = None
) -> FederationOutcome:
    """Run ``federation`` in this process, without a wire: bytes are counted as they would be sent."""
    made = workers(federation, data or load_data(federation.job))
    return run_here(LocalFederation(federation, made, say).run(), federation.job.threads)


def run_in_virtual_time(
    federation: Federation, links: Mapping[str, Duplex], data: Dataset | None = None, learn: bool = True
) -> FederationOutcome:
    """Run ``federation`` on a virtual clock: compute takes what its timings say, messages what ``links`` do.

    ``links`` are by the name of the node towards the UE: a client's to its edge server, an edge server's to the cloud.
    Where clients never test, they are tested after each round outside of the run. Unless networks are to ``learn``,
    tensors have shapes and no data, which takes next to no time for any number of clients: what crosses and when is
    the same, losses and correct answers are zero, and no state is kept.
    """
    made = (workers if learn else shapes)(federation, data or load_data(federation.job))

    async def run() -> FederationOutcome:
        return await VirtualFederation(federation, made, links).run()

    return run_virtual(run())


def workers(federation: Federation, data: Dataset) -> Workers:
    """All nodes of ``federation``, to train on ``data``."""
    cloud = CloudWorker(federation)
    return _made(
        federation, cloud, partial(EdgeWorker, federation), lambda client: ClientWorker(federation, client, data)
    )


def shapes(federation: Federation, data: Dataset) -> Workers:
    """All nodes of ``federation``, as if they trained on ``data``: their messages have shapes and no data."""
    clients = ClientShapes(federation, data)
    return _made(federation, ShapeCloud(federation), partial(ShapeEdge, federation), partial(ShapeClient, clients))


def _made(
    federation: Federation,
    cloud: CloudWorker,
    edge_worker: Callable[[int], Any],
    client_worker: Callable[[int], Any],
) -> Workers:
    made: Workers = {}
    if federation.edges > 1:
        made[CLOUD] = Cloud(federation), cloud
    for edge, name in enumerate(federation.edge_names):
        made[name] = edge_role(federation, edge), edge_worker(edge)
    for client, name in enumerate(federation.client_names):
        worker = client_worker(client)
        servers = [Peer(federation.edge_names[edge]) for edge in federation.visits(client)]
        made[name] = Client(federation, client, servers, worker.data), worker
    return made


def edge_role(federation: Federation, edge: int, cloud: Peer | None = None) -> EdgeServer:
    """Role of edge server ``edge``."""
    return EdgeServer(federation, edge, (cloud or Peer(CLOUD)) if federation.edges > 1 else None)


class LocalFederation(Conductor):
    """The nodes ``made`` of a federation in this process, and its runner."""

    def __init__(self, federation: Federation, made: Workers, say: ReportRound | None = None) -> None:
        self._federation, self.made, self._say = federation, made, say
        self._reports: list[RoundReport] = []
        self._mode = Mode()

    async def run(self) -> FederationOutcome:
        """Run all nodes to their end."""
        members = {name: Member(*made, self._compute(name)) for name, made in self.made.items()}
        local = LocalRun(members, self._mode, incoming=lambda node: node)
        await local.conduct(self)
        reports = [node_report(node, **facts(self.made[name][1])) for name, node in local.nodes.items()]
        return outcome(self._reports, reports)

    async def begin(self, run: LocalRun) -> None:
        for name in self.made:
            await run.send(name, Begin())

    async def heard(self, run: LocalRun, node: str, message: AnyMessage) -> None:
        if isinstance(message, RoundReport):
            self._reports.append(self._kept(message))
            if self._say:
                self._say(message)

    async def ended(self, run: LocalRun, node: str) -> None:
        if node in self._federation.client_names:
            for edge in self._federation.visits(self._federation.client_names.index(node)):
                await run.send(self._federation.edge_names[edge], ClientFinished(client=node))

    def _compute(self, name: str) -> Executor:
        return inline

    def _kept(self, reported: RoundReport) -> RoundReport:
        """What is kept of an edge server's report."""
        return reported


class VirtualFederation(LocalFederation):
    """The same on a virtual clock. To be made on the loop that it runs on."""

    def __init__(self, federation: Federation, made: Workers, links: Mapping[str, Duplex]) -> None:
        super().__init__(federation, made)
        self._links = links
        self._mode = Mode(asyncio.get_running_loop().time, self._pair)

    def _compute(self, name: str) -> Executor:
        federation = self._federation
        if name in federation.client_names:
            return ProfiledExecutor(on_device(federation.device(federation.client_names.index(name))))
        return ProfiledExecutor(serving(federation.server_timing or Timing(), federation.job.batch_size))

    def _pair(self, upper: str, lower: str) -> tuple[Channel, Channel]:
        seed = derive(self._federation.job.seed, list(self.made).index(upper))
        return linked_pair(upper, lower, self._links[upper], seed)

    def _kept(self, reported: RoundReport) -> RoundReport:
        if self._federation.test_every:
            return reported
        correct, total = evaluated(self._federation, self.made, reported.edge, reported.round)
        return msgspec.structs.replace(reported, correct_by_class=correct, total_by_class=total)


def evaluated(federation: Federation, made: Workers, edge: int, round_number: int) -> Answers:
    """Answers by class at edge server ``edge`` after a round.

    Each of its clients' networks, with the clients' part as it is shared, is tested on that client's test pictures,
    outside of the run: no message crosses and no time passes.
    """
    correct, total = torch.zeros(federation.job.classes), torch.zeros(federation.job.classes)
    role, server = made[federation.edge_names[edge]]
    assert isinstance(role, EdgeServer)
    for client in federation.group(edge, round_number):
        name = federation.client_names[client]
        worker: ClientWorker = made[name][1]
        with worker.borrowing(role.part_for(name)):
            for batch in range(worker.data.test_batches):
                answers = worker.test(round_number, batch)
                if isinstance(answers, Activation):
                    answers = worker.answers(server.forward(answers, client))
                assert isinstance(answers, Answers)
                correct, total = correct + answers.correct_by_class, total + answers.total_by_class
    return Answers(correct, total)


def serving(timing: Timing, batch_size: int) -> CostModel:
    """Cost model of an edge server: ``timing`` is of one client's batch, and what it does counts by samples."""

    def due_s(call: Compute, reply: Any, cpu_s: float) -> float:
        match call, reply:
            case JointStep(), JointSummary():
                forward_s = timing.forward_s * reply.forward_samples
                return (forward_s + timing.backward_s * reply.backward_samples) / batch_size
            case ServeTask(), _:
                return timing.forward_s + (timing.backward_s if isinstance(reply, Gradient) else 0.0)
        return 0.0

    return due_s


def facts(worker: Any) -> dict[str, Any]:
    """What a node's report says of its ``worker``."""
    return {"layers": getattr(worker, "layers", 0), "steps": getattr(worker, "steps", 0)}


def outcome(reports: Sequence[RoundReport], nodes: list[NodeReport]) -> FederationOutcome:
    """What the edge servers reported, with what the nodes did."""
    return FederationOutcome(
        rounds=[
            RoundOutcome(
                round=one.round,
                edge=one.edge,
                metrics=one.metrics,
                correct_by_class=_listed(one.correct_by_class),
                total_by_class=_listed(one.total_by_class),
            )
            for one in sorted(reports, key=lambda one: (one.edge, one.round))
        ],
        nodes=nodes,
    )


def _listed(counts: torch.Tensor | None) -> list[float]:
    listed: list[float] = [] if counts is None else counts.tolist()
    return listed
