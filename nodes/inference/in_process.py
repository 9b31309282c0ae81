"""How does an inference service run in one process? All its nodes as tasks of a loop, at full speed or in virtual time.

Nodes are joined as the routes say, and only those of them that can reach each other (``links``) are. A route
may change and a node may die at any time of the run's clock.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial

import msgspec

from netem.link import Link
from nodes.inference.frames import Frames
from nodes.inference.server import ServiceHop
from nodes.inference.task import TaskReport, task_of
from nodes.inference.ue import ServiceUe
from nodes.inference.whole_model import Shapes, TaskWorker, WholeModel, playing
from nodes.runtime.dynamic_node import RoamingNode
from nodes.runtime.executors import Executor, ProfiledExecutor
from nodes.runtime.node import inline
from nodes.runtime.virtual_time import LinkChannel, run_virtual
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.splitting.link_estimates import CostEstimate
from nodes.wire.channel import Channel, ChannelClosed, MemoryChannel, Traffic, memory_pair
from nodes.wire.messages import Assign, Peer, Result, Route, Shutdown

NodePath = tuple[str, ...]  # names of nodes, the UE first
ServiceLinks = Mapping[tuple[str, str], tuple[Link, Link]]  # by (upstream end, downstream end): downstream, upstream


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """Who takes part in a service, and what happens: names of nodes, the UE first in each route.

    ``layer_s`` are the nodes' costs of each layer [L], ``estimates`` what a node thinks of its incoming link, by
    (neighbour upstream, itself). ``routes`` are (from when on, the whole route) in order of time.
    """

    pace: Pace
    layer_s: Mapping[str, Sequence[float]]
    estimates: Callable[[str, str], CostEstimate]
    routes: Sequence[tuple[float, NodePath]]
    deaths: Sequence[tuple[float, str]] = ()
    policy: Policy = Policy()
    deliver: bool = False


class MemberReport(msgspec.Struct, kw_only=True):
    """What one node did for a service; ``cpu_s``, ``overrun_s`` and ``pid`` of a process of its own."""

    name: str
    pid: int = 0
    cpu_s: float = 0.0
    compute_s: float = 0.0
    overrun_s: float = 0.0  # by how much its machine was slower than the device that it plays
    updates: int = 0
    switches: int = 0
    sent_up: dict[str, Traffic] = {}
    sent_down: dict[str, Traffic] = {}


class Served(msgspec.Struct, kw_only=True):
    """What came of a service: its tasks in order of their ends, the UE's own split at each update, its nodes."""

    tasks: list[TaskReport]
    cuts: list[tuple[float, int]]  # (when, layers done when a task would leave the UE)
    nodes: list[MemberReport]


def serve_in_virtual_time(scene: Scene, frames: Frames, links: ServiceLinks) -> Served:
    """Run ``scene`` on a virtual clock: compute takes ``layer_s``, messages what ``links`` do to whole frames."""

    def pair(upper: str, lower: str) -> tuple[LinkChannel, LinkChannel]:
        ends = memory_pair(upper, lower, LinkChannel)
        for end, link in zip(ends, links[upper, lower], strict=True):
            end.link = link
        return ends

    def make(name: str) -> tuple[TaskWorker, Executor]:
        worker = Shapes(frames, scene.layer_s[name])
        return worker, ProfiledExecutor(playing(worker))

    async def run() -> Served:
        return await _Stage(scene, make, pair, asyncio.get_running_loop().time).run()

    return run_virtual(run())


def serve_in_process(scene: Scene, workers: Mapping[str, WholeModel]) -> Served:
    """Run ``scene`` on the machine's clock, over memory, computing with ``workers``."""

    def make(name: str) -> tuple[TaskWorker, Executor]:
        return workers[name], inline

    return asyncio.run(_Stage(scene, make, memory_pair, time.perf_counter).run())


