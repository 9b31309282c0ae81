"""What energy does split training take of the UE and the IAB nodes? HiveMind's figures 11(b), 12(b) and half of 13."""

from collections.abc import Iterator
from statistics import fmean

from bench.experiment import Context, Measurement
from bench.experiments.cellular_training import train, training_meter
from bench.experiments.hivemind_field import MAY_COMPUTE, update_times
from bench.experiments.hivemind_inference import InferenceParameters, field_of
from bench.experiments.spread import spread


def energy(parameters: InferenceParameters, context: Context) -> Iterator[Measurement]:
    """Joules of a batch by strategy, and of it for moving layers; what HiveMind saves against each."""
    field = field_of(parameters, context)
    meter = training_meter(parameters.kind, field, parameters.workload)
    times_s = update_times(parameters.duration_s, parameters.tasks, context.seed)
    by_strategy = {
        strategy: train(field, meter, parameters.workload, may_compute, times_s)
        for strategy, may_compute in MAY_COMPUTE.items()
    }
    means = {name: fmean(batch.energy_j for batch in batches) for name, batches in by_strategy.items()}
    for strategy, batches in by_strategy.items():
        case = {"strategy": strategy}
        yield from spread("energy", [batch.energy_j for batch in batches], "J", case)
        yield Measurement("moves_energy", fmean(batch.moves_j for batch in batches), "J", case)
        yield Measurement("moves", sum(batch.moved_bytes > 0 for batch in batches), "batches", case)
        if strategy != "hivemind":
            yield Measurement("saving", 1 - means["hivemind"] / means[strategy], "fraction", case)
        yield Measurement("relative_efficiency", means["ue"] / means[strategy], "1", case)
        nodes = fmean(sum(map(bool, batch.journey.layers)) for batch in batches)
        yield Measurement("computing_nodes", nodes, "nodes", case)
