"""HiveMind's protocol on live processes: updates of the split, and tasks on routes that change.

Every node is a process, split costs and tasks travel as messages, links are emulated. Each node computes the real
layers and then waits until the emulated device would be done. ``dilation`` lets a slow machine emulate fast devices:
it multiplies all times and divides all rates, and recorded times are divided by it. With known rates the runner
updates nodes when a rate changes, as a base station would (section IV-F); with measured rates nodes know only delays,
and a link counts as unlimited until tasks have crossed it, so all are tried.
"""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from msgspec.structs import replace

from bench.experiments.common.learning import ANY_CLASSES
from bench.experiments.hivemind import live_route
from bench.live.inference import LiveService, ServiceSetup
from bench.suite.experiment import Context, Measurement, Problem, Setting, absent_hosts
from bench.suite.parameter_types import Count, Positive
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.inference.frames import frames_of_model
from nodes.runtime.report import NodeReport
from nodes.spec.policy import Policy
from nodes.spec.service import Pace
from nodes.wire.byte_counter import Traffic
from nodes.wire.messages import TaskReport
from reports.record import CaseValue


class UpdateParameters(live_route.ServiceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``updates`` of a chain joined by ``links``, from the UE on, after ``discarded`` others."""

    links: tuple[Duplex, ...] = (Duplex(),) * 4
    updates: Count = 60
    discarded: Count = 5

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from super().problems(setting)
        yield from absent_hosts(("links",), self.names, setting)

    @property
    def names(self) -> list[str]:
        """The nodes of the chain, from the UE on."""
        return ["ue", *(f"mec{hop}" for hop in range(1, len(self.links))), "cloud"]


class RouteParameters(live_route.LiveRouteParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A service with a handover from the route ``before`` to ``after``, then the failure of the node ``dies``.

    Nodes of ``before`` start with the service, the other nodes of ``after`` join it. ``tasks`` run in each phase, and
    ``calibration`` of them first, to measure the overhead of a hop besides sending and delay (psi of Eq. 10).
    """

    after: list[live_route.RouteNodeName]
    dies: live_route.RouteNodeName | None = None
    calibration: Count = 6

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from super().problems(setting)
        yield from absent_hosts(("after",), self.after, setting)
        if setting.hosts is not None and self.dies is not None:
            yield Problem(("dies",), "a run cannot kill a node on another machine; leave it out with --hosts")

    def __post_init__(self) -> None:
        self.check_routes(self.before, self.after, self.left or [])
        if self.before[0] != self.after[0]:
            raise ValueError(f"after: begins at {self.after[0]}; both routes must begin at the UE {self.before[0]}")

    @property
    def left(self) -> list[str] | None:
        """The route ``after`` without the node that fails."""
        return None if self.dies is None else [name for name in self.after if name != self.dies]


def updates(parameters: UpdateParameters, context: Context) -> Iterator[Measurement]:
    """Time of an update, from the runner's request at the last node to the UE's report; bytes are of whole frames."""
    names = parameters.names
    sample, granularity = parameters.sample, parameters.granularity
    frames = frames_of_model(parameters.model, ANY_CLASSES, sample.shape, granularity, sample.dtype)
    layers = len(frames) - 1
    links = dict(zip(pairwise(names), parameters.links, strict=True))
    setup = ServiceSetup(
        service=live_route.service_of(parameters.model, sample, granularity, Pace(tasks=0), paced=False),
        layer_s={name: [0.1 / layers / (1 + hop)] * layers for hop, name in enumerate(names)},
        links=links,
        known={pair: live_route.known_of(link.up, 0.0) for pair, link in links.items()},
        seed=context.seed,
    )

    async def script(live: LiveService) -> list[float]:
        await live.join(*names)
        await live.set_route(*names)
        await live.until_updates()
        times = [await live.update(names[-1]) for _ in range(parameters.discarded + parameters.updates)]
        await live.end()
        reports.update(live.reports)
        return times[parameters.discarded :]

    reports: dict[str, NodeReport] = {}
    live_times, calibration = live_route.served(setup, script, context)
    yield from calibration
    for quantile, value in (("median", statistics.median(live_times)), ("mean", statistics.fmean(live_times))):
        yield Measurement("split_update_ms", 1e3 * value, "ms", {"statistic": quantile})
    for name in names[1:]:
        sent = reports[name].sent_downlink["sci"]
        yield Measurement("sci_bytes", _frame_bytes(sent), "B", {"node": name})
    yield Measurement("layers", layers, "layers")


def handover(parameters: RouteParameters, context: Context) -> Iterator[Measurement]:
    """Tasks before and after a handover and a join, and after a node's failure; predicted and measured."""
    extra_s = _hop_overhead(parameters, context)
    setup = live_route.setup_of(parameters, context, extra_s)
    phases: dict[str, list[TaskReport]] = {}

    async def script(live: LiveService) -> None:
        await live_route.begin(live, parameters, parameters.tasks + 1)
        phases["before"] = live.tasks[1:]  # the first is warm-up
        await live.join(*(name for name in parameters.after if name not in parameters.before))
        await live.set_route(*parameters.after)
        phases["after"] = await _counted(live, parameters, settling=3)  # one in flight, one that the change may meet
        if parameters.dies is not None:
            live.kill(parameters.dies)
            phases["left"] = await _counted(live, parameters, settling=3)
        await live.end()
        reports.update(live.reports)

    reports: dict[str, NodeReport] = {}
    _, calibration = live_route.served(setup, script, context)
    yield from calibration
    yield Measurement("hop_overhead_s", extra_s / parameters.dilation, "s")
    for phase, tasks in phases.items():
        yield from _phase_measurements(phase, tasks, parameters)
    errors = [live_route.error_of(task) for tasks in phases.values() for task in tasks]
    yield Measurement("prediction_error", statistics.fmean(errors), "1", {"phase": "all"})
    before, after = (statistics.median(task.latency_s for task in phases[phase]) for phase in ("before", "after"))
    yield Measurement("latency_increase_ms", 1e3 * ((after - before) / parameters.dilation), "ms")
    yield Measurement("kept_nodes_changed", changed(phases, parameters), "1")
    yield Measurement("parameter_messages", sum("parameters" in r.sent_uplink for r in reports.values()), "1")
    yield Measurement("overrun_s", sum(report.overrun_s for report in reports.values()) / parameters.dilation, "s")


def _routes(parameters: RouteParameters) -> dict[str, list[str]]:
    routes = {"before": parameters.before, "after": parameters.after}
    return routes if parameters.left is None else {**routes, "left": parameters.left}


def _phase_measurements(phase: str, tasks: Sequence[TaskReport], parameters: RouteParameters) -> Iterator[Measurement]:
    """Latency, prediction error, restarts and layers of one phase."""
    for task in tasks:
        for source, value in (("measured", task.latency_s), ("predicted", task.predicted_s)):
            case: dict[str, CaseValue] = {"phase": phase, "task": task.step, "source": source}
            yield Measurement("latency_ms", 1e3 * (value / parameters.dilation), "ms", case)
    median_ms = 1e3 * (statistics.median(task.latency_s for task in tasks) / parameters.dilation)
    yield Measurement("median_latency_ms", median_ms, "ms", {"phase": phase})
    yield Measurement("prediction_error", statistics.fmean(map(live_route.error_of, tasks)), "1", {"phase": phase})
    yield Measurement("restarts", sum(task.restarts for task in tasks), "1", {"phase": phase})
    last = tasks[-1]
    for name in _routes(parameters)[phase]:
        yield Measurement("layers", live_route.held(last, name), "layers", {"phase": phase, "node": name})


def changed(phases: Mapping[str, Sequence[TaskReport]], parameters: RouteParameters) -> int:
    """Nodes with the same upstream neighbour on both routes that have another number of layers after the handover."""
    kept = [lower for _, lower in set(pairwise(parameters.before)) & set(pairwise(parameters.after))]
    first, second = phases["before"][-1], phases["after"][-1]
    return sum(live_route.held(first, name) != live_route.held(second, name) for name in kept)


def _hop_overhead(parameters: RouteParameters, context: Context) -> float:
    """Seconds of overhead per hop on this machine, calibrated on separate tasks."""
    setup = live_route.setup_of(parameters, context, 0.0)

    async def script(live: LiveService) -> list[TaskReport]:
        await live_route.begin(live, parameters, parameters.calibration + 1)
        return live.tasks[1:]

    tasks, _ = live_route.served(setup, script, context)
    hops = [len(task.splits) - 1 for task in tasks]
    found = [(task.latency_s - task.predicted_s) / count for task, count in zip(tasks, hops, strict=True) if count]
    return max(0.0, statistics.median(found)) if found else 0.0


def _frame_bytes(sent: Traffic) -> float:
    return (sent.header_bytes + sent.payload_bytes) / sent.messages


Phases = dict[str, list[TaskReport]]


class RateParameters(live_route.LiveRouteParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The link from the UE is ``slowdown`` times slower in the second of two phases.

    The first ``settling`` tasks of each phase are not counted. A measured rate is the median of the last ``transfers``;
    nodes check their links every ``check_s``.
    """

    rates: Literal["known", "measured"] = "known"
    slowdown: Positive = 20.0
    settling: Count = 4
    transfers: Count = 3
    check_s: Positive = 0.02

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from super().problems(setting)
        for name in ("transfers", "check_s") if self.rates == "known" else ():
            yield Problem((name,), "only used where nodes measure rates; rates is known", unused=True)

    @property
    def policy(self) -> Policy:
        """The policy of link estimates: small changes of measured rates trigger no new split."""
        if self.rates == "known":
            return Policy()
        return Policy(rate_transfers=self.transfers, check_s=self.check_s * self.dilation, min_change=0.01)


def rates(parameters: RateParameters, context: Context) -> Iterator[Measurement]:
    """Latency, its prediction error and the nodes' layers, before and after the link becomes slow."""
    setup = live_route.setup_of(parameters, context)
    blind = parameters.rates == "measured"
    known = {ends: replace(link, rate_bps=None) if blind else link for ends, link in setup.known.items()}
    setup = replace(setup, service=replace(setup.service, policy=parameters.policy), known=known)
    upper, lower = parameters.before[:2]
    spec = parameters.links[f"{upper}-{lower}"]
    link = LinkProfile(
        rate_bps=spec.rate_bps / parameters.slowdown / parameters.dilation, delay_s=spec.delay_s * parameters.dilation
    )

    async def script(live: LiveService) -> Phases:
        await live_route.begin(live, parameters)
        before = await _counted(live, parameters, parameters.settling)
        await live.set_link(upper, lower, Duplex(up=link, down=link))
        if not blind:
            await live.announce_link(upper, lower, live_route.known_of(link, 0.0))
        slow = await _counted(live, parameters, parameters.settling)
        await live.end()
        return {"before": before, "slow": slow}

    phases, calibration = live_route.served(setup, script, context)
    yield from calibration
    for phase, tasks in phases.items():
        latency_ms = 1e3 * (statistics.median(task.latency_s for task in tasks) / parameters.dilation)
        yield Measurement("latency_ms", latency_ms, "ms", {"phase": phase})
        yield Measurement("prediction_error", statistics.fmean(map(live_route.error_of, tasks)), "1", {"phase": phase})
        for name in parameters.before:
            yield Measurement("layers", live_route.held(tasks[-1], name), "layers", {"phase": phase, "node": name})


async def _counted(live: LiveService, parameters: live_route.LiveRouteParameters, settling: int) -> list[TaskReport]:
    """The next tasks after ``settling`` others."""
    begun = len(live.tasks) + settling
    await live.until_tasks(begun + parameters.tasks)
    return live.tasks[begun : begun + parameters.tasks]