class _Stage:
    """Where a scene is played."""

    def __init__(
        self,
        scene: Scene,
        make: Callable[[str], tuple[TaskWorker, Executor]],
        pair: Callable[[str, str], tuple[MemoryChannel, MemoryChannel]],
        clock: Callable[[], float],
    ) -> None:
        self._scene, self._pair, self._clock = scene, pair, clock
        self._nodes: dict[str, RoamingNode] = {}
        self._controls: dict[str, SplitControl] = {}
        self._runners: dict[str, MemoryChannel] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._served = Served(tasks=[], cuts=[], nodes=[])
        self._ue = scene.routes[0][1][0]
        for name, layer_s in scene.layer_s.items():
            self._controls[name] = SplitControl(layer_s, scene.policy)
            ours: MemoryChannel
            ours, self._runners[name] = memory_pair(name, "runner")
            connect = partial(self._connect, name)
            self._nodes[name] = RoamingNode(name, self._role(name), *make(name), {"runner": ours}, clock, connect)

    async def run(self) -> Served:
        """Play the scene until the last task has ended."""
        try:
            async with asyncio.TaskGroup() as group:  # the first that fails ends all
                for name, node in self._nodes.items():
                    self._running[name] = group.create_task(node.run())
                script = group.create_task(self._direct())
                await self._listen()
                script.cancel()
                for runner in self._runners.values():
                    await runner.send(Shutdown())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        self._served.nodes = [member_report(node, self._controls[name]) for name, node in self._nodes.items()]
        return self._served

    def _role(self, name: str) -> ServiceUe | ServiceHop:
        scene, control = self._scene, self._controls[name]
        if name == self._ue:
            return ServiceUe(name, control, scene.pace, scene.deliver)
        return ServiceHop(name, control, lambda upper: scene.estimates(upper, name), scene.deliver)

    async def _connect(self, upper: str, to: Peer) -> Channel:
        lower = to.name
        if self._running[lower].done():
            raise ChannelClosed(f"{lower} is dead")
        one, two = self._pair(upper, lower)
        await self._nodes[lower].attach("up", two)
        return one

    async def _direct(self) -> None:
        """Do what the scene says, at its times; tasks begin with the first route."""
        began = self._clock()
        events: list[tuple[float, Callable[[], Awaitable[None]]]]
        events = [(at, partial(self._lead, route)) for at, route in self._scene.routes]
        events += [(at, partial(self._kill, name)) for at, name in self._scene.deaths]
        for index, (at, act) in enumerate(sorted(events, key=lambda event: event[0])):
            await asyncio.sleep(max(0.0, began + at - self._clock()))
            await act()
            if not index:
                await self._runners[self._ue].send(Assign(assignment=0, splits=()))

    async def _lead(self, route: NodePath) -> None:
        """Let ``route`` be the way from now on; who is not on it is told nothing."""
        for hop, name in enumerate(route):
            if not self._running[name].done():
                await self._runners[name].send(Route(nodes=tuple(Peer(lower) for lower in route[hop + 1 :])))

    async def _kill(self, name: str) -> None:
        self._running[name].cancel()
        await asyncio.gather(*(channel.close() for _, channel in self._nodes[name].used))

    async def _listen(self) -> None:
        """Collect what the UE tells of tasks and updates until it has told of the last task."""
        tasks, runner = self._served.tasks, self._runners[self._ue]
        while len(tasks) < self._scene.pace.tasks:
            match await runner.receive():
                case Result() as told:
                    tasks.append(task_of(told))
                case Assign(splits=(cut,)):
                    self._served.cuts.append((self._clock(), cut))


def member_report(node: RoamingNode, control: SplitControl) -> MemberReport:
    """What ``node`` did, as far as it knows itself."""
    return MemberReport(
        name=node.name,
        compute_s=node.usage.compute_s,
        updates=control.updates,
        switches=control.switches,
        sent_up=_sum(channel.sent for to, channel in node.used if to == "up"),
        sent_down=_sum(channel.sent for to, channel in node.used if to == "down"),
    )


def _sum(sent: Iterable[dict[str, Traffic]]) -> dict[str, Traffic]:
    """All that several channels have sent, by the kind of message."""
    total: dict[str, Traffic] = {}
    for kind, traffic in (item for each in sent for item in each.items()):
        so_far = total.setdefault(kind, Traffic())
        so_far.messages += traffic.messages
        so_far.header_bytes += traffic.header_bytes
        so_far.payload_bytes += traffic.payload_bytes
    return total
