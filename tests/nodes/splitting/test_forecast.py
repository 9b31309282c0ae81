"""Prediction of a link's rate: closed forms, and the statistics of the error drawn."""

import statistics

import pytest
import torch

from nodes.splitting.forecast import LookAhead, forecast_bps


def rate_bps(time_s: float) -> float:
    """10 Mbit/s, from 1 s on 1 Mbit/s."""
    return 1e7 if time_s < 1 else 1e6


def seeded(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_look_ahead_is_the_mean_of_the_last_gaps() -> None:
    ahead = LookAhead(tasks=3)
    assert ahead.gap_s == 0
    for updated_s, began_s in [(0, 100), (1, 1.5), (2, 3), (4, 4.75)]:
        ahead.observe(updated_s, began_s)
    assert ahead.gap_s == pytest.approx((0.5 + 1 + 0.75) / 3)


def test_the_rate_is_the_one_at_the_end_of_the_gap_unless_that_is_below_the_coherence_time() -> None:
    assert forecast_bps(rate_bps, 0.9, 0.05) == 1e7
    assert forecast_bps(rate_bps, 0.9, 0.2) == 1e6
    found = [forecast_bps(rate_bps, 0.9, 0.2, coherence_s=coherence_s) for coherence_s in (0.05, 0.2, 0.21)]
    assert found == [1e6, 1e6, 1e7]
    # The present rate is known without error.
    assert forecast_bps(rate_bps, 0.9, 0.2, coherence_s=0.5, error=0.3, generator=seeded()) == 1e7


def test_errors_are_normal_around_the_true_rate_and_leave_some() -> None:
    generator = seeded()
    told = [forecast_bps(rate_bps, 0.9, 0.2, error=0.1, generator=generator) for _ in range(4000)]
    assert statistics.mean(told) == pytest.approx(1e6, rel=0.01)
    assert statistics.stdev(told) == pytest.approx(1e5, rel=0.05)
    within = sum(abs(rate - 1e6) < 1e5 for rate in told) / len(told)
    assert within == pytest.approx(0.6827, abs=0.03)
    told = [forecast_bps(rate_bps, 0.9, 0.2, error=2.0, generator=generator) for _ in range(200)]
    assert min(told) == 1.0
    assert max(told) > 1e6


def test_the_same_generator_draws_the_same_and_leaves_torchs_own_alone() -> None:
    state = torch.get_rng_state()
    one, other = (forecast_bps(rate_bps, 0.9, 0.2, error=0.2, generator=seeded()) for _ in range(2))
    assert one == other != 1e6
    assert torch.equal(torch.get_rng_state(), state)
