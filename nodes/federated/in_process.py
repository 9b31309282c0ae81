"""How does a federation run in one process? All its nodes as tasks of a loop, at full speed or in virtual time."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import msgspec
import torch

from netem.profiles import Duplex
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.federated.client import Client
from nodes.federated.client_worker import ClientWork
from nodes.federated.cloud import Cloud, CloudWork
from nodes.federated.edge.async_server import AsyncEdgeServer
from nodes.federated.edge.server import EdgeServer
from nodes.federated.edge.worker import EdgeWork
from nodes.federated.shape_workers import ClientShapes, ShapeClient, ShapeEdge
from nodes.model.boundary import Tensors
from nodes.runtime.actions import RoamingRole
from nodes.runtime.dynamic_node import ENDED, RoamingNode
from nodes.runtime.executors import CostModel, Executor, ProfiledExecutor, on_device
from nodes.runtime.node import inline
from nodes.runtime.virtual_time import linked_pair, run_virtual
from nodes.seeds import derive
from nodes.spec.federation import CLOUD, Federation
from nodes.spec.job import Timing
from nodes.wire.channel import Channel, ChannelClosed, Connection, MemoryChannel, Traffic, memory_pair
from nodes.wire.messages import Activation, AnyMessage, Assign, Error, Gradient, Peer, Result

ReportRound = Callable[[dict[str, float]], None]


class NodeReport(msgspec.Struct, kw_only=True):
    """What one node did; the rest is of a process of its own. Of clients that share one, the first tells of it."""

    name: str
    layers: int = 0
    steps: int = 0
    pid: int = 0
    cpu_s: float = 0.0
    resident_bytes: int = 0
    compute_s: float = 0.0
    overrun_s: float = 0.0
    sent: dict[str, dict[str, Traffic]] = {}  # by direction, by kind of message
    connections: list[Connection] = []


class RoundReport(msgspec.Struct, kw_only=True):
    """What one edge server told of one round: its ``Tally``, and right and all answers by class."""

    told: dict[str, float]
    right: list[float]
    tested: list[float]


class FederationOutcome(msgspec.Struct, kw_only=True):
    """What came of a federation: its rounds in their order, those of the first edge server first."""

    rounds: list[RoundReport]
    nodes: list[NodeReport]
    lost: dict[str, str] = {}  # clients that ended before the federation did and did not come back, and how
    uncalibrated: list[str] = []  # what a live run's test of its links had to say


def run_in_process(
    federation: Federation, data: Dataset | None = None, say: ReportRound | None = None
) -> FederationOutcome:
    """Run ``federation`` in this process, without a wire: bytes are counted as they would be sent."""
    before = torch.get_num_threads()
    torch.set_num_threads(federation.job.threads or before)
    try:
        return asyncio.run(
            LocalFederation(federation, workers(federation, data or load_data(federation.job)), say).run()
        )
    finally:
        torch.set_num_threads(before)


Made = dict[str, tuple[RoamingRole, Any]]  # the role and the worker of every node, by name


def workers(federation: Federation, data: Dataset) -> Made:
    """All nodes of ``federation``, to train on ``data``."""
    return _made(federation, partial(EdgeWork, federation), lambda client: ClientWork(federation, client, data))


def shapes(federation: Federation, data: Dataset) -> Made:
    """All nodes of ``federation``, as if they trained on ``data``: their messages have shapes and no data."""
    clients = ClientShapes(federation, data)
    return _made(federation, partial(ShapeEdge, federation), partial(ShapeClient, clients))


def _made(federation: Federation, edge_work: Callable[[int], Any], client_work: Callable[[int], Any]) -> Made:
    made: Made = {}
    if federation.edges > 1:
        made[CLOUD] = Cloud(federation), CloudWork()
    for edge, name in enumerate(federation.edge_names):
        made[name] = edge_role(federation, edge), edge_work(edge)
    for client, name in enumerate(federation.client_names):
        work = client_work(client)
        servers = [Peer(federation.edge_names[edge]) for edge in federation.visits(client)]
        made[name] = client_role(federation, client, work, servers), work
    return made


def edge_role(federation: Federation, edge: int, cloud: Peer | None = None) -> EdgeServer:
    """What edge server ``edge`` decides."""
    if federation.rules.order == "at will":
        return AsyncEdgeServer(federation)
    return EdgeServer(federation, edge, (cloud or Peer(CLOUD)) if federation.edges > 1 else None)


def client_role(federation: Federation, client: int, work: Any, servers: Sequence[Peer]) -> Client:
    """What client ``client`` decides, whose worker is ``work``."""
    return Client(
        federation.rules,
        servers,
        work.samples,
        work.mean_samples,
        work.course.test_batches,
        federation.job.window,
        [(one.after_steps, one.for_s) for one in federation.absences if one.client == client],
        work.begun,
    )


class LocalFederation:
    """All nodes of a federation, and how they reach each other."""

    def __init__(self, federation: Federation, made: Made, say: ReportRound | None = None) -> None:
        self._federation, self.made, self._say = federation, made, say
        self._clock: Callable[[], float] = time.perf_counter
        self._nodes: dict[str, RoamingNode] = {}

    async def run(self) -> FederationOutcome:
        reports: list[Result] = []
        runners: dict[str, MemoryChannel] = {}
        for name, (role, worker) in self.made.items():
            to_runner: MemoryChannel
            runner: MemoryChannel
            to_runner, runner = memory_pair(name, "runner")
            runners[name] = runner
            self._nodes[name] = RoamingNode(
                name, role, worker, self._compute(name), {"runner": to_runner}, self._clock, self._reach(name)
            )
        try:
            async with asyncio.TaskGroup() as group:  # the first that fails ends all
                for runner in runners.values():
                    group.create_task(self._listen(runner, reports))
                    await runner.send(Assign(assignment=0, splits=()))
                await asyncio.wait([group.create_task(self._live(name, runners)) for name in self._nodes])
                for runner in runners.values():
                    await runner.close()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        done = [
            node_report(node, worker)
            for node, (_, worker) in zip(self._nodes.values(), self.made.values(), strict=True)
        ]
        return outcome(reports, done)

    async def _live(self, name: str, runners: Mapping[str, Channel]) -> None:
        """Be ``name`` to its end; of a client's, those know whom it visits."""
        await self._nodes[name].run()
        if name in self._federation.client_names:
            for edge in self._federation.visits(self._federation.client_names.index(name)):
                with suppress(ChannelClosed):
                    await runners[self._federation.edge_names[edge]].send(Error(node=name, reason=ENDED))

    def _compute(self, name: str) -> Executor:
        return inline

    def _pair(self, upper: str, lower: str) -> tuple[Channel, Channel]:
        return memory_pair(upper, lower)

    def _reach(self, name: str) -> Callable[[Peer], Any]:
        async def reach(peer: Peer) -> Channel:
            near, far = self._pair(name, peer.name)
            await self._nodes[peer.name].attach(name, far)
            return near

        return reach

    def _noted(self, told: Result) -> Result:
        """What is kept of what an edge server has told."""
        return told

    async def _listen(self, runner: Channel, reports: list[Result]) -> None:
        try:
            while True:
                message = await runner.receive()
                if isinstance(message, Result):
                    reports.append(self._noted(message))
                    if self._say:
                        self._say(message.metrics)
        except ChannelClosed:
            return


