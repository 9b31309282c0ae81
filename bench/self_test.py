"""Can this machine make the links that a run asks for? Each is tried for a moment before the run relies on it.

What is tried is the part that can fail: the rate and the delay. Jitter and losses are drawn at random on top, so a
short test says nothing of them. The best of a few attempts counts, as other work on the machine makes a link late
and never early; each profile is tried once a process, and once more if it had failed.
"""

from collections.abc import Iterable, Sequence

from bench.experiment import SelfTest
from bench.links import DELAY_TOLERANCE_S, RATE_TOLERANCE, Asked, Row, rows
from bench.processes import RunError
from netem.link import LinkProfile
from netem.profiles import Duplex
from reports.record import Shaping as Backend

ATTEMPTS = 4
BULK_S = 0.12
MESSAGES = 8
LEAST_BPS = 1e6  # slower links are no harder to make, and a moment is too short for them
LONGEST_S = 0.02  # nor are longer ones

Pair = tuple[str, str]  # two nodes, the one nearer to the UE first

_passed: set[tuple[Backend, LinkProfile]] = set()


async def self_test(ends: Sequence[Pair], links: Sequence[Duplex], backend: Backend, mode: SelfTest) -> list[str]:
    """What is off by more than the tolerances, a line for each direction of ``links``, which join ``ends``.

    If it is to ``refuse``, raises RunError instead. Unlimited directions are not tried.
    """
    if mode == "skip" or backend == "none":
        return []
    best: dict[LinkProfile, Row] = {}
    for _ in range(ATTEMPTS):
        untried = {tried(profile) for _, profile in _directions(ends, links)} - {LinkProfile()}
        failing = [profile for profile in untried if (backend, profile) not in _passed]
        if not failing:
            return []
        for profile, row in zip(failing, await _try(failing, backend), strict=True):
            best[profile] = min(row, best.get(profile, row), key=_distance)
            if best[profile].within:
                _passed.add((backend, profile))
    complaints = [
        f"the link {name} is off: {_said(best[tried(profile)])}"
        for name, profile in _directions(ends, links)
        if (backend, tried(profile)) not in _passed and tried(profile) in best
    ]
    if complaints and mode == "refuse":
        raise RunError(f"{'; '.join(complaints)} (--allow-uncalibrated runs all the same)", weight=2)
    return complaints


def tried(profile: LinkProfile) -> LinkProfile:
    """What of ``profile`` is tried."""
    if profile.unlimited:
        return profile
    return LinkProfile(rate_bps=max(profile.rate_bps or 0.0, LEAST_BPS), delay_s=min(profile.delay_s, LONGEST_S))


def _directions(ends: Sequence[Pair], links: Sequence[Duplex]) -> Iterable[tuple[str, LinkProfile]]:
    for (near, far), link in zip(ends, links, strict=False):
        yield f"{near} to {far}", link.up
        yield f"{far} to {near}", link.down


async def _try(profiles: list[LinkProfile], backend: Backend) -> list[Row]:
    asked = [Asked("", "", Duplex(up=profile)) for profile in profiles]
    return await rows(asked, backend, bulk_s=BULK_S, messages=MESSAGES, at_once=True)


def _distance(row: Row) -> float:
    """How far off, in tolerances."""
    return max(abs(row.rate_deviation) / RATE_TOLERANCE, abs(row.delay_deviation_s) / DELAY_TOLERANCE_S)


def _said(row: Row) -> str:
    """Asked for and obtained."""
    asked_bps, delays_ms = row.rate_bps or 0.0, (row.delay_s * 1e3, row.measured_delay_s * 1e3)
    return (
        f"{asked_bps / 1e6:g} Mbit/s asked for, {row.measured_rate_bps / 1e6:.2f} obtained; "
        "{:g} ms asked for, {:.2f} obtained".format(*delays_ms)
    )
