"""How much of every link can the UE use, at each moment of its way through the network?

For every coherence time: the UE's place, its serving cell and with it the route, the access link's rate from the
radio model, and what a fair scheduler leaves of each link beside the background's bit-rates of that moment.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from netem.cellular.iab import TOPOLOGIES, IabRoute, NetworkKind, Topology
from netem.cellular.mobility import distances, serving_cells
from netem.cellular.scheduler import fair_airtime
from netem.cellular.traffic import Background, Load, levels
from netem.trace import RateChange, Trace

Floats = NDArray[np.float64]

HYSTERESIS_DB = 3.0
CELL_RADIUS_M = 150.0  # within which the background UEs of a cell stand, evenly over the disc
MAX_STEPS = 2_000_000


@dataclass(frozen=True)
class Network:
    """A network over time, in steps of ``coherence_s``; after ``duration_s`` it starts again.

    ``serving``: [steps] the cell that the UE is attached to, an index of ``topology.cells``. ``rates_bps``:
    for every link, on the route or not, [steps] what the UE could use of it, upwards.
    """

    topology: Topology
    coherence_s: float
    serving: NDArray[np.int64]
    rates_bps: dict[str, Floats]

    @property
    def links(self) -> tuple[str, ...]:
        """All links' names, the access link first."""
        return tuple(self.rates_bps)

    @property
    def duration_s(self) -> float:
        return len(self.serving) * self.coherence_s

    def step(self, t: float) -> int:
        """The coherence time that ``t`` seconds fall into."""
        return int(t / self.coherence_s + 1e-9) % len(self.serving)

    def route(self, t: float) -> IabRoute:
        """Nodes and links from the UE to the cloud at ``t`` seconds."""
        return self.topology.route(self.topology.cells[self.serving[self.step(t)]].name)

    def rate_bps(self, link: str, t: float) -> float:
        """What the UE can use of ``link`` at ``t`` seconds."""
        return float(self.rates_bps[link][self.step(t)])

    def routes(self) -> list[tuple[float, IabRoute]]:
        """(seconds, route from then on): the first and every handover."""
        changed = np.flatnonzero(np.diff(self.serving)) + 1
        return [(step * self.coherence_s, self.route(step * self.coherence_s)) for step in (0, *changed.tolist())]

    def trace(self, link: str) -> Trace:
        """The rate of ``link`` over ``duration_s``, to be played on any backend."""
        rates = self.rates_bps[link]
        changes = [RateChange(step * self.coherence_s, rate) for step, rate in enumerate(rates.tolist())]
        return Trace(tuple(changes), self.duration_s)


def network(
    kind: NetworkKind, load: Load = "mid", coherence_s: float = 0.05, duration_s: float = 600.0, seed: int = 0
) -> Network:
    """HiveMind's network ``kind`` under background traffic ``load``; the same for the same arguments.

    Raises ValueError for a time that is not positive or steps beyond ``MAX_STEPS``.
    """
    if not (0 < coherence_s <= duration_s and math.isfinite(duration_s)):
        raise ValueError(f"needs 0 < coherence_s <= duration_s, got {coherence_s} and {duration_s}")
    steps = round(duration_s / coherence_s)
    if steps > MAX_STEPS:
        raise ValueError(f"{steps} coherence times; at most {MAX_STEPS} are generated")
    topology = TOPOLOGIES[kind]
    times_s: Floats = np.arange(steps, dtype=np.float64) * coherence_s
    sites = np.array([cell.site for cell in topology.cells], dtype=np.float64)
    away_m = distances(topology.trajectory.positions(times_s), sites)
    serving = serving_cells(topology.carrier.snr_db(away_m), HYSTERESIS_DB)
    sources = np.random.SeedSequence(seed).spawn(len(topology.wires) + len(topology.cells))
    rngs = [np.random.default_rng(source) for source in sources]
    access = np.empty(steps)
    for index, cell in enumerate(topology.cells):
        ours = topology.carrier.rate_bps(away_m[:, index])
        theirs = _cell_rates(topology, cell.background.at(load).population, rngs[index])
        here = serving == index
        access[here] = bandwidth_left(ours, theirs, cell.background.at(load), rngs[index])[here]
    rates = {topology.access: access}
    for wire, rng in zip(topology.wires, rngs[len(topology.cells) :], strict=True):
        capacity = np.array(wire.capacity_bps)
        rates[wire.name] = bandwidth_left(np.full(steps, capacity), capacity, wire.background.at(load), rng)
    return Network(topology, coherence_s, serving, rates)


def _cell_rates(topology: Topology, population: int, rng: np.random.Generator) -> Floats:
    """[population] the radio rates of UEs that stand somewhere around their cell's site."""
    return topology.carrier.rate_bps(CELL_RADIUS_M * np.sqrt(rng.random(population)))


def bandwidth_left(ours_bps: Floats, theirs_bps: Floats, background: Background, rng: np.random.Generator) -> Floats:
    """[steps] what is left for one who alone would have ``ours_bps``, beside UEs who would have ``theirs_bps``."""
    demands_bps = background.demands_bps(levels(len(ours_bps), background.population, rng))
    return ours_bps * fair_airtime(demands_bps / theirs_bps)
