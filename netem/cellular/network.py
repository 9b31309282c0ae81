"""Bandwidth left to the UE on every link of a 5G network, over time.

For each coherence time: the UE's position, its serving cell and therefore its route, the access link's rate from the
radio model, and the share of each link that a fair scheduler leaves beside the background traffic.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netem.cellular.iab import TOPOLOGIES, IabRoute, NetworkKind, Topology
from netem.cellular.mobility import distances, serving_cells
from netem.cellular.traffic import Background, Load, fair_airtime, levels
from netem.trace import RateChange, Trace

Floats = NDArray[np.float64]

HYSTERESIS_DB = 3.0
CELL_RADIUS_M = 150.0  # background UEs are distributed evenly over this disc
MAX_STEPS = 2_000_000


@dataclass(frozen=True)
class Network:
    """A network over time, in steps of ``coherence_s``; it repeats after ``duration_s``."""

    topology: Topology
    coherence_s: float
    serving: NDArray[np.int64]  # [steps] index of the serving cell in ``topology.cells``
    # By link, on the route or not, the access link first: [steps] uplink bandwidth available to the UE.
    rates_bps: dict[str, Floats]

    @property
    def duration_s(self) -> float:
        return len(self.serving) * self.coherence_s

    def step(self, t: float) -> int:
        return int(t / self.coherence_s + 1e-9) % len(self.serving)

    def route(self, t: float) -> IabRoute:
        """Nodes and links from the UE to the cloud at ``t`` seconds."""
        return self.topology.route(self.topology.cells[self.serving[self.step(t)]].name)

    def rate_bps(self, link: str, t: float) -> float:
        return float(self.rates_bps[link][self.step(t)])

    def routes(self) -> list[tuple[float, IabRoute]]:
        """(start time in seconds, route) of the first route and of the route after each handover."""
        changed = np.flatnonzero(np.diff(self.serving)) + 1
        return [(step * self.coherence_s, self.route(step * self.coherence_s)) for step in (0, *changed.tolist())]

    def trace(self, link: str) -> Trace:
        rates = self.rates_bps[link]
        changes = [RateChange(step * self.coherence_s, rate) for step, rate in enumerate(rates.tolist())]
        return Trace(tuple(changes), self.duration_s)


def network(
    kind: NetworkKind, load: Load = "mid", coherence_s: float = 0.05, duration_s: float = 600.0, seed: int = 0
) -> Network:
    """Generate ``duration_s`` seconds of one of HiveMind's networks (section VII-A); deterministic in its arguments.

    Args:
        load, seed: Background traffic and the seed of its draws.
        coherence_s: Seconds during which rates are constant.

    Raises:
        ValueError: A time is not positive, or there are more than ``MAX_STEPS`` coherence times.
    """
    if not (0 < coherence_s <= duration_s and math.isfinite(duration_s)):
        raise ValueError(f"needs 0 < coherence_s <= duration_s, finite; got {coherence_s} and {duration_s}")
    steps = round(duration_s / coherence_s)
    if steps > MAX_STEPS:
        raise ValueError(f"{steps} coherence times, expected at most {MAX_STEPS}; raise coherence_s or cut duration_s")
    topology = TOPOLOGIES[kind]
    times_s: Floats = np.arange(steps, dtype=np.float64) * coherence_s
    sites = np.array([cell.site for cell in topology.cells], dtype=np.float64)
    distances_m = distances(topology.trajectory.positions(times_s), sites)
    serving = serving_cells(topology.carrier.snr_db(distances_m), HYSTERESIS_DB)
    sources = np.random.SeedSequence(seed).spawn(len(topology.backhaul) + len(topology.cells))
    rngs = [np.random.default_rng(source) for source in sources]
    access = np.empty(steps)
    for index, cell in enumerate(topology.cells):
        background, rng = cell.background.at(load), rngs[index]
        positions_m = CELL_RADIUS_M * np.sqrt(rng.random(background.population))  # from the site, at random
        background_bps = topology.carrier.rate_bps(positions_m)
        left_bps = bandwidth_left(topology.carrier.rate_bps(distances_m[:, index]), background_bps, background, rng)
        attached = serving == index
        access[attached] = left_bps[attached]
    rates = {topology.access: access}
    for link, rng in zip(topology.backhaul, rngs[len(topology.cells) :], strict=True):
        capacity = np.array(link.capacity_bps)
        rates[link.name] = bandwidth_left(np.full(steps, capacity), capacity, link.background.at(load), rng)
    return Network(topology, coherence_s, serving, rates)


def bandwidth_left(ue_bps: Floats, background_bps: Floats, background: Background, rng: np.random.Generator) -> Floats:
    """Bandwidth that the background leaves to the UE: [steps]. Both rates are those of a UE alone on the link."""
    demands_bps = background.demands_bps(levels(len(ue_bps), background.population, rng))
    return ue_bps * fair_airtime(demands_bps / background_bps)
