"""``bench link``: TCP connections of any program over emulated links."""

import argparse
import asyncio
import math
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from bench.cli import streams
from bench.cli.command import FAILED, INTERRUPTED, OK, TERMINATED, Answer
from bench.suite.document import InputError
from netem.emulate import Emulator, EmulatorError
from netem.link import LinkProfile
from netem.profiles import LINKS, Duplex, LinkName, Traces
from netem.proxy import Address, Carried, authority
from netem.trace import Trace, known_format, read, write_csv
from netem.trace_schedule import locate, schedules
from netem.traces.formats import Direction

# Measured on two cores with other load (Linux 6.18, Python 3.11): 600 Mbit/s were held within 0.1 %, of 800 Mbit/s 3 to
# 13 % were missing. The emulator is one process, which copies each byte twice; beyond this its core is busy.
HELD_BPS = 600e6
AVERAGED_S = 0.1  # over which the rate of a trace is held against that
KILLED = 128  # exit code of a command that a signal ended, less the signal's number, as of a shell
WAYS: tuple[Direction, Direction] = ("uplink", "downlink")

T = TypeVar("T")
Pair = tuple[T, T]  # of the uplink and the downlink


def above_0(text: str) -> float:
    """A finite number above 0. Raises ValueError."""
    if not (value := at_least_0(text)):
        raise ValueError(text)
    return value


def at_least_0(text: str) -> float:
    """A finite number of at least 0. Raises ValueError."""
    if not 0 <= (value := float(text)) < math.inf:
        raise ValueError(text)
    return value


def pair(convert: Callable[[str], T], expected: str) -> Callable[[str], Pair[T]]:
    """A type of argument: a value, which is ``expected``, for both directions, or UPLINK,DOWNLINK."""

    def of(text: str) -> Pair[T]:
        parts = text.split(",")
        try:
            values = [convert(part) for part in parts if part]
        except ValueError:
            values = []
        if len(parts) > 2 or len(values) < len(parts):
            raise argparse.ArgumentTypeError(f"{text!r} is not {expected}, nor two of them with a comma between")
        return values[0], values[-1]

    return of


class Mapping(NamedTuple):
    """Where to listen, and where connections lead."""

    listen: Address
    target: Address


def mapping(text: str) -> Mapping:
    """The mapping ``[HOST:]PORT=HOST:PORT``. Raises InputError."""
    listen, _, target = text.partition("=")
    ends = _ends(listen, "127.0.0.1"), _ends(target)
    if ends[0] is None or ends[1] is None or not ends[1][1]:
        raise InputError([f"{text!r} is not ADDRESS=TARGET, such as 127.0.0.1:9000=192.0.2.7:80"])
    return Mapping(_resolved(text, *ends[0]), _resolved(text, *ends[1]))


