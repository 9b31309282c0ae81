"""Arrival times against closed forms and a byte-by-byte oracle, and the statistics of loss and jitter."""

import itertools
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from netem.link import SEGMENT_BYTES, Link, LinkProfile

MBIT = 1e6


def link(seed: int = 0, **profile: float | None) -> Link:
    return Link(LinkProfile(**profile), random.Random(seed))  # type: ignore[arg-type]


profiles = st.builds(
    LinkProfile,
    rate_bps=st.one_of(st.none(), st.floats(1e3, 1e9)),
    delay_s=st.floats(0, 0.5),
    jitter_s=st.floats(0, 0.1),
    loss=st.floats(0, 0.5),
)


def test_a_message_takes_its_transmission_time_and_the_delay_and_an_idle_link_saves_no_burst():
    assert link(rate_bps=8 * MBIT, delay_s=0.005).send(2.0, 4096) == pytest.approx(2.0 + 4096e-6 + 0.005)
    assert link(rate_bps=MBIT).send(0.0, 100_000_000) == pytest.approx(800.0)
    assert link(delay_s=0.02).send(1.0, 1 << 30) == pytest.approx(1.02)
    assert link().send(3.0, 1 << 30) == 3.0
    one = link(rate_bps=8 * MBIT, delay_s=0.1)
    assert one.send(0.0, 1_000_000) == pytest.approx(1.1)
    assert one.send(0.5, 500_000) == pytest.approx(1.6)  # sent from 1.0 on
    assert one.send(9.0, 500_000) == pytest.approx(9.6)
    assert one.free_at == pytest.approx(9.5)


def test_a_change_applies_to_unsent_bytes_and_a_shorter_delay_reorders_nothing():
    one = link(rate_bps=8 * MBIT, delay_s=0.1)
    one.change(0.25, LinkProfile(rate_bps=2 * MBIT, delay_s=0.3))
    one.change(2.25, LinkProfile(rate_bps=16 * MBIT, delay_s=0.2))
    # 250,000 bytes go in the first quarter second, 500,000 in the next two, the last 250,000 in an eighth.
    assert one.send(0.0, 1_000_000) == pytest.approx(2.25 + 0.125 + 0.2)
    assert one.profile.rate_bps == 16 * MBIT
    one = link(rate_bps=8 * MBIT, delay_s=1.0)
    first = one.send(0.0, 1000)
    one.change(0.1, LinkProfile(rate_bps=8 * MBIT))
    assert one.send(0.2, 1000) == first
    assert one.send(2.0, 1000) == pytest.approx(2.001)


def test_changes_are_registered_in_order_and_of_those_at_the_same_time_the_last_applies():
    one = link()
    one.change(2.0, LinkProfile(delay_s=1.0))
    with pytest.raises(ValueError, match="register in order"):
        one.change(1.0, LinkProfile())
    one = link()
    for delay_s in (1.0, 2.0):
        one.change(3.0, LinkProfile(delay_s=delay_s))
    assert one.send(3.0, 1000) == 5.0


@pytest.mark.parametrize("what", [{"rate_bps": 1e9}, {"delay_s": 0.1}, {"jitter_s": 0.1}, {"loss": 0.1}])
def test_only_the_default_profile_is_unlimited(what):
    assert LinkProfile().unlimited
    assert not LinkProfile(**what).unlimited


