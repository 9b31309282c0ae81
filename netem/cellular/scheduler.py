"""What does a proportional-fair scheduler leave to a user who always has something to send?

Such a scheduler serves, slot by slot, the user whose rate is highest against what it got so far (HiveMind's
[57]). Over the slots of a coherence time, in which rates and demands stand still, it comes to what maximises the
sum of the logarithms of the users' throughputs: equal shares of the air, of which users who want less take less.
That limit is computed here; the slots themselves are the tests' oracle. On a wired link, where nobody's
rate is his own, the same formula is max-min fairness.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def fair_airtime(demands: Floats) -> Floats:
    """The share of the air that one more user gets, who takes all there is: [..., users] to [...].

    ``demands`` are the others' shares of the air if they were alone: what they want to send over what they could.
    The share w solves sum(min(demand, w)) + w = 1. With the k smallest demands met in full it would be
    (1 - their sum) / (users - k + 1); every wrong k gives less, so the largest is the one.
    """
    users = demands.shape[-1]
    met = np.zeros((*demands.shape[:-1], users + 1))
    np.cumsum(np.sort(demands, axis=-1), axis=-1, out=met[..., 1:])
    share: Floats = ((1 - met) / np.arange(users + 1, 0, -1)).max(axis=-1)
    return share
