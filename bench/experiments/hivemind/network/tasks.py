"""Cost of tasks in HiveMind's network in closed form: the update travels upstream, then the task downstream.

It computes thousands of tasks in seconds; a test compares it with the nodes of ``nodes.inference`` in virtual time.
Each task is alone on its links and stays on its initial route.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from netem.cellular.iab import IabRoute
from nodes.splitting.forecast import LookAhead, forecast_bps

Floats = NDArray[np.float64]
Splits = list[int]  # [P-1] layers done when a task leaves each node but the last
Decide = Callable[[IabRoute, Sequence[float]], Splits]  # from the route and the expected rate of each link
Forecast = Callable[[str, float, float], float]  # link, now, seconds ahead -> bits a second
Transfer = Literal["integral", "instant"]  # at the rates while it lasts, or at that of its start (Eq. 10 as printed)

GapTo = Literal["start", "arrival"]  # of a transfer

LEAST_BPS = 1.0  # the rate of a blocked link


class TimeVaryingLinks(Protocol):
    """Links with rates that change in steps, such as those of ``netem.cellular``."""

    @property
    def coherence_s(self) -> float: ...

    @property
    def rates_bps(self) -> Mapping[str, NDArray[np.float64]]: ...

    def route(self, t: float) -> IabRoute:
        """Nodes and links from the UE to the last node at ``t`` seconds."""


class Capacity:
    """A link's rate over time, one value a step, with the cumulative bits that it can carry."""

    def __init__(self, rates_bps: NDArray[np.float64], step_s: float, transfer: Transfer = "integral") -> None:
        self.step_s = step_s
        self.transfer = transfer
        self._all_bps = np.maximum(rates_bps, LEAST_BPS)
        self._all_bits = np.concatenate([[0.0], np.cumsum(self._all_bps * step_s)])
        self._rates_bps: list[float] = self._all_bps.tolist()
        self._bits: list[float] = self._all_bits.tolist()

    def rate_bps(self, at_s: float) -> float:
        """The rate at ``at_s``; after the end, the last rate."""
        return self._rates_bps[min(int(at_s / self.step_s + 1e-9), len(self._rates_bps) - 1)]

    def sent_s(self, at_s: float, n_bytes: float) -> float:
        """The time at which the last of ``n_bytes`` that enter at ``at_s`` is sent."""
        if self.transfer == "instant":
            return at_s + 8 * n_bytes / self.rate_bps(at_s)
        step = min(int(at_s / self.step_s), len(self._rates_bps) - 1)
        target = self._bits[step] + (at_s - step * self.step_s) * self._rates_bps[step] + 8 * n_bytes
        last = min(bisect_left(self._bits, target, step + 1) - 1, len(self._rates_bps) - 1)
        return last * self.step_s + (target - self._bits[last]) / self._rates_bps[last]

    def rates_at(self, at_s: Floats) -> Floats:
        """``rate_bps`` at many times."""
        steps = (at_s / self.step_s + 1e-9).astype(np.int64)
        rates_bps: Floats = self._all_bps[np.minimum(steps, len(self._all_bps) - 1)]
        return rates_bps

    def all_sent_s(self, at_s: Floats, n_bytes: Floats | int) -> Floats:
        """``sent_s`` of many transfers, each alone on the link."""
        if self.transfer == "instant":
            return at_s + 8 * n_bytes / self.rates_at(at_s)
        end = len(self._all_bps) - 1
        step = np.minimum((at_s / self.step_s).astype(np.int64), end)
        target = self._all_bits[step] + (at_s - step * self.step_s) * self._all_bps[step] + 8 * n_bytes
        last = np.minimum(np.maximum(np.searchsorted(self._all_bits, target), step + 1) - 1, end)
        sent_s: Floats = last * self.step_s + (target - self._all_bits[last]) / self._all_bps[last]
        return sent_s


class LinkUse(NamedTuple):
    """One transfer of a task over a link."""

    link: str
    n_bytes: int
    busy_s: float  # of sending, without the delay


class TaskTrace(NamedTuple):
    """The course of one task: updates, splits, compute and transfers."""

    route: IabRoute
    began_s: float
    updated_s: list[float]  # the time of each node's update
    splits: Splits
    layers: list[int]  # computed by each node
    compute_s: float
    hops: list[LinkUse]
    ended_s: float

    @property
    def latency_s(self) -> float:
        return self.ended_s - self.began_s