def test_every_segment_may_be_lost_also_a_lone_small_one_and_each_loss_costs_a_round_trip():
    count, loss, delay_s = 4000, 0.02, 0.05
    plain_s = count * SEGMENT_BYTES * 8 / MBIT + delay_s
    links = (link(seed, rate_bps=MBIT, delay_s=delay_s, loss=loss) for seed in range(400))
    lost = [(one.send(0.0, count * SEGMENT_BYTES) - plain_s) / (2 * delay_s) for one in links]
    assert lost == pytest.approx([round(k) for k in lost], abs=1e-6)
    # Binomial: mean 80, variance 78.4. Four standard errors are 1.8 and 22.
    assert statistics.mean(lost) == pytest.approx(count * loss, abs=1.8)
    assert statistics.variance(lost) == pytest.approx(count * loss * (1 - loss), abs=22)
    one = link(rate_bps=MBIT, delay_s=1.0, loss=0.25)
    times = [one.send(at, 125) - at for at in range(0, 40_000, 10)]  # 4,000 messages, the link idle between
    assert sum(time > 2.0 for time in times) / len(times) == pytest.approx(0.25, abs=0.028)
    assert set(map(round, times)) == {1, 3}


def test_a_change_of_loss_keeps_the_segment_in_transmission_and_one_of_its_correlation_draws_the_next_loss_again():
    one = link(delay_s=1.0)
    assert one.send(0.0, SEGMENT_BYTES // 2) == 1.0
    one.change(0.0, LinkProfile(delay_s=1.0, loss=0.999))
    assert one.send(0.0, SEGMENT_BYTES // 2) == 1.0
    assert one.send(0.0, 1) == 3.0
    for seed in range(20):  # nine in ten first segments are lost, but hardly one behind a delivered segment
        one = link(seed, delay_s=1.0, loss=0.9)
        one.change(0.0, LinkProfile(delay_s=1.0, loss=0.9, loss_correlation=1 - 1e-9))
        assert one.send(0.0, SEGMENT_BYTES) == 1.0


def test_jitter_has_its_deviation_and_no_delay_is_negative():
    one = link(delay_s=0.1, jitter_s=0.01)
    times = [one.send(float(at), 100) - at for at in range(4000)]
    assert statistics.mean(times) == pytest.approx(0.1, abs=0.0007)
    assert statistics.stdev(times) == pytest.approx(0.01, abs=0.0005)
    wild = link(delay_s=0.001, jitter_s=0.5)
    assert min(wild.send(at * 10.0, 1) - at * 10.0 for at in range(1000)) == 0.0


def correlation(values: list[float]) -> float:
    """Lag-1 autocorrelation."""
    mean = statistics.mean(values)
    products = sum((one - mean) * (other - mean) for one, other in itertools.pairwise(values))
    return products / sum((value - mean) ** 2 for value in values)


@pytest.mark.parametrize(("distribution", "deviation"), [("uniform", 3**-0.5), ("pareto", 0.82), ("normal", 1.0)])
def test_jitter_keeps_its_distribution_when_it_is_correlated(distribution, deviation):
    for asked in (0.0, 0.8):
        one = link(delay_s=1.0, jitter_s=0.1, jitter_distribution=distribution, jitter_correlation=asked)
        times = [one.send(at * 10.0, 100) - at * 10.0 for at in range(20_000)]
        assert statistics.stdev(times) == pytest.approx(0.1 * deviation, rel=0.05)
        # The correlation is one of scores; a skewed distribution shows somewhat less of it.
        assert asked - 0.15 <= correlation(times) <= asked + 0.03


@pytest.mark.parametrize(("loss", "loss_correlation"), [(0.1, 0.6), (0.5, 0.5)])
def test_correlated_losses_have_the_rate_and_correlation_of_the_profile(loss, loss_correlation):
    one = link(delay_s=1.0, loss=loss, loss_correlation=loss_correlation)
    arrivals = [0.0, *(one.send(0.0, SEGMENT_BYTES) for _ in range(40_000))]
    lost = [float(two - one >= 2.0) for one, two in itertools.pairwise(arrivals)][1:]
    # A chain of correlation r has (1 + r) / (1 - r) times the binomial's variance: four deviations are 0.012 and 0.018.
    assert statistics.mean(lost) == pytest.approx(loss, abs=0.018 if loss == 0.5 else 0.012)
    assert correlation(lost) == pytest.approx(loss_correlation, abs=0.03)


@pytest.mark.parametrize("what", [{"duplicate": 0.1}, {"reorder": 0.1, "delay_s": 0.1}, {"limit_packets": 10}])
def test_properties_that_a_stream_lacks_are_rejected(what):
    with pytest.raises(ValueError, match=f"{next(iter(what))}: not supported on a byte stream"):
        link(**what)
    one = link()
    with pytest.raises(ValueError, match="not supported on a byte stream"):
        one.change(0.0, LinkProfile(**what))


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"rate_bps": 0.0}, "rate_bps must be above 0"),
        ({"rate_bps": float("nan")}, "rate_bps must be above 0"),
        ({"delay_s": -1.0}, "delay_s and jitter_s must not be negative"),
        ({"jitter_s": -1.0}, "delay_s and jitter_s must not be negative"),
        ({"loss": 1.0}, "loss must be in"),
        ({"loss_correlation": -0.1}, "loss_correlation must be in"),
        ({"reorder": 0.5}, "reorder needs a delay_s above 0"),
        ({"limit_packets": 0}, "limit_packets must be at least 1"),
    ],
)
def test_an_invalid_profile_is_rejected(what, error):
    with pytest.raises(ValueError, match=error):
        LinkProfile(**what)


