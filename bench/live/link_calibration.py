"""Link calibration: requested link profiles against measurements on this machine."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import NamedTuple

import msgspec

from bench.live.backends import shaped
from netem.calibrate import Calibration, Probe, measure, open_probe, timestamp_server
from netem.kernel.namespace import connect_from, listen_in
from netem.link import LinkProfile
from netem.profiles import LINKS, Duplex
from reports.record import ShapingBackend as Backend

RATE_TOLERANCE = 0.05  # fraction
DELAY_TOLERANCE_S = 0.001
MEDIAN_ERROR = 1.2533  # standard error of a normal sample's median, times sqrt(n), in standard deviations
BULK_S = 0.5
MESSAGES = 40
RATES_BPS = (1e6, 5e6, 20e6, 50e6, 100e6, 200e6)
DELAYS_S = (0.0, 0.001, 0.005, 0.02, 0.05)
SIZES_BYTES = (4 << 10, 64 << 10, 512 << 10, 4 << 20)
SWEPT = LinkProfile(rate_bps=100e6, delay_s=0.005)  # base of the sweeps


class Asked(NamedTuple):
    """A link whose uplink is to be measured."""

    link: str
    direction: str
    duplex: Duplex
    sizes: tuple[int, ...] = ()


class CalibrationRow(msgspec.Struct, frozen=True, kw_only=True):
    """One direction of a link, requested and measured. A rate of None is unlimited.

    ``within`` the tolerances is a delay off by at most ``DELAY_TOLERANCE_S`` plus three standard errors of its median.
    """

    link: str
    direction: str
    rate_bps: float | None
    measured_rate_bps: float
    rate_deviation: float  # a fraction; 0 for an unlimited rate
    delay_s: float
    measured_delay_s: float
    measured_delay_p99_s: float
    delay_deviation_s: float
    measured_round_trip_s: float
    jitter_s: float
    measured_jitter_s: float
    loss: float
    expected_losses: float
    measured_losses: int
    measured_loss: float  # stalls of a round trip, per segment
    late_s: dict[int, float]  # by message size: delay beyond the requested delay and transmission time
    within: bool


def run_links(backend: Backend = "emulated") -> list[CalibrationRow]:
    """One row per direction of the named links and per point of the sweeps."""
    return asyncio.run(rows([*named(), *swept()], backend))


def named() -> Iterator[Asked]:
    for name, link in LINKS.items():
        yield Asked(name, "uplink", link)
        yield Asked(name, "downlink", Duplex(up=link.down, down=link.up, half_duplex=link.half_duplex))


def swept() -> Iterator[Asked]:
    """Sweeps of rate, delay, jitter, loss and message size, one at a time."""

    def vary(name: str, sizes: tuple[int, ...] = (), **change: float) -> Asked:
        profile = msgspec.structs.replace(SWEPT, **change)
        return Asked(name, "", Duplex(up=profile, down=LinkProfile(delay_s=profile.delay_s)), sizes)

    for rate_bps in RATES_BPS:
        yield vary(f"{rate_bps / 1e6:g} Mbit/s", rate_bps=rate_bps)
    for delay_s in DELAYS_S:
        yield vary(f"{delay_s * 1e3:g} ms", delay_s=delay_s)
    yield vary("jitter", jitter_s=0.001)
    yield vary("loss", loss=0.005)
    yield vary("messages", SIZES_BYTES)


async def rows(
    asked: list[Asked],
    backend: Backend,
    *,
    seed: int = 0,
    bulk_s: float = BULK_S,
    messages: int = MESSAGES,
    at_once: bool = False,
) -> list[CalibrationRow]:
    """Measure ``asked`` one after the other, or all ``at_once``."""
    async with probes([one.duplex for one in asked], backend, seed) as ends:
        turn = asyncio.Semaphore(len(asked) if at_once else 1)

        async def row(one: Asked, end: Probe) -> CalibrationRow:
            async with turn:
                found = await measure(end, one.duplex.up, bulk_s=bulk_s, messages=messages, sizes=one.sizes)
            return row_of(one, found, messages)

        return await asyncio.gather(*map(row, asked, ends))


def row_of(asked: Asked, found: Calibration, messages: int) -> CalibrationRow:
    """What was ``found`` of a link, beside what was asked for."""
    profile = asked.duplex.up
    rate_off = found.rate_bps / profile.rate_bps - 1 if profile.rate_bps else 0.0
    delay_off_s = found.delay_s - profile.delay_s
    tolerance_s = DELAY_TOLERANCE_S + 3 * MEDIAN_ERROR * profile.jitter_s / messages**0.5
    byte_s = 8 / profile.rate_bps if profile.rate_bps else 0.0
    return CalibrationRow(
        link=asked.link,
        direction=asked.direction,
        rate_bps=profile.rate_bps,
        measured_rate_bps=found.rate_bps,
        rate_deviation=rate_off,
        delay_s=profile.delay_s,
        measured_delay_s=found.delay_s,
        measured_delay_p99_s=found.delay_p99_s,
        delay_deviation_s=delay_off_s,
        measured_round_trip_s=found.round_trip_s,
        jitter_s=profile.jitter_s,
        measured_jitter_s=found.jitter_s,
        loss=profile.loss,
        expected_losses=profile.loss * found.segments,
        measured_losses=found.losses,
        measured_loss=found.losses / found.segments,
        late_s={size: seconds - profile.delay_s - size * byte_s for size, seconds in found.message_s.items()},
        within=abs(rate_off) <= RATE_TOLERANCE and abs(delay_off_s) <= tolerance_s,
    )


def as_lines(rows: list[CalibrationRow]) -> list[str]:
    """Table of ``rows``, 80 columns wide."""
    lines = [
        f"{'':<18}{'Mbit/s':^15}{'off':>7}  {'ms one way':^15}{'jitter ms':>11}{'losses':>8}",
        f"{'link':<18}{'asked':>7}{'found':>8}{'%':>7}  {'asked':>7}{'found':>8}{'':>11}{'':>8}",
    ]
    for row in rows:
        asked = "any" if row.rate_bps is None else f"{row.rate_bps / 1e6:.0f}"
        jitter = f"{row.jitter_s * 1e3:.1f}/{row.measured_jitter_s * 1e3:.1f}"
        losses = f"{row.expected_losses:.1f}/{row.measured_losses}" if row.loss else "-"
        lines.append(
            f"{(row.link + ' ' + row.direction).strip():<18}{asked:>7}{row.measured_rate_bps / 1e6:>8.2f}"
            f"{row.rate_deviation * 100:>+7.1f}  {row.delay_s * 1e3:>7.2f}{row.measured_delay_s * 1e3:>8.2f}"
            f"{jitter:>11}{losses:>8} {'ok' if row.within else 'OFF'}"
        )
        lines += [f"  {size >> 10} KiB: {late_s * 1e3:+.2f} ms late" for size, late_s in row.late_s.items()]
    return [
        *lines,
        f"ok: rate within {RATE_TOLERANCE:.0%}, median delay within {DELAY_TOLERANCE_S * 1e3:g} ms;"
        " jitter and losses: asked for (expected)/found",
    ]


@asynccontextmanager
async def probes(links: Sequence[Duplex], backend: Backend, seed: int = 0) -> AsyncIterator[list[Probe]]:
    """One probe per uplink of ``links``, between end points in place of a chain's nodes."""
    names = [f"end{number}" for number in range(len(links) + 1)]
    async with shaped(names, links, backend, seed) as shaping, AsyncExitStack() as stack:
        homes = [shaping.namespaces.get(name) for name in names]
        addresses = {
            name: await stack.enter_async_context(timestamp_server(listen_in(home)))
            for name, home in zip(names, homes, strict=True)
        }
        following = [await shaping.connect_address(hop, addresses[name]) for hop, name in enumerate(names[1:])]
        yield [
            await stack.enter_async_context(open_probe(connect_from(address, home)))
            for address, home in zip(following, homes, strict=False)
        ]
