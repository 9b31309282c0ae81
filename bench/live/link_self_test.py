"""Self-test of emulated links: a short measurement of every link before a run relies on it.

Rate and delay are tested without jitter, and jitter by itself, since TCP may not reach the rate with it. Loss is not
tested: a short test loses less than one segment. The best of a few attempts counts, since other load only makes links
late. A profile that passed is not tested again in the process.
"""

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial

from bench.live.link_calibration import DELAY_TOLERANCE_S, RATE_TOLERANCE, Asked, CalibrationRow, rows
from bench.live.processes import RunError
from bench.suite.experiment import SelfTest
from netem.arrival_estimates import NORMAL_QUARTILES
from netem.jitter import quantile
from netem.link import LinkProfile
from netem.profiles import Duplex
from reports.record import ShapingBackend as Backend

ATTEMPTS = 4
BULK_S = 0.12
MESSAGES = 24
SPREAD_OFF = 0.48  # of the jitter: two standard errors of a normal sample's interquartile range
LEAST_BPS = 1e6  # slower links are no harder to emulate and need longer tests
LONGEST_S = 0.02  # longer delays are no harder either

Pair = tuple[str, str]  # two nodes, the one nearer to the UE first

logger = logging.getLogger(__name__)

Measure = Callable[[list[LinkProfile]], Awaitable[list[CalibrationRow]]]

_passed: set[tuple[str, LinkProfile]] = set()  # by the place of the test


async def self_test(ends: Sequence[Pair], links: Sequence[Duplex], backend: Backend, mode: SelfTest) -> list[str]:
    """Test both directions of ``links`` between ``ends``; one line per deviation beyond the tolerances.

    Raises RunError instead in mode ``refuse``. Unlimited directions are not tested.
    """
    return [] if backend == "none" else await test_at(backend, ends, links, mode, partial(_try, backend=backend))


async def test_at(
    place: str, ends: Sequence[Pair], links: Sequence[Duplex], mode: SelfTest, measure: Measure
) -> list[str]:
    """As ``self_test``, by what ``measure`` finds at ``place``: this machine's backend, or a host."""
    if mode == "skip":
        return []
    best: dict[LinkProfile, CalibrationRow] = {}
    for _ in range(ATTEMPTS):
        wanted = dict.fromkeys(part for _, profile in _directions(ends, links) for part in tried(profile))
        failing = [profile for profile in wanted if (place, profile) not in _passed]
        if not failing:
            return []
        for profile, row in zip(failing, await measure(failing), strict=True):
            best[profile] = min(row, best.get(profile, row), key=partial(_distance, profile))
            if _within(profile, row):
                _passed.add((place, profile))
            logger.info("link tested: %s", _one_line(profile, row))
    complaints = [
        f"link {name} is off: {_one_line(part, best[part])}"
        for name, profile in _directions(ends, links)
        for part in tried(profile)
        if (place, part) not in _passed
    ]
    if complaints and mode == "refuse":
        raise RunError(f"{'; '.join(complaints)} (is the machine busy? --allow-uncalibrated runs anyway)", weight=2)
    for complaint in complaints:
        logger.warning("%s", complaint)
    return complaints


def tried(profile: LinkProfile) -> Iterator[LinkProfile]:
    """Profiles to test for ``profile``: rate and delay, then jitter on a delay that keeps it positive."""
    if profile.rate_bps or profile.delay_s:
        yield LinkProfile(rate_bps=max(profile.rate_bps or 0.0, LEAST_BPS), delay_s=min(profile.delay_s, LONGEST_S))
    if profile.jitter_s:
        jitter_s = min(profile.jitter_s, LONGEST_S / 3)
        yield LinkProfile(
            rate_bps=LEAST_BPS,
            delay_s=min(max(profile.delay_s, 3 * jitter_s), LONGEST_S),
            jitter_s=jitter_s,
            jitter_distribution=profile.jitter_distribution,
        )


def _directions(ends: Sequence[Pair], links: Sequence[Duplex]) -> Iterable[tuple[str, LinkProfile]]:
    for (near, far), link in zip(ends, links, strict=False):
        yield f"{near} to {far}", link.up
        yield f"{far} to {near}", link.down


async def _try(profiles: list[LinkProfile], backend: Backend) -> list[CalibrationRow]:
    asked = [Asked("", "", Duplex(up=profile)) for profile in profiles]
    return await rows(asked, backend, bulk_s=BULK_S, messages=MESSAGES, at_once=True)


def _spread_s(profile: LinkProfile) -> float:
    """Interquartile range of the jitter, over that of a standard normal."""
    low, high = (quantile(profile.jitter_distribution, share) for share in (0.25, 0.75))
    return profile.jitter_s * (high - low) / NORMAL_QUARTILES


def _within(profile: LinkProfile, row: CalibrationRow) -> bool:
    """Whether ``row`` is within the tolerances; other load may widen the jitter."""
    if not profile.jitter_s:
        return row.within
    spread_s = _spread_s(profile)
    return -SPREAD_OFF * spread_s <= row.measured_jitter_s - spread_s <= SPREAD_OFF * spread_s + DELAY_TOLERANCE_S


def _distance(profile: LinkProfile, row: CalibrationRow) -> float:
    """Deviation in units of the tolerance."""
    if profile.jitter_s:
        return abs(row.measured_jitter_s / _spread_s(profile) - 1) / SPREAD_OFF
    return max(abs(row.rate_deviation) / RATE_TOLERANCE, abs(row.delay_deviation_s) / DELAY_TOLERANCE_S)


def _one_line(profile: LinkProfile, row: CalibrationRow) -> str:
    if profile.jitter_s:
        return f"{_spread_s(profile) * 1e3:.2g} ms of jitter requested, {row.measured_jitter_s * 1e3:.2f} measured"
    return (
        f"{(row.rate_bps or 0.0) / 1e6:g} Mbit/s requested, {row.measured_rate_bps / 1e6:.2f} measured; "
        f"{row.delay_s * 1e3:g} ms requested, {row.measured_delay_s * 1e3:.2f} measured"
    )
