"""Inference services on real processes: a script sets routes, kills nodes and lets others join.

A node's death is no failure of a service, unless it is the UE's; what a node raises is one.
"""

import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import msgspec

from bench import events
from bench.live.hosts.shaping import shaped_on_hosts
from bench.live.link_self_test import Pair
from bench.live.processes import HostPort, RunError
from bench.live.run import LiveRun, SilentError, T, of_link, stray
from bench.live.shaping import Shaping
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.spec.modules import modules_of
from nodes.spec.policy import LinkSpec
from nodes.spec.service import Service
from nodes.wire.channel import PARTS
from nodes.wire.messages import (
    AnyMessage,
    Begin,
    BeginUpdate,
    LinkState,
    Peer,
    Route,
    Serve,
    Shutdown,
    SplitPoint,
    TaskReport,
)
from reports.record import ShapingBackend as Backend

STANDSTILL_S = 30.0  # a service without a task or an update for so long has come to a stop
SHOWN_S = 0.1  # between events of tasks that are split alike
FIRST_UPDATE = 1 << 20  # updates that the runner asks for are numbered from here on


class ServiceSetup(msgspec.Struct, frozen=True, kw_only=True):
    """Nodes that may take part, the UE first, by their layers' costs [L]; their links, and what is known of these."""

    service: Service
    layer_s: Mapping[str, Sequence[float]]
    links: Mapping[Pair, Duplex]
    known: Mapping[Pair, LinkSpec]
    seed: int = 0


