"""The UE's bandwidth on every link of HiveMind's cellular networks, and the time of an upload."""

import functools
from collections.abc import Iterator
from typing import Annotated

import msgspec
import numpy as np

from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Duration
from netem import cellular
from netem.cellular.iab import NetworkKind
from netem.cellular.network import Network
from netem.cellular.traffic import Load

EVERY_S = 0.5  # between two uploads

generated = functools.cache(cellular.network)  # once for all experiments of this process


class NetworkParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network of ``netem.cellular`` over ``duration_s``; it changes every ``coherence_s``."""

    kind: NetworkKind = "mmwave"
    load: Load = "mid"
    coherence_s: Duration = 0.05
    duration_s: Duration = 600.0

    def __post_init__(self) -> None:
        if self.coherence_s > self.duration_s:
            raise ValueError(f"coherence_s ({self.coherence_s}) is longer than duration_s ({self.duration_s})")

    def make(self, seed: int) -> Network:
        return generated(self.kind, self.load, self.coherence_s, self.duration_s, seed)


class CourseParameters(NetworkParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``step_s`` is the averaging window of each point of the course."""

    step_s: Duration = 1.0


class UploadParameters(NetworkParameters, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``payload_bytes`` from the UE to the cloud; the default is a picture of 224 x 224 with three bytes a pixel."""

    payload_bytes: Annotated[int, msgspec.Meta(ge=1, le=1 << 40)] = 224 * 224 * 3


def bandwidth(parameters: NetworkParameters, context: Context) -> Iterator[Measurement]:
    """Mean and deviation of the UE's bandwidth on each link over the whole time, and those of Table I."""
    found = parameters.make(context.seed)
    table = found.topology.table_bps
    for link, rates_bps in found.rates_bps.items():
        both = {"network": (rates_bps.mean(), rates_bps.std())}
        if link in table:
            both["Table I"] = table[link]
        for source, (mean_bps, std_bps) in both.items():
            case = {"link": link, "source": source}
            yield Measurement("bandwidth_mean_mbps", mean_bps / 1e6, "Mbit/s", case)
            yield Measurement("bandwidth_std_mbps", std_bps / 1e6, "Mbit/s", case)


def course(parameters: CourseParameters, context: Context) -> Iterator[Measurement]:
    """The bandwidth of every link and the hops to the cloud along the UE's trajectory."""
    found = parameters.make(context.seed)
    width = max(1, round(parameters.step_s / parameters.coherence_s))
    for start in range(0, len(found.serving) - width + 1, width):
        time_s = round(start * parameters.coherence_s, 6)
        for link, rates_bps in found.rates_bps.items():
            metric = "access_bandwidth_mbps" if link == found.topology.access else "backhaul_bandwidth_mbps"
            mean_bps = rates_bps[start : start + width].mean()
            yield Measurement(metric, mean_bps / 1e6, "Mbit/s", {"time_s": time_s, "link": link})
        yield Measurement("hops", len(found.route(time_s).links), "hops", {"time_s": time_s})


def upload(parameters: UploadParameters, context: Context) -> Iterator[Measurement]:
    """Seconds of a payload to the cloud, link after link, at the rates when it starts (HiveMind, Eq. 10)."""
    found = parameters.make(context.seed)
    times_s = np.arange(0.0, found.duration_s, EVERY_S).tolist()
    seconds = [
        sum(8 * parameters.payload_bytes / found.rate_bps(link, time_s) for link in found.route(time_s).links)
        for time_s in times_s
    ]
    yield Measurement("upload_s", float(np.mean(seconds)), "s")
    yield Measurement("upload_p95_s", float(np.quantile(seconds, 0.95)), "s")
