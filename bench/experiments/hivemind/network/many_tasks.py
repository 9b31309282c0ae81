"""Many tasks at once by numpy: the same as ``tasks``, some twenty times as fast.

Without a forecast no task depends on another. With one, a task depends on the gaps of those before it: all are played
with the gaps known so far, then again those whose forecast changes by the gaps found, until none does. Each round makes
at least the first task final that was not, and in fact nearly all.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import isinf

import numpy as np
from numpy.typing import NDArray

from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, SplitStrategy
from bench.experiments.hivemind.network.tasks import LEAST_BPS, Field, Floats, LinkUse, TaskTrace
from netem.cellular.iab import IabRoute
from nodes.splitting.search import TIE

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class Foresight:
    """True rates at the expected start of each transfer, with a relative ``error`` drawn from ``seed``.

    Nothing is forecast for gaps below ``coherence_s``; a gap is the mean of a node's last ``gaps`` tasks.
    """

    error: float = 0.0
    seed: int = 0
    coherence_s: float = 0.0
    gaps: int = 8


def many_tasks(
    field: Field, strategy: SplitStrategy, times_s: Sequence[float], foresight: Foresight | None = None
) -> list[TaskTrace]:
    """A task for each of ``times_s``, split for the least latency with the computing nodes of ``strategy``."""
    parts = play(field, strategy, times_s, foresight)
    found = [(index, trace) for part in parts for index, trace in zip(part.own.tolist(), part.traces(), strict=True)]
    return [trace for _, trace in sorted(found, key=lambda one: one[0])]


def play(
    field: Field, strategy: SplitStrategy, times_s: Sequence[float], foresight: Foresight | None = None
) -> list["Tasks"]:
    """The same tasks in arrays, by route."""
    began_s: Floats = np.array(times_s, dtype=np.float64)
    by_route: dict[IabRoute, list[int]] = {}
    for index, at_s in enumerate(times_s):
        by_route.setdefault(field.network.route(at_s), []).append(index)
    parts = [Tasks(field, strategy, route, np.array(own), began_s[own]) for route, own in by_route.items()]
    if foresight:
        _foresee(parts, foresight, len(times_s))
    return parts


def latencies_ms(parts: Sequence["Tasks"]) -> list[float]:
    """The latency of each task, in the order of the tasks, to the nanosecond."""
    found: Floats = np.zeros(sum(len(part.own) for part in parts))
    for part in parts:
        found[part.own] = 1e3 * (part.ended_s - part.updated_s[:, 0])
    return [round(value, 6) for value in found.tolist()]


def gaps_s(parts: Sequence["Tasks"]) -> list[float]:
    """Seconds from each node's update to the task's arrival, for every task and node that it reaches after the UE."""
    return [value for part in parts for value in part.arrival_gaps_s()]


class Tasks:
    """The tasks ``own`` [n] of a sequence, all on ``route``; arrays are [n, P] by node, [n, P-1] by link."""

    def __init__(
        self, field: Field, strategy: SplitStrategy, route: IabRoute, own: NDArray[np.int64], began_s: Floats
    ) -> None:
        self.field, self.route, self.own = field, route, own
        self._search = ChainSearch(field.node_s(route, MAY_COMPUTE[strategy]), field.frame_bytes)
        self._capacities = [field.links[link] for link in route.links]
        self._layers = len(field.frame_bytes) - 1
        hop_s, at_s, updated_s = field.delay_s if field.control_s is None else field.control_s, began_s, [began_s]
        for capacity in reversed(self._capacities):
            at_s = capacity.all_sent_s(at_s, field.sci_bytes) + hop_s
            updated_s.append(at_s)
        self.updated_s: Floats = np.stack(updated_s[::-1], axis=1)
        self.present_bps = self.rates_at(self.updated_s[:, 1:])
        self.expected_bps = np.full_like(self.present_bps, np.nan)
        nodes = len(route.nodes)
        self.stops: Counts = np.zeros((len(own), nodes), dtype=np.int64)
        self.compute_s: Floats = np.zeros(len(own))
        self.ended_s: Floats = np.zeros(len(own))
        self.busy_s: Floats = np.zeros((len(own), nodes - 1))
        self.started_s: Floats = np.zeros((len(own), nodes - 1))
        self.expect(self.present_bps)

    def rates_at(self, at_s: Floats) -> Floats:
        """The rate of each link at its own times."""
        columns = [capacity.rates_at(at_s[:, link]) for link, capacity in enumerate(self._capacities)]
        return np.stack(columns, axis=1)

    @cached_property
    def _own_s(self) -> list[Floats | None]:
        """By node the seconds [L+1, L+1] of its layers from one boundary to another."""
        tables: dict[int, Floats] = {}
        rows = [self.field.layer_s.get(name) for name in self.route.nodes]
        for row in rows:
            if row is not None and id(row) not in tables:
                tables[id(row)] = table = np.zeros((self._layers + 1, self._layers + 1))
                for start in range(self._layers):
                    table[start, start + 1 :] = np.cumsum(row[start:])
        return [None if row is None else tables[id(row)] for row in rows]

    def expect(self, rates_bps: Floats) -> bool:
        """Split and run again the tasks for which other rates are expected; whether there are any."""
        changed = (rates_bps != self.expected_bps).any(axis=1)
        self.expected_bps = rates_bps
        if changed.any():
            self._run(np.flatnonzero(changed))
        return bool(changed.any())

    def _run(self, rows: NDArray[np.int64]) -> None:
        frame_bytes, delay_s = np.array(self.field.frame_bytes), self.field.delay_s
        splits = self._search.splits(self.expected_bps[rows], delay_s)
        stops = np.concatenate([splits, np.full((len(rows), 1), self._layers)], axis=1)
        at_s, done, compute_s = self.updated_s[rows, 0], np.zeros(len(rows), dtype=np.int64), np.zeros(len(rows))
        for node, own_s in enumerate(self._own_s):
            stop = stops[:, node]
            if own_s is not None:
                spent_s = own_s[done, stop]
                at_s, compute_s = at_s + spent_s, compute_s + spent_s
            done = stop
            if node == len(self._capacities):
                break
            self.started_s[rows, node] = at_s
            sent_s = self._capacities[node].all_sent_s(at_s, frame_bytes[done])
            self.busy_s[rows, node] = sent_s - at_s
            at_s = np.where(done < self._layers, sent_s + delay_s, at_s)
        self.stops[rows], self.compute_s[rows], self.ended_s[rows] = stops, compute_s, at_s

    def arrival_gaps_s(self) -> list[float]:
        gaps: Floats = self.started_s + self.busy_s + self.field.delay_s - self.updated_s[:, 1:]
        reached: list[float] = gaps[self.stops[:, :-1] < self._layers].tolist()
        return reached

    def computing_nodes(self) -> list[int]:
        """Nodes that compute at least one layer, of each task."""
        counts: list[int] = (np.diff(self.stops, axis=1, prepend=0) > 0).sum(axis=1).tolist()
        return counts

    def traces(self) -> list[TaskTrace]:
        layers = np.diff(self.stops, axis=1, prepend=0)
        hops = (self.stops[:, :-1] < self._layers).sum(axis=1)
        sizes = np.array(self.field.frame_bytes)[self.stops[:, :-1]]
        columns = (self.updated_s, self.stops[:, :-1], layers, self.compute_s, hops, sizes, self.busy_s, self.ended_s)
        return [
            TaskTrace(
                self.route, updated_s[0], updated_s, splits, counts, compute_s,
                [LinkUse(*use) for use in zip(self.route.links[:reached], n_bytes, busy_s, strict=False)], ended_s,
            )
            for updated_s, splits, counts, compute_s, reached, n_bytes, busy_s, ended_s in zip(
                *(column.tolist() for column in columns), strict=True
            )
        ]  # fmt: skip


def _foresee(parts: list[Tasks], foresight: Foresight, count: int) -> None:
    """Split the tasks of ``parts`` by rates at the ends of gaps; a task looks ahead by those of its nodes before it."""
    rng = np.random.default_rng(foresight.seed)
    longest = max(len(part.route.links) for part in parts)
    errors = 1 + foresight.error * rng.standard_normal((count, longest))
    changed = True
    while changed:
        ahead_s = _look_ahead(parts, foresight.gaps, count)
        changed = False
        for part in parts:
            gaps_s = np.stack([ahead_s[name][part.own] for name in part.route.nodes[1:]], axis=1)
            then_bps = part.rates_at(part.updated_s[:, 1:] + gaps_s) * errors[part.own, : gaps_s.shape[1]]
            rates_bps = np.where(gaps_s < foresight.coherence_s, part.present_bps, np.maximum(LEAST_BPS, then_bps))
            changed |= part.expect(rates_bps)


def _look_ahead(parts: list[Tasks], window: int, count: int) -> dict[str, Floats]:
    """By node the gap [tasks] that it expects: the mean of its last ``window`` tasks, 0 before the first."""
    gaps_s: dict[str, Floats] = {}
    for part in parts:
        reached = part.stops[:, :-1] < len(part.field.frame_bytes) - 1
        own_s = np.where(reached, part.started_s - part.updated_s[:, 1:], np.nan)
        for link, name in enumerate(part.route.nodes[1:]):
            gaps_s.setdefault(name, np.full(count, np.nan))[part.own] = own_s[:, link]
    return {name: _means_before(values, window) for name, values in gaps_s.items()}


def _means_before(values: Floats, window: int) -> Floats:
    """For each place the mean of the last ``window`` numbers before it, 0 where there is none."""
    known = np.flatnonzero(~np.isnan(values))
    seen = np.searchsorted(known, np.arange(len(values)))  # numbers before each place
    padded = np.concatenate([np.zeros(window), values[known]])
    sums: Floats = np.zeros(len(values))
    for back in range(window):
        sums += padded[seen + back]
    return sums / np.maximum(1, np.minimum(seen, window))


class ChainSearch:
    """The search of ``nodes.splitting.search`` for many tasks on one chain: the same splits.

    With S_i the seconds of a node's first i layers, the recursion of a node becomes G_i = min over j >= i of
    (V'_j + S_j) - S_i: one running minimum from the end. The subtraction costs the relative precision that the nodes'
    own search keeps; costs that differ by less than ``TIE`` count as equal in both.

    ``layer_s`` [P][L] by node, all infinite for a node that may not compute; ``frame_bytes`` [L+1] by boundary.
    """

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
