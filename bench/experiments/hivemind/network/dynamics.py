"""Effect of changing links on a split, and of forecasting them (HiveMind, figures 6, 16 and 17).

The paper describes only the chain of figure 6, and its traffic by a density of UEs that it does not give. All three
figures use that chain here, with log-normal densities that are correlated over coherence times like other traffic.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from statistics import fmean, median
from typing import Annotated, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.experiments.common.distribution import spread
from bench.experiments.general.cellular import generated
from bench.experiments.hivemind.network import scenario
from bench.experiments.hivemind.network.many_tasks import Foresight, Tasks, gaps_s, latencies_ms, play
from bench.experiments.hivemind.network.tasks import Field, Transfer
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Count, Duration, Positive
from netem.cellular.iab import IabRoute
from netem.cellular.traffic import levels
from reports.record import CaseValue

CAPACITIES_BPS = {"1": 4e9, "2": 2e9, "3": 800e6, "4": 400e6, "5": 100e6}  # section IV-F, from the UE on
# As on the mmWave network's routes: an assumption.
MACHINES: tuple[scenario.Machine, ...] = ("ue", "iab", "iab", "iab", "core", "core")
SHARERS = 8.0  # an assumption
DENSITY_SPREAD = 1.0  # an assumption
SPIKE_MS = 100.0


@dataclass(frozen=True)
class Showcase:
    """Section IV-F's chain: a UE and five MEC servers, each link with a changing number of other UEs."""

    coherence_s: float
    duration_s: float
    rates_bps: dict[str, NDArray[np.float64]]

    def route(self, t: float) -> IabRoute:
        return IabRoute(("ue", *(f"mec{number}" for number in self.rates_bps)), tuple(self.rates_bps))


@cache
def showcase(
    coherence_s: float, duration_s: float, seed: int, sharers: float = SHARERS, spread: float = DENSITY_SPREAD
) -> Showcase:
    """Each link is shared equally by its UEs, whose number changes every ``coherence_s``.

    ``sharers`` is the median of the UEs beside ours, ``spread`` the standard deviation of their number's logarithm.
    """
    rng = np.random.default_rng(seed)
    steps = round(duration_s / coherence_s)
    others = sharers * np.exp(spread * levels(steps, len(CAPACITIES_BPS), rng))
    shares = 1 / (1 + others)
    rates = {name: capacity * shares[:, link] for link, (name, capacity) in enumerate(CAPACITIES_BPS.items())}
    return Showcase(coherence_s, duration_s, rates)


class DynamicsParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network, the coherence time of its links, and the tasks.

    The links of the chain are shared with ``sharers`` other UEs (median, ``density_spread`` of the logarithm).
    """

    where: Literal["chain", "mmwave"] = "chain"
    coherence_s: Duration = 0.05
    duration_s: Duration = 600.0
    tasks: Count = 600
    transfer: Transfer = "integral"
    sharers: Positive = SHARERS
    density_spread: Positive = DENSITY_SPREAD
    unstated: scenario.Unstated = scenario.ASSUMED


class ForesightParameters(DynamicsParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node expects the mean gap of its last ``gaps`` tasks (g of section IV-F, which is not stated)."""

    gaps: Count = 8


