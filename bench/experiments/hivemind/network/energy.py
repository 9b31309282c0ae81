"""Energy of UE and IAB nodes for a task: compute at their machines' power, and radio transfers.

HiveMind counts the UE and the IAB MECs (section VII-B1), neither core servers and the cloud nor wired links. A
radio's power depends on its rate (``nodes.costs.energy.Radio``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import fsum, inf

from bench.experiments.hivemind.network.scenario import Machine, machine, profiles
from bench.experiments.hivemind.network.tasks import Field, LinkUse, TaskTrace
from netem.cellular.iab import IabRoute, NetworkKind
from nodes.costs.devices import MMWAVE_RECEIVING, MMWAVE_SENDING, SUB6_RECEIVING, SUB6_SENDING
from nodes.costs.energy import Radio
from nodes.splitting.objectives import ChainMetric

# Joules are of a batch of tasks, calibrated on the 476 J of figure 18's linear combination; only ratios are results.
TASKS_A_BATCH = 1900

COUNTED: tuple[Machine, ...] = ("ue", "iab")
WIRELESS: dict[NetworkKind, tuple[str, ...]] = {"mmwave": ("access", "A", "B", "C", "D", "E"), "sub6": ("A", "B")}
RADIOS: dict[NetworkKind, tuple[Radio, Radio]] = {
    "mmwave": (MMWAVE_SENDING, MMWAVE_RECEIVING),
    "sub6": (SUB6_SENDING, SUB6_RECEIVING),
}


@dataclass(frozen=True)
class Meter:
    """The energy of tasks in a network of ``kind``; ``gradient_bytes`` [L+1] return in training."""

    kind: NetworkKind
    field: Field
    layer_j: dict[Machine, list[float]]  # of every counted machine, [L]
    gradient_bytes: Sequence[int] = ()

    def link_j(self, route: IabRoute, link: int, n_bytes: float, rate_bps: float) -> float:
        """Joules of the radios at both ends of a link for ``n_bytes`` in either direction."""
        if route.links[link] not in WIRELESS[self.kind]:
            return 0.0
        ends = (machine(name) in COUNTED for name in route.nodes[link : link + 2])
        return fsum(
            radio.transfer_j(n_bytes, rate_bps) for radio, counts in zip(RADIOS[self.kind], ends, strict=True) if counts
        )

    def costs(self, route: IabRoute, rates_bps: Sequence[float]) -> ChainMetric:
        """Joules of each layer on each node [P][L] and of each boundary on each link [P-1][L+1]."""
        frames = self.field.frame_bytes
        back = self.gradient_bytes or [0] * len(frames)
        free = [0.0] * (len(frames) - 1)
        layers = []
        for name in route.nodes:
            kind = machine(name)
            layers.append([inf] * len(free) if kind is None else self.layer_j[kind] if kind in COUNTED else free)
        links = [
            [self.link_j(route, link, size + gradient, rate) for size, gradient in zip(frames, back, strict=True)]
            for link, rate in enumerate(rates_bps)
        ]
        return ChainMetric(layers, links)

    def spent_j(self, trace: TaskTrace, back: Sequence[LinkUse] = ()) -> float:
        """Joules of one task with gradients over the links ``back``."""
        route, done, spent = trace.route, 0, []
        for name, count in zip(route.nodes, trace.layers, strict=True):
            kind = machine(name)
            if kind in COUNTED:
                spent.append(fsum(self.layer_j[kind][done : done + count]))
            done += count
        for hop in (*trace.hops, *back):
            spent.append(self._hop_j(route, hop))
        return fsum(spent)

    def move_j(self, route: IabRoute, link: int, n_bytes: float, at_s: float) -> float:
        """Joules to move ``n_bytes`` of parameters over a link, beginning at ``at_s``."""
        busy_s = self.field.links[route.links[link]].sent_s(at_s, n_bytes) - at_s
        return self.link_j(route, link, n_bytes, 8 * n_bytes / busy_s)

    def _hop_j(self, route: IabRoute, hop: LinkUse) -> float:
        return self.link_j(route, route.links.index(hop.link), hop.n_bytes, 8 * hop.n_bytes / hop.busy_s)


def inference_meter(kind: NetworkKind, field: Field, workload: str) -> Meter:
    """The meter of forward passes."""
    return Meter(kind, field, {name: profiles(workload)[name].forward_j for name in COUNTED})