@dataclass
class Field:
    """A network, the compute time of the layers on its nodes, and the frames over its links.

    ``layer_s`` are seconds [L] by node, without nodes that cannot compute. ``frame_bytes`` [L+1] are whole frames by
    boundary, 0 at the last, since a result is not sent. ``delay_s`` (psi of Eq. 10) is added for every hop of a task,
    ``control_s`` for every hop of an update; None is the same as ``delay_s``.
    """

    network: TimeVaryingLinks
    layer_s: Mapping[str, Sequence[float]]
    frame_bytes: Sequence[int]
    sci_bytes: int
    delay_s: float
    control_s: float | None = None
    transfer: Transfer = "integral"
    links: dict[str, Capacity] = field(init=False)

    def __post_init__(self) -> None:
        step_s = self.network.coherence_s
        self.links = {name: Capacity(rates, step_s, self.transfer) for name, rates in self.network.rates_bps.items()}

    def update(
        self, route: IabRoute, began_s: float, forecast: Forecast, ahead_s: Sequence[float]
    ) -> tuple[list[float], list[float]]:
        """An update from the last node on: the time of each node's update [P], and the expected rates [P-1]."""
        at_s, hop_s = began_s, self.delay_s if self.control_s is None else self.control_s
        times, rates = [at_s], []
        for node in range(len(route.links), 0, -1):
            link = route.links[node - 1]
            rates.append(max(LEAST_BPS, forecast(link, at_s, ahead_s[node])))
            at_s = self.links[link].sent_s(at_s, self.sci_bytes) + hop_s
            times.append(at_s)
        return times[::-1], rates[::-1]

    def trace(self, route: IabRoute, updated_s: list[float], splits: Splits) -> TaskTrace:
        """The course of a task along ``route`` from the time of the UE's update."""
        layers = len(self.frame_bytes) - 1
        at_s, done, computed, hops, compute_s = updated_s[0], 0, [0] * len(route.nodes), [], 0.0
        for node, stop in enumerate([*splits, layers]):
            if stop > done:
                own_s = sum(self.layer_s[route.nodes[node]][done:stop])
                at_s += own_s
                compute_s += own_s
                computed[node] = stop - done
                done = stop
            if done == layers:
                break
            link, n_bytes = route.links[node], self.frame_bytes[done]
            sent_s = self.links[link].sent_s(at_s, n_bytes)
            hops.append(LinkUse(link, n_bytes, sent_s - at_s))
            at_s = sent_s + self.delay_s
        return TaskTrace(route, updated_s[0], updated_s, splits, computed, compute_s, hops, at_s)

    def gradient_hops(
        self, trace: TaskTrace, backward_s: Mapping[str, Sequence[float]], gradient_bytes: Sequence[int]
    ) -> list[LinkUse]:
        """The transfers of gradients upstream, to the first node with layers."""
        at_s, done, hops = trace.ended_s, len(self.frame_bytes) - 1, []
        first = next(node for node, count in enumerate(trace.layers) if count)
        for node in range(len(trace.hops), first, -1):
            start = done - trace.layers[node]
            at_s += sum(backward_s[trace.route.nodes[node]][start:done]) if start < done else 0.0
            link, n_bytes, done = trace.route.links[node - 1], gradient_bytes[start], start
            sent_s = self.links[link].sent_s(at_s, n_bytes)
            hops.append(LinkUse(link, n_bytes, sent_s - at_s))
            at_s = sent_s + self.delay_s
        return hops

    def gaps_s(self, trace: TaskTrace, gap_to: GapTo = "start") -> list[float]:
        """Seconds from each node's update to the start of the task's transfer to it, or to its arrival.

        For every node reached after the UE.
        """
        at_s, done, gaps = trace.began_s, 0, []
        for node, hop in enumerate(trace.hops):
            stop = done + trace.layers[node]
            if stop > done:
                at_s += sum(self.layer_s[trace.route.nodes[node]][done:stop])
            arrived_s, done = at_s + hop.busy_s + self.delay_s, stop
            gaps.append((at_s if gap_to == "start" else arrived_s) - trace.updated_s[node + 1])
            at_s = arrived_s
        return gaps

    def link_s(self, rates_bps: Sequence[float], sizes: Sequence[int] = ()) -> list[list[float]]:
        """Seconds [P-1][L+1] of ``sizes``, by default every boundary's frame, over the links (HiveMind, Eq. 10)."""
        sizes = sizes or self.frame_bytes
        return [[8 * size / rate_bps + self.delay_s if size else 0.0 for size in sizes] for rate_bps in rates_bps]

    def node_s(self, route: IabRoute, may_compute: Callable[[IabRoute, int], bool]) -> list[list[float]]:
        """Seconds [P][L] of each layer on each node; infinite if the node may not or cannot compute."""
        never = [math.inf] * (len(self.frame_bytes) - 1)
        return [
            list(self.layer_s[name]) if name in self.layer_s and may_compute(route, node) else never
            for node, name in enumerate(route.nodes)
        ]


def present(field: Field) -> Forecast:
    """No forecast: every link is expected to keep its rate."""
    return lambda link, now_s, ahead_s: field.links[link].rate_bps(now_s)


def foreseen(field: Field, coherence_s: float = 0.0) -> Forecast:
    """The true rate at the end of the gap."""
    links = field.links
    return lambda link, now_s, ahead_s: forecast_bps(links[link].rate_bps, now_s, ahead_s, coherence_s=coherence_s)


def tasks(  # noqa: PLR0917 (as many as the paper's procedure has)
    field: Field,
    decide: Decide,
    forecast: Forecast,
    times_s: Sequence[float],
    gaps: int = 8,
    gap_to: GapTo = "start",
) -> list[TaskTrace]:
    """A task for each update; each node looks ahead by the mean gap of its last ``gaps`` tasks (section IV-F).

    Eq. 10 takes a link's rate at the start of the transfer, so that is what a gap ends with. The nodes of
    ``nodes.inference`` know the arrival alone.
    """
    gap_of: dict[str, LookAhead] = {}
    traces = []
    for began_s in times_s:
        route = field.network.route(began_s)
        look = [gap_of.setdefault(name, LookAhead(gaps)) for name in route.nodes]
        updated_s, rates = field.update(route, began_s, forecast, [one.gap_s for one in look])
        trace = field.trace(route, updated_s, decide(route, rates))
        for one, gap_s in zip(look[1:], field.gaps_s(trace, gap_to), strict=False):
            one.observe(0.0, gap_s)
        traces.append(trace)
    return traces
