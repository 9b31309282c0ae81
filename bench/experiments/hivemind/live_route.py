"""Measured and predicted latency of tasks on a live route (HiveMind, figure 11(a)).

Every node is a process with the real layers, links are emulated, split costs travel as messages. Strategies differ in
the nodes that may compute: all others have infinite compute time.
"""

import statistics
from collections.abc import Awaitable, Callable, Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import Annotated, TypeVar

import msgspec

from bench.experiments.common.cuts import service_problems
from bench.experiments.common.learning import ANY_CLASSES, compared, layers_of, sample_of, unused_side
from bench.live.inference import LiveService, ServiceSetup, run_service
from bench.suite.experiment import Context, Measurement, Problem, Setting, absent_hosts, attempt
from bench.suite.parameter_types import Count, ModelName, NonNegative, Positive
from netem.link import LinkProfile
from netem.profiles import Duplex
from nodes.costs.profile import measure_profile
from nodes.model.factory import build_model
from nodes.spec.job import DataSpec, Granularity, InputSpec
from nodes.spec.policy import LinkSpec
from nodes.spec.service import Pace, Service
from nodes.wire.messages import TaskReport

RouteNodeName = Annotated[str, msgspec.Meta(pattern=r"^\w+$")]
PICTURES = 8
ENDLESS = Pace(tasks=1 << 40)  # until the script ends the service
T = TypeVar("T")


