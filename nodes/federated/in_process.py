"""Federations in one process: all nodes as tasks of a loop, at full speed or in virtual time."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import msgspec
import torch

from netem.link import Link, Medium
from netem.profiles import Duplex
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.federated.client import Client
from nodes.federated.client_worker import Answers, ClientWorker
from nodes.federated.cloud import Cloud, CloudWorker
from nodes.federated.edge.joint_step import JointReply
from nodes.federated.edge.returning import JointStart
from nodes.federated.edge.server import EdgeServer
from nodes.federated.edge.worker import EdgeWorker, EndJoint, JointStep, ServeGradient, ServeTask, StartJoint
from nodes.federated.keeping import kept_account, kept_state
from nodes.federated.shape_workers import ClientShapes, ShapeClient, ShapeCloud, ShapeEdge
from nodes.runtime.actions import Compute, Role
from nodes.runtime.executors import CostModel, Executor, ProfiledExecutor, inline, on_device
from nodes.runtime.local import Conductor, LocalRun, Member, Mode, run_here
from nodes.runtime.report import NodeReport, node_report
from nodes.runtime.virtual_time import linked_pair, run_virtual
from nodes.seeds import derive
from nodes.spec.federation import CLOUD, Federation
from nodes.spec.job import Device, Timing
from nodes.wire.channel import Channel
from nodes.wire.messages import Activation, AnyMessage, Begin, ClientFinished, Gradient, Peer, RoundReport, Shutdown

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
    """Outcome of a federation: its rounds in their order, those of the first edge server first.

    It ends with the first round whose loss is no number.
    """

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
    federation: Federation,
    links: Mapping[str, Duplex],
    data: Dataset | None = None,
    learn: bool = True,
    *,
    shared_cell: bool = False,
) -> FederationOutcome:
    """Run ``federation`` on a virtual clock: compute takes what its timings say, messages what ``links`` do.

    ``links`` are by the name of the node towards the UE: a client's to its edge server, an edge server's to the cloud.
    In a ``shared_cell`` what the clients of an edge server send is transmitted one after the other, and what is sent to
    them, too; else each has its link for itself.

    Where clients never test, they are tested after each round outside of the run. Unless networks are to ``learn``,
    tensors have shapes and no data, which takes next to no time for any number of clients: what crosses and when is
    the same, losses and correct answers are zero, and no state is kept.
    """
    made = (workers if learn else shapes)(federation, data or load_data(federation.job))
    return run_virtual(VirtualFederation(federation, made, links, shared_cell).run())


def workers(federation: Federation, data: Dataset) -> Workers:
    """All nodes of ``federation``, to train on ``data``."""
    kinds = WorkerKinds(CloudWorker, EdgeWorker, partial(ClientWorker, data=data))
    return {name: make_node(federation, name, kinds) for name in federation.names}


def shapes(federation: Federation, data: Dataset) -> Workers:
    """All nodes of ``federation``, as if they trained on ``data``: their messages have shapes and no data."""
    kinds = WorkerKinds(ShapeCloud, ShapeEdge, partial(ShapeClient, shapes=ClientShapes(federation, data)))
    return {name: make_node(federation, name, kinds) for name in federation.names}


class WorkerKinds(NamedTuple):
    """What makes the workers of a federation; of an edge server and a client by their numbers."""

    cloud: Callable[[Federation], Any]
    edge: Callable[[Federation, int], Any]
    client: Callable[[Federation, int], Any]


def make_node(
    federation: Federation, name: str, kinds: WorkerKinds, servers: Sequence[Peer] | None = None
) -> tuple[Role, Any]:
    """Role and worker of node ``name``; ``servers`` are the addresses of its servers."""
    if servers is None:
        servers = [Peer(server) for server in federation.servers_of(name)]
    kept = kept_state(federation, name)
    if name == CLOUD:
        return Cloud(federation), _going_on(kinds.cloud(federation), kept)
    if name in federation.edge_names:
        edge = federation.edge_names.index(name)
        role = EdgeServer(federation, edge, next(iter(servers), None), kept and kept["progress"])
        return role, _going_on(kinds.edge(federation, edge), kept)
    client = federation.client_names.index(name)
    worker = _going_on(kinds.client(federation, client), kept)
    return Client(federation, client, servers, worker.data), worker


def _going_on(worker: Any, kept: dict[str, Any] | None) -> Any:
    """``worker``, once it has the state that was ``kept``, if any was."""
    if kept is not None:
        worker.go_on(kept["worker"])
    return worker


class LocalFederation(Conductor):
    """The nodes ``made`` of a federation in this process, and its runner."""

    def __init__(self, federation: Federation, made: Workers, say: ReportRound | None = None) -> None:
        self._federation, self.made, self._say = federation, made, say
        self._reports: list[RoundReport] = []
        self._mode = Mode()

    async def run(self) -> FederationOutcome:
        """Run all nodes to their end."""
        members = {
            name: Member(*made, self._compute(name), kept_account(self._federation, name))
            for name, made in self.made.items()
        }
        local = LocalRun(members, self._mode, incoming=lambda node: node)
        await local.conduct(self)
        reports = [node_report(node, **facts(self.made[name][1])) for name, node in local.nodes.items()]
        return outcome(self._reports, reports)

    async def begin(self, run: LocalRun) -> None:
        for name in self.made:
            await run.send(name, Begin())

    async def heard(self, run: LocalRun, node: str, message: AnyMessage) -> None:
        if isinstance(message, RoundReport):
            self._reports.append(message if diverged(message) else self._kept(message))
            if self._say:
                self._say(message)
            for edge in self._federation.edge_names if diverged(message) else ():
                await run.send(edge, Shutdown())

    async def ended(self, run: LocalRun, node: str) -> None:
        if node in self._federation.client_names:
            for edge in self._federation.servers_of(node):
                await run.send(edge, ClientFinished(client=node))

    def _compute(self, name: str) -> Executor:
        return inline

    def _kept(self, reported: RoundReport) -> RoundReport:
        """What is kept of an edge server's report."""
        return reported


