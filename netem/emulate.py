"""How is a link done to live traffic? By a TCP proxy in a process of its own: in user space, without root.

``Emulator`` starts ``python -m netem.emulate`` and tells it in JSON lines which links there are. Each link
listens on a port; what connects there is connected to the link's target, and all connections of a link share
one ``Link`` in each direction. Bytes are stamped when they are read and written on when the link says that
they have arrived: deadlines are absolute, so late timers add no error to the rate. The TCP handshake is not
delayed.

A link whose two directions are ``LinkProfile.unlimited`` needs no emulator: connect straight to the target.
"""

import asyncio
import contextlib
import logging
import select
import selectors
import signal
import sys
from pathlib import Path
from typing import Self

import msgspec

from netem.link import LinkProfile
from netem.profiles import Duplex
from netem.proxy import Address, Proxy
from netem.trace_schedule import located

END_S = 5.0  # given to the emulator to end by itself


class EmulatorError(RuntimeError):
    """The emulator refused a command or has ended; says why."""


class AddLink(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    target: Address
    up: LinkProfile
    down: LinkProfile
    host: str
    seed: int
    namespace: str | None
    half_duplex: bool


class ChangeLink(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    address: Address
    up: LinkProfile | None
    down: LinkProfile | None


class Play(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    address: Address
    link: Duplex
    began_at: float


class CountBytes(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    address: Address


class Answer(msgspec.Struct, frozen=True):
    """To every command one, in order: where a link listens, or its bytes up and down, or what was wrong."""

    address: Address | None = None
    counts: tuple[int, int] = (0, 0)
    error: str = ""


Command = AddLink | ChangeLink | Play | CountBytes


def obey(line: bytes, proxies: dict[Address, Proxy]) -> Answer:
    """Do what a command line says. A command that cannot be done changes nothing and is answered with why."""
    try:
        return _do(msgspec.json.decode(line, type=Command), proxies)
    except KeyError as error:
        return Answer(error=f"no link listens on {error}")
    except (OSError, ValueError) as error:
        return Answer(error=str(error))


def _do(command: Command, proxies: dict[Address, Proxy]) -> Answer:
    if isinstance(command, AddLink):
        link = Duplex(up=command.up, down=command.down, half_duplex=command.half_duplex)
        proxy = Proxy(command.target, link, command.host, seed=command.seed, namespace=command.namespace)
        proxies[proxy.address] = proxy
        return Answer(address=proxy.address)
    proxy = proxies[command.address]
    match command:
        case CountBytes():
            return Answer(counts=(proxy.up.forwarded_bytes, proxy.down.forwarded_bytes))
        case Play():
            proxy.play(command.link, command.began_at)
        case ChangeLink():
            changes = ((proxy.up, command.up), (proxy.down, command.down))
            for _, profile in changes:
                if profile is not None:
                    profile.check_stream()
            for direction, profile in changes:
                if profile is not None:
                    direction.change(profile)
    return Answer(address=command.address)


class PreciseSelector(selectors.EpollSelector):
    """Waits to the microsecond: epoll rounds up to milliseconds, uvloop rounds and at times fires early.

    ``select`` takes microseconds, and an epoll descriptor can be waited for like any other. Timers then come
    0.1 ms late instead of 0.6 (median; the 99th percentile 0.15 instead of 1.0), and an idle loop sleeps.
    """

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout > 0:
            select.select([self.fileno()], [], [], timeout)
            timeout = 0
        return super().select(timeout)


async def serve() -> None:
    """Obey commands from stdin until it ends, as it does when the parent dies, however it does."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    proxies: dict[Address, Proxy] = {}
    while line := await reader.readline():
        sys.stdout.buffer.write(msgspec.json.encode(obey(line, proxies)) + b"\n")
        sys.stdout.buffer.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the parent, which still needs its links to end
    logging.basicConfig(format="emulator: %(message)s")
    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(PreciseSelector())) as runner:
        runner.run(serve())


class Emulator:
    """The emulator's process, seen from the one that started it; an async context manager.

    It ends with this process, however this one ends. Its errors come as EmulatorError.
    """

    _process: asyncio.subprocess.Process

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def start(self) -> None:
        root = Path(__file__).parents[1]  # where ``-m`` finds this very package
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "netem.emulate"),
            cwd=root,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )

    async def close(self) -> None:
        """End the emulator and with it all connections through it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(END_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()

    async def add_link(
        self,
        target: Address,
        up: LinkProfile,
        down: LinkProfile,
        host: str = "127.0.0.1",
        *,
        seed: int = 0,
        namespace: str | None = None,
        half_duplex: bool = False,
    ) -> Address:
        """Listen on a free port of ``host``; return where to connect instead of to ``target``.

        ``up`` leads to the target, ``down`` back; with ``half_duplex`` one sends at a time. ``seed`` fixes jitter
        and loss. Both addresses are those of the network ``namespace``, a path (None: where the emulator was
        started).
        """
        answer = await self._ask(AddLink(target, up, down, host, seed, namespace, half_duplex))
        assert answer.address is not None
        return answer.address

    async def change(self, address: Address, up: LinkProfile | None = None, down: LinkProfile | None = None) -> None:
        """Give a link new profiles from now on; None keeps the old one. See ``Line.change``."""
        await self._ask(ChangeLink(address, up, down))

    async def play(self, address: Address, link: Duplex, began_at: float) -> None:
        """Let the link at ``address`` follow the traces of ``link``, which began at ``began_at`` (time.monotonic).

        It stays exact for every bit: the emulator knows what is to come. Raises TraceError.
        """
        await self._ask(Play(address, located(link), began_at))

    async def forwarded_bytes(self, address: Address) -> tuple[int, int]:
        """Bytes that a link has passed on, up and down."""
        return (await self._ask(CountBytes(address))).counts

    async def watch(self, for_s: float) -> None:
        """Return after ``for_s``. Raises EmulatorError as soon as it ends before."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(for_s):
                raise await self._ended()

    async def _ended(self) -> EmulatorError:
        """How it ended, once it has."""
        return EmulatorError(f"the emulator ended with status {await self._process.wait()}; see its last words")

    async def _ask(self, command: Command) -> Answer:
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None
        assert pipe_out is not None
        async with self._turn:
            line = b""
            with contextlib.suppress(RuntimeError, ConnectionError):  # it has ended; uvloop raises the former
                pipe_in.write(msgspec.json.encode(command) + b"\n")
                line = await pipe_out.readline()
        if not line:
            raise await self._ended()
        answer = msgspec.json.decode(line, type=Answer)
        if answer.error:
            raise EmulatorError(answer.error)
        return answer


if __name__ == "__main__":
    main()
