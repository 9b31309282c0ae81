"""Bytes and speed of deprune's budgets on a live link, and operations of its coders (sections 4.1 and 3.4).

Sources and server are processes. Waiting slows a source down to its share of a core, so that eight sources need not
have eight cores. The server has the machine's full speed, where the paper's has a GPU.
"""

import math
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import torch
from msgspec.structs import replace
from torch.utils.flop_counter import FlopCounterMode

from bench.experiments.common.learning import layers_of, node_names
from bench.experiments.deprune.experiments import VggTraining, check_cut, make_job, pruned
from bench.suite.experiment import Context, Measurement, Problem, Setting, absent_hosts, attempt, unused_in
from bench.suite.parameter_types import Count, ModelName, PositiveShare
from netem.profiles import Duplex, LinkName, duplex
from nodes.spec.job import Device, InputSpec, StageSpec
from nodes.stages.builtin import build_stage
from nodes.stages.deprune.budget import BudgetPhase, map_budget
from nodes.stages.deprune.stage import MAPS
from nodes.training.in_process import run_in_process
from nodes.training.report import TrainingOutcome
from nodes.zoo.vgg import layers_before
from reports.record import CaseValue

PRODUCT = torch.ops.aten.mul


class SourceTraffic(VggTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``sources`` with ``core_share`` of a core each, with or without deprune's ``module`` at ``share`` of the maps."""

    sources: Count = 1
    core_share: PositiveShare = 1.0
    module: bool = True
    share: PositiveShare = 1 / 32
    link: LinkName | Duplex = "unlimited"
    epochs: Count = 1
    steps: Count | None = None

    @property
    def least(self) -> tuple[int, str]:
        each = f" for each of {self.sources} sources" if self.sources > 1 else ""
        return self.sources * self.batch_size, f"a batch of {self.batch_size}{each}"

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from unused_in(self, dict.fromkeys(("link", "core_share"), ("live",)), setting.mode)
        for name in () if self.module else ("share", "resolution"):
            yield Problem((name,), "only used with the module", unused=True)
        ue, server = node_names(2)
        sources = [ue] if self.sources == 1 else [f"{ue}{source + 1}" for source in range(self.sources)]
        yield from absent_hosts(("sources",), [*sources, server], setting)
        yield from super().problems(setting)


class Coders(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A cut of VGG-11 for ``input``; operations of its coders are counted at ``shares`` of the maps."""

    model: ModelName = ModelName("nodes.zoo.vgg:vgg11")
    input: InputSpec = InputSpec(shape=(3, 32, 32))
    cut: int = 5
    resolution: Count = 1
    shares: tuple[PositiveShare, ...] = (1.0, 1 / 4, 1 / 32)

    def problems(self, _setting: Setting) -> Iterator[Problem]:
        layout = yield from attempt(("model",), layers_of, str(self.model), 10, self.input)
        if layout is not None:
            stage = pruned([BudgetPhase(1, 1.0)], resolution=self.resolution)
            yield from attempt(("cut",), check_cut, self.cut, layout, stage)


def traffic(parameters: SourceTraffic, context: Context) -> Iterator[Measurement]:
    """Train for some steps: bytes over the link, samples a second, network time, memory of the processes."""
    phases = [BudgetPhase(parameters.epochs, parameters.share)]
    stage = pruned(phases, resolution=parameters.resolution) if parameters.module else StageSpec()
    job = make_job(parameters, context, stage, phases)
    devices = (Device(slowdown=1 / parameters.core_share), Device()) if parameters.core_share < 1 else ()
    job = replace(job, sources=parameters.sources, steps=parameters.steps, devices=devices)
    if context.mode == "in-process":
        outcome = run_in_process(job)
    else:
        from bench.live.training import run_live  # noqa: PLC0415  (aiohttp and uvloop, which a run in process does without)

        link = [duplex(parameters.link)]
        outcome = run_live(job, link, shaping=context.shaping, self_test=context.self_test)
        for complaint in outcome.uncalibrated:
            context.say(complaint)
        yield Measurement("uncalibrated_links", len(outcome.uncalibrated), "directions")
    yield from _traffic(outcome)
    yield from _speed(outcome, parameters)


def _traffic(outcome: TrainingOutcome) -> Iterator[Measurement]:
    """Bytes of whole training frames over the link that all sources share."""
    samples = sum(epoch["trained_samples"] for epoch in outcome.epochs)
    total = 0.0
    for direction, way in (("uplink", "up"), ("downlink", "down")):
        sent = sum(epoch[f"train_{way}_bytes"] for epoch in outcome.epochs)
        yield Measurement("link_bytes", sent, "B", {"direction": direction})
        total += sent
    yield Measurement("all_link_bytes", total, "B")
    yield Measurement("bytes_per_sample", total / samples, "B")
    unsettled = sum(link.written_bytes - link.acked_bytes for node in outcome.nodes for link in node.connections)
    yield Measurement("unacknowledged_bytes", unsettled, "B")


def _speed(outcome: TrainingOutcome, parameters: SourceTraffic) -> Iterator[Measurement]:
    """Samples a second by each source's median step, the first excluded; share of network time; memory."""
    steps = len(outcome.step_s) // parameters.sources
    runs = [outcome.step_s[number * steps : (number + 1) * steps] for number in range(parameters.sources)]
    rates = [parameters.batch_size / statistics.median(run[1:] or run) for run in runs]
    yield Measurement("samples_per_s", statistics.mean(rates), "samples/s")
    yield Measurement("all_samples_per_s", sum(rates), "samples/s")
    if parameters.sources == 1:
        busy = sum(node.compute_s for node in outcome.nodes)
        yield Measurement("network_share", max(0.0, 1 - busy / outcome.nodes[0].total_s), "fraction")
    resident_bytes = sum(node.resident_bytes for node in outcome.nodes)
    if resident_bytes:
        yield Measurement("held_bytes", resident_bytes, "B")


def products(*shapes: Any, out_shape: Sequence[int], **options: Any) -> int:
    """Multiplications of an element-wise product; none for scalars."""
    return math.prod(out_shape) if out_shape else 0


def coders(parameters: Coders, context: Context) -> Iterator[Measurement]:
    """Multiplications of coders and filter for a picture, counted and by section 3.4, in all ``printed_macs``."""
    shapes = layers_of(str(parameters.model), 10, parameters.input).shapes(layers_before(parameters.cut))
    ((_, boundary),) = shapes.items()
    maps, kernel = boundary.shape[1], (2 + parameters.resolution) ** 2
    for share in parameters.shares:
        stage = build_stage(pruned([BudgetPhase(1, share)], resolution=parameters.resolution), shapes).eval()
        budget = map_budget(share, maps)
        with torch.no_grad(), FlopCounterMode(display=False, custom_mapping={PRODUCT: products}) as flops:
            codes, _ = stage.compress({name: torch.zeros(value.shape) for name, value in shapes.items()})
            stage.restore(codes)
        resolution = codes[MAPS].shape[2] * codes[MAPS].shape[3]
        formula = 2 * budget * maps * kernel * resolution
        case: dict[str, CaseValue] = {
            "share": f"1/{round(1 / share)}",
            "cut": parameters.cut,
            "resolution": parameters.resolution,
        }
        filtered = flops.get_flop_counts()["Global"][PRODUCT]
        counted = (flops.get_total_flops() - filtered) // 2
        yield Measurement("coder_macs", counted, "MAC", case)
        yield Measurement("formula_macs", formula, "MAC", case)
        yield Measurement("filter_macs", filtered, "MAC", case)
        yield Measurement("formula_filter_macs", resolution * budget, "MAC", case)
        yield Measurement("forward_macs", counted + filtered, "MAC", case)
        yield Measurement("printed_macs", 2 * formula + 2 * resolution * (budget + 1), "MAC", case)