@given(profiles, st.lists(st.tuples(st.floats(0, 1), st.integers(0, 200_000)), max_size=20), st.integers())
def test_arrivals_never_decrease_and_never_exceed_the_rate(profile, sends, seed):
    one, now, arrived = Link(profile, random.Random(seed)), 0.0, 0.0
    for gap_s, n_bytes in sends:
        now += gap_s
        arrival = one.send(now, n_bytes)
        assert arrival >= max(arrived, now + 8 * n_bytes / (profile.rate_bps or float("inf")) - 1e-9)
        arrived = arrival


@given(
    st.lists(profiles, min_size=1, max_size=4), st.lists(st.integers(1, 20_000), min_size=1, max_size=30), st.integers()
)
def test_a_whole_message_arrives_when_its_chunks_do(plan, chunks, seed):
    def arrival(sizes: list[int]) -> float:
        one = Link(plan[0], random.Random(seed))
        for at, profile in enumerate(plan[1:], 1):
            one.change(at * 0.05, profile)
        return [one.send(0.0, size) for size in sizes][-1]

    # Chunks may leave a longer delay earlier in the message, which the whole one does not see: not overtaken.
    whole, chunked = arrival([sum(chunks)]), arrival(chunks)
    assert chunked >= whole - 1e-6
    if len({(profile.delay_s, profile.jitter_s) for profile in plan}) == 1:
        assert chunked == pytest.approx(whole, abs=1e-6, rel=1e-9)


def oracle(plan: list[tuple[float, LinkProfile]], sends: list[tuple[float, int]], lost: set[int]) -> list[float]:
    """Arrival times, byte by byte, each at the rate at its start; ``lost`` numbers the lost segments."""
    arrivals, free_at, segments, room = [], 0.0, itertools.count(), 0
    for now, n_bytes in sends:
        if now > free_at:
            free_at, room = now, 0
        for _ in range(n_bytes):
            if not room:
                room = SEGMENT_BYTES
                if next(segments) in lost:
                    free_at += 2 * in_force(plan, free_at).delay_s
            free_at += 8 / (in_force(plan, free_at).rate_bps or float("inf"))
            room -= 1
        arrivals.append(max([free_at + in_force(plan, free_at).delay_s, *arrivals[-1:]]))
    return arrivals


def in_force(plan: list[tuple[float, LinkProfile]], at: float) -> LinkProfile:
    return [profile for start, profile in plan if start <= at][-1]


