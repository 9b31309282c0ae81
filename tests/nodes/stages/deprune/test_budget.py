"""Budgets by epoch, against lists written out."""

from nodes.stages.deprune import budget as budgets
from nodes.stages.deprune.budget import BudgetPhase, Flatness, map_budget, position_by_loss, rate_factors

DEPRUNE = (BudgetPhase(15, 1 / 32), BudgetPhase(7, 1.0))
PRUNE = (BudgetPhase(30, 1.0), BudgetPhase(10, 1 / 4), BudgetPhase(10, 1 / 32))


def test_the_papers_schedules_epoch_by_epoch():
    position = budgets.position_by_plan
    for phases, kept in ((DEPRUNE, [4] * 15 + [128] * 7), (PRUNE, [128] * 30 + [32] * 10 + [4] * 10)):
        assert [map_budget(phases[position(phases, e).phase].share, 128) for e in range(len(kept))] == kept
    assert [position(DEPRUNE, e).since for e in (0, 14, 15, 21)] == [0, 14, 0, 6]
    assert position(DEPRUNE, 30) == budgets.PhasePosition(1, 15)
    assert [map_budget(1 / 32, maps) for maps in (3, 16, 128, 256, 512)] == [1, 1, 4, 8, 16]  # at least one map


def test_the_learning_rate_is_raised_after_each_change_alone():
    assert rate_factors(DEPRUNE, 5.0, 2) == ((15, 5.0), (17, 1.0))
    assert rate_factors(PRUNE, 10.0, 1) == ((30, 10.0), (31, 1.0), (40, 10.0), (41, 1.0))
    assert rate_factors(DEPRUNE, 5.0, 7) == ((15, 5.0),)
    assert rate_factors(DEPRUNE, 1.0, 2) == rate_factors(DEPRUNE, 5.0, 0) == ()


def test_a_phase_ends_when_its_mean_loss_hardly_fell_or_its_epochs_are_over():
    flat = Flatness(2, 0.1)
    assert not flat.reached([1.0, 1.0, 1.0])
    assert flat.reached([1.0, 1.0, 1.0, 0.9])
    assert not flat.reached([1.0, 1.0, 0.9, 0.8])
    assert flat.reached([5.0, 1.0, 0.9, 0.95, 0.96])
    phases, flat = (BudgetPhase(6, 1 / 32), BudgetPhase(3, 1.0)), Flatness(1, 0.1)
    falling = [2.0**-e for e in range(8)]
    positions = [position_by_loss(phases, flat, falling[:e]) for e in (0, 1, 5, 6, 8)]
    assert positions == [(0, 0), (0, 1), (0, 5), (1, 0), (1, 2)]
    stuck = [1.0, 0.5, 0.49, 0.48]
    assert [position_by_loss(phases, flat, stuck[:e]).phase for e in range(5)] == [0, 0, 0, 1, 1]
    # What was lost in the phase before says nothing of the next: the last never ends.
    assert position_by_loss(phases, flat, [1.0] * 9) == (1, 7)
