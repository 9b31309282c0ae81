"""DynSplit, trained in this process: training by target ratio, its baselines, its gate, and links that it follows."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from msgspec.structs import replace
from torch import nn

from bench.experiments.common.inference import Answers, answers, in_order
from bench.experiments.common.learning import layers_of
from bench.experiments.common.two_node_training import Trained, TrainingRun, TwoNodeTraining, boundary_after
from bench.experiments.dynsplit import paths
from bench.suite.experiment import Context, Measurement, Problem, Setting, attempt
from bench.suite.parameter_types import Count, ModelName, Positive, Share, StageChoice, stage_specs
from nodes.data.batching import subset
from nodes.model.chain import Chain
from nodes.model.checkpoint import write_state
from nodes.model.factory import build_model
from nodes.model.weights import fit_weights
from nodes.spec.job import DistillationSpec, InputSpec, StageSpec
from nodes.stages.builtin import BUILT_IN, build_stage
from nodes.stages.dynsplit import gate as gating
from nodes.stages.dynsplit.pretraining import pretrain
from nodes.stages.dynsplit.stage import DynSplit
from nodes.training.segment import Segment
from nodes.wire.messages import Activation
from reports.record import TRAINED_PICTURES, CaseValue


class Distillation(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How much of the loss is the distance from the pre-trained network's softmax, and at which temperature."""

    temperature: Positive = 4.0
    weight: Share = 0.9

    def of(self, teacher: str) -> DistillationSpec:
        """The same of the ``teacher`` whose weights are in that file."""
        return DistillationSpec(teacher=teacher, temperature=self.temperature, weight=self.weight)


class Single(TwoNodeTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training with one stage, without a target ratio.

    With ``coder_epochs`` the auto-encoders of stage dynsplit are first fitted to the pre-trained network, that long.
    With ``distillation`` the pre-trained network is the teacher too (Hinton et al., 2015).
    Stage picture is told the data set's mean and deviation.
    """

    stage: StageChoice = "identity"
    coder_epochs: int = 0
    distillation: Distillation | None = None

    @property
    def spec(self) -> StageSpec:
        return stage_specs(self.stage, 1)[0]

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from self.training_problems(setting, {("stage",): self.spec})
        if self.coder_epochs and (not self.pretrain_epochs or BUILT_IN.get(self.spec.name) != BUILT_IN["dynsplit"]):
            yield Problem(("coder_epochs",), "fits stage dynsplit to a pre-trained network: give pretrain_epochs")
        if self.distillation and not self.pretrain_epochs:
            yield Problem(("distillation",), "the pre-trained network is the teacher: give pretrain_epochs")


class PathTraining(TwoNodeTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DynSplit with ``options`` at each target ratio of ``targets``."""

    options: dict[str, Any] = msgspec.field(default_factory=dict)
    targets: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1)] = (0.2,)

    def spec(self, **options: Any) -> StageSpec:
        return StageSpec(name="nodes.stages.dynsplit.stage:DynSplit", options=self.options | options)

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from self.training_problems(setting, {("options",): self.spec(target=self.targets[:1])})
        if self.epsilon is not None and len(set(self.options.get("temperatures", (1.0,)))) > 1:
            yield Problem(("epsilon",), "training until convergence needs one temperature")


