"""Self-test of links: made-up measurements, and one real one."""

import asyncio

import msgspec
import pytest

from bench.live import link_self_test as self_test
from bench.live.link_calibration import Asked, CalibrationRow
from bench.live.processes import RunError
from netem.jitter import Distribution
from netem.link import LinkProfile
from netem.profiles import Duplex

ENDS = [("ue", "mec"), ("mec", "cloud")]
SLOW = LinkProfile(rate_bps=20e6, delay_s=0.004, jitter_s=0.001, loss=0.001)
FAST = LinkProfile(rate_bps=100e6)


class Made:
    """Stands for ``bench.live.link_calibration.rows``: each attempt is off by what the next of ``errors`` says."""

    def __init__(self, *errors: tuple[float, float]) -> None:
        self._errors = iter(errors)
        self.tried: list[list[LinkProfile]] = []

    async def __call__(self, asked: list[Asked], backend: str, **how: object) -> list[CalibrationRow]:
        self.tried.append([one.duplex.up for one in asked])
        rate_off, delay_off_s = next(self._errors)
        return [row(one.duplex.up, rate_off, delay_off_s) for one in asked]


def row(profile: LinkProfile, rate_off: float, delay_off_s: float) -> CalibrationRow:
    assert profile.rate_bps is not None
    zero = {field.name: 0.0 for field in msgspec.structs.fields(CalibrationRow) if field.type is float}
    return CalibrationRow(
        **zero
        | {
            "link": "",
            "direction": "",
            "rate_bps": profile.rate_bps,
            "measured_rate_bps": profile.rate_bps * (1 + rate_off),
            "rate_deviation": rate_off,
            "delay_s": profile.delay_s,
            "measured_delay_s": profile.delay_s + delay_off_s,
            "delay_deviation_s": delay_off_s,
            "jitter_s": profile.jitter_s,
            "measured_jitter_s": profile.jitter_s * 1.4,
            "measured_losses": 0,
            "late_s": {},
            "within": abs(rate_off) <= 0.05 and abs(delay_off_s) <= 0.001,
        }
    )


@pytest.fixture(autouse=True)
def _nothing_is_known_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "_passed", set())


def complaints(links: list[Duplex], mode: self_test.SelfTest = "refuse") -> list[str]:
    return asyncio.run(self_test.self_test(ENDS, links, "emulated", mode))


def test_a_link_that_is_off_is_refused_with_the_requested_and_measured_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "rows", Made((-0.5, 0.0), (-0.2, 0.02), (-0.25, 0.0), (-0.3, 0.0)))
    with pytest.raises(RunError) as raised:
        complaints([Duplex(down=SLOW), Duplex()])
    assert str(raised.value) == (
        "link mec to ue is off: 20 Mbit/s requested, 15.00 measured; 4 ms requested, 4.00 measured"
        " (is the machine busy? --allow-uncalibrated runs anyway)"
    )


def test_it_may_run_all_the_same_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made(*[(0.0, 0.003)] * 8)
    monkeypatch.setattr(self_test, "rows", made)
    links = [Duplex(up=SLOW), Duplex(up=SLOW, down=FAST)]
    assert [line.partition(" is off")[0] for line in complaints(links, "warn")] == [
        "link ue to mec",
        "link mec to cloud",
        "link cloud to mec",
    ]
    assert len(made.tried) == 4
    assert complaints(links, "warn")  # what failed is tried again in the next run
    assert len(made.tried) == 8


def test_one_good_attempt_is_enough_and_for_the_whole_process(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made((-0.5, 0.0), (0.04, 0.0009))
    monkeypatch.setattr(self_test, "rows", made)
    assert complaints([Duplex(up=SLOW, down=SLOW), Duplex(up=SLOW)]) == []
    assert complaints([Duplex(down=SLOW)]) == []
    # Each profile once, without what is drawn at random; and that by itself.
    plain, jitter = LinkProfile(rate_bps=20e6, delay_s=0.004), LinkProfile(rate_bps=1e6, delay_s=0.004, jitter_s=0.001)
    assert made.tried == [[plain, jitter], [plain]]


def test_nothing_is_tried_where_nothing_is_shaped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(self_test, "rows", Made())
    assert complaints([Duplex(), Duplex()]) == []
    assert complaints([Duplex(up=SLOW)], "skip") == []
    assert asyncio.run(self_test.self_test(ENDS, [Duplex(up=SLOW)], "none", "refuse")) == []


def test_links_slower_and_longer_than_a_moment_can_tell_are_tried_as_others() -> None:
    slow, long = LinkProfile(rate_bps=1e4, delay_s=3.0), LinkProfile(delay_s=0.001)
    assert list(self_test.tried(slow)) == [LinkProfile(rate_bps=1e6, delay_s=0.02)]
    assert list(self_test.tried(long)) == [LinkProfile(rate_bps=1e6, delay_s=0.001)]
    wide = LinkProfile(rate_bps=2e6, delay_s=0.001, jitter_s=0.002, jitter_distribution="uniform")
    alone = LinkProfile(rate_bps=1e6, delay_s=0.006, jitter_s=0.002, jitter_distribution="uniform")
    assert list(self_test.tried(wide)) == [LinkProfile(rate_bps=2e6, delay_s=0.001), alone]


@pytest.mark.parametrize(
    ("distribution", "seen_s", "fits"),  # of 10 ms; a uniform's quartiles are 10 ms apart, a normal's 13.49
    [
        ("normal", 0.010, True),
        ("normal", 0.0051, False),
        ("normal", 0.0157, True),
        ("normal", 0.0159, False),
        ("uniform", 0.0051, True),
        ("uniform", 0.0038, False),
    ],
)
def test_jitter_is_told_by_its_quartiles(distribution: Distribution, seen_s: float, fits: bool) -> None:
    asked = LinkProfile(rate_bps=1e6, delay_s=0.03, jitter_s=0.010, jitter_distribution=distribution)
    seen = msgspec.structs.replace(row(asked, 0.0, 0.0), measured_jitter_s=seen_s)
    assert self_test._within(asked, seen) == fits


def test_jitter_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async def steady(asked: list[Asked], backend: str, **how: object) -> list[CalibrationRow]:
        return [msgspec.structs.replace(row(one.duplex.up, 0.0, 0.0), measured_jitter_s=2e-5) for one in asked]

    monkeypatch.setattr(self_test, "rows", steady)
    assert complaints([Duplex(up=SLOW)], "warn") == ["link ue to mec is off: 1 ms of jitter requested, 0.02 measured"]


def test_a_real_attempt_measures_each_profile() -> None:
    profiles = [LinkProfile(rate_bps=5e6, delay_s=0.004), LinkProfile(rate_bps=20e6, delay_s=0.012, jitter_s=0.004)]
    first, second = asyncio.run(self_test._try(profiles, "emulated"))
    assert (first.rate_bps, second.rate_bps) == (5e6, 20e6)
    assert first.measured_delay_s >= 0.004
    assert min(first.measured_rate_bps, second.measured_rate_bps) > 0
    assert second.measured_jitter_s >= 0.25 * 0.004
