"""Several UEs that share HiveMind's network: what their queues cost, and who gains if nodes tell of them.

HiveMind has one UE. Here each of several runs one task after the other, at most one a period, by the roles of
``nodes.inference`` on a virtual clock. Machines and links, at the rates that the background leaves to one UE, are
shared first come, first served; access links are not. A split ignores queues, as HiveMind's does, or nodes tell of
them: each adds to its costs what its machine and its incoming link have yet to do for other UEs at the time of the
update.

The UEs are together at one place of the trajectory, which follows from the seed, or at equal distances along it. A run
lasts some seconds, in which each stays on its route.
"""

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import count, pairwise
from statistics import fmean
from typing import Literal

from bench.experiments.common.distribution import spread
from bench.experiments.hivemind.network.inference import InferenceParameters, field_of
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, machine, profiles
from bench.experiments.hivemind.network.tasks import LEAST_BPS, Field
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Count, Duration
from netem.cellular.iab import UE, IabRoute
from netem.cellular.network import Network
from netem.link import Link, LinkProfile
from nodes.inference.frames import frames_of_bytes
from nodes.inference.in_process import Scene, Served, serve_together
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.splitting.link_estimates import CostEstimate
from reports.record import CaseValue

Place = Literal["together", "apart"]
Ends = tuple[str, str]  # of a link, the UE's side first
Rate = Callable[[float], float]  # bit/s by time in seconds


class ContentionParameters(InferenceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``ues`` at one place or apart, each with ``tasks``, of which one starts at most each ``period_s``."""

    ues: Count = 2
    place: Place = "together"
    period_s: Duration = 0.1
    tasks: Count = 10


@dataclass(frozen=True)
class Sharer:
    """One of the UEs: its route, and how far ahead of the network's UE it is on the trajectory, in seconds."""

    name: str
    route: IabRoute
    ahead_s: float
    begins_s: float

    @property
    def nodes(self) -> tuple[str, ...]:
        return (self.name, *self.route.nodes[1:])

    @property
    def links(self) -> dict[Ends, str]:
        return dict(zip(pairwise(self.nodes), self.route.links, strict=True))


def contention(parameters: ContentionParameters, context: Context) -> Iterator[Measurement]:
    """Latency with queues ignored and told, the gain, and where layers run."""
    net, field = parameters.make(context.seed), field_of(parameters, context)
    sharers = sharers_of(parameters, net, context.seed)
    alone_ms = 1e3 * sum(field.layer_s[UE])
    means = {}
    for queues in ("ignored", "told"):
        served = serve(parameters, net, field, sharers, tell_queues=queues == "told")
        busy_until_s = min(one.tasks[-1].returned_s for one in served)  # later some UEs have ended
        latency_ms = [[1e3 * task.latency_s for task in one.tasks if task.began_s < busy_until_s] for one in served]
        case: dict[str, CaseValue] = {"queues": queues}
        means[queues] = [fmean(values) for values in latency_ms]
        yield from spread("latency_ms", [value for values in latency_ms for value in values], "ms", case)
        yield Measurement("latency_over_ue", fmean(means[queues]) / alone_ms, "1", case)
        yield Measurement("slowest_ue_latency_ms", max(means[queues]), "ms", case)
        for kind, share in layer_shares(served).items():
            yield Measurement("layers_share", share, "fraction", {**case, "machine": kind})
    savings = [1 - told / ignored for ignored, told in zip(means["ignored"], means["told"], strict=True)]
    yield Measurement("saving_share", 1 - fmean(means["told"]) / fmean(means["ignored"]), "fraction")
    yield Measurement("gaining_share", fmean(saving > 0 for saving in savings), "fraction")
    by_hops: dict[int, list[float]] = {}
    for sharer, saving in zip(sharers, savings, strict=True):
        by_hops.setdefault(len(sharer.route.links), []).append(saving)
    for hops, values in sorted(by_hops.items()):
        yield Measurement("ue_saving_share", fmean(values), "fraction", {"hops": hops})


def sharers_of(parameters: ContentionParameters, net: Network, seed: int) -> list[Sharer]:
    """The UEs; where they are and when they begin, within one period, is drawn from ``seed``."""
    rng = random.Random(seed)
    trajectory = net.topology.trajectory
    lap_s = trajectory.length_m / trajectory.speed_m_per_s
    first_s = rng.random() * lap_s
    sharers = []
    for ue in range(parameters.ues):
        ahead_s = first_s + (lap_s * ue / parameters.ues if parameters.place == "apart" else 0.0)
        sharers.append(Sharer(f"{UE}{ue}", net.route(ahead_s), ahead_s, rng.random() * parameters.period_s))
    return sharers


def serve(
    parameters: ContentionParameters, net: Network, field: Field, sharers: Sequence[Sharer], tell_queues: bool
) -> list[Served]:
    """The tasks of all UEs."""
    picture_bytes, *others = profiles(parameters.workload)["ue"].boundary_bytes
    frames = frames_of_bytes([parameters.unstated.input_bytes or picture_bytes, *others])
    links: dict[Ends, tuple[Link, Link]] = {}
    scenes = []
    for sharer in sharers:
        rates = {ends: rate_of(net, link, sharer) for ends, link in sharer.links.items()}
        for ends in rates.keys() - links.keys():
            links[ends] = changing(net, field, rates[ends]), changing(net, field, rates[ends])
        layer_s = field.node_s(sharer.route, MAY_COMPUTE["hivemind"])
        scenes.append(
            Scene(
                pace=Pace(tasks=parameters.tasks, after_update=True),
                layer_s=dict(zip(sharer.nodes, layer_s, strict=True)),
                estimates=partial(estimate, field, rates),
                routes=[(sharer.begins_s, sharer.nodes)],
                policy=Policy(period_s=parameters.period_s),
                tell_queues=tell_queues,
            )
        )
    return serve_together(scenes, frames, links)


def rate_of(net: Network, link: str, sharer: Sharer) -> Rate:
    """The rate of a link by time: the access link's is that where the UE is."""
    ahead_s = sharer.ahead_s if link == net.topology.access else 0.0
    return lambda at_s: max(LEAST_BPS, net.rate_bps(link, at_s + ahead_s))


def changing(net: Network, field: Field, rate_bps: Rate) -> Link:
    """A link whose rate changes every coherence time."""

    def profile(at_s: float) -> LinkProfile:
        return LinkProfile(rate_bps=rate_bps(at_s), delay_s=field.delay_s)

    link = Link(profile(0.0), random.Random(0))
    link.play((at_s, profile(at_s)) for step in count(1) if (at_s := step * net.coherence_s))
    return link


def estimate(field: Field, rates: Mapping[Ends, Rate], upper: str, lower: str) -> CostEstimate:
    """The costs of a link at its present rate."""
    return lambda now, ahead_s: field.link_s([rates[upper, lower](now)])[0]


def layer_shares(served: Sequence[Served]) -> dict[str, float]:
    """The share of all layers that each kind of machine computes."""
    computed: Counter[str] = Counter()
    for task in (task for one in served for task in one.tasks):
        for (_, before), (name, done) in pairwise([("", 0), *task.splits.items()]):
            computed[machine(UE if name.startswith(UE) else name) or "gnb"] += done - before
    return {kind: layers / computed.total() for kind, layers in computed.items() if layers}
