"""The search of ``nodes.splitting.search`` for many tasks on one chain at once: the same splits, with numpy.

With S_i the seconds of a node's first i layers, the recursion of a node becomes G_i = min over j >= i of
(V'_j + S_j) - S_i: one running minimum from the end. The subtraction costs the relative precision that the nodes' own
search keeps; costs that differ by less than ``TIE`` count as equal in both.
"""

from collections.abc import Sequence
from itertools import accumulate
from math import isinf

import numpy as np
from numpy.typing import NDArray

from nodes.splitting.search import TIE

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


class ChainSearch:
    """``layer_s`` [P][L] by node, all infinite for a node that may not compute; ``frame_bytes`` [L+1] by boundary."""

    def __init__(self, layer_s: Sequence[Sequence[float]], frame_bytes: Sequence[int]) -> None:
        self._before = [None if isinf(row[0]) else np.array([0.0, *accumulate(row)]) for row in layer_s]
        self._bits = 8.0 * np.array(frame_bytes, dtype=np.float64)

    def splits(self, rates_bps: Floats, delay_s: float) -> Counts:
        """The fastest splits [tasks, P-1] at ``rates_bps`` [tasks, P-1], ahead at every node of those as fast."""
        onward: Floats = np.full((len(rates_bps), len(self._bits)), np.inf)  # from each boundary, beyond the node
        onward[:, -1] = 0.0
        delays_s = delay_s * (self._bits > 0)
        by_stop: list[Floats] = []  # of each node that may compute, from the last on
        for node in range(len(self._before) - 1, -1, -1):
            before = self._before[node]
            if before is not None:
                by_stop.append(onward + before)
                onward = np.minimum.accumulate(by_stop[-1][:, ::-1], axis=1)[:, ::-1] - before
            if node:
                onward = onward + self._bits / rates_bps[:, node - 1, None] + delays_s
        return self._followed(by_stop, np.zeros((len(rates_bps), 1), dtype=np.int64))

    def _followed(self, by_stop: list[Floats], done: Counts) -> Counts:
        """The stop of each node but the last, for tasks that begin at the first with ``done`` layers."""
        boundaries, splits = np.arange(len(self._bits)), []
        for before in self._before[:-1]:
            if before is not None:
                costs = np.where(boundaries >= done, by_stop.pop(), np.inf)
                best = costs <= costs.min(axis=1, keepdims=True) * TIE
                done = len(boundaries) - 1 - best[:, ::-1].argmax(axis=1)[:, None]
            splits.append(done)
        return np.concatenate(splits, axis=1) if splits else np.zeros((len(done), 0), dtype=np.int64)