class OneTarget(PathTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DynSplit at one target ratio."""

    targets: Annotated[tuple[Share, ...], msgspec.Meta(min_length=1, max_length=1)] = (0.2,)


class TargetSweep(PathTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """DynSplit at several target ratios.

    The network with target ``steer`` is steered over ``shares`` of the first path and follows links while
    ``samples_per_s`` arrive: a link of ``rates_bps``, one rate a second, and each of ``traces`` (the name of a packaged
    trace or a file), scaled so that its mean rate leaves each of ``budget_bytes_per_sample``. ``alone``: channels of
    single auto-encoders, trained from the same weights for comparison. With ``coder_epochs`` every auto-encoder is
    first fitted, for that many epochs, to reconstruct the activations of the pre-trained network.
    """

    alone: tuple[Count, ...] = ()
    coder_epochs: int = 0
    steer: Share | None = None
    shares: tuple[Share, ...] = ()
    rates_bps: tuple[float, ...] = ()
    traces: tuple[str, ...] = ()
    budget_bytes_per_sample: tuple[Positive, ...] = ()
    samples_per_s: Count = 50

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from super().problems(setting)
        if self.steer is None:
            for name in ("shares", "rates_bps", "traces", "budget_bytes_per_sample", "samples_per_s"):
                yield Problem((name,), "only used with steer", unused=True)
        elif self.steer not in self.targets:
            yield Problem(("steer",), f"got {self.steer:g}; give one of targets, {', '.join(map(str, self.targets))}")
        for name, other in (("traces", "budget_bytes_per_sample"), ("budget_bytes_per_sample", "traces")):
            if getattr(self, name) and not getattr(self, other):
                yield Problem((name,), f"only used with {other}", unused=True)
        if not self.traces and not self.rates_bps:
            yield Problem(("samples_per_s",), "only used with rates_bps or traces", unused=True)
        if self.coder_epochs and not self.pretrain_epochs:
            yield Problem(("coder_epochs",), "coders are fitted to a pre-trained network: give pretrain_epochs as well")
        for number, trace in enumerate(self.traces):
            yield from attempt(("traces", number), paths.second_rates, trace)


class SizeParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The network, for ``input``, and the cut whose parameters are counted."""

    model: ModelName = ModelName("resnet50")
    input: InputSpec = InputSpec(shape=(3, 32, 32))
    cut: str = "layer1"
    options: dict[str, Any] = {}

    def problems(self, _setting: Setting) -> Iterator[Problem]:
        layout = yield from attempt(("model",), layers_of, str(self.model), 10, self.input)
        end = layout and (yield from attempt(("cut",), boundary_after, layout, self.cut))
        if layout and end:
            yield from attempt(("options",), build_stage, self.stage, layout.shapes(end))

    @property
    def stage(self) -> StageSpec:
        return StageSpec(name="dynsplit", options=self.options)


def single(parameters: Single, context: Context) -> Iterator[Measurement]:
    """Train with one stage at the cut: accuracy and bytes over it, and on each of its paths if it has several."""

    def measure(trained: Trained) -> Iterator[Measurement]:
        yield from _basic_measurements(trained)
        yield from paths.by_path(trained)

    run, spec = TrainingRun(parameters, context), parameters.spec
    if spec.name == "picture":
        normalised = {"mean": list(run.data.train.mean), "std": list(run.data.train.std)}
        spec = StageSpec(name=spec.name, options=spec.options | normalised)
    if parameters.distillation and run.weights:
        run.distillation = parameters.distillation.of(run.weights)
    if parameters.coder_epochs:
        run.weights = fitted(run, "single", spec, parameters.coder_epochs)
    yield from run.once("single", spec, measure)


def sweep(parameters: TargetSweep, context: Context) -> Iterator[Measurement]:
    """Train DynSplit for each target ratio: accuracy, ratio, bytes, information of the gate, and steering."""
    run = TrainingRun(parameters, context)
    sent: dict[str, dict[float, float]] = {"bytes": {}, "sampled_bytes": {}, "training_bytes": {}}
    initial = run.weights

    def fit(name: str, spec: StageSpec) -> None:
        if parameters.coder_epochs:
            run.weights = initial
            run.weights = fitted(run, name, spec, parameters.coder_epochs)

    fit("paths", parameters.spec(target=parameters.targets[:1]))
    for target in parameters.targets:

        def measure(trained: Trained, target: float = target) -> Iterator[Measurement]:
            yield from _basic_measurements(trained)
            if parameters.epsilon is not None:
                yield Measurement("epochs", len(trained.outcome.epochs), "epochs")
                yield Measurement("most_epochs", parameters.epochs, "epochs")
            if (ratio := trained.outcome.epochs[-1].get("link0.path0")) is not None:
                yield Measurement("last_epoch_ratio_error", abs(ratio - target), "fraction")
            network = paths.Steered(trained)
            yield from paths.choosing(network, target)
            if target == parameters.steer:
                yield from paths.curve(network, parameters.shares)
                yield from _following(network, parameters)

        for one in run.once(f"target-{target:g}", parameters.spec(target=[target]), measure):
            yield replace(one, case={"target": target, **one.case})
            if one.metric.removesuffix("_per_sample") in sent:
                sent[one.metric.removesuffix("_per_sample")][target] = one.value
    for channels in parameters.alone:
        fit(f"alone-{channels}", parameters.spec(paths=[channels]))
        for one in run.once(f"alone-{channels}", parameters.spec(paths=[channels]), _basic_measurements):
            name = one.metric if one.metric == TRAINED_PICTURES else f"alone_{one.metric}"
            yield replace(one, metric=name, case={"channels": channels, **one.case})
    for name, points in sent.items():
        yield from _line(name, points)


def rationale(parameters: OneTarget, context: Context) -> Iterator[Measurement]:
    """Entropy of the original network's and of DynSplit's outputs by path, divided by the gate's ranking (Table IV)."""
    run = TrainingRun(parameters, context)
    (target,) = parameters.targets
    original = run.trained(run.whole(parameters.epochs), "original")
    dynamic = run.trained(run.job(parameters.spec(target=[target])), "dynsplit")
    stage = dynamic.segments[0].outbound
    assert isinstance(stage, DynSplit)
    for network, training in (("original", original), ("dynsplit", dynamic)):
        yield training.pictures({"network": network})
    for name, pictures in (("train", run.data.train), ("test", run.data.test)):
        stage.threshold = 0.0
        margins = gating.margin(answers(dynamic.segments, pictures).scores)
        stage.threshold = gating.threshold_for(margins, target)
        mine, theirs = answers(dynamic.segments, pictures), answers(original.segments, pictures)
        yield Measurement("original_accuracy", theirs.accuracy, "fraction", {"data": name})
        for path in (0, 1):
            case: dict[str, CaseValue] = {"data": name, "path": path + 1}
            chosen = mine.choice == path
            yield Measurement("samples", int(chosen.sum()), "samples", case)
            yield Measurement("complexity_nats", _entropy(theirs, chosen), "nats", case)
            yield Measurement("path_entropy_nats", _entropy(mine, chosen), "nats", case)


def size(parameters: SizeParameters, context: Context) -> Iterator[Measurement]:
    """Size of coders and gate relative to the network, (|AE| + |G|) / |M|, for 32x32 pictures of ten classes."""
    sample = parameters.input
    model = build_model(str(parameters.model), 10, sample.shape)
    chain = Chain(model, sample.shape, dtype=sample.dtype)
    stage = DynSplit(chain.shapes(boundary_after(chain, parameters.cut)), **parameters.options)
    gate = _count(stage.gate) if stage.gate is not None else 0
    counts = {"model": _count(model), "coders": _count(stage) - gate, "gate": gate}
    for part, count in counts.items():
        yield Measurement("parameters", count, "parameters", {"part": part})
    yield Measurement("added_size_share", _count(stage) / counts["model"], "fraction")


def _basic_measurements(trained: Trained) -> Iterator[Measurement]:
    yield trained.pictures()
    yield from paths.learning(trained)
    yield from paths.traffic(trained)


def _following(network: paths.Steered, parameters: TargetSweep) -> Iterator[Measurement]:
    """Every link that is followed; for a trace's first budget also second by second."""
    samples_per_s = parameters.samples_per_s
    if parameters.rates_bps:
        yield from paths.following(paths.link_timelines(network, parameters.rates_bps, samples_per_s), samples_per_s)
    for trace in parameters.traces:
        rates = paths.second_rates(trace)
        for number, budget_bytes in enumerate(parameters.budget_bytes_per_sample):
            scale = 8 * budget_bytes * samples_per_s * len(rates) / sum(rates)
            rates_bps = [scale * rate for rate in rates]
            followed = paths.link_timelines(network, rates_bps, samples_per_s)
            case: dict[str, CaseValue] = {"trace": Path(trace).stem, "budget_bytes_per_sample": budget_bytes}
            for one in paths.following(followed, samples_per_s):
                yield replace(one, case={**case, **one.case})
            for one in paths.by_second(followed["follow"], rates_bps) if not number else ():
                yield replace(one, case={"trace": Path(trace).stem, **one.case})


def _line(name: str, sent: dict[float, float]) -> Iterator[Measurement]:
    """Linearity of bytes per sample over the target ratio (Fig. 4a, 4b), and slopes below and above 0.5."""
    if len(sent) > 2:
        yield Measurement(f"{name}_linearity", paths.determination(sent), "1")
    if sent.keys() >= {0.0, 0.5, 0.9}:
        yield Measurement(f"{name}_slope", (sent[0.5] - sent[0.0]) / 0.5, "B", {"part": "below 0.5"})
        yield Measurement(f"{name}_slope", (sent[0.9] - sent[0.5]) / 0.4, "B", {"part": "above 0.5"})


def _entropy(seen: Answers, chosen: torch.Tensor) -> float:
    """Mean entropy in nats of the class probabilities of the ``chosen`` samples."""
    return float(gating.entropy(seen.logits[chosen].softmax(1)).mean())


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


PICTURES = 5000  # the most that coders are fitted to


def fitted(training: TrainingRun, name: str, spec: StageSpec, epochs: int) -> str:
    """The kept file ``name`` of the run's initial weights with the coders of ``spec``, each fitted for ``epochs``."""
    path = training.context.scratch / f"{name}-coders.pt"
    if not path.exists():
        write_state(path, _weights(training, spec, epochs))
    return str(path.resolve())


def _weights(training: TrainingRun, spec: StageSpec, epochs: int) -> dict[str, torch.Tensor]:
    job = training.job(StageSpec())
    device = torch.device(job.device)
    activations = _activations(training, Segment(job, 0)).to(device)
    torch.manual_seed(job.seed)
    stage = build_stage(spec, {"x": activations[:1].to("meta")}).to(device)
    assert isinstance(stage, DynSplit)
    for path in stage.paths:
        if path.channels:
            halves = path.coders.encoder, path.coders.decoder
            pretrain(*halves, activations, bits=path.bits, epochs=epochs, batch_size=job.batch_size, seed=job.seed)
    coders = {name: tensor.cpu() for name, tensor in stage.state_dict().items() if "coder" in name}
    whole = training.layout.model.state_dict()
    return (fit_weights(training.weights, whole).tensors if training.weights else {}) | coders


def _activations(training: TrainingRun, segment: Segment) -> torch.Tensor:
    """The output of the UE's part of the network for training pictures: (N, C, H, W)."""
    some = subset(training.data.train, PICTURES, training.context.seed)
    found: list[torch.Tensor] = []
    for pictures, _ in in_order(some):
        message = segment.source(pictures, None, assignment=0, step=0, train=False)
        assert isinstance(message, Activation)
        found += message.tensors.values()
    return torch.cat(found).float()  # whatever the job's precision
