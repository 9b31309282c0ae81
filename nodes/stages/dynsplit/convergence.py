"""May training stop? DynSplit's condition (Algorithm 1, section IV-C): the loss no longer changes by epsilon_c.

We depart from the paper in that the ratio must be there too, to within the same epsilon_c: in the printed loss it is a
small term, which may stand still while far from its target.
"""

from collections.abc import Sequence


def has_converged(losses: Sequence[float], epsilon: float, ratio_error: float = 0.0) -> bool:
    """Whether the mean loss changed by less than ``epsilon`` in the last epoch, and the ratio is as near its target."""
    return len(losses) > 1 and abs(losses[-1] - losses[-2]) < epsilon and abs(ratio_error) < epsilon
