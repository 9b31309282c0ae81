"""DynSplit's condition to stop training (Algorithm 1, section IV-C): the loss changes by less than epsilon_c.

We depart from the paper: the ratio must be within epsilon_c of its target too. In the printed loss it is a small term,
which may be constant far from its target.
"""

from collections.abc import Sequence


def has_converged(losses: Sequence[float], epsilon: float, ratio_error: float = 0.0) -> bool:
    """Whether the mean loss changed by less than ``epsilon`` in the last epoch, and ``ratio_error`` is below it."""
    return len(losses) > 1 and abs(losses[-1] - losses[-2]) < epsilon and abs(ratio_error) < epsilon
