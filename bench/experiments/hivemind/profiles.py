"""Time and energy of HiveMind's networks on this machine, and by the model of the paper's four machines."""

import time
from collections.abc import Iterator
from math import fsum
from typing import Annotated

import msgspec
import torch
from torch import nn

from bench.experiments.hivemind.network.scenario import ASSUMED, Unstated
from bench.suite.experiment import Context, Measurement
from bench.suite.parameter_types import Positive, WorkloadName
from nodes.costs.devices import predict_profile
from nodes.costs.energy import constant_power, rapl_counter
from nodes.costs.profile import Profile, measure_profile
from nodes.costs.workload import load_workload
from nodes.model.factory import build_model
from nodes.zoo.faster_rcnn import FasterRcnn


class ProfileParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A packaged workload, measured in ``repeats`` passes; ``power_w`` without a readable energy counter."""

    workload: WorkloadName = WorkloadName("resnet18-88")
    repeats: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5
    power_w: Positive = 15.0  # of two server cores: an assumption
    unstated: Unstated = ASSUMED


def measured(parameters: ProfileParameters, context: Context) -> Iterator[Measurement]:
    """Seconds and joules of one picture, forward and backward: measured here, modelled for other machines."""
    work = load_workload(parameters.workload)
    counter = rapl_counter()
    here = measure_profile(
        network(work.model, work.input_shape),
        work.input_shape,
        "module",
        repeats=parameters.repeats,
        device=context.device,
        joules=counter or constant_power(parameters.power_w, time.perf_counter),
    )
    yield from totals("here", here)
    yield Measurement("has_energy_counter", float(counter is not None), "1", {"machine": "here"})
    for name, device in parameters.unstated.machines().items():
        yield from totals(name, predict_profile(device, work))


def totals(machine: str, profile: Profile) -> Iterator[Measurement]:
    """The sums over the layers."""
    case = {"machine": machine}
    yield Measurement("forward_s", fsum(profile.forward_s), "s", case)
    yield Measurement("backward_s", fsum(profile.backward_s), "s", case)
    yield Measurement("forward_energy_j", fsum(profile.forward_j), "J", case)
    yield Measurement("backward_energy_j", fsum(profile.backward_j), "J", case)
    yield Measurement("backward_over_forward", fsum(profile.backward_s) / fsum(profile.forward_s), "1", case)
    yield Measurement("layers", len(profile.layers), "layers", case)


def network(name: str, input_shape: tuple[int, ...]) -> nn.Module:
    """The network of a packaged workload."""
    if name != "faster_rcnn":
        return build_model(name, 1000, input_shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FasterRcnn()
