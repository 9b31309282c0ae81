"""An inference service in one process: all its nodes as tasks of a loop, at full speed or in virtual time.

Nodes connect as the routes say, where a link joins them. A route may change and a node may die at any time of the run's
clock.

Several UEs may share nodes and links in virtual time. Each UE's service has roles of its own on every node of its
route, and of the others knows the queues alone: a node's machine works first come, first served, and so does a link.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial

import msgspec

from netem.link import Link
from nodes.inference.frames import Frames
from nodes.inference.server import Backlog, ServiceServer, no_backlog
from nodes.inference.ue import ServiceUe
from nodes.inference.whole_model import Shapes, WholeModel, playing
from nodes.runtime.actions import Role
from nodes.runtime.local import Conductor, LocalRun, Member, Mode
from nodes.runtime.report import NodeReport, node_report
from nodes.runtime.sharing import SharedLink, SharedMachine, WorkQueue
from nodes.runtime.virtual_time import LinkChannel, run_virtual
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.splitting.controller import SplitControl
from nodes.splitting.link_estimates import CostEstimate
from nodes.wire.channel import memory_pair
from nodes.wire.messages import AnyMessage, Begin, Peer, Route, Shutdown, SplitPoint, TaskReport

NodePath = tuple[str, ...]  # names of nodes, the UE first
ServiceLinks = Mapping[tuple[str, str], tuple[Link, Link]]  # by (upstream end, downstream end): downstream, upstream


class Scene(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes of a service and its events.

    ``layer_s`` are the nodes' costs of each layer [L]; ``estimates`` gives a node's estimate of its incoming link, by
    (previous node, itself). ``routes`` are (start in seconds, names from the UE on) in order of time.
    """

    pace: Pace
    layer_s: Mapping[str, Sequence[float]]
    estimates: Callable[[str, str], CostEstimate]
    routes: Sequence[tuple[float, NodePath]]
    deaths: Sequence[tuple[float, str]] = ()
    policy: Policy = Policy()
    deliver: bool = False
    tell_queues: bool = False  # nodes add what their machine has yet to do to the costs that they tell upstream

    @property
    def ue(self) -> str:
        """Name of the UE."""
        return self.routes[0][1][0]


class Served(msgspec.Struct, kw_only=True):
    """Outcome of a service: tasks in order of their ends, the UE's split point at each update, reports of the nodes."""

    tasks: list[TaskReport]
    split_points: list[tuple[float, int]]  # (seconds, layers done when a task leaves the UE)
    nodes: list[NodeReport]


def serve_in_virtual_time(scene: Scene, frames: Frames, links: ServiceLinks) -> Served:
    """Run ``scene`` on a virtual clock: compute takes ``layer_s``, messages what ``links`` do to whole frames."""
    return serve_together([scene], frames, links)[0]


def serve_together(scenes: Sequence[Scene], frames: Frames, links: ServiceLinks) -> list[Served]:
    """Run ``scenes``, one a UE, on one virtual clock.

    Nodes of the same name in several scenes are one machine, and links are shared by their ends' names. A scene begins
    with its first route.
    """
    machines = {name: SharedMachine() for scene in scenes for name in scene.layer_s}
    waiting = {ends: (WorkQueue(), WorkQueue()) for ends in links}

    async def serve(owner: int, scene: Scene) -> Served:
        def pair(upper: str, lower: str) -> tuple[LinkChannel, LinkChannel]:
            ends = memory_pair(upper, lower, LinkChannel)
            for end, link, queue in zip(ends, links[upper, lower], waiting[upper, lower], strict=True):
                end.link = SharedLink(link, queue, owner)
            return ends

        def member(name: str, role: Role) -> Member:
            worker = Shapes(frames, scene.layer_s[name])
            return Member(role, worker, machines[name].executor(playing(worker), owner))

        def backlog_s(name: str) -> Backlog:
            return partial(machines[name].queue.backlog_s, owner=owner)

        def estimate(upper: str, lower: str) -> CostEstimate:
            link_s, queue = scene.estimates(upper, lower), waiting[upper, lower][0]

            def queued(now: float, ahead_s: float) -> list[float]:
                wait_s = queue.backlog_s(now, owner)
                return [wait_s + seconds if seconds else 0.0 for seconds in link_s(now, ahead_s)]

            return queued

        told = msgspec.structs.replace(scene, estimates=estimate) if scene.tell_queues else scene
        mode = Mode(asyncio.get_running_loop().time, pair)
        return await _run(told, member, mode, backlog_s if scene.tell_queues else lambda name: no_backlog)

    async def run() -> list[Served]:
        return await asyncio.gather(*(serve(owner, scene) for owner, scene in enumerate(scenes)))

    return run_virtual(run())


def serve_in_process(scene: Scene, workers: Mapping[str, WholeModel]) -> Served:
    """Run ``scene`` on the machine's clock, over memory, computing with ``workers``."""
    return asyncio.run(_run(scene, lambda name, role: Member(role, workers[name]), Mode(), lambda name: no_backlog))


async def _run(
    scene: Scene, member: Callable[[str, Role], Member], mode: Mode, backlog_s: Callable[[str], Backlog]
) -> Served:
    controls = {name: SplitControl(layer_s, scene.policy) for name, layer_s in scene.layer_s.items()}
    roles = {name: _role(scene, name, control, backlog_s(name)) for name, control in controls.items()}
    run = LocalRun({name: member(name, role) for name, role in roles.items()}, mode)
    conductor = _ServiceConductor(scene)
    await run.conduct(conductor)
    nodes = [
        node_report(run.nodes[name], updates=control.updates, switches=control.switches)
        for name, control in controls.items()
    ]
    return Served(tasks=conductor.tasks, split_points=conductor.split_points, nodes=nodes)


def _role(scene: Scene, name: str, control: SplitControl, backlog_s: Backlog) -> Role:
    if name == scene.ue:
        return ServiceUe(name, control, scene.pace, scene.deliver)
    return ServiceServer(name, control, lambda upper: scene.estimates(upper, name), scene.deliver, backlog_s)


class _ServiceConductor(Conductor):
    """Follows a scene's routes and deaths until the last task is done; tasks begin with the first route."""

    def __init__(self, scene: Scene) -> None:
        self.tasks: list[TaskReport] = []
        self.split_points: list[tuple[float, int]] = []
        self._scene = scene

    async def begin(self, run: LocalRun) -> None:
        began = run.now
        events: list[tuple[float, Callable[[], Awaitable[None]]]]
        events = [(at, partial(self._set_route, run, route)) for at, route in self._scene.routes]
        events += [(at, partial(run.kill, name)) for at, name in self._scene.deaths]
        for index, (at, act) in enumerate(sorted(events, key=lambda event: event[0])):
            await asyncio.sleep(max(0.0, began + at - run.now))
            await act()
            if not index:
                await run.send(self._scene.ue, Begin())

    async def heard(self, run: LocalRun, node: str, message: AnyMessage) -> None:
        match message:
            case SplitPoint(layers=layers):
                self.split_points.append((run.now, layers))
            case TaskReport():
                self.tasks.append(message)
                if len(self.tasks) == self._scene.pace.tasks:
                    for name in run.nodes:
                        await run.send(name, Shutdown())

    async def _set_route(self, run: LocalRun, route: NodePath) -> None:
        """Send each node on ``route`` the part of it that follows."""
        for hop, name in enumerate(route):
            await run.send(name, Route(nodes=tuple(Peer(lower) for lower in route[hop + 1 :])))
