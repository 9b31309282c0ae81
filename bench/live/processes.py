"""Node processes of a run, started and watched through the launcher, which serves all runs."""

import asyncio
import atexit
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress

from bench.child_process import END_S, Child, EndedError, exit_text, import_paths
from nodes.errors import NodeError
from nodes.spec.credentials import Credentials
from nodes.user_modules import folders_in_use
from nodes.wire.tls import Tls

LOAD_S = 300.0  # the launcher's imports, also from a slow disk or on a crowded machine; its end is noticed at once
START_S = 15.0  # from a fork until the node listens: a hang is told within as much

HostPort = tuple[str, int]
Ended = Callable[[str, str], Awaitable[None]]  # takes the name of a process and how it ended

logger = logging.getLogger(__name__)


class RunError(NodeError):
    """A run failed; one line names the node and the reason, and a note holds the node's ``traceback``.

    Of several failures the highest ``weight`` is the cause: 0 a neighbour's report, 1 a lost connection, 2 certain.
    """

    def __init__(self, text: str, weight: int, traceback: str = "") -> None:
        super().__init__(text)
        self.weight = weight
        if traceback:
            self.add_note(f"In the process of the node:\n{traceback}")


class LostError(RunError):
    """A process or a connection is lost; the run may do better if it is started again."""


class Nodes:
    """Nodes started by hand, which run before and after the run, and the addresses that they listen on.

    An address is as seen from the node's own network namespace. ``token`` is what they share, if it is given.
    """

    tls: Tls | None = None  # of all connections; None: they are not encrypted
    modules: Sequence[str] = ()  # that the nodes which this run starts may import, beside built-in ones

    def __init__(self, addresses: dict[str, HostPort], token: str | None = None) -> None:
        self.addresses, self.token = addresses, token

    def offset_s(self, name: str) -> float:
        """By how much the clock of ``name`` is ahead of this process's."""
        return 0.0

    async def start(self, names: Sequence[str], token: str) -> None:
        """Return when all of ``names`` listen. Raises RunError."""
        if missing := [name for name in names if name not in self.addresses]:
            raise RunError(f"missing address of {', '.join(missing)}", weight=2)

    async def watch(self, ended: Ended) -> None:
        """Call ``ended`` for each that is seen to end; of these nodes only the connections show it."""
        await asyncio.Event().wait()

    def kill(self, name: str) -> None:
        """Kill ``name`` like a power cut, if this run started it."""

    async def end(self, patience_s: float = 0.0) -> None:
        """Wait ``patience_s`` for the nodes of this run to end, then kill the rest. Idempotent."""


class LauncherProcess(Child):
    """Fork server of nodes, for one run at a time."""

    def __init__(self) -> None:
        super().__init__(
            "nodes.process.launcher",
            OMP_WAIT_POLICY="PASSIVE",  # idle threads of one node must not slow another
            OPENBLAS_NUM_THREADS="1",  # else numpy and scipy start threads before the fork
        )
        self.ready = False

    def end(self) -> None:
        """End the launcher; the kernel kills its remaining nodes."""
        self.close(kill=not self.ready)  # before it is ready it has no nodes and reads no input


class Processes(Nodes):
    """Nodes forked for one run; ``start`` may be called repeatedly."""

    def __init__(self, launcher: LauncherProcess, namespaces: Mapping[str, str]) -> None:
        """``namespaces`` are network namespace paths by node; other nodes run in this process's."""
        super().__init__({})
        self._ended: dict[str, int] = {}
        self._over = False
        self._broken: RunError | None = None
        self._changed = asyncio.Event()
        self._launcher, self._namespaces = launcher, dict(namespaces)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(launcher.output, self._read)

    async def start(self, names: Sequence[str], token: str) -> None:
        await self._until(lambda: self._launcher.ready, LOAD_S, lambda: "the node launcher")
        own = {"paths": import_paths(), "folders": folders_in_use(), "namespaces": self._namespaces}
        own["modules"] = self.modules
        credentials = {name: Credentials.of(token, name) for name in names}
        self._launcher.send(do="start", credentials=credentials, **own)
        await self._until(
            lambda: self.addresses.keys() >= set(names) or not self._ended.keys().isdisjoint(names),
            START_S,
            lambda: ", ".join(name for name in names if name not in self.addresses),
        )
        self._raise_if_ended(names)

    async def watch(self, ended: Ended) -> None:
        seen: set[str] = set()
        while True:
            await self._until(lambda: self._ended.keys() > seen)
            for name in self._ended.keys() - seen:
                seen.add(name)
                await ended(name, exit_text(self._ended[name]))

    def kill(self, name: str) -> None:
        self._launcher.send(do="kill", name=name)

    async def end(self, patience_s: float = 0.0) -> None:
        if self._over:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(patience_s):
                    await self._until(lambda: self._ended.keys() >= self.addresses.keys())
            if not self._launcher.ready:
                return self._launcher.end()
            self._launcher.send(do="end")
            await self._until(lambda: self._over, END_S)
        except BaseException as error:  # leftover nodes must not meet the next run
            self._launcher.end()
            if not isinstance(error, RunError):
                raise
        finally:
            self._over = True
            self._loop.remove_reader(self._launcher.output)

    def _raise_if_ended(self, names: Iterable[str]) -> None:
        ends = [f"{name} {exit_text(self._ended[name])}" for name in names if name in self._ended]
        if ends:
            raise LostError("; ".join(ends), weight=2)

    async def _until(
        self, condition: Callable[[], bool], within_s: float | None = None, awaited: Callable[[], str] = str
    ) -> None:
        """Return once ``condition`` holds. Raises RunError on timeout or if the launcher ends."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    if self._broken:
                        raise self._broken
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise LostError(f"{awaited()} not ready within {within_s:g} s", weight=2) from None

    def _read(self) -> None:
        try:
            events = self._launcher.events()
        except EndedError as error:
            self._broken, events = LostError(f"the node launcher {error}", weight=2), []
            self._loop.remove_reader(self._launcher.output)
        for event in events:
            match event:
                case {"event": "ready"}:
                    self._launcher.ready = True
                case {"event": "listening", "node": node, "port": port}:
                    self.addresses[node] = ("127.0.0.1", port)
                    logger.info("node process %s started, port %d", node, port)
                case {"event": "ended", "node": node, "code": code}:
                    self._ended[node] = code
                    logger.info("node process %s %s", node, exit_text(code))
                case {"event": "over"}:
                    self._over = True
        self._changed.set()


_launcher: LauncherProcess | None = None


def launcher() -> LauncherProcess:
    """Launcher of this process, started on first use: torch is imported once for all runs."""
    global _launcher  # noqa: PLW0603  (one per process)
    if _launcher is None or not _launcher.runs:
        _launcher = LauncherProcess()
        atexit.register(_at_exit, _launcher)
    return _launcher


def _at_exit(one: LauncherProcess) -> None:
    """End it; after a Ctrl-C here it ends by itself, as its input closes."""
    with suppress(KeyboardInterrupt):
        one.end()
