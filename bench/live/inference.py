"""How is an inference service run by real processes? Whoever experiments with it leads the way and kills and joins.

``LiveService`` starts nodes and links, tells the nodes what they know, and hands over what the UE tells of tasks
and updates. A node's death is no failure of a service, unless it is the UE's; what a node raises is.
"""

import asyncio
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from itertools import chain
from typing import Self, TypeVar

import msgspec
import uvloop

from bench.live.backends import shaped
from bench.live.link_self_test import Pair
from bench.live.link_self_test import self_test as try_links
from bench.live.processes import HostPort, Processes, RunError, launcher
from bench.live.shaping import Shaping
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.inference.in_process import MemberReport
from nodes.inference.task import TaskReport, task_of
from nodes.spec.policy import LinkSpec
from nodes.spec.service import Service
from nodes.wire.channel import Channel, ChannelClosed
from nodes.wire.codec import Limits
from nodes.wire.listener import RUNNER, peer_id
from nodes.wire.messages import (
    AnyMessage,
    Assign,
    Error,
    Heartbeat,
    Hello,
    LinkState,
    Peer,
    Result,
    Route,
    Serve,
    Shutdown,
)
from nodes.wire.split_costs import sci
from nodes.wire.transport import connect
from reports.record import ShapingBackend as Backend

SILENCE_S = 30.0  # a service whose UE says nothing for so long has come to a stop
HEARTBEATS_S = (
    10.0  # a node of which nothing is heard for so long, while the service stands still, is what it waits for
)
PARTS = 5  # of that time: a runner that stood still itself then hears what has come meanwhile
PATIENCE_S = 5.0  # for nodes that are told to end
FIRST_UPDATE = 1 << 20  # updates that the runner asks for are numbered from here on

T = TypeVar("T")


class ServiceSetup(msgspec.Struct, frozen=True, kw_only=True):
    """Who may take part, the UE first, by their layers' costs [L]; how they are joined; and what they know of that."""

    service: Service
    layer_s: Mapping[str, Sequence[float]]
    links: Mapping[Pair, Duplex]
    known: Mapping[Pair, LinkSpec]
    seed: int = 0


