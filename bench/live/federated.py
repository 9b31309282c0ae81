"""Federations on real processes: edge servers, a cloud and clients; clients may die and come back.

A client that dies, or that hangs and is killed for it, is no failure: its edge server goes on with the others. The
death of a server is one, and so is whatever a node raises. Clients may share a process.

Where the case may start again, any death is a reason to: without a client others would learn. All go on from the end
of a round that all have kept, or begin anew where that depends on the time.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from msgspec.structs import replace

from bench.live.faults.restarts import restarts_in_use
from bench.live.hosts.in_use import hosts_in_use
from bench.live.hosts.shaping import shaped_on_hosts
from bench.live.processes import LostError, RunError
from bench.live.run import LiveRun, SilentError, stray
from bench.live.shaping import Shaping
from bench.suite.experiment import SelfTest
from netem.profiles import Duplex
from nodes.federated.in_process import FederationOutcome, ReportRound, diverged, outcome
from nodes.federated.keeping import keepable, last_kept
from nodes.spec.federation import CLOUD, Federation, KeptRounds
from nodes.spec.modules import modules_of
from nodes.wire.messages import (
    AnyMessage,
    Begin,
    ClientFinished,
    ClientLost,
    ClientReturned,
    Enlist,
    Peer,
    RoundReport,
    Shutdown,
)
from reports.record import ShapingBackend as Backend

ProcessMembers = tuple[str, ...]  # the nodes of one process


class LiveFederation(LiveRun):
    """A federation at work, as a script sees it that kills clients and lets them come back."""

    def __init__(
        self, federation: Federation, shaping: Shaping, rounds: "Rounds | None" = None, needs_all: bool = False
    ) -> None:
        """``shaping`` has the links of ``ways``; ``needs_all``: the death of a client is a failure too."""
        super().__init__(shaping, modules=modules_of(federation))
        self._needs_all = needs_all
        self._reported_rounds = rounds or Rounds()
        self.lost: dict[str, str] = {}  # clients that are gone, and how they ended
        self._federation = federation
        self._servers = [*([CLOUD] if federation.edges > 1 else []), *federation.edge_names]
        self._crews: dict[str, ProcessMembers] = {}  # by process
        self._killed: dict[str, str] = {}  # silent processes, and what the run says of them

    @property
    def rounds(self) -> list[RoundReport]:
        """What the edge servers have reported."""
        return list(self._reported_rounds.reports.values())

    async def conduct(self, clients_per_process: int, script: "Script | None") -> FederationOutcome:
        """Run the federation to its end. Raises RunError with the cause, and what ``script`` raises."""
        clients = self._federation.client_names
        starts = range(0, len(clients), clients_per_process)
        crews = [clients[start : start + clients_per_process] for start in starts]
        await self._start({name: (name,) for name in self._servers} | {_process_name(crew): crew for crew in crews})
        await self.until(lambda: self.pids.keys() | self.lost.keys() >= {*self._servers, *clients})
        await self._shaping.play()
        for process in self._crews:
            await self.send(process, Begin())
        if script:
            self.spawn(script(self))
        await self.until(lambda: self.reported >= set(self._servers))
        for process in self._crews.keys() - self.reported:
            await self.send(process, Shutdown())  # for clients that are away, or came too late
        await self.until(lambda: self.reported | self.ended >= self._crews.keys())
        result = outcome(self.rounds, [self.reports[n] for n in (*self._servers, *clients) if n in self.reports])
        result.lost = self.lost
        return result

    async def come_back(self, client: str) -> None:
        """Let ``client``, which is lost, live again in a process of its own; returns when that is there."""
        del self.lost[client], self.pids[client]
        await self._tell_visited(client, ClientReturned(client=client))  # first of all: it may come to its end soon
        process = f"{client}.{len(self._crews)}"
        await self._start({process: (client,)})
        await self.until(lambda: client in self.pids or client in self.lost)
        await self.send(process, Begin())

    async def setup(self, name: str) -> Enlist:
        crew = self._crews[name]
        servers = {member: await self._servers_of(member) for member in crew}
        return Enlist(federation=self._federation, names=crew, servers=servers)

    def members(self, process: str) -> ProcessMembers:
        return self._crews[process]

    async def heard(self, name: str, message: AnyMessage) -> None:
        match message:
            case RoundReport():
                self._reported_rounds.take(message)
                for edge in self._federation.edge_names if diverged(message) else ():
                    await self.send(edge, Shutdown())
            case ClientFinished(client=client):
                await self._tell_visited(client, message)
            case _:
                raise stray(name, message)

    async def gone(self, name: str, error: RunError) -> None:
        """Kill a process that is silent or has no connection any more, and miss one that has ended."""
        if name in self.ended:
            if name not in self.reported:
                await self._miss(self._crews[name], self._killed.get(name, str(error)))
        else:
            if isinstance(error, SilentError):
                self._killed[name] = str(error)
            self._nodes.kill(name)

    async def _start(self, crews: dict[str, ProcessMembers]) -> None:
        self._crews |= crews
        await self.start(list(crews))

    async def _servers_of(self, name: str) -> tuple[Peer, ...]:
        """Addresses of the servers of ``name``: the near ends of the links to them."""
        links = [(hop, server) for hop, (near, server) in enumerate(ways(self._federation)) if near == name]
        reached = [await self._shaping.connect_address(hop, self._nodes.addresses[server]) for hop, server in links]
        return tuple(Peer(server, *address) for (_, server), address in zip(links, reached, strict=True))

    async def _tell_visited(self, client: str, message: AnyMessage) -> None:
        """Send ``message`` to the edge servers that ``client`` ever belongs to."""
        for edge in self._federation.servers_of(client):
            await self.send(edge, message)

    async def _miss(self, crew: ProcessMembers, how: str) -> None:
        """Let edge servers know of clients that ended; one without clients ends too, unless clients move.

        Raises LostError for a server, and for the last of all clients while there is a server at work.
        """
        federation = self._federation
        if crew[0] in self._servers or self._needs_all:
            raise LostError(how, weight=2)
        if len(self.lost.keys() | crew) == federation.clients and not self.reported >= set(self._servers):
            raise LostError(f"no client is left: {how}", weight=2)
        self.lost |= dict.fromkeys(crew, how)
        self._changed.set()
        for client in crew:
            await self._tell_visited(client, ClientLost(client=client, reason=how))
            for edge in federation.visits(federation.client_names.index(client)):
                names = {federation.client_names[one] for one in federation.visitors(edge)}
                if self.lost.keys() >= names and not federation.moves:
                    await self.send(federation.edge_names[edge], Shutdown())


Script = Callable[[LiveFederation], Coroutine[Any, Any, None]]


def run_live(
    federation: Federation,
    links: Duplex | Sequence[Duplex] = Duplex(),  # noqa: B008 (frozen)
    backhaul: Duplex = Duplex(),  # noqa: B008
    say: ReportRound | None = None,
    *,
    clients_per_process: int = 1,
    script: Script | None = None,
    shaping: Backend = "emulated",
    self_test: SelfTest = "refuse",
) -> FederationOutcome:
    """Run ``federation`` on processes of its own; ``script`` may kill clients meanwhile and let them come back.

    ``links`` are the clients' to their edge servers, one each or one for all alike, ``backhaul`` is each edge server's
    to the cloud; with ``shaping`` "none" all are unlimited. A client without a heartbeat for too long is killed. Raises
    ValueError before anything runs, and RunError naming the node that failed. Leaves no process behind.
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
    if hosts_in_use() and clients_per_process > 1:
        raise ValueError(f"clients_per_process: {clients_per_process}; on hosts each client has a machine of its own")
    if hosts_in_use():
        federation = replace(federation, folder=None)  # one of this machine
    restarts, rounds = restarts_in_use(), Rounds(say)

    def attempt() -> FederationOutcome:
        going_on = _going_on(federation, rounds)
        rounds.begin(_first_round(going_on) or 0)
        joined = shaped_on_hosts(names, all_links, shaping, federation.job.seed, ends)
        live = LiveFederation(going_on, joined, rounds, needs_all=restarts.left > 0 and script is None)
        result = live.play(lambda run: run.conduct(clients_per_process, script), (pairs, all_links), shaping, self_test)
        result.uncalibrated = live.uncalibrated
        return result

    if script or federation.folder:  # what is killed on purpose, and clients that would go on where servers begin anew
        return attempt()
    with restarts.kept() as folder:
        if folder is not None and keepable(federation) and not hosts_in_use():  # their disks are not this machine's
            federation = replace(federation, keep=KeptRounds(folder=str(folder)))
        return restarts.run(attempt, lambda: _where(_going_on(federation, rounds)))


