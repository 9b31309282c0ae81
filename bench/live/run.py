"""Live shell: the processes of a run and what they say, for any protocol.

A process gets its set-up message over a control connection of its own, says that it is ready, and reports in the end.
It is gone when it ends, when its connection ends, or when it has been silent for too long; its protocol decides whether
the run goes on without it.
"""

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, Self, TypeVar

import uvloop

from bench import events
from bench.live.link_self_test import Pair
from bench.live.link_self_test import self_test as try_links
from bench.live.processes import LostError, Nodes, Processes, RunError, launcher
from bench.live.shaping import Shaping
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.errors import ProtocolError
from nodes.runtime.report import NodeReport, ReportParts
from nodes.spec.credentials import Credentials
from nodes.wire.channel import HEARTBEAT_S, Channel, ChannelClosed, receive_within
from nodes.wire.codec import Limits
from nodes.wire.listener import peer_id
from nodes.wire.messages import RUNNER, AnyMessage, Computation, Failure, Heartbeat, PeerLost, Ready, Report, Setup
from nodes.wire.transport import connect
from reports.record import ShapingBackend as Backend

SILENCE_S = 10.0  # a process without a message for so long, not even a heartbeat, is silent
STUCK_S = 3600.0  # a computation, such as the pretraining of a stage, takes minutes; this long it does not return
SETTLE_S = 1.0  # after a first failure, time for a cause that is certain
PATIENCE_S = 5.0  # for processes to end by themselves once the run is over

T = TypeVar("T")


class SilentError(LostError):
    """A process has been silent for too long, or a computation of its nodes has not returned for too long."""