class LiveService:
    """A service at work; an async context manager that leaves no process behind."""

    def __init__(self, stage: ServiceSetup, shaping: Shaping) -> None:
        """``shaping`` has the stage's links, in their order."""
        self.tasks: list[TaskReport] = []  # in the order in which they came back
        self.cuts: list[Assign] = []  # the UE's own split at each update
        self.reports: dict[str, MemberReport] = {}
        self.uncalibrated: list[str] = []  # what the test of the links had to say
        self._stage, self._shaping = stage, shaping
        self._links = {ends: number for number, ends in enumerate(stage.links)}
        self._ue = next(iter(stage.layer_s))
        self._token, self._run = secrets.token_urlsafe(32), secrets.token_hex(4)
        self._controls: dict[str, Channel] = {}
        self._pids: dict[str, int] = {}
        self._dead: set[str] = set()
        self._heard: set[str] = set()  # nodes, since something last happened
        self._changed = asyncio.Event()
        self._failure: Exception | None = None
        self._attending: dict[str, asyncio.Task[None]] = {}
        self._watching: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        await self._stack.enter_async_context(self._shaping)
        self._nodes = Processes(launcher(), self._shaping.namespaces)
        self._stack.push_async_callback(self._nodes.end)
        self._watching = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *exc: object) -> None:
        if any(exc):
            await self._nodes.end()  # first of all: a node that hangs answers no goodbye
        tasks = [*self._attending.values(), *filter(None, [self._watching])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(control.close() for control in self._controls.values()))
        await self._nodes.end(PATIENCE_S)
        await self._stack.aclose()

    async def join(self, *names: str) -> None:
        """Start nodes; they are ready, and on no route. Raises RunError."""
        await self._nodes.start(names, self._token)
        for name in names:
            self._attending[name] = asyncio.create_task(self._attend(name))
        await self._until(lambda: self._pids.keys() >= set(names))

    async def lead(self, *route: str) -> None:
        """Let ``route`` be the way from now on: its nodes learn who is downstream, as far as they can reach them."""
        for hop, upper in enumerate(route):
            reachable = [lower for lower in route[hop + 1 :] if (upper, lower) in self._links]
            peers = [Peer(lower, *await self._door(upper, lower)) for lower in reachable]
            await self._controls[upper].send(Route(nodes=tuple(peers)))

    async def begin(self) -> None:
        """Let the UE start its tasks, and the links that have traces follow them."""
        await self._shaping.play()
        await self._controls[self._ue].send(Assign(assignment=0, splits=()))

    async def change(self, upper: str, lower: str, link: Duplex) -> None:
        """Give the link between two nodes new profiles from now on; nobody is told."""
        await self._shaping.change(self._links[upper, lower], link.up, link.down)

    async def tell(self, upper: str, lower: str, link: LinkSpec) -> None:
        """Let ``lower`` know what its link from ``upper`` is from now on."""
        await self._controls[lower].send(LinkState(upper=upper, link=link))

    async def until_cut(self, count: int = 1) -> None:
        """Return when the UE has told of ``count`` updates. Raises RunError."""
        await self._until(lambda: len(self.cuts) >= count)

    async def until_tasks(self, count: int) -> None:
        """Return when ``count`` tasks are back. Raises RunError."""
        await self._until(lambda: len(self.tasks) >= count)

    async def update(self, last: str) -> float:
        """Seconds from asking node ``last`` to begin an update until the UE has said that it has its new cut."""
        number = FIRST_UPDATE + len(self.cuts)
        began = time.perf_counter()
        await self._controls[last].send(sci(number, RUNNER, []))
        await self._until(lambda: bool(self.cuts) and self.cuts[-1].assignment == number)
        return time.perf_counter() - began

    def kill(self, name: str) -> None:
        """End ``name`` as a power cut would."""
        os.kill(self._pids[name], signal.SIGKILL)

    def hang(self, name: str) -> None:
        """Let ``name`` do nothing, its connections open, until ``wake``."""
        os.kill(self._pids[name], signal.SIGSTOP)

    def wake(self, name: str) -> None:
        """Let ``name`` go on where it hung."""
        os.kill(self._pids[name], signal.SIGCONT)

    async def end(self) -> None:
        """Let all nodes that live report. Raises RunError."""
        alive = [name for name in self._controls if name not in self._dead]
        for name in alive:
            await self._controls[name].send(Shutdown())
        await self._until(lambda: self.reports.keys() | self._dead >= set(alive))

    async def _door(self, upper: str, lower: str) -> HostPort:
        """Where ``upper`` finds ``lower``, at the near end of the link between them."""
        return await self._shaping.door(self._links[upper, lower], self._nodes.addresses[lower])

    async def _watch(self) -> None:
        """Let a failure of the links be the service's."""
        try:
            await self._shaping.watch()
        except Exception as error:  # whoever waits for something must not wait for ever
            self._failure = error
            self._changed.set()

    async def _attend(self, name: str) -> None:
        """Tell a node what it knows, and take what it says until it ends."""
        stage = self._stage
        try:
            me = peer_id(RUNNER, self._run)
            namespace = self._shaping.namespaces.get(name)
            control = await connect(
                *self._nodes.addresses[name], me, self._token, Limits(), bulk=False, peer=name, namespace=namespace
            )
            self._controls[name] = control
            incoming = {upper: link for (upper, lower), link in stage.known.items() if lower == name}
            layer_s = tuple(stage.layer_s[name])
            told = Serve(service=stage.service, layer_s=layer_s, incoming=incoming, source=name == self._ue)
            await control.send(told)
            while name not in self.reports:
                self._take(name, await control.receive())
                self._heard.add(name)
        except ChannelClosed as error:
            self._dead.add(name)
            if name == self._ue:
                self._failure = RunError(f"lost {error}", weight=1)
        except Exception as error:  # whoever waits for something must not wait for ever
            self._failure = error
        self._changed.set()

    def _take(self, name: str, message: AnyMessage) -> None:
        if isinstance(message, Heartbeat):
            return
        self._changed.set()
        match message:
            case Hello(pid=pid):
                self._pids[name] = pid
            case Result():
                self.tasks.append(task_of(message))
            case Assign():
                self.cuts.append(message)
            case Shutdown(report=done):
                self.reports[name] = msgspec.convert(done, MemberReport)
            case Error(node=node, reason=reason, traceback=traceback):
                where = f"{name} lost {node}" if node != name else name
                raise RunError(f"{where}: {reason}", weight=2, traceback=traceback)
            case _:
                raise RunError(f"{name} sent the runner a {type(message).__name__}", weight=2)

    async def _until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds. Raises RunError if a node fails, or if nothing more happens."""
        while not condition():
            if self._failure:
                raise self._failure
            self._changed.clear()
            self._heard.clear()
            await self._change()

    async def _change(self) -> None:
        """Return when something has happened. Raises RunError if nothing does, naming nodes that hang.

        A hung node by which tasks find another way in time, as the policy may have it, is not waited for.
        """
        part_s = HEARTBEATS_S / PARTS
        found = self._stage.service.policy.patience_s is not None and bool(self.cuts)
        still_s = 0.0
        while still_s < SILENCE_S:
            with suppress(TimeoutError):
                async with asyncio.timeout(part_s):
                    await self._changed.wait()
                    return
            still_s += part_s
            hung = sorted(self._attending.keys() - self._heard - self._dead - self.reports.keys())
            if hung and still_s >= (SILENCE_S if found else HEARTBEATS_S):
                raise RunError(f"{', '.join(hung)}: not heard of for {still_s:g} s, while the service waits", weight=2)
        raise RunError(f"the service has stood still for {SILENCE_S:g} s", weight=2)


def run_service(
    stage: ServiceSetup,
    script: Callable[[LiveService], Awaitable[T]],
    *,
    shaping: Backend = "emulated",
    self_test: SelfTest = "refuse",
) -> T:
    """What ``script`` makes of a service on ``stage``. Raises RunError.

    ``shaping`` says who makes the links what they are; with "none" all are unlimited. They are tried before the
    service begins, see ``bench.live.link_self_test``; a complaint is refused, or ``uncalibrated`` has it.
    """
    number = {name: index for index, name in enumerate(dict.fromkeys([*stage.layer_s, *chain(*stage.links)]))}
    ends, links = list(stage.links), list(stage.links.values())
    joined = shaped(list(number), links, shaping, stage.seed, [(number[upper], number[lower]) for upper, lower in ends])

    async def play() -> T:
        complaints = await try_links(ends, links, shaping, self_test)
        async with LiveService(stage, joined) as live:
            live.uncalibrated = complaints
            return await script(live)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(play())