class VirtualFederation(LocalFederation):
    """The same on a virtual clock."""

    def __init__(
        self, federation: Federation, made: Workers, links: Mapping[str, Duplex], shared_cell: bool = False
    ) -> None:
        super().__init__(federation, made)
        self._links, self._shared = links, shared_cell
        self._media: dict[tuple[str, str], Medium] = {}  # of shared cells, by edge server and direction
        self._mode = Mode(lambda: asyncio.get_running_loop().time(), self._pair)

    def _compute(self, name: str) -> Executor:
        return ProfiledExecutor(cost_model(self._federation, name) or (lambda call, reply, cpu_s: 0.0))

    def _pair(self, upper: str, lower: str) -> tuple[Channel, Channel]:
        seed = derive(self._federation.job.seed, list(self.made).index(upper))
        near, far = linked_pair(upper, lower, self._links[upper], seed)
        if self._shared and upper in self._federation.client_names:
            half_duplex = self._links[upper].half_duplex
            for end, direction in ((near, "uplink"), (far, "uplink" if half_duplex else "downlink")):
                assert isinstance(end.link, Link)
                end.link.medium = self._media.setdefault((lower, direction), Medium())
        return near, far

    def _kept(self, reported: RoundReport) -> RoundReport:
        if self._federation.test_every:
            return reported
        correct, total = evaluated(self._federation, self.made, reported.edge, reported.round)
        return msgspec.structs.replace(reported, correct_by_class=correct, total_by_class=total)


def diverged(report: RoundReport) -> bool:
    """Whether the round's loss is no number; its edge server ends with it, and the others are to."""
    return not math.isfinite(report.metrics["loss"])


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
                    returned = server.forward(answers, client)
                    answers = worker.tested(returned)
                assert isinstance(answers, Answers)
                correct, total = correct + answers.correct_by_class, total + answers.total_by_class
    return Answers(correct, total)


def cost_model(federation: Federation, name: str) -> CostModel | None:
    """How long the computations of ``name`` take, if it stands for a slower device."""
    if name in federation.client_names:
        device = federation.device(federation.client_names.index(name))
        return None if device == Device() else on_device(device)
    if name == CLOUD or federation.server_timing is None:
        return None
    return _serving(federation.server_timing, federation.job.batch_size)


def _serving(timing: Timing, batch_size: int) -> CostModel:
    """Cost model of an edge server: ``timing`` is of one client's batch, and what it does counts by samples."""

    def due_s(call: Compute, reply: Any, cpu_s: float) -> float:
        match call, reply:
            case JointStep(), JointReply():
                forward_s = timing.forward_s * reply.forward_samples
                return (forward_s + timing.backward_s * reply.backward_samples) / batch_size
            case StartJoint(), JointStart():
                return timing.forward_s * reply.forward_samples / batch_size
            case EndJoint(), JointReply():
                return timing.backward_s * reply.backward_samples / batch_size
            case ServeGradient(), _:
                return timing.backward_s
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