class ErrorParameters(ForesightParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Relative standard deviations of the forecast's error."""

    errors: tuple[Annotated[float, msgspec.Meta(ge=0, le=10)], ...] = (0.0, 0.05, 0.1, 0.13, 0.17, 0.25, 0.5)


def surges(parameters: DynamicsParameters, context: Context) -> Iterator[Measurement]:
    """Latency without prediction: task by task for one second, and its distribution over the whole time."""
    field = field_of(parameters, context)
    second = play(field, "hivemind", [0.01 * index for index in range(100)])
    for index, value in enumerate(latencies_ms(second)):
        case: dict[str, CaseValue] = {"course": context.seed, "time_s": round(0.01 * index, 2)}
        yield Measurement("latency_over_time_ms", value, "ms", case)
    yield from spread("latency_ms", latencies_ms(played(field, parameters, context)), "ms", {})


def prediction(parameters: ForesightParameters, context: Context) -> Iterator[Measurement]:
    """Latency and its spikes without prediction, with true future rates, and by the rule of section IV-F."""
    field = field_of(parameters, context)
    ways = {
        "standard": None,
        "predictive": Foresight(gaps=parameters.gaps),
        "by-the-rule": Foresight(gaps=parameters.gaps, coherence_s=parameters.coherence_s),
    }
    by_way = {way: played(field, parameters, context, foresight) for way, foresight in ways.items()}
    latency_ms = {way: latencies_ms(found) for way, found in by_way.items()}
    spikes = {way: sum(value > SPIKE_MS for value in values) for way, values in latency_ms.items()}
    for way, found in by_way.items():
        case = {"way": way}
        yield from spread("latency_ms", latency_ms[way], "ms", case)
        yield Measurement("spike_share", spikes[way] / len(latency_ms[way]), "fraction", case)
        if spikes["standard"]:
            yield Measurement("spikes_left_share", spikes[way] / spikes["standard"], "fraction", case)
        # None where the UE computes every task. Section IV-F has the gap end with the task, not with its transfer.
        if ahead_s := gaps_s(found):
            yield Measurement("look_ahead_ms", 1e3 * fmean(ahead_s), "ms", case)


def accuracy(parameters: ErrorParameters, context: Context) -> Iterator[Measurement]:
    """Median latency and spikes by the forecast's error, against no forecast, and the break-even error."""
    field = field_of(parameters, context)
    without = latencies_ms(played(field, parameters, context))
    standard, spikes = median(without), sum(value > SPIKE_MS for value in without)
    medians = []
    for error in parameters.errors:
        latency_ms = latencies_ms(
            played(field, parameters, context, Foresight(error, context.seed, gaps=parameters.gaps))
        )
        medians.append(median(latency_ms))
        if spikes:
            left = sum(value > SPIKE_MS for value in latency_ms) / spikes
            yield Measurement("spikes_left_share", left, "fraction", {"error": error})
        yield Measurement("median_latency_ms", medians[-1], "ms", {"error": error, "way": "predictive"})
        yield Measurement("median_latency_ms", standard, "ms", {"error": error, "way": "standard"})
        yield Measurement("median_ratio", medians[-1] / standard, "1", {"error": error})
    yield Measurement("break_even_error", break_even(parameters.errors, medians, standard), "fraction")


def field_of(parameters: DynamicsParameters, context: Context) -> Field:
    """ResNet-18 on the chain of figure 6, or in the mmWave network under high load."""
    if parameters.where == "mmwave":
        net = generated("mmwave", "high", parameters.coherence_s, parameters.duration_s, context.seed)
        return scenario.make_field(net, "resnet18-88", parameters.unstated, transfer=parameters.transfer)
    density = parameters.sharers, parameters.density_spread
    chain = showcase(parameters.coherence_s, parameters.duration_s, context.seed, *density)
    return on_chain(chain, parameters.unstated, parameters.transfer)


def on_chain(chain: Showcase, unstated: scenario.Unstated = scenario.ASSUMED, transfer: Transfer = "integral") -> Field:
    """ResNet-18 on the machines along ``chain``."""
    kept = scenario.profiles("resnet18-88", unstated)
    layer_s = {name: kept[kind].forward_s for name, kind in zip(chain.route(0).nodes, MACHINES, strict=True)}
    return scenario.field_on(chain, layer_s, kept["ue"].boundary_bytes, unstated, transfer)


def played(
    field: Field, parameters: DynamicsParameters, context: Context, foresight: Foresight | None = None
) -> list[Tasks]:
    """The tasks as HiveMind splits them by ``foresight``."""
    times_s = scenario.update_times(parameters.duration_s, parameters.tasks, context.seed)
    return play(field, "hivemind", times_s, foresight)


def break_even(errors: Sequence[float], medians: Sequence[float], standard: float) -> float:
    """The error at which prediction stops gaining, interpolated between measured ones; else the last."""
    for (error, value), (after, more) in pairwise(zip(errors, medians, strict=True)):
        if value < standard <= more:
            return error + (after - error) * (standard - value) / (more - value)
    return errors[0] if medians[0] >= standard else errors[-1]