def _ends(text: str, default_host: str = "") -> Address | None:
    """Host and port of ``text``; None if it is no address."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else default_host
    valid = host and port.isascii() and port.isdecimal() and int(port) < 1 << 16
    return (host, int(port)) if valid else None


def _resolved(text: str, host: str, port: int) -> Address:
    try:
        (*_, found), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise InputError([f"{text}: {host}: {getattr(error, 'strerror', error)}"]) from None
    return str(found[0]), port


class Asked(NamedTuple):
    """What a link shall be: a named one, and what is given in place of its values."""

    profile: LinkName = "unlimited"
    rate_bps: Pair[float] | None = None
    delay_ms: Pair[float] | None = None
    trace: Pair[str] | None = None

    def link(self, folder: Path) -> Duplex:
        """The link; traces of which a rate is the most are written to ``folder``. Raises InputError."""
        named = LINKS[self.profile]
        try:
            up, down = (self._profile(base, index) for index, base in enumerate((named.up, named.down)))
            link = Duplex(up=up, down=down)
            if self.trace:
                first, second = (self._trace(name, way, folder) for name, way in zip(self.trace, WAYS, strict=True))
                link = replace(link, trace=Traces(up=first, down=second))
            schedules(link)
        except ValueError as error:  # TraceError is one
            raise InputError([str(error)]) from None
        return link

    def _profile(self, base: LinkProfile, index: int) -> LinkProfile:
        if self.rate_bps:
            base = replace(base, rate_bps=self.rate_bps[index])
        return replace(base, delay_s=self.delay_ms[index] / 1e3) if self.delay_ms else base

    def _trace(self, name: str, way: Direction, folder: Path) -> str:
        path = locate(name)
        if not self.rate_bps:
            return str(path)
        if known_format(path) == "mahimahi":
            raise ValueError(f"{name}: the packets of a trace have no rate to limit; leave --rate or --trace out")
        write_csv(read(path, direction=way).capped(self.rate_bps[WAYS.index(way)]), folder / f"{way}.csv")
        return str(folder / f"{way}.csv")


def fastest_bps(link: Duplex) -> float:
    """The highest rate of either direction, of a trace averaged over ``AVERAGED_S``; 0 if both are unlimited."""
    if isinstance(link.trace, Traces):
        traces: list[Trace] = [read(Path(link.trace.up)), read(Path(link.trace.down), direction="downlink")]
        return max(change.rate_bps for trace in traces for change in trace.resampled(AVERAGED_S).changes)
    return max(link.up.rate_bps or 0.0, link.down.rate_bps or 0.0)


def run_link(given: Sequence[str], asked: Asked, command: Sequence[str], as_json: bool) -> Answer | int:
    """Shape the connections of the mappings ``given``, while ``command`` runs or until Ctrl-C.

    Raises InputError for what cannot be used, before anything listens where that is possible.
    """
    mappings = [mapping(text) for text in given]
    if not mappings:
        raise InputError(["ADDRESS=TARGET: needs at least one, such as 127.0.0.1:9000=192.0.2.7:80"])
    with tempfile.TemporaryDirectory() as folder:
        link = asked.link(Path(folder))
        if (fastest := fastest_bps(link)) > HELD_BPS:
            streams.complain(
                f"warning: {fastest / 1e6:g} Mbit/s is above {HELD_BPS / 1e6:g} Mbit/s, the highest rate that the"
                " emulator was measured to hold within 5 %; the links may be slower"
            )
        try:
            links, code = asyncio.run(_run(mappings, link, command))
        except EmulatorError as error:
            streams.complain(str(error))
            return FAILED
    found = {"links": links, "exit_code": code if command else None}
    if command and not as_json:  # standard output is the command's
        streams.complain(*as_lines(links))
        return code
    return Answer(found, as_lines(links), code)


async def _run(mappings: Sequence[Mapping], link: Duplex, command: Sequence[str]) -> tuple[list[dict[str, Any]], int]:
    """What was carried by each link, and the exit code."""
    async with Emulator() as emulator:
        addresses = []
        for number, (listen, target) in enumerate(mappings):
            try:
                addresses.append(await emulator.add_link(target, link, listen[0], port=listen[1], seed=number))
            except EmulatorError as error:
                raise InputError([f"{authority(*listen)}: cannot listen: {error}"]) from None
        for address in addresses:
            if link.trace:
                await emulator.play(address, link, time.monotonic())
        ends = [
            (authority(*address), authority(*target)) for address, (_, target) in zip(addresses, mappings, strict=True)
        ]
        if not command:
            for listen_at, target_at in ends:
                print(f"{listen_at} leads to {target_at}", flush=True)
        code = await _until_ended(emulator, command)
        carried = [await emulator.carried(address) for address in addresses]
    return [_summary(*names, link, found) for names, found in zip(ends, carried, strict=True)], code


async def _until_ended(emulator: Emulator, command: Sequence[str]) -> int:
    """The exit code of ``command``, or of the signal that ended the links. Raises EmulatorError if they fail."""
    loop = asyncio.get_running_loop()
    signalled: asyncio.Future[int] = loop.create_future()
    process = await _started(command) if command else None

    def interrupt() -> None:  # a command gets Ctrl-C from the terminal too, and decides
        if process is None and not signalled.done():
            signalled.set_result(INTERRUPTED)

    def terminate() -> None:
        if process is not None:
            process.terminate()
        elif not signalled.done():
            signalled.set_result(TERMINATED)

    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGTERM, terminate)
    failing = asyncio.ensure_future(emulator.watch())
    ending: asyncio.Future[int] = asyncio.ensure_future(process.wait()) if process else signalled
    ends: list[asyncio.Future[Any]] = [ending, failing]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    failing.cancel()
    if not ending.done():
        if process is not None:
            with suppress(ProcessLookupError):
                process.terminate()
            await ending
        await failing
    code = ending.result()
    return code if code >= OK else KILLED - code


async def _started(command: Sequence[str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(*command)
    except (OSError, ValueError) as error:
        raise InputError([f"command {command[0]}: {getattr(error, 'strerror', error)}"]) from None


def _summary(listen: str, target: str, link: Duplex, carried: Pair[Carried]) -> dict[str, Any]:
    profiles = (link.up, link.down)
    ways: dict[str, Any] = {way: _way(profile, one) for way, profile, one in zip(WAYS, profiles, carried, strict=True)}
    if link.trace:
        for way in ways.values():
            way["asked_rate_bps"] = "trace"
    return {"listen": listen, "target": target, **ways}


def _way(profile: LinkProfile, carried: Carried) -> dict[str, Any]:
    """Asked for and found of one direction; rate and delay are None where nothing passed."""
    some = carried.n_bytes > 0
    return {
        "asked_rate_bps": profile.rate_bps,
        "asked_delay_s": profile.delay_s,
        "bytes": carried.n_bytes,
        "busy_s": carried.busy_s,
        "rate_bps": 8 * carried.n_bytes / carried.busy_s if some and carried.busy_s else None,
        "mean_delay_s": carried.byte_delay_s / carried.n_bytes if some else None,
    }


def as_lines(links: Sequence[dict[str, Any]]) -> list[str]:
    """A table of ``links``, with a line for each direction."""
    lines = [f"{'':<10}{'bytes':>14}{'Mbit/s':>11}{'asked':>11}{'ms':>10}{'asked':>10}"]
    for link in links:
        lines.append(f"{link['listen']} to {link['target']}")
        for way in WAYS:
            one = link[way]
            rate, asked, delay = one["rate_bps"], one["asked_rate_bps"], one["mean_delay_s"]
            wanted = f"{asked / 1e6:g}" if isinstance(asked, float) else asked or "any"
            lines.append(
                f"  {way:<8}{one['bytes']:>14}{'-' if rate is None else f'{rate / 1e6:.2f}':>11}{wanted:>11}"
                f"{'-' if delay is None else f'{delay * 1e3:.2f}':>10}{one['asked_delay_s'] * 1e3:>10g}"
            )
    return [
        *lines,
        "Rates are those while something was on the way; delays are means over all bytes, waiting included.",
    ]
