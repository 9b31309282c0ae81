"""How is a federation run by real processes? Edge servers, a cloud and clients, of which any may die and come back.

A client that dies, or that hangs and is killed for it, is no failure: its edge server goes on with the others. The
death of a server is one, and whatever a node raises. A process may be of several clients.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress

import msgspec
import uvloop

from bench.live.backends import shaped
from bench.live.link_self_test import self_test as try_links
from bench.live.processes import Processes, RunError, launcher
from bench.live.shaping import Shaping
from bench.live.training import PATIENCE_S, SETTLE_S, SilentError, hear
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.federated.in_process import FederationOutcome, NodeReport, ReportRound, outcome
from nodes.runtime.dynamic_node import ENDED
from nodes.spec.federation import CLOUD, Federation
from nodes.wire.channel import Channel, ChannelClosed
from nodes.wire.codec import Limits
from nodes.wire.listener import RUNNER, peer_id
from nodes.wire.messages import AnyMessage, Assign, Enlist, Error, Heartbeat, Hello, Peer, Result, Shutdown
from nodes.wire.transport import connect
from reports.record import ShapingBackend as Backend

ProcessMembers = tuple[str, ...]  # who lives in one process


class LiveFederation:
    """A federation at work, as whoever kills clients and lets them come back sees it."""

    def __init__(
        self, federation: Federation, shaping: Shaping, processes: Processes, token: str, say: ReportRound | None
    ) -> None:
        """``shaping`` has the links of ``ways``."""
        self.rounds: list[Result] = []  # as the edge servers told of them
        self.lost: dict[str, str] = {}  # clients that are gone, and how they went
        self.pids: dict[str, int] = {}  # by name
        self._federation, self._shaping, self._processes = federation, shaping, processes
        self._token, self._say = token, say
        self._run = secrets.token_hex(4)
        self._servers = [*([CLOUD] if federation.edges > 1 else []), *federation.edge_names]
        self._crews: dict[str, ProcessMembers] = {}  # by process
        self._controls: dict[str, Channel] = {}
        self._reports: dict[str, list[NodeReport]] = {}  # by process
        self._dead: set[str] = set()  # processes
        self._begun = False
        self._changed = asyncio.Event()
        self._group: asyncio.TaskGroup

    async def conduct(
        self, clients_per_process: int, script: Callable[["LiveFederation"], Awaitable[None]] | None
    ) -> FederationOutcome:
        """Run the federation to its end; what came of it. Raises RunError with the cause, and what ``script`` does."""
        clients = self._federation.client_names
        starts = range(0, len(clients), clients_per_process)
        crews = [clients[start : start + clients_per_process] for start in starts]
        try:
            async with asyncio.TaskGroup() as self._group:  # the first that fails ends all
                beside = [self._group.create_task(self._shaping.watch())]
                await self._start({name: (name,) for name in self._servers} | {_called(crew): crew for crew in crews})
                await self.until(lambda: self.pids.keys() | self.lost.keys() >= {*self._servers, *clients})
                await self._shaping.play()
                self._begun = True
                for process in self._crews:
                    await self._tell(process, Assign(assignment=0, splits=()))
                if script:
                    beside.append(self._group.create_task(_follow(script, self)))
                await self.until(lambda: self._reports.keys() >= set(self._servers))
                for process in self._crews.keys() - self._reports.keys():
                    await self._tell(process, Shutdown())  # to whoever is away, or came too late
                await self.until(lambda: self._reports.keys() | self._dead == self._crews.keys())
                for task in beside:
                    task.cancel()
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        done = {one.name: one for reports in self._reports.values() for one in reports}
        came = outcome(self.rounds, [done[name] for name in (*self._servers, *clients) if name in done])
        came.lost = self.lost
        return came

    async def come_back(self, client: str) -> None:
        """Let ``client``, which is lost, live again in a process of its own; returns when that is there."""
        del self.lost[client], self.pids[client]
        await self._tell_visited(client, Hello(node=client))  # first of all: it may come to its end soon
        await self._start({f"{client}.{len(self._crews)}": (client,)})
        await self.until(lambda: client in self.pids or client in self.lost)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds of what is to be seen here."""
        while not condition():
            self._changed.clear()
            await self._changed.wait()

    async def close(self) -> None:
        """Let the nodes go."""
        await asyncio.gather(*(control.close() for control in self._controls.values()))

    async def _start(self, crews: dict[str, ProcessMembers]) -> None:
        await self._processes.start(list(crews), self._token)
        self._crews |= crews
        for process, crew in crews.items():
            self._group.create_task(self._attend(process, crew))

    async def _tell(self, process: str, message: AnyMessage) -> None:
        """Say ``message``, if somebody is there to hear it."""
        if control := self._controls.get(process):
            with suppress(ChannelClosed):
                await control.send(message)

    async def _attend(self, process: str, crew: ProcessMembers) -> None:
        """Tell a process who it is, and take what it says until it ends."""
        try:
            me = peer_id(RUNNER, self._run)
            address = self._processes.addresses[process]
            control = await connect(*address, me, self._token, Limits(), bulk=False, peer=process)
            servers = {name: await self._servers_of(name) for name in crew}
            await control.send(Enlist(federation=self._federation, names=crew, servers=servers))
            self._controls[process] = control
            while process not in self._reports:
                await self._take(process, crew, await hear(control))
        except (ChannelClosed, SilentError) as error:
            how = f"{process} {await self._processes.end_of(process)}"  # one that hangs as well, so that all hear of it
            self._dead.add(process)
            await self._miss(crew, str(error) if isinstance(error, SilentError) else how)

    async def _servers_of(self, name: str) -> tuple[Peer, ...]:
        """Where ``name`` finds its servers, at the near ends of the links between them."""
        doors = [(hop, server) for hop, (near, server) in enumerate(ways(self._federation)) if near == name]
        return tuple(
            [Peer(server, *await self._shaping.door(hop, self._processes.addresses[server])) for hop, server in doors]
        )

    async def _take(self, process: str, crew: ProcessMembers, message: AnyMessage) -> None:
        """Act on what a process said."""
        match message:
            case Heartbeat():
                return
            case Hello(pid=pid):
                self.pids |= dict.fromkeys(crew, pid)
                if self._begun:
                    await self._tell(process, Assign(assignment=0, splits=()))
            case Result():
                self.rounds.append(message)
                if self._say:
                    self._say(message.metrics)
            case Shutdown(report=done):
                self._reports[process] = msgspec.convert(done["nodes"], list[NodeReport])
            case Error(node=client, reason=reason) if reason == ENDED:
                await self._tell_visited(client, message)
            case Error(node=node, reason=reason, traceback=traceback) if node == process:
                raise RunError(f"{process}: {reason}", weight=2, traceback=traceback)
            case Error(reason=reason):
                await asyncio.sleep(SETTLE_S)  # the one that it lost may be known to have ended
                raise RunError(f"{process} lost {reason}", weight=0)
            case _:
                raise RunError(f"{process} sent the runner a {type(message).__name__}", weight=2)
        self._changed.set()

    async def _tell_visited(self, client: str, message: AnyMessage) -> None:
        """Say ``message`` to the edge servers that ``client`` ever belongs to."""
        for edge in self._federation.visits(self._federation.client_names.index(client)):
            await self._tell(self._federation.edge_names[edge], message)

    async def _miss(self, crew: ProcessMembers, how: str) -> None:
        """Let edge servers know of clients that ended; one without clients ends too, unless clients move.

        Raises RunError for a server, and for the last of all clients while there is a server at work.
        """
        federation = self._federation
        if crew[0] in self._servers:
            raise RunError(how, weight=2)
        if len(self.lost.keys() | crew) == federation.clients and not self._reports.keys() >= set(self._servers):
            raise RunError(f"no client is left: {how}", weight=2)
        self.lost |= dict.fromkeys(crew, how)
        self._changed.set()
        for client in crew:
            await self._tell_visited(client, Error(node=client, reason=how))
            for edge in federation.visits(federation.client_names.index(client)):
                names = {federation.client_names[one] for one in federation.visitors(edge)}
                if self.lost.keys() >= names and not federation.moves:
                    await self._tell(federation.edge_names[edge], Shutdown())


