"""Privacy of smashed data under inversion, and the cost of a cut, by cut and by stage.

The attacker is an honest but curious server. It has pictures of the same distribution as the client's, none of them
the client's, and the client's trained part of the network; after training it trains a decoder on the smashed data of
its own pictures. ``docs/edge_privacy.md`` describes the findings.
"""

from collections.abc import Iterator
from typing import Annotated, NamedTuple

import msgspec
import numpy as np
import torch
from msgspec.structs import replace
from torch.nn import functional as F

from bench.experiments.common.cuts import cut_problems
from bench.experiments.common.inference import answers, in_order
from bench.experiments.common.learning import ANY_CLASSES, layers_of, sample_of, unused_side
from bench.experiments.common.threads import one_thread
from bench.experiments.common.two_node_training import Trained, TrainingRun, TwoNodeTraining, boundary_after
from bench.suite.document import Key
from bench.suite.experiment import Context, Measurement, Problem, Setting, attempt
from bench.suite.parameter_types import Count, ModelName, StageChoice, stage_specs
from nodes.costs.profile import measure_profile
from nodes.costs.workload import inspect_chain
from nodes.data.batching import subset
from nodes.data.images import Pictures
from nodes.model.boundary import Tensors
from nodes.model.factory import build_model
from nodes.spec.job import InputSpec, StageSpec
from nodes.stages import leakage
from nodes.training.segment import Segment
from nodes.wire.messages import Activation