class LiveService(LiveRun):
    """A service at work, as a script sees it."""

    def __init__(self, setup: ServiceSetup, shaping: Shaping) -> None:
        """``shaping`` has the service's links, in their order."""
        super().__init__(shaping, modules=modules_of(setup.service))
        self.tasks: list[TaskReport] = []  # in the order in which they came back
        self.split_points: list[SplitPoint] = []  # the UE's own, at each update
        self._setup = setup
        self._links = {ends: number for number, ends in enumerate(setup.links)}
        self._ue = next(iter(setup.layer_s))
        self._shown: dict[str, int] = {}  # layers done on leaving each node, as last emitted
        self._shown_at = 0.0

    async def setup(self, name: str) -> Serve:
        known = self._setup.known
        return Serve(
            service=self._setup.service,
            layer_s=tuple(self._setup.layer_s[name]),
            incoming={upper: link for (upper, lower), link in known.items() if lower == name},
            source=name == self._ue,
        )

    async def heard(self, name: str, message: AnyMessage) -> None:
        match message:
            case TaskReport():
                task = self._on_one_clock(message)
                self.tasks.append(task)
                self._show(task)
            case SplitPoint():
                self.split_points.append(message)
                events.emit("update", number=message.number, layers=message.layers)
            case _:
                raise stray(name, message)

    def _show(self, task: TaskReport) -> None:
        """Emit an event of a task that was split otherwise than the one before, of others now and then."""
        now, again = time.monotonic(), task.splits == self._shown
        if events.watched() and not (again and now < self._shown_at + SHOWN_S):
            self._shown, self._shown_at = task.splits, now
            of_task = {"task": task.step, "latency_s": task.latency_s, "restarts": task.restarts}
            events.emit("layers", done=task.splits, total=len(self._setup.layer_s[self._ue]), **of_task)

    def _on_one_clock(self, task: TaskReport) -> TaskReport:
        """``task`` with its end by the clock of the UE, as its start is; its last node's may be ahead of that."""
        last = next(reversed(task.splits), self._ue)
        ahead_s = self._nodes.offset_s(last) - self._nodes.offset_s(self._ue)
        return msgspec.structs.replace(task, ended_s=task.ended_s - ahead_s) if ahead_s else task

    async def gone(self, name: str, error: RunError) -> None:
        if name == self._ue and not isinstance(error, SilentError):
            raise error

    async def change(self) -> None:
        """Return when something has happened. Raises RunError if nothing does, naming nodes that are silent.

        A silent node that tasks may pass by in time, as the policy says, is not waited for.
        """
        passed_by = self._setup.service.policy.patience_s is not None and bool(self.split_points)
        still_s = 0.0
        while still_s < STANDSTILL_S:
            with suppress(TimeoutError):
                async with asyncio.timeout(self.silence_s / PARTS):
                    return await super().change()
            still_s += self.silence_s / PARTS
            hung = sorted(self.silent - self.ended - self.reported)
            if hung and still_s >= (STANDSTILL_S if passed_by else self.silence_s):
                raise RunError(f"{', '.join(hung)}: not heard of for {still_s:g} s, while the service waits", weight=2)
        raise RunError(f"the service has stood still for {STANDSTILL_S:g} s", weight=2)

    async def join(self, *names: str) -> None:
        """Start nodes; they are ready, and on no route. Raises RunError."""
        await self.start(names)
        await self.until(lambda: self.pids.keys() >= set(names))

    async def set_route(self, *route: str) -> None:
        """Send each node of ``route`` the nodes behind it, as far as a link joins it to them."""
        events.emit("route", nodes=route)
        for hop, upper in enumerate(route):
            reachable = [lower for lower in route[hop + 1 :] if (upper, lower) in self._links]
            peers = [Peer(lower, *await self._address(upper, lower)) for lower in reachable]
            await self.send(upper, Route(nodes=tuple(peers)))

    async def begin(self) -> None:
        """Let the UE start its tasks, and the links that have traces follow them."""
        await self._shaping.play()
        await self.send(self._ue, Begin())

    async def set_link(self, upper: str, lower: str, link: Duplex) -> None:
        """Give the link between two nodes new profiles from now on; no node is told."""
        await self._shaping.change(self._links[upper, lower], link.up, link.down)
        events.emit("changed", link=of_link(upper, lower, link))

    async def announce_link(self, upper: str, lower: str, link: LinkSpec) -> None:
        """Tell ``lower`` what its link from ``upper`` is from now on."""
        await self.send(lower, LinkState(upper=upper, link=link))

    async def until_updates(self, count: int = 1) -> None:
        """Return when the UE has had ``count`` updates. Raises RunError."""
        await self.until(lambda: len(self.split_points) >= count)

    async def until_tasks(self, count: int) -> None:
        """Return when ``count`` tasks are back. Raises RunError."""
        await self.until(lambda: len(self.tasks) >= count)

    async def update(self, last: str) -> float:
        """Seconds from asking node ``last`` to begin an update until the UE's word of its new split point."""
        number = FIRST_UPDATE + len(self.split_points)
        began = time.perf_counter()
        await self.send(last, BeginUpdate(number=number))
        await self.until(lambda: bool(self.split_points) and self.split_points[-1].number == number)
        return time.perf_counter() - began

    def kill(self, name: str) -> None:
        """End ``name`` as a power cut would."""
        os.kill(self.pids[name], signal.SIGKILL)

    def hang(self, name: str) -> None:
        """Stop ``name``, its connections open, until ``wake``."""
        os.kill(self.pids[name], signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """Let ``name`` go on where it hung."""
        os.kill(self.pids[name], signal.SIGCONT)

    async def end(self) -> None:
        """Let all nodes that live report. Raises RunError."""
        alive = self.pids.keys() - self.ended
        for name in alive:
            await self.send(name, Shutdown())
        await self.until(lambda: self.reported | self.ended >= alive)

    async def _address(self, upper: str, lower: str) -> HostPort:
        """Where ``upper`` finds ``lower``, at the near end of the link between them."""
        return await self._shaping.connect_address(self._links[upper, lower], self._nodes.addresses[lower])


def run_service(
    service: ServiceSetup,
    script: Callable[[LiveService], Awaitable[T]],
    *,
    shaping: Backend = "emulated",
    self_test: SelfTest = "refuse",
) -> T:
    """What ``script`` returns of ``service``. Raises RunError.

    Args:
        service: The nodes, their links and what they know.
        script: Sets routes, begins, and waits for what happens.
        shaping: Backend of the links; with "none" all are unlimited.
        self_test: Whether links that are off before the service begins are refused, or kept in ``uncalibrated``.
    """
    number = {name: index for index, name in enumerate(dict.fromkeys([*service.layer_s, *chain(*service.links)]))}
    ends, links = list(service.links), list(service.links.values())
    pairs = [(number[upper], number[lower]) for upper, lower in ends]
    live = LiveService(service, shaped_on_hosts(list(number), links, shaping, service.seed, pairs))
    return live.play(script, (ends, links), shaping, self_test)
