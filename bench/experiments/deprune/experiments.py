"""Deprune and prune against their baselines, in this process: accuracy by epoch, bytes of whole frames, families."""

import statistics
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from msgspec.structs import replace

from bench.experiments.common.cuts import cut_problems
from bench.experiments.common.learning import Learning, check_pass, layers_of, node_names
from bench.experiments.common.resumable import resumable
from bench.experiments.common.trained_pictures import of_epochs
from bench.suite.experiment import Context, Measurement, Problem, Setting, attempt
from bench.suite.parameter_types import Count, ModelName, PositiveShare
from nodes.model.chain import Chain
from nodes.spec.job import Job, OptimizerSpec, StageSpec
from nodes.stages.builtin import build_stage
from nodes.stages.deprune.budget import BudgetPhase, rate_factors
from nodes.stages.deprune.channel_filter import Fact
from nodes.stages.deprune.stage import Choice
from nodes.training.in_process import run_in_process
from nodes.training.report import ReportEpoch, TrainingOutcome
from nodes.zoo.vgg import layers_before

FLATNESS = (2, 0.1)  # of ``nodes.stages.deprune.budget.Flatness``
REACHED = 0.005  # distance to the best accuracy that counts as reaching it: an assumption, the paper reads a figure

Epochs = list[dict[str, float]]  # what a node reports of each
Budgets = Literal["low", "full", "low then full", "low until flat"]


class PhaseChange(NamedTuple):
    """What a change of budget does to the optimizers: a factor of the learning rate for some epochs; new ones."""

    boost: float = 1.0
    boosted_epochs: int = 1
    renewed: bool = False


UNCHANGED = PhaseChange()


class TrainingMethod(NamedTuple):
    """One method of training: its sequence of budgets, the stage's options, and other differences."""

    budgets: Budgets
    options: Mapping[str, Any] = MappingProxyType({})
    lr: float | None = None
    boost: float = 1.0
    module: bool = True


CODED = {"as_coded": True, "reset": True}  # the authors' code, which resets the filter in deprune

METHODS = {
    "without": TrainingMethod("full", module=False),
    "none": TrainingMethod("full"),
    "high": TrainingMethod("low"),
    "deprune": TrainingMethod("low then full"),
    "random": TrainingMethod("low", {"choice": "random"}),
    "magnitude": TrainingMethod("low", {"choice": "magnitude"}),
    "as-coded": TrainingMethod("low then full", CODED),
    "none-as-coded": TrainingMethod("full", CODED),
    "high-as-coded": TrainingMethod("low", CODED),
    "one-barrier": TrainingMethod("low then full", {"barrier": 0.0}),
    "boosted": TrainingMethod("low then full", boost=5.0),
    "printed-rate": TrainingMethod("low then full", lr=1e-5),
    "flat": TrainingMethod("low until flat"),
    "narrow": TrainingMethod("low then full", {"code_bits": 8, "gradient_bits": 8}),
    "flat-narrow": TrainingMethod("low until flat", {"code_bits": 8, "gradient_bits": 8}),
}


