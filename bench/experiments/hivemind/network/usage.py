"""What HiveMind's tasks use: layers by machine, control messages, and communication against its bound.

Section VII-B1 says that HiveMind uses core and cloud less under high load, section I that its control costs next to
nothing, and section IV-D that no task communicates longer than the UE computes alone, less the cloud.
"""

from collections import Counter
from collections.abc import Iterator
from statistics import fmean

from bench.experiments.hivemind.network.inference import InferenceParameters, field_of, played, updates_ms
from bench.experiments.hivemind.network.scenario import MAY_COMPUTE, machine
from bench.experiments.hivemind.network.tasks import Field, TaskTrace
from bench.suite.experiment import Context, Measurement
from reports.record import CaseValue


def usage(parameters: InferenceParameters, context: Context) -> Iterator[Measurement]:
    """Shares of layers, control a task, and seconds of communication over the bound of section IV-D."""
    field = field_of(parameters, context)
    parts = played(field, "hivemind", parameters, context)
    traces = [trace for part in parts for trace in part.traces()]
    layers = Counter({"iab": 0, "core": 0, "cloud": 0, "ue": 0})
    for trace in traces:
        for name, count in zip(trace.route.nodes, trace.layers, strict=True):
            layers[machine(name) or "iab"] += count
    for kind, count in layers.items():
        yield Measurement("layers_share", count / layers.total(), "fraction", {"machine": kind})
    behind = (layers["core"] + layers["cloud"]) / layers.total()
    yield Measurement("core_and_cloud_share", behind, "fraction")
    control_bytes = fmean(field.sci_bytes * len(trace.route.links) for trace in traces)
    task_bytes = fmean(sum(hop.n_bytes for hop in trace.hops) for trace in traces)
    yield Measurement("control_bytes", control_bytes, "B")
    yield Measurement("control_share", control_bytes / (control_bytes + task_bytes), "fraction")
    latency_ms = fmean(1e3 * trace.latency_s for trace in traces)
    yield Measurement("control_time_share", fmean(updates_ms(parts)) / latency_ms, "fraction")
    cloud = [trace for part in played(field, "cloud", parameters, context) for trace in part.traces()]
    for strategy, found in (("hivemind", traces), ("cloud", cloud)):
        over = [communication_s(trace) / bound_s(field, trace) for trace in found]
        case: dict[str, CaseValue] = {"strategy": strategy}
        yield Measurement("communication_over_bound", fmean(over), "1", case)
        yield Measurement("communication_over_bound_max", max(over), "1", case)


def communication_s(trace: TaskTrace) -> float:
    return trace.latency_s - trace.compute_s


def bound_s(field: Field, trace: TaskTrace) -> float:
    """Section IV-D: the UE's seconds for the whole model, less those of the last node."""
    rows = field.node_s(trace.route, MAY_COMPUTE["hivemind"])
    return sum(rows[0]) - sum(rows[-1])