class RouteLink(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A link between two nodes, the same in both directions."""

    rate_bps: Positive
    delay_s: NonNegative


class ServiceParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The model of a service, for pictures of ``input_side`` pixels, or ``input``."""

    model: ModelName = ModelName("resnet18")
    input_side: Count = 32
    input: InputSpec | None = None
    granularity: Granularity = "module"

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from () if self.input is None else [unused_side("input_side")]
        layout = yield from attempt(("model",), layers_of, str(self.model), ANY_CLASSES, self.sample, self.granularity)
        if layout is not None:
            yield from service_problems(("model",), layout)
            yield from compared(str(self.model), self.sample, setting)

    @property
    def sample(self) -> InputSpec:
        """One sample of the model's input."""
        return sample_of(self.input_side, self.input)


class LiveRouteParameters(ServiceParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``tasks`` of a service on the route ``before``, from the UE on, over ``links`` (``ue-iab1``).

    ``model_compute_s`` are the seconds of the whole model on each node's device. Only the nodes of ``computing`` may
    compute; if it is empty, all may. All times are multiplied by ``dilation`` and all rates divided by it.
    """

    model_compute_s: dict[RouteNodeName, Positive]
    links: dict[str, RouteLink]
    before: list[RouteNodeName]
    computing: list[RouteNodeName] = []
    tasks: Count = 8
    dilation: Annotated[float, msgspec.Meta(ge=1)] = 1.0

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from super().problems(setting)
        yield from absent_hosts(("before",), self.before, setting)

    def __post_init__(self) -> None:
        self.check_routes(self.before)

    def check_routes(self, *routes: Sequence[str]) -> None:
        """Raise ValueError for a route over an undefined link or node."""
        for upper, lower in (pair for route in routes for pair in pairwise(route)):
            if f"{upper}-{lower}" not in self.links:
                raise ValueError(f"links: no link {upper}-{lower}, which a route uses")
        if missing := {name for route in routes for name in route} - self.model_compute_s.keys():
            raise ValueError(f"model_compute_s: no compute time for node {', '.join(sorted(missing))}")


def steady(parameters: LiveRouteParameters, context: Context) -> Iterator[Measurement]:
    """Latency of tasks on a constant route, measured and predicted, and each node's layers."""

    async def script(live: LiveService) -> list[TaskReport]:
        await begin(live, parameters, tasks=parameters.tasks + 1)  # the first warms everything up
        await live.end()
        return live.tasks[1 : parameters.tasks + 1]

    tasks, calibration = served(setup_of(parameters, context), script, context)
    yield from calibration
    measured, predicted = [task.latency_s for task in tasks], [task.predicted_s for task in tasks]
    for source, values in (("measured", measured), ("predicted", predicted)):
        latency_ms = 1e3 * (statistics.median(values) / parameters.dilation)
        yield Measurement("latency_ms", latency_ms, "ms", {"source": source})
    yield Measurement("prediction_error", statistics.fmean(map(error_of, tasks)), "1")
    for name in parameters.before:
        yield Measurement("layers", held(tasks[-1], name), "layers", {"node": name})


async def begin(live: LiveService, parameters: LiveRouteParameters, tasks: int = 0) -> None:
    """Begin the service on the route ``before``, and wait for its first ``tasks``."""
    await live.join(*parameters.before)
    await live.set_route(*parameters.before)
    await live.begin()
    await live.until_tasks(tasks)


def served(
    setup: ServiceSetup, script: Callable[[LiveService], Awaitable[T]], context: Context
) -> tuple[T, list[Measurement]]:
    """The result of ``script``, and the number of links out of calibration if any link is shaped."""

    async def play(live: LiveService) -> tuple[T, list[str]]:
        return await script(live), live.uncalibrated

    result, complaints = run_service(setup, play, shaping=context.shaping, self_test=context.self_test)
    for complaint in complaints:
        context.say(f"not calibrated: {complaint}")
    if context.shaping == "none" or all(link == Duplex() for link in setup.links.values()):
        return result, []
    return result, [Measurement("uncalibrated_links", len(complaints), "directions")]


def held(task: TaskReport, name: str) -> int:
    """The number of layers of ``task`` that the node ``name`` computed."""
    if name not in task.splits:
        return 0
    reached = list(task.splits)
    before = reached.index(name)
    return task.splits[name] - (task.splits[reached[before - 1]] if before else 0)


def error_of(task: TaskReport) -> float:
    """The error of the prediction relative to the measured latency."""
    return abs(task.predicted_s - task.latency_s) / task.latency_s


def setup_of(parameters: LiveRouteParameters, context: Context, extra_s: float = 0.0) -> ServiceSetup:
    """Nodes, links and costs, dilated; ``extra_s`` is the calibrated overhead of a hop."""
    sample = parameters.sample
    model = build_model(parameters.model, ANY_CLASSES, sample.shape)
    profile = measure_profile(model, sample.shape, parameters.granularity, dtype=sample.dtype)
    k, total_s = parameters.dilation, sum(profile.forward_s)
    links, known = {}, {}
    for ends, spec in parameters.links.items():
        upper, _, lower = ends.partition("-")
        slow = LinkProfile(rate_bps=spec.rate_bps / k, delay_s=spec.delay_s * k)
        links[upper, lower], known[upper, lower] = Duplex(up=slow, down=slow), known_of(slow, extra_s)
    return ServiceSetup(
        service=service_of(parameters.model, sample, parameters.granularity, ENDLESS, paced=True),
        layer_s={
            name: [k * compute_s * layer_s / total_s for layer_s in profile.forward_s]
            if name in (parameters.computing or parameters.model_compute_s)
            else [inf] * len(profile.forward_s)
            for name, compute_s in parameters.model_compute_s.items()
        },
        links=links,
        known=known,
        seed=context.seed,
    )


def service_of(model: str, sample: InputSpec, granularity: Granularity, pace: Pace, *, paced: bool) -> Service:
    """A service with one blank sample a task."""
    return Service(
        model=str(model),
        input_shape=sample.shape,
        input_type=sample.dtype,
        classes=ANY_CLASSES,
        pace=pace,
        granularity=granularity,
        paced=paced,
        data=DataSpec(name="none", test_samples=PICTURES),
        threads=1,
    )


def known_of(link: LinkProfile, extra_s: float) -> LinkSpec:
    """The specification of ``link`` that nodes receive."""
    return LinkSpec(rate_bps=link.rate_bps, delay_s=link.delay_s + extra_s)
