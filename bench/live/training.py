"""How is a job run by real processes? Start nodes and links, configure, assign, watch, collect, clean up."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, suppress
from itertools import pairwise
from typing import Any

import msgspec
import uvloop

from bench.live.backends import downstream, shaped
from bench.live.link_self_test import self_test as try_links
from bench.live.processes import HostPort, Nodes, Processes, RunError, StartedByHand, launcher
from bench.live.shaping import Shaping
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.spec.job import Job, Seat
from nodes.training.build import managed
from nodes.training.report import Manage, NodeReport, ReportEpoch, TrainingOutcome, outcome
from nodes.wire.channel import Channel, ChannelClosed
from nodes.wire.codec import Limits
from nodes.wire.listener import RUNNER, peer_id
from nodes.wire.messages import AnyMessage, Assign, Configure, Error, Heartbeat, Hello, Result, Shutdown
from nodes.wire.transport import connect
from reports.record import ShapingBackend as Backend

SILENCE_S = 10.0  # a node that says nothing for so long is taken for stopped
PARTS = 5  # of that time: a runner that stood still itself, as by Ctrl-Z, then hears what has come meanwhile
SETTLE_S = 1.0  # after a first failure, so long is waited for a cause that is certain
PATIENCE_S = 5.0  # for nodes that have reported to end by themselves

LiveLinks = list[Duplex]
AsyncTask = asyncio.Task[None]
Watch = Callable[[], Coroutine[Any, Any, None]]


def run_live(
    job: Job,
    links: LiveLinks | None = None,
    say: ReportEpoch | None = None,
    *,
    manage: Manage | None = None,
    addresses: Mapping[str, HostPort] | None = None,
    token: str | None = None,
    shaping: Backend = "emulated",
    self_test: SelfTest = "refuse",
) -> TrainingOutcome:
    """Run ``job`` on processes of its own, joined by ``links``, from the UE on (None: unlimited).

    ``manage`` is the network manager of a family: asked after each report which member to serve next.
    ``shaping`` says who makes the links what they are; with "none" all are unlimited. With ``addresses`` it runs
    on nodes started by hand, which listen there and share ``token``; limited links are emulated on this machine,
    so they are for nodes of this machine. Before the nodes start the links are tried, see ``link_self_test``; a
    complaint is refused, or kept in the outcome. Raises RunError naming the node that ended, fell silent or failed.
    Leaves no process behind.
    """
    if (addresses is None) != (token is None):
        raise ValueError("addresses and token: nodes started by hand need both, others neither")
    if addresses is not None and shaping not in ("none", "emulated"):
        raise ValueError(f"{shaping}: nodes started by hand live in no namespace that could be shaped")
    if job.sources > 1 and shaping not in ("none", "emulated"):
        raise ValueError(f"{shaping}: the link of several sources is emulated or not shaped")
    joined = shaped(job.nodes, links or [], shaping, job.seed)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        complaints = runner.run(try_links(list(pairwise(job.nodes)), links or [], shaping, self_test))
        outcome = runner.run(_run(job, joined, (say, manage), addresses, token or secrets.token_urlsafe(32)))
    outcome.uncalibrated = complaints
    return outcome


async def _run(
    job: Job,
    joined: Shaping,
    told: tuple[ReportEpoch | None, Manage | None],
    addresses: Mapping[str, HostPort] | None,
    token: str,
) -> TrainingOutcome:
    async with joined as shaping, AsyncExitStack() as stack:
        nodes: Nodes
        nodes = Processes(launcher(), shaping.namespaces) if addresses is None else StartedByHand(dict(addresses))
        run = _Run(job, nodes.addresses, shaping, token, *told)
        stack.push_async_callback(nodes.end, PATIENCE_S)
        stack.push_async_callback(run.close)
        try:
            await nodes.start([seat.name for seat in job.seats], token)
            doors = await downstream(shaping, job.nodes, nodes.addresses)
            return await run.conduct(doors, [nodes.watch, shaping.watch])
        except BaseException:
            await nodes.end()  # first of all: a node that is stopped answers no goodbye
            raise


class SilentError(RunError):
    """A node has said nothing for too long."""


class _Run:
    """One job, as the runner sees it."""

    def __init__(  # noqa: PLR0917 (all that a run is made of)
        self,
        job: Job,
        addresses: dict[str, HostPort],
        shaping: Shaping,
        token: str,
        say: ReportEpoch | None,
        manage: Manage | None,
    ) -> None:
        self._job, self._token = job, token
        self._say, self._manage = say, manage
        self._addresses, self._shaping = addresses, shaping
        self._id = secrets.token_hex(4)
        self._controls: dict[str, Channel] = {}
        self._ready: set[str] = set()
        self._epochs: list[Result] = []
        self._reports: dict[str, NodeReport] = {}

    async def conduct(self, downstream: list[HostPort | None], watches: list[Watch]) -> TrainingOutcome:
        """Attend to all nodes until all have reported. Raises RunError with the likely cause."""
        attending = [asyncio.create_task(self._attend(seat, downstream[seat.node])) for seat in self._job.seats]
        tasks = [*attending, *(asyncio.create_task(watch()) for watch in watches)]
        try:
            await _all_done(attending, set(tasks))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return outcome(self._epochs, [self._reports[seat.name] for seat in self._job.seats])

    async def close(self) -> None:
        """Let the nodes go."""
        await asyncio.gather(*(control.close() for control in self._controls.values()))

    async def _attend(self, seat: Seat, downstream: HostPort | None) -> None:
        """Configure a node, and take what it says until it has reported."""
        name = seat.name
        try:
            me = peer_id(RUNNER, self._id)
            namespace = self._shaping.namespaces.get(name)
            control = await connect(
                *self._addresses[name], me, self._token, Limits(), bulk=False, peer=name, namespace=namespace
            )
            self._controls[name] = control
            await control.send(Configure(job=self._job, index=seat.node, source=seat.source, downstream=downstream))
            while name not in self._reports:
                await self._take(name, await hear(control))
        except ChannelClosed as error:
            raise RunError(f"lost {error}", weight=1) from None

    async def _take(self, name: str, message: AnyMessage) -> None:
        """Act on what ``name`` said."""
        match message:
            case Hello():
                self._ready.add(name)
                if len(self._ready) == len(self._job.seats):
                    await self._shaping.play()
                    for seat in reversed(self._job.seats):  # the UE begins at once
                        await self._controls[seat.name].send(Assign(assignment=0, splits=self._job.splits))
            case Result(metrics=metrics):
                self._epochs.append(message)
                if self._say:
                    self._say(metrics)
                if answer := managed(self._job, metrics, self._manage):
                    await self._controls[name].send(answer)
            case Shutdown(report=done):
                self._reports[name] = msgspec.convert(done, NodeReport)
            case Error(node=node, reason=reason, traceback=traceback) if node == name:
                raise RunError(f"{name}: {reason}", weight=2, traceback=traceback)
            case Error(reason=reason):
                raise RunError(f"{name} lost {reason}", weight=0)
            case Heartbeat():
                pass
            case _:
                raise RunError(f"{name} sent the runner a {type(message).__name__}", weight=2)


async def hear(control: Channel) -> AnyMessage:
    """What a node says next. Raises SilentError if that takes too long, and ChannelClosed."""
    for _ in range(PARTS):
        with suppress(TimeoutError):
            async with asyncio.timeout(SILENCE_S / PARTS):
                return await control.receive()
    raise SilentError(f"{control.peer} has not been heard of for {SILENCE_S:g} s", weight=2)


async def _all_done(attending: list[AsyncTask], pending: set[AsyncTask]) -> None:
    """Return once all of ``attending`` are done. If one of ``pending`` fails, raise the cause.

    That is the first failure that is certain, or the weightiest of those within SETTLE_S: the neighbours of a
    node that died notice it as well, and often before.
    """
    failures: list[RunError] = []
    with suppress(TimeoutError):
        async with asyncio.timeout(None) as settling:
            while failures or pending.intersection(attending):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for error in filter(None, (task.exception() for task in done)):
                    if not isinstance(error, RunError) or error.weight == 2:
                        raise error
                    failures.append(error)
                if failures and settling.when() is None:
                    settling.reschedule(asyncio.get_running_loop().time() + SETTLE_S)
    if failures:
        raise max(failures, key=lambda failure: failure.weight)