class VirtualFederation(LocalFederation):
    """The same on a virtual clock. To be made on the loop that it runs on."""

    def __init__(self, federation: Federation, made: Made, links: Mapping[str, Duplex]) -> None:
        super().__init__(federation, made)
        self._clock = asyncio.get_running_loop().time
        self._links = links

    def _compute(self, name: str) -> Executor:
        federation = self._federation
        if name in federation.client_names:
            return ProfiledExecutor(on_device(federation.device(federation.client_names.index(name))))
        return ProfiledExecutor(serving(federation.server_timing or Timing(), federation.job.batch_size))

    def _pair(self, upper: str, lower: str) -> tuple[Channel, Channel]:
        seed = derive(self._federation.job.seed, list(self.made).index(upper))
        return linked_pair(upper, lower, self._links[upper], seed)

    def _noted(self, told: Result) -> Result:
        if self._federation.test_every:
            return told
        tensors = evaluated(self._federation, self.made, told.step, told.assignment)
        return msgspec.structs.replace(told, tensors=tensors)


def run_in_virtual_time(
    federation: Federation, links: Mapping[str, Duplex], data: Dataset | None = None, learn: bool = True
) -> FederationOutcome:
    """Run ``federation`` on a virtual clock: compute takes what its timings say, messages what ``links`` do.

    ``links`` are by the name of the node upstream: a client's to its edge server, an edge server's to the cloud.
    Where clients never test, they are tested after each round outside of the run. Unless networks are to ``learn``,
    tensors have shapes and no data, which takes next to no time for any number of clients: what crosses and when is
    the same, losses and right answers are zero, and no state is kept.
    """
    made = (workers if learn else shapes)(federation, data or load_data(federation.job))

    async def run() -> FederationOutcome:
        return await VirtualFederation(federation, made, links).run()

    return run_virtual(run())