def lost_segments(seed: int, loss: float) -> set[int]:
    """Which segments a link of this seed and loss without jitter loses: found one segment at a time."""
    one = Link(LinkProfile(delay_s=1.0, loss=loss), random.Random(seed))
    times = [0.0, *(one.send(0.0, SEGMENT_BYTES) - 1.0 for _ in range(100))]
    return {number for number, (one, two) in enumerate(itertools.pairwise(times)) if two > one}


@pytest.mark.parametrize("seed", range(8))
def test_the_oracle_agrees(seed):
    rng = random.Random(seed)
    loss = rng.choice([0.0, 0.1, 0.4])
    plan = [
        (at, LinkProfile(rate_bps=rng.choice([1, 3, 20]) * MBIT, delay_s=rng.choice([0.0, 0.01, 0.05]), loss=loss))
        for at in [0.0, *sorted(rng.uniform(0, 0.6) for _ in range(4))]
    ]
    sends = [(now, rng.choice([1, 1000, 1448, 20_000])) for now in sorted(rng.uniform(0, 0.5) for _ in range(10))]
    one = Link(plan[0][1], random.Random(seed))
    for at, profile in plan[1:]:
        one.change(at, profile)
    measured = [one.send(now, n_bytes) for now, n_bytes in sends]
    # The oracle sees a change up to a byte (8 microseconds) late, each time.
    assert measured == pytest.approx(oracle(plan, sends, lost_segments(seed, loss)), abs=5e-5)


def test_a_schedule_equals_its_changes_and_is_read_only_as_needed():
    rates = [2 * MBIT, 16 * MBIT, 5 * MBIT, 8 * MBIT]
    planned, played = link(rate_bps=MBIT), link(rate_bps=MBIT)

    def endless():
        for number in itertools.count():
            asked.append(number)
            yield 0.1 * number, LinkProfile(rate_bps=rates[number % 4], delay_s=0.001 * (number % 3))

    asked = []
    for change in itertools.islice(endless(), 400):
        planned.change(*change)
    asked.clear()

    played.play(endless())
    for at in (0.0, 0.05, 3.33, 12.0):
        assert played.send(at, 300_000) == planned.send(at, 300_000)
    assert max(asked) == 124  # sending ends at 12.31 s, and one ahead


def test_a_schedule_replaces_registered_changes_and_a_change_ends_it():
    one = link()
    one.change(0.5, LinkProfile(delay_s=1.0))
    one.play(iter([(2.0, LinkProfile(delay_s=3.0))]))
    assert [one.send(at, 1000) for at in (1.0, 2.0)] == [1.0, 5.0]
    one = link(rate_bps=8 * MBIT)
    one.play((float(at), LinkProfile(rate_bps=MBIT)) for at in range(10))
    assert one.send(0.0, 1000) == pytest.approx(0.008)
    one.change(0.5, LinkProfile(rate_bps=8 * MBIT))
    assert one.send(5.0, 1000) == pytest.approx(5.001)


def test_half_duplex_directions_send_alternately():
    up, down = link(rate_bps=8 * MBIT, delay_s=0.1), link(rate_bps=4 * MBIT, delay_s=0.2)
    down.medium = up.medium
    assert up.send(0.0, 1_000_000) == pytest.approx(1.1)
    assert down.send(0.2, 1_000_000) == pytest.approx(1.0 + 2.0 + 0.2)  # after the first, at its own rate
    assert up.send(0.3, 500_000) == pytest.approx(3.0 + 0.5 + 0.1)
    assert down.send(9.0, 500_000) == pytest.approx(9.0 + 1.0 + 0.2)


@given(profiles, st.lists(st.tuples(st.floats(0, 2), st.integers(1, 200_000)), max_size=8), st.floats(1, 100))
def test_a_dilated_profile_is_k_times_slower(profile, messages, k):
    one, other = Link(profile, random.Random(1)), Link(profile.dilated(k), random.Random(1))
    for at, size in sorted(messages):
        assert other.send(k * at, size) == pytest.approx(k * one.send(at, size), rel=1e-9, abs=1e-9)