def run_live(
    federation: Federation,
    links: Duplex | Sequence[Duplex] = Duplex(),  # noqa: B008 (frozen)
    backhaul: Duplex = Duplex(),  # noqa: B008
    say: ReportRound | None = None,
    *,
    clients_per_process: int = 1,
    script: Callable[[LiveFederation], Awaitable[None]] | None = None,
    shaping: Backend = "emulated",
    self_test: SelfTest = "refuse",
) -> FederationOutcome:
    """Run ``federation`` on processes of its own; ``script`` may kill clients meanwhile and let them come back.

    ``links`` are the clients' to whatever edge servers they come to, one each or one for all alike, ``backhaul`` is
    each edge server's to the cloud; with ``shaping`` "none" all are unlimited. They are tried before the nodes start,
    see ``link_self_test``; a complaint is refused, or kept in the outcome. A client that says nothing for too long is
    killed and missed as if it had died. Raises ValueError before anything runs, and RunError naming the node that
    failed, or the server that ended or fell silent. Leaves no process behind.
    """
    if shaping not in ("none", "emulated"):
        raise ValueError(f"{shaping}: the links of a federation are emulated or not shaped")
    all_links = [links] * federation.clients if isinstance(links, Duplex) else list(links)
    if len(all_links) != federation.clients or clients_per_process < 1:
        raise ValueError(f"links: one for all clients or {federation.clients}; clients_per_process: from 1 on")
    names = [*federation.client_names, *federation.edge_names, CLOUD]
    pairs = ways(federation)
    by_name = dict(zip(federation.client_names, all_links, strict=True))
    all_links = [by_name.get(near, backhaul) for near, _ in pairs]
    ends = [(names.index(near), names.index(far)) for near, far in pairs]
    joined = shaped(names, all_links, shaping, federation.job.seed, ends)

    async def run() -> FederationOutcome:
        complaints = await try_links(pairs, all_links, shaping, self_test)
        came = await _run(federation, joined, say, clients_per_process, script)
        came.uncalibrated = complaints
        return came

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run())


