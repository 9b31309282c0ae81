"""Airtime that a proportional-fair scheduler leaves to a user with a full buffer.

In every slot, such a scheduler serves the user with the highest ratio of rate to past throughput (HiveMind's [57]).
While rates and demands are constant, as in a coherence time, this converges to the maximum of the sum of log
throughputs: equal shares of airtime, less for users with a smaller demand. This module computes that limit; the tests
compare it with the slots. On a wired link, where all users have the same rate, the formula is max-min fairness.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fair_airtime(demands: Floats) -> Floats:
    """Airtime share of one additional user with a full buffer: [..., users] to [...].

    ``demands`` are the airtime shares that the other users need: demand over rate. The share w solves
    sum(min(demand, w)) + w = 1. If the k smallest demands are met in full, it is (1 - their sum) / (users - k + 1); a
    wrong k gives a smaller value, so the maximum over k is the solution.
    """
    users = demands.shape[-1]
    met = np.zeros((*demands.shape[:-1], users + 1))
    np.cumsum(np.sort(demands, axis=-1), axis=-1, out=met[..., 1:])
    share: Floats = ((1 - met) / np.arange(users + 1, 0, -1)).max(axis=-1)
    return share