class Rounds:
    """Reports of rounds; ``say`` learns of each once, although edge servers that start again may repeat it."""

    def __init__(self, say: ReportRound | None = None) -> None:
        self.reports: dict[tuple[int, int], RoundReport] = {}  # by edge server and round
        self._say = say
        self._said: set[tuple[int, int]] = set()

    def begin(self, first_round: int) -> None:
        """Forget reports from ``first_round`` on, which will come again."""
        self.reports = {key: report for key, report in self.reports.items() if key[1] < first_round}

    def take(self, report: RoundReport) -> None:
        """Take ``report``."""
        key = report.edge, report.round
        self.reports[key] = report
        if self._say and key not in self._said:
            self._say(report)
        self._said.add(key)


def _going_on(federation: Federation, rounds: Rounds) -> Federation:
    """``federation`` that goes on where all its nodes can."""
    if federation.keep is None:
        return federation
    return replace(federation, keep=replace(federation.keep, round=last_kept(federation, rounds.reports)))


def _first_round(federation: Federation) -> int | None:
    """The round after whose training ``federation`` goes on; None from the beginning."""
    return None if federation.keep is None else federation.keep.round


def _where(federation: Federation) -> str:
    first = _first_round(federation)
    return "from the beginning" if first is None else f"after the training of round {first + 1}"


def ways(federation: Federation) -> list[tuple[str, str]]:
    """The links, each by who stands above and who below: of clients to the edge servers with which they begin, of these
    to the cloud where there are several, then of clients to those that they move to."""
    servers = {name: federation.servers_of(name) for name in (*federation.client_names, *federation.edge_names)}
    first = [(name, visited[0]) for name, visited in servers.items() if visited]
    return [*first, *((name, edge) for name, visited in servers.items() for edge in visited[1:])]


def _process_name(crew: ProcessMembers) -> str:
    """The process of ``crew``: as its first, and how many more."""
    return crew[0] if len(crew) == 1 else f"{crew[0]}+{len(crew) - 1}"