class LiveRun(ABC):
    """The runner's part of a run; a protocol says what it sets up, hears and loses."""

    def __init__(self, shaping: Shaping, nodes: Nodes | None = None, modules: Sequence[str] = ()) -> None:
        """``nodes`` were started by hand; None: those of ``shaping``'s hosts, or processes of the run's own.

        ``modules`` are those that the run names, beside built-in ones.
        """
        self.pids: dict[str, int] = {}  # by node, once its process was ready
        self.ended: set[str] = set()  # processes
        self.silent: set[str] = set()
        self.reported: set[str] = set()
        self.reports: dict[str, NodeReport] = {}  # by node
        self.silence_s = SILENCE_S
        self._parts: dict[str, ReportParts] = {}  # by process
        self.uncalibrated: list[str] = []  # complaints of the test of the links
        self.modules = modules
        self._computing: dict[str, tuple[Computation, ...]] = {}  # that take long, by process, as last heard
        self._shaping, self._given = shaping, nodes or shaping.hosts
        self._token = (self._given and self._given.token) or secrets.token_urlsafe(32)
        self._id = secrets.token_hex(4)
        self._self_test: SelfTest = "skip"
        self._controls: dict[str, Channel] = {}
        self._early: dict[str, list[AnyMessage]] = {}  # for processes that are not set up yet
        self._tasks: set[asyncio.Task[None]] = set()
        self._failures: list[BaseException] = []
        self._changed = asyncio.Event()

    @abstractmethod
    async def setup(self, name: str) -> Setup:
        """The set-up message of process ``name``; all that were started with it listen."""

    @abstractmethod
    async def heard(self, name: str, message: AnyMessage) -> None:
        """Take what process ``name`` says, as far as it is the protocol's."""

    async def gone(self, name: str, error: RunError) -> None:
        """Go on without process ``name``, or raise ``error``. It may go more than once: silent, then ended."""
        raise error

    def members(self, process: str) -> tuple[str, ...]:
        """Names of the nodes of a process."""
        return (process,)

    def play(
        self,
        script: Callable[[Self], Awaitable[T]],
        links: tuple[Sequence[Pair], Sequence[Duplex]],
        backend: Backend,
        self_test: SelfTest,
    ) -> T:
        """What ``script`` returns. ``links``, by their ends, are tried before anything starts.

        Raises RunError with the likely cause, and what the script raises; leaves no process behind.
        """

        async def play() -> T:
            self._self_test = self_test
            if self._shaping.hosts is None:
                self.uncalibrated = await try_links(*links, backend, self_test)
            async with self._shaping, AsyncExitStack() as stack:
                events.emit("chain", links=[of_link(*ends, link) for ends, link in zip(*links, strict=False)])
                self._nodes: Nodes = self._given or Processes(launcher(), self._shaping.namespaces)
                self._nodes.modules = self.modules
                stack.push_async_callback(self._nodes.end, PATIENCE_S)
                stack.push_async_callback(self._close)
                self.spawn(self._nodes.watch(self._ended))
                self.spawn(self._shaping.watch())
                try:
                    return await script(self)
                except BaseException:
                    await self._nodes.end()  # first of all: a process that is stopped answers no goodbye
                    raise

        try:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                return runner.run(play())
        except KeyboardInterrupt as stop:  # also of a time limit, whose reason this may be
            stop.add_note(self._standing())
            raise

    async def start(self, names: Sequence[str]) -> None:
        """Start processes and attend to them. Raises RunError."""
        await self._nodes.start(names, self._token)
        self.uncalibrated += await self._shaping.test(names, self._self_test)
        self._early |= {name: [] for name in names}
        setups = [await self.setup(name) for name in names]
        for name, setup in zip(names, setups, strict=True):
            self.spawn(self._attend(name, setup))

    async def send(self, name: str, message: AnyMessage) -> None:
        """Send ``message`` to a process, if it is there; to one that is not set up yet, once it is."""
        if name in self._early:
            self._early[name].append(message)
        elif control := self._controls.get(name):
            with suppress(ChannelClosed):
                await control.send(message)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds of this run. Raises the likely cause if something fails."""
        while not condition():
            if self._failures:
                raise await self._cause()
            self._changed.clear()
            await self.change()

    async def change(self) -> None:
        """Return when something has happened."""
        await self._changed.wait()

    def spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Do ``work`` beside; what it raises is a failure of the run."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            self._failures.append(error)
        self._changed.set()

    async def _cause(self) -> BaseException:
        """The first failure that is certain, or the weightiest of those within SETTLE_S.

        The neighbours of a node that died notice it as well, and often before.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLE_S):
                while max(map(_weight, self._failures)) < 2:
                    self._changed.clear()
                    await self._changed.wait()
        return max(self._failures, key=_weight)

    async def _attend(self, name: str, setup: Setup) -> None:
        """Set a process up, and take what it says until its connection ends."""
        me = peer_id(RUNNER, self._id)
        address, namespace = self._nodes.addresses[name], self._shaping.namespaces.get(name)
        try:
            token, limits, tls = Credentials.of(self._token, name).token(me), Limits(), self._nodes.tls
            control = await connect(*address, me, token, limits, bulk=False, peer=name, namespace=namespace, tls=tls)
            await self._set_up(name, control, setup)
            while True:
                await self._take(name, control)
        except ChannelClosed as error:
            if name not in self.ended:
                await self.gone(name, LostError(f"lost {error}", weight=1))

    async def _set_up(self, name: str, control: Channel, setup: Setup) -> None:
        self._controls[name] = control
        self.spawn(_beat(control))
        await control.send(setup)
        while self._early[name]:  # grows meanwhile
            await control.send(self._early[name].pop(0))
        del self._early[name]

    async def _take(self, name: str, control: Channel) -> None:
        try:
            message = await hear(control, self.silence_s)
        except SilentError as error:
            self.silent.add(name)
            events.emit("node", nodes=self.members(name), state="silent")
            return await self.gone(name, error)
        self.silent.discard(name)
        match message:
            case Heartbeat(computing=computing):
                self._computing[name] = computing
                for one in computing:
                    if one.seconds > STUCK_S:
                        await self.gone(name, SilentError(f"{_text(one)}, at most {STUCK_S:g} s is right", weight=2))
                return None
            case Ready(pid=pid):
                self._parts.pop(name, None)  # of a process before this one
                self.pids |= dict.fromkeys(self.members(name), pid)
                events.emit("node", nodes=self.members(name), state="ready")
            case Report():
                self._take_report(name, message)
            case Failure(reason=reason, traceback=traceback):
                raise RunError(f"{name}: {reason}", weight=2, traceback=traceback)
            case PeerLost(reason=reason):
                raise LostError(f"{name} lost {reason}", weight=0)
            case _:
                await self.heard(name, message)
        self._changed.set()

    def _take_report(self, name: str, message: Report) -> None:
        parts = self._parts.setdefault(name, ReportParts(self.members(name)))
        try:
            reports = parts.take(message)
        except ProtocolError as error:
            raise RunError(f"{name}: {error}", weight=2) from None
        if reports is not None:
            self.reported.add(name)
            self.reports |= {one.name: one for one in reports}

    def _standing(self) -> str:
        """What the nodes were at, as far as their heartbeats told."""
        computing = [_text(one) for found in self._computing.values() for one in found]
        return "; ".join(computing) or f"no node computed of {', '.join(self._controls) or 'those to start'}"

    async def _ended(self, name: str, how: str) -> None:
        self.ended.add(name)
        events.emit("node", nodes=self.members(name), state="done" if name in self.reported else "lost")
        await self.gone(name, LostError(f"{name} {how}", weight=2))
        self._changed.set()

    async def _close(self) -> None:
        """Attend to nobody any more, and let the processes go."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.gather(*(control.close() for control in self._controls.values()))


def of_link(upper: str, lower: str, link: Duplex) -> events.Event:
    """A link in an event; its trace, if it has one, sets the rate."""
    up, down = ({"rate_bps": one.rate_bps, "delay_s": one.delay_s} for one in (link.up, link.down))
    return {"upper": upper, "lower": lower, "up": up, "down": down, "trace": link.trace is not None}


async def hear(control: Channel, within_s: float) -> AnyMessage:
    """The next message of a process. Raises SilentError if none comes ``within_s``, and ChannelClosed."""
    try:
        return await receive_within(control, within_s)
    except TimeoutError:
        raise SilentError(f"{control.peer} has not been heard of for {within_s:g} s", weight=2) from None


async def _beat(control: Channel) -> None:
    """Let a process know each second that this runner lives."""
    with suppress(ChannelClosed):
        while True:
            await control.send(Heartbeat(node=RUNNER))
            await asyncio.sleep(HEARTBEAT_S)


def _text(computation: Computation) -> str:
    node, seconds, where = computation
    return f"{node} has been computing for {seconds:.0f} s at {where}"


def _weight(error: BaseException) -> int:
    return error.weight if isinstance(error, RunError) else 2


def stray(name: str, message: AnyMessage) -> RunError:
    """The error of a message that a process has no reason to send."""
    return RunError(f"{name} sent the runner a {type(message).__name__}", weight=2)
