"""Training ends when loss and ratio stand still where they should, and not before."""

import pytest

from nodes.stages.dynsplit.convergence import has_converged


@pytest.mark.parametrize(
    ("losses", "error", "expected"),
    [
        ([], 0.0, False),
        ([0.5], 0.0, False),
        ([0.9, 0.5], 0.0, False),
        ([0.9, 0.5, 0.45], 0.0, True),
        ([0.9, 0.5, 0.55], 0.0, True),
        ([0.5, 0.5, 0.9], 0.0, False),
        ([0.5, 0.5], 0.2, False),
        ([0.5, 0.5], -0.2, False),
        ([0.5, 0.5], -0.05, True),
    ],
)
def test_loss_and_ratio_must_both_stand_still(losses, error, expected):
    assert has_converged(losses, 0.1, error) == expected
