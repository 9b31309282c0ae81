"""How does the runner start nodes and notice that one ended? Its side of the launcher, kept for all runs."""

import asyncio
import atexit
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from bench.child_process import END_S, Child, EndedError, exit_text, import_paths
from nodes.errors import NodeError

LOAD_S = 60.0  # the launcher's imports, from a slow disk too
START_S = 10.0  # from a fork until the node listens

HostPort = tuple[str, int]
Ended = Callable[[str, str], Awaitable[None]]  # told the name of a process, and how it ended

logger = logging.getLogger(__name__)


class RunError(NodeError):
    """A run ended before its job was done; one line that names the node and the reason.

    Of several failures at once ``weight`` says which is the cause: 0 a neighbour's word about a node, 1 a
    connection to a node that is lost, 2 what is known for certain. The node's ``traceback`` is kept as a note.
    """

    def __init__(self, text: str, weight: int, traceback: str = "") -> None:
        super().__init__(text)
        self.weight = weight
        if traceback:
            self.add_note(f"In the process of the node:\n{traceback}")


class Nodes(Protocol):
    """The nodes of one run: where they listen, each as seen from where it lives, and whether they are still there."""

    addresses: dict[str, HostPort]

    async def start(self, names: Sequence[str], token: str) -> None:
        """Return when all of ``names`` listen. Raises RunError."""

    async def watch(self, ended: Ended) -> None:
        """Tell ``ended`` of each that ends. Raises RunError if they cannot be watched any more."""

    def kill(self, name: str) -> None:
        """End ``name`` as a power cut would, if it still runs and is the run's own."""

    async def end(self, patience_s: float = 0.0) -> None:
        """Wait for them to end for ``patience_s``, then kill those left. May be called again."""


class StartedByHand:
    """Nodes that were there before the run and stay after it."""

    def __init__(self, addresses: dict[str, HostPort]) -> None:
        self.addresses = addresses

    async def start(self, names: Sequence[str], token: str) -> None:
        if missing := [name for name in names if name not in self.addresses]:
            raise RunError(f"no address is given of {', '.join(missing)}", weight=2)

    async def watch(self, ended: Ended) -> None:
        await asyncio.Event().wait()  # only their connections tell of them

    def kill(self, name: str) -> None:
        pass

    async def end(self, patience_s: float = 0.0) -> None:
        pass


class LauncherProcess(Child):
    """The process that forks nodes. One run at a time may use it."""

    def __init__(self) -> None:
        super().__init__(
            "nodes.process.launcher",
            OMP_WAIT_POLICY="PASSIVE",  # idle threads of one node must not slow another
            OPENBLAS_NUM_THREADS="1",  # numpy's and scipy's would start theirs before the fork
        )
        self.ready = False

    def end(self) -> None:
        """End the launcher and with it, as the kernel sees to, whatever it still runs."""
        self.close(kill=not self.ready)  # else it has no nodes yet, and would be long in noticing


class Processes:
    """Nodes forked for one run; ``start`` may be called again for more of them."""

    def __init__(self, launcher: LauncherProcess, namespaces: Mapping[str, str]) -> None:
        """``namespaces`` are the paths of those that nodes are to live in; the others live in this process's."""
        self.addresses: dict[str, HostPort] = {}
        self._ended: dict[str, int] = {}
        self._over = False
        self._broken: RunError | None = None
        self._changed = asyncio.Event()
        self._launcher, self._namespaces = launcher, dict(namespaces)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(launcher.output, self._read)

    async def start(self, names: Sequence[str], token: str) -> None:
        await self._until(lambda: self._launcher.ready, LOAD_S, lambda: "the launcher of nodes")
        paths = import_paths()
        self._launcher.send(do="start", names=names, token=token, paths=paths, namespaces=self._namespaces)
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
        except BaseException as error:  # what of it still runs must not meet the next run
            self._launcher.end()
            if not isinstance(error, RunError):
                raise
        finally:
            self._over = True
            self._loop.remove_reader(self._launcher.output)

    def _raise_if_ended(self, names: Iterable[str]) -> None:
        ends = [f"{name} {exit_text(self._ended[name])}" for name in names if name in self._ended]
        if ends:
            raise RunError("; ".join(ends), weight=2)

    async def _until(
        self, condition: Callable[[], bool], within_s: float | None = None, awaited: Callable[[], str] = str
    ) -> None:
        """Return once ``condition`` holds. Raises RunError if it does not in time, or the launcher ends."""
        try:
            async with asyncio.timeout(within_s):
                while not condition():
                    if self._broken:
                        raise self._broken
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise RunError(f"no sign of {awaited()} within {within_s:g} s", weight=2) from None

    def _read(self) -> None:
        try:
            events = self._launcher.events()
        except EndedError as error:
            self._broken, events = RunError(f"the launcher of nodes {error}", weight=2), []
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
    """The launcher of this process, started when first asked for; importing torch once serves all runs."""
    global _launcher  # noqa: PLW0603  (one a process, as the interpreter itself is)
    if _launcher is None or not _launcher.runs:
        _launcher = LauncherProcess()
        atexit.register(_at_exit, _launcher)
    return _launcher


def _at_exit(one: LauncherProcess) -> None:
    """Close it; a Ctrl-C meanwhile is one too many, and it ends by itself, as nobody holds its input any more."""
    with suppress(KeyboardInterrupt):
        one.end()