class Privacy(TwoNodeTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network attacked at each of ``cuts`` without a stage, and at ``cut`` after training with each of ``stages``.

    The server has ``auxiliary_samples`` of the training pictures, the client the others; ``attacked_samples`` of the
    latter are inverted. ``shown`` of these, in grey and ``shown_side`` pixels wide, are recorded pixel by pixel,
    original and reconstructed.
    """

    cuts: tuple[str, ...]
    stages: dict[str, StageChoice] = msgspec.field(default_factory=dict)
    auxiliary_samples: Count = 500
    attacked_samples: Annotated[int, msgspec.Meta(ge=4, le=10_000)] = 250
    attack_epochs: Count = 20
    shown: Annotated[int, msgspec.Meta(ge=0, le=16)] = 0
    shown_side: Annotated[int, msgspec.Meta(ge=1, le=32)] = 8

    def spec(self, stage: str) -> StageSpec:
        return stage_specs(self.stages[stage], 1)[0]

    def problems(self, setting: Setting) -> Iterator[Problem]:
        key = ("side",) if self.input is None else ("input",)
        if self.sample.dtype != "float32":
            yield Problem(key, "reconstructed are pictures; tokens cannot be")
        elif min(self.sample.shape[1:]) < leakage.WINDOW:
            yield Problem(key, f"got {self.sample.shape[-1]}; SSIM needs {leakage.WINDOW} pixels or more")
        if not self.shown:
            yield Problem(("shown_side",), "only used with shown", unused=True)
        yield from _cut_problems(self.model, self.sample, self.cuts)
        stages: dict[Key, StageSpec] = {("stages", stage): self.spec(stage) for stage in self.stages}
        if self.train_samples is not None and self.attacked_samples > self.train_samples - self.auxiliary_samples:
            left = max(0, self.train_samples - self.auxiliary_samples)
            message = f"got {self.attacked_samples}; of {self.train_samples} training pictures {left} are not held out"
            yield Problem(("attacked_samples",), message)
        yield from self.training_problems(setting, stages, besides=self.auxiliary_samples)


class Depth(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network and its cuts, for pictures of ``side`` pixels, or ``input``, and ten classes."""

    model: ModelName
    cuts: tuple[str, ...]
    side: Count = 32
    input: InputSpec | None = None
    repeats: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 5

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from () if self.input is None else [unused_side("side")]
        yield from _cut_problems(self.model, sample_of(self.side, self.input), self.cuts)


class Attack(NamedTuple):
    """The server's pictures, those that it attacks, and the epochs of its training."""

    auxiliary: Pictures
    wanted: Pictures
    epochs: int
    seed: int

    def on(self, client: Segment) -> tuple[torch.Tensor, torch.Tensor]:
        """The smashed data of the attacked pictures (N, ...) and their reconstructions (N, 3, S, S)."""
        device = client.job.device
        known, sent = (smashed(client, pictures).to(device) for pictures in (self.auxiliary, self.wanted))
        with one_thread():
            decoder = leakage.train_inversion_decoder(
                known, pixels(self.auxiliary).to(device), epochs=self.epochs, seed=self.seed
            )
            return sent.cpu(), leakage.invert(decoder, sent).cpu()


def pixels(pictures: Pictures) -> torch.Tensor:
    """(N, 3, S, S) in [0, 1]."""
    images = pictures.images[np.arange(len(pictures))].transpose(0, 3, 1, 2)
    return torch.from_numpy(np.ascontiguousarray(images)).float() / 255


def recut(trained: Trained, boundary: int) -> list[Segment]:
    """The trained network cut in two at another ``boundary``, without a stage."""
    weights = f"{trained.job.checkpoint}/network.pt"
    torch.save({name: one for segment in trained.segments for name, one in segment.state().items()}, weights)
    job = replace(trained.job, splits=(boundary,), weights=weights)
    return [Segment(job, index) for index in range(2)]


def smashed(client: Segment, pictures: Pictures) -> torch.Tensor:
    """The smashed data (N, ...) that the server decodes for ``pictures``, in evaluation mode."""
    found = []
    for number, (some, _) in enumerate(in_order(pictures)):
        message = client.source(some, None, assignment=0, step=number, train=False)
        assert isinstance(message, Activation)
        found.append(_code(client.outbound.decode(message.tensors), len(some)))
    return torch.cat(found)


def _code(codes: Tensors, count: int) -> torch.Tensor:
    """The floating-point code of all ``count`` samples; several are flattened and joined. ValueError for none."""
    found = [code for code in codes.values() if code.is_floating_point() and code.ndim > 1 and len(code) == count]
    if not found:
        raise ValueError(f"no code of {sorted(codes)} holds all {count} samples; give the stage one path")
    return found[0] if len(found) == 1 else torch.cat([code.flatten(1) for code in found], 1)


def privacy(parameters: Privacy, context: Context) -> Iterator[Measurement]:
    """Train once and attack the network at every cut; then train with each stage and attack that network."""
    run = TrainingRun(parameters, context, hold_out=parameters.auxiliary_samples)
    assert run.held_out is not None
    wanted = subset(run.data.train, parameters.attacked_samples, context.seed)
    attack = Attack(run.held_out, wanted, parameters.attack_epochs, context.seed)
    yield from _shown(pixels(wanted), "original", parameters)

    def at_cuts(trained: Trained) -> Iterator[Measurement]:
        for cut in parameters.cuts:
            case = {"cut": cut, "stage": "identity"}
            yield trained.pictures(case)
            segments = recut(trained, boundary_after(run.layout, cut))
            yield from _attacked(attack, segments, run.data.test, case, parameters)

    yield from run.once("cuts", StageSpec(), at_cuts)
    for number, stage in enumerate(parameters.stages):

        def with_stage(trained: Trained, stage: str = stage) -> Iterator[Measurement]:
            case = {"cut": parameters.cut, "stage": stage}
            yield trained.pictures(case)
            yield from _attacked(attack, trained.segments, run.data.test, case, parameters)

        yield from run.once(f"stage-{number}", parameters.spec(stage), with_stage)


def depth(parameters: Depth, context: Context) -> Iterator[Measurement]:
    """The client's share of the work and the bytes over each cut; "input" sends the picture itself.

    ``device_work_share`` is the client's share of the forward pass's operations (exact), ``device_time_share`` its
    share of the seconds of forward and backward pass on this machine.
    """
    sample = sample_of(parameters.side, parameters.input)
    layout = layers_of(str(parameters.model), ANY_CLASSES, sample)
    work = inspect_chain(layout)
    with one_thread():
        model = build_model(str(parameters.model), ANY_CLASSES, layout.input_shape)
        profile = measure_profile(model, sample.shape, dtype=sample.dtype, repeats=parameters.repeats)
    seconds = [forward + backward for forward, backward in zip(profile.forward_s, profile.backward_s, strict=True)]
    for cut in ("input", *parameters.cuts):
        done = 0 if cut == "input" else boundary_after(layout, cut)
        case = {"cut": cut}
        yield Measurement("layers", done, "layers", case)
        yield Measurement("device_work_share", sum(work.flops[:done]) / sum(work.flops), "fraction", case)
        yield Measurement("device_time_share", sum(seconds[:done]) / sum(seconds), "fraction", case)
        yield Measurement("smashed_bytes", work.boundary_bytes[done], "B", case)


def _attacked(
    attack: Attack, segments: list[Segment], test: Pictures, case: dict[str, str], parameters: Privacy
) -> Iterator[Measurement]:
    """Bytes, accuracy and leakage of one cut; the blind attacker's guess is the mean picture."""
    answered = answers(segments, test)
    sent, read = attack.on(segments[0])
    wanted = pixels(attack.wanted)
    blind = leakage.mean_picture(pixels(attack.auxiliary), len(wanted))
    yield Measurement("test_accuracy", answered.accuracy, "fraction", case)
    yield Measurement("bytes_per_sample", answered.bytes_per_sample, "B", case)
    yield Measurement("distance_correlation", leakage.distance_correlation(wanted, sent), "1", case)
    yield Measurement("ssim", float(leakage.ssim(read, wanted).mean()), "1", case)
    yield Measurement("blind_ssim", float(leakage.ssim(blind, wanted).mean()), "1", case)
    yield Measurement("reconstruction_error", leakage.mean_squared_error(read, wanted), "1", case)
    yield Measurement("blind_error", leakage.mean_squared_error(blind, wanted), "1", case)
    name = f"cut {case['cut']}" if case["stage"] == "identity" else f"{case['stage']} at {case['cut']}"
    yield from _shown(read, name, parameters)


def _shown(pictures: torch.Tensor, shows: str, parameters: Privacy) -> Iterator[Measurement]:
    """The first of ``pictures`` (N, C, S, S), pixel by pixel, for a figure."""
    if parameters.shown:
        side = min(parameters.shown_side, pictures.shape[-1])
        grey = F.adaptive_avg_pool2d(pictures[: parameters.shown].mean(1), side)
        for (picture, row, column), value in np.ndenumerate(grey.numpy()):
            case = {"shows": shows, "picture": picture + 1, "row": row, "column": column}
            yield Measurement("pixel", float(value), "1", case)


def _cut_problems(model: ModelName, sample: InputSpec, cuts: tuple[str, ...]) -> Iterator[Problem]:
    """Problems of ``cuts`` that the model does not have, or of a model that cannot be cut."""
    layout = yield from attempt(("model",), layers_of, str(model), ANY_CLASSES, sample)
    for number, cut in enumerate(cuts):
        if layout is not None:
            done = yield from attempt(("cuts", number), boundary_after, layout, cut)
            yield from () if done is None else cut_problems(("cuts", number), layout, done)