async def _run(
    federation: Federation,
    joined: Shaping,
    say: ReportRound | None,
    clients_per_process: int,
    script: Callable[[LiveFederation], Awaitable[None]] | None,
) -> FederationOutcome:
    async with joined as shaping, AsyncExitStack() as stack:
        processes, token = Processes(launcher(), shaping.namespaces), secrets.token_urlsafe(32)
        live = LiveFederation(federation, shaping, processes, token, say)
        stack.push_async_callback(processes.end, PATIENCE_S)
        stack.push_async_callback(live.close)
        try:
            return await live.conduct(clients_per_process, script)
        except BaseException:
            await processes.end()  # first of all: a node that is stopped answers no goodbye
            raise


def ways(federation: Federation) -> list[tuple[str, str]]:
    """The links, each by who stands above and who below: of clients to the edge servers with which they begin, of these
    to the cloud where there are several, then of clients to those that they move to."""
    clients, edges = federation.client_names, federation.edge_names
    visits = [federation.visits(client) for client in range(federation.clients)]
    own = [(name, edges[visited[0]]) for name, visited in zip(clients, visits, strict=True)]
    later = [(name, edges[edge]) for name, visited in zip(clients, visits, strict=True) for edge in visited[1:]]
    return [*own, *((edge, CLOUD) for edge in edges if len(edges) > 1), *later]


def _called(crew: ProcessMembers) -> str:
    """The process of ``crew``: as its first, and how many more."""
    return crew[0] if len(crew) == 1 else f"{crew[0]}+{len(crew) - 1}"


async def _follow(script: Callable[[LiveFederation], Awaitable[None]], live: LiveFederation) -> None:
    await script(live)