class VggTraining(Learning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Training of a VGG-11 cut at the paper's layer number ``cut``."""

    model: ModelName = ModelName("nodes.zoo.vgg:vgg11")
    cut: int = 5
    resolution: Count = 1
    optimizer: OptimizerSpec = OptimizerSpec(lr=1e-2, momentum=0.0)
    batch_size: Count = 16
    augment: bool = True

    def problems(self, setting: Setting) -> Iterator[Problem]:
        yield from self.sample_problems(setting, self.least)
        layout = yield from self.checked_layout(setting)
        if layout is None:
            return
        yield from attempt(("batch_size",), check_pass, layout, self.batch_size)
        stage = pruned([BudgetPhase(1, 1.0)], resolution=self.resolution)
        wrong = list(attempt(("cut",), check_cut, self.cut, layout, stage))
        yield from wrong or cut_problems(("cut",), layout, layers_before(self.cut), stage)

    @property
    def least(self) -> tuple[int, str]:
        """The least number of training pictures, and the reason."""
        return self.batch_size, f"a batch of {self.batch_size}"


def check_cut(cut: int, layout: Chain, stage: StageSpec) -> None:
    """Raise ValueError unless ``stage`` can stand at the paper's ``cut`` of ``layout``."""
    done = layers_before(cut)
    if done > len(layout):
        raise ValueError(f"cut {cut} follows {done} layers; the model has {len(layout)}")
    build_stage(stage, layout.shapes(done))


class TrainingCourse(VggTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``epochs`` with ``share`` of the maps, then all, by ``method`` and by those ``against``, with a ``milestone``."""

    method: str = "deprune"
    epochs: tuple[Count, Count] = (15, 7)
    share: PositiveShare = 1 / 32
    milestone: Count = 18
    against: tuple[str, ...] = ()
    boosted_epochs: Count = 1  # the paper's l_k

    def problems(self, setting: Setting) -> Iterator[Problem]:
        for key, name in (("method", self.method), *(("against", other) for other in self.against)):
            if name not in METHODS:
                yield Problem((key,), f"no method {name!r}; there are {', '.join(METHODS)}")
        methods = [METHODS[name] for name in (self.method, *self.against) if name in METHODS]
        if all(method.boost == 1 for method in methods):
            yield Problem(("boosted_epochs",), "only used by the method boosted", unused=True)
        if not any(method.module for method in methods):
            yield Problem(("resolution",), "only used by methods with a module at the cut", unused=True)
        if self.milestone > sum(self.epochs):
            yield Problem(("milestone",), f"epoch {self.milestone} is beyond the {sum(self.epochs)} epochs of training")
        yield from super().problems(setting)


class Family(VggTraining, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Prune: ``epochs`` at each of ``shares``, all maps first; and training from scratch at each smaller share.

    ``scratch_epochs`` is the length of the latter, by default that of the training of all maps. ``early`` is the epoch
    after a change of budget at which the two are compared. ``as_coded`` is that of the stage.
    """

    optimizer: OptimizerSpec = OptimizerSpec(lr=1e-3, momentum=0.9)
    epochs: tuple[Count, ...] = (30, 10, 10)
    shares: tuple[PositiveShare, ...] = (1.0, 1 / 4, 1 / 32)
    early: Count = 5
    reset: bool = True
    choice: Choice = "filter"
    as_coded: bool | tuple[Fact, ...] = False
    boost: float = 1.0
    boosted_epochs: Count = 1  # the paper's l_k
    scratch: bool = True
    scratch_epochs: Count | None = None

    def problems(self, setting: Setting) -> Iterator[Problem]:
        if len(self.epochs) != len(self.shares) or len(self.shares) < 2:
            message = f"{len(self.epochs)} for {len(self.shares)} shares; give one for each of two or more shares"
            yield Problem(("epochs",), message)
        if self.boost == 1:
            yield Problem(("boosted_epochs",), "only used with a boost of the learning rate", unused=True)
        if not self.scratch:
            yield Problem(("scratch_epochs",), "only used with scratch", unused=True)
        yield from super().problems(setting)


def pruned(phases: Sequence[BudgetPhase], **options: Any) -> StageSpec:
    """The stage that trains under ``phases``."""
    options["phases"] = [list(phase) for phase in phases]
    return StageSpec(name="nodes.stages.deprune.stage:Pruned", options=options)


def course(parameters: TrainingCourse, context: Context) -> Iterator[Measurement]:
    """Train by one method: accuracy and bytes epoch by epoch, at the milestone and at the end."""
    method, milestone = METHODS[parameters.method], parameters.milestone
    epochs = trained(parameters.method, parameters, context)
    accuracies, crossed = accuracies_of(epochs), bytes_so_far(epochs)
    yield of_epochs(epochs)
    for number, (accuracy, sent) in enumerate(zip(accuracies, crossed, strict=True), 1):
        yield Measurement("test_accuracy", accuracy, "fraction", {"epoch": number})
        yield Measurement("bytes_so_far", sent, "B", {"epoch": number})
    yield Measurement("milestone_accuracy", accuracies[milestone - 1], "fraction")
    yield Measurement("milestone_bytes", crossed[milestone - 1], "B")
    yield Measurement("final_accuracy", accuracies[-1], "fraction")
    yield Measurement("total_bytes", crossed[-1], "B")
    if method.module:
        yield from learned(epochs)
    for other in parameters.against:
        theirs, case = trained(other, parameters, context), {"against": other}
        yield of_epochs(theirs, case)
        gained = accuracies[milestone - 1] - accuracies_of(theirs)[milestone - 1]
        yield Measurement("milestone_accuracy_against", gained, "fraction", case)
        spared = bytes_so_far(theirs)[milestone - 1] / crossed[milestone - 1]
        yield Measurement("milestone_bytes_against", spared, "1", case)


def trained(name: str, parameters: TrainingCourse, context: Context) -> Epochs:
    """The UE's metrics of each epoch of the training by the method ``name``."""
    method, (low, high) = METHODS[name], parameters.epochs
    least = max(1, high // 3)  # epochs reserved for all maps, however long the loss falls
    plans = {
        "low": [BudgetPhase(low + high, parameters.share)],
        "full": [BudgetPhase(low + high, 1.0)],
        "low then full": [BudgetPhase(low, parameters.share), BudgetPhase(high, 1.0)],
        "low until flat": [BudgetPhase(low + high - least, parameters.share), BudgetPhase(least, 1.0)],
    }
    phases, options = plans[method.budgets], dict(method.options)
    if method.budgets == "low until flat":
        options["flatness"] = FLATNESS
    stage = pruned(phases, resolution=parameters.resolution, **options) if method.module else StageSpec()
    change = PhaseChange(method.boost, parameters.boosted_epochs, "as_coded" in method.options)
    job = make_job(parameters, context, stage, phases, change)
    if method.lr is not None:
        job = replace(job, optimizer=replace(job.optimizer, lr=method.lr))
    return train(job, context, name).epochs


def accuracies_of(epochs: Epochs) -> list[float]:
    return [epoch["test_accuracy"] for epoch in epochs]


def bytes_so_far(epochs: Epochs) -> list[float]:
    """Bytes of whole training frames in both directions up to the end of each epoch."""
    return list(accumulate(epoch["train_up_bytes"] + epoch["train_down_bytes"] for epoch in epochs))


def learned(epochs: Epochs) -> Iterator[Measurement]:
    """The filter at the end of the first phase: the share of its first choice that it kept, and its softness."""
    first = epochs[0]
    phase = sum(epoch["link0.budget"] == first["link0.budget"] for epoch in epochs)
    last = epochs[phase - 1]
    yield Measurement("kept_of_first", last["link0.same"], "fraction")
    if "link0.strength" in last:
        yield Measurement("strength_maps", last["link0.strength"], "maps")
        yield Measurement("strength_at_first_maps", first["link0.strength"], "maps")
        yield Measurement("budget_maps", last["link0.budget"], "maps")
    yield Measurement("first_phase_epochs", phase, "epochs")


def family(parameters: Family, context: Context) -> Iterator[Measurement]:
    """Train a family by prune and each of its smaller members from scratch, then serve all members in turn."""
    phases = [BudgetPhase(*pair) for pair in zip(parameters.epochs, parameters.shares, strict=True)]
    options = {"resolution": parameters.resolution, "choice": parameters.choice, "as_coded": parameters.as_coded}
    renewed = bool(parameters.as_coded) and parameters.boost != 1
    change = PhaseChange(parameters.boost, parameters.boosted_epochs, renewed)
    job = make_job(parameters, context, pruned(phases, reset=parameters.reset, **options), phases, change)
    ends = [sum(parameters.epochs[: number + 1]) for number in range(len(phases))]
    job = replace(job, members=tuple(ends))
    reported = train(job, context, "prune").epochs
    trained, served = reported[: ends[-1]], reported[ends[-1] :]
    for number, accuracy in enumerate(accuracies_of(trained), 1):
        yield Measurement("test_accuracy", accuracy, "fraction", {"method": "prune", "epoch": number})
    yield from serving([trained[end - 1] for end in ends], served, parameters.shares)
    speedups = []
    for number, phase in enumerate(phases[1:], 1):
        case = {"share": f"1/{round(1 / phase.share)}"}
        mine = accuracies_of(trained[ends[number - 1] : ends[number]])
        yield of_epochs(trained[: ends[number]], {"method": "prune", **case})
        yield Measurement("first_accuracy", mine[0], "fraction", {"method": "prune", **case})
        yield Measurement("best_accuracy", max(mine), "fraction", {"method": "prune", **case})
        if parameters.scratch:
            length = [BudgetPhase(parameters.scratch_epochs or parameters.epochs[0], phase.share)]
            alone = make_job(parameters, context, pruned(length, **options), length)
            scratch = train(alone, context, f"scratch-{number}").epochs
            theirs = accuracies_of(scratch)
            speedups.append(epochs_to_best(theirs, mine) / epochs_to_best(mine, theirs))
            yield of_epochs(scratch, {**case, "method": "scratch"})
            yield Measurement("best_accuracy", max(theirs), "fraction", {**case, "method": "scratch"})
            spread = statistics.pstdev(theirs[len(theirs) // 2 :])  # once it has settled
            yield Measurement("spread", spread, "fraction", {**case, "method": "scratch"})
            yield from versus(mine, theirs, parameters.early, case)
    if speedups:
        yield Measurement("mean_speedup", statistics.mean(speedups), "1")


def epochs_to_best(accuracies: list[float], others: list[float]) -> int:
    """Epochs until ``accuracies`` come within REACHED of the lower of both maxima, which both reach."""
    wanted = min(max(accuracies), max(others)) - REACHED
    return 1 + next(number for number, accuracy in enumerate(accuracies) if accuracy >= wanted)


def versus(mine: list[float], theirs: list[float], early: int, case: dict[str, str]) -> Iterator[Measurement]:
    """Comparison of prune with training from scratch at one budget."""
    early = min(early, len(mine), len(theirs))
    yield Measurement("epochs_to_best", epochs_to_best(mine, theirs), "epochs", {**case, "method": "prune"})
    yield Measurement("epochs_to_best", epochs_to_best(theirs, mine), "epochs", {**case, "method": "scratch"})
    yield Measurement("speedup", epochs_to_best(theirs, mine) / epochs_to_best(mine, theirs), "1", case)
    yield Measurement("early_share", theirs[early - 1] / max(theirs), "fraction", case)
    yield Measurement("early_share_of_prune", theirs[early - 1] / mine[early - 1], "fraction", case)
    yield Measurement("prune_spread", statistics.pstdev(mine), "fraction", case)


def serving(trained: Epochs, served: Epochs, shares: Sequence[float]) -> Iterator[Measurement]:
    """Accuracy and request bytes of the family's members, served one after the other."""
    for member, (at_end, now, share) in enumerate(zip(trained, served, shares, strict=True), 1):
        case = {"member": f"1/{round(1 / share)}"}
        yield Measurement("served_accuracy", now[f"member{member}.accuracy"], "fraction", case)
        yield Measurement("changed_accuracy", abs(now["test_accuracy"] - at_end["test_accuracy"]), "fraction", case)
        yield Measurement("request_bytes", now["sent_bytes"] / now["tested_samples"], "B", case)


def make_job(
    parameters: VggTraining,
    context: Context,
    stage: StageSpec,
    phases: Sequence[BudgetPhase],
    change: PhaseChange = UNCHANGED,
) -> Job:
    """The job of UE and server with ``stage`` between them."""
    classes = parameters.classes(context)
    factors = rate_factors(phases, change.boost, change.boosted_epochs)
    renewed = tuple(accumulate(phase.epochs for phase in phases[:-1])) if change.renewed else ()
    layout = parameters.layout(classes)
    return parameters.job(
        context,
        layout,
        classes=classes,
        nodes=node_names(2),
        splits=(layers_before(parameters.cut),),
        stages=(stage,),
        optimizer=replace(parameters.optimizer, factors=factors, renewed=renewed),
        epochs=sum(phase.epochs for phase in phases),
    )


def train(job: Job, context: Context, name: str) -> TrainingOutcome:
    """``job`` run or resumed in this process; the members of a family are then served one by one."""

    def say(metrics: dict[str, float]) -> None:
        context.say(f"{name}, epoch {metrics['epoch']:.0f}: test accuracy {metrics['test_accuracy']:.3f}")

    def manage(metrics: dict[str, float]) -> int | None:
        member = int(metrics["epoch"]) - job.epochs + 1
        return member if member <= len(job.members) else None

    def start(job: Job, keep: ReportEpoch) -> TrainingOutcome:
        return run_in_process(job, say=keep, manage=manage)

    layers = len(layers_of(str(job.model), job.classes, job.input))
    return resumable(job, layers, context.scratch / name, start, say)