def evaluated(federation: Federation, made: Mapping[str, tuple[RoamingRole, Any]], edge: int, number: int) -> Tensors:
    """Right and all answers by class at edge server ``edge`` after round ``number``.

    Each of its clients' networks, with the clients' part as it is shared, is tested on that client's test pictures.

    Outside of the run: no message crosses and no time passes.
    """
    right, tested = torch.zeros(federation.job.classes), torch.zeros(federation.job.classes)
    role, server = made[federation.edge_names[edge]]
    part = role.part if isinstance(role, EdgeServer) else None
    for client in federation.group(edge, number):
        work: ClientWork = made[federation.client_names[client]][1]
        if part is not None:
            work.take(part)  # it is on its way, or comes before the client's next turn
        for batch in range(work.course.test_batches):
            answer = work.test(number, batch)
            if isinstance(answer, Activation):
                answer = work.score(server.forward(answer, client))
            assert isinstance(answer, Result)
            right, tested = right + answer.tensors["right"], tested + answer.tensors["tested"]
    return {"right": right, "tested": tested}


def serving(timing: Timing, batch_size: int) -> CostModel:
    """How long an edge server takes: ``timing`` is of one client's batch, and what it does counts by samples."""

    def due_s(call: str, reply: AnyMessage, cpu_s: float) -> float:
        if call == "joint":
            told = reply.metrics if isinstance(reply, Gradient) else {}
            forward_s = timing.forward_s * told["forward_samples"]
            return (forward_s + timing.backward_s * told["backward_samples"]) / batch_size
        if call == "forward":
            return timing.forward_s + (timing.backward_s if isinstance(reply, Gradient) else 0.0)
        return 0.0

    return due_s


def node_report(node: RoamingNode, worker: Any) -> NodeReport:
    """What ``node`` did, as far as it knows itself."""
    sent: dict[str, dict[str, Traffic]] = {}
    for direction, channel in node.used:
        held = sent.setdefault(direction, {})
        for kind, traffic in channel.sent.items():
            one = held.setdefault(kind, Traffic())
            one.messages += traffic.messages
            one.header_bytes += traffic.header_bytes
            one.payload_bytes += traffic.payload_bytes
    return NodeReport(
        name=node.name,
        layers=getattr(worker, "layers", 0),
        steps=getattr(worker, "steps", 0),
        compute_s=node.usage.compute_s,
        sent=sent,
        connections=[connection for _, channel in node.used for connection in channel.connections],
    )


def outcome(reports: Sequence[Result], nodes: list[NodeReport]) -> FederationOutcome:
    """What the edge servers reported, with what the nodes did."""
    reports = sorted(reports, key=lambda told: (told.step, told.assignment))
    return FederationOutcome(
        rounds=[
            RoundReport(
                told=message.metrics,
                right=message.tensors["right"].tolist() if "right" in message.tensors else [],
                tested=message.tensors["tested"].tolist() if "tested" in message.tensors else [],
            )
            for message in reports
        ],
        nodes=nodes,
    )
