"""Resumable training of a network that is cut in two, with a stage at the cut, for one case of a suite."""

import dataclasses
import shutil
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import msgspec
from msgspec.structs import replace

from bench.experiments.common.cuts import cut_problems
from bench.experiments.common.inference import restored, sample_rows
from bench.experiments.common.learning import (
    Learning,
    check_pass,
    check_stage,
    node_names,
    weights_of,
    weights_problems,
)
from bench.experiments.common.resumable import resumable, resumable_until
from bench.experiments.common.trained_pictures import of_epochs
from bench.suite.document import Key
from bench.suite.experiment import Context, Measurement, Problem, Setting, attempt
from bench.suite.parameter_types import Count
from nodes.data.batching import split_holdout
from nodes.data.images import Dataset, Pictures
from nodes.files import replacing
from nodes.model.chain import Chain
from nodes.model.checkpoint import write_state
from nodes.spec.job import DataSpec, DistillationSpec, Job, StageSpec
from nodes.stages.dynsplit.gate import has_converged
from nodes.training.in_process import run_in_process
from nodes.training.report import TrainingOutcome
from nodes.training.segment import Segment
from reports.record import CaseValue


class TwoNodeTraining(Learning, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The cut of a network in two, and the length of its training.

    ``cut`` names the last module of the UE's part; "input" leaves it none. ``weights`` are the initial ones: a file, or
    "torchvision" for the published ones. ``pretrain_epochs``, at ``pretrain_lr``, first train the unsplit network. With
    ``epsilon`` (DynSplit's epsilon_c) training ends once it has converged to within that, at the latest after
    ``epochs``.
    """

    cut: str = "layer1"
    epochs: Count = 1
    epsilon: float | None = None
    weights: str | None = None
    pretrain_epochs: int = 0
    pretrain_lr: float | None = None

    def training_problems(
        self, setting: Setting, stages: Mapping[Key, StageSpec], besides: int = 0
    ) -> Iterator[Problem]:
        """Problems of pictures, model, weights, the cut and ``stages``, each by the parameter that holds it.

        ``besides`` are training pictures that are held out of every training. Where a stand-in has too few, that is
        noted; it is an error of a run.
        """
        held_out = f" and {besides} held out" if besides else ""
        why = f"a batch of {self.batch_size}{held_out}"
        noted = bool(besides) and setting.stands_in and self.train_samples is None
        for problem in self.sample_problems(setting, (self.batch_size + besides, why)):
            yield problem._replace(note=problem.note or (noted and problem.key == ("train_samples",)))
        yield from weights_problems(self, self.weights, setting)
        if not self.pretrain_epochs:
            yield Problem(("pretrain_lr",), "only used with pretrain_epochs", unused=True)
        if self.epsilon is not None and self.optimizer.schedule != "constant":
            yield Problem(("epsilon",), "training until convergence needs optimizer.schedule constant")
        layout = yield from self.checked_layout(setting)
        done = None
        if layout is not None:
            yield from attempt(("batch_size",), check_pass, layout, self.batch_size)
            done = yield from attempt(("cut",), boundary_after, layout, self.cut)
        for key, spec in stages.items():
            crossing = None if layout is None or done is None else layout.shapes(done)
            wrong = list(attempt(key, check_stage, spec, crossing))
            yield from wrong
            if layout is not None and done is not None and not wrong:
                yield from cut_problems(("cut",), layout, done, spec)


class Trained(NamedTuple):
    """A finished training, the segments at its end, and the epochs in which its weights were trained before."""

    job: Job
    outcome: TrainingOutcome
    segments: list[Segment]
    data: Dataset
    pretraining: list[dict[str, float]]

    def pictures(self, case: Mapping[str, CaseValue] = {}) -> Measurement:
        """The pictures that the network was trained on, before and now."""
        return of_epochs((*self.pretraining, *self.outcome.epochs), case)


class TrainingRun:
    """The trainings of one case; ``hold_out`` training pictures are excluded from each and kept as ``held_out``."""

    def __init__(self, parameters: TwoNodeTraining, context: Context, hold_out: int = 0) -> None:
        self.parameters, self.context = parameters, context
        self.data = parameters.selected(context)
        self.held_out: Pictures | None = None
        if hold_out:
            train, self.held_out = split_holdout(self.data.train, hold_out, context.seed)
            self.data = dataclasses.replace(self.data, train=train)
        self.layout = parameters.layout(len(self.data.classes))
        self.weights = weights_of(parameters.weights, str(parameters.model), self.layout, context.say)
        self.distillation: DistillationSpec | None = None  # of the trainings from now on
        self.pretraining: list[dict[str, float]] = []  # the epochs that have led to these weights
        if parameters.pretrain_epochs:
            self.weights, self.pretraining = self._pretrained()

    def job(self, stage: StageSpec) -> Job:
        """UE and cloud, with ``stage`` between them."""
        parameters, context = self.parameters, self.context
        return parameters.job(
            context,
            self.layout,
            classes=len(self.data.classes),
            nodes=node_names(2),
            splits=(boundary_after(self.layout, parameters.cut),),
            stages=(stage,),
            data=DataSpec(name=context.dataset, augment=parameters.augment),
            epochs=parameters.epochs,
            weights=self.weights,
            distillation=self.distillation,
        )

    def once(
        self, name: str, stage: StageSpec, measure: Callable[[Trained], Iterator[Measurement]]
    ) -> list[Measurement]:
        """The measurements by ``measure`` of the training with ``stage``, or those that an interrupted run has kept."""
        kept = self.context.scratch / name / "measured.json"
        if kept.exists():
            return msgspec.json.decode(kept.read_bytes(), type=list[Measurement])
        trained = self.trained(self.job(stage), name)
        if self.context.log_samples:
            path = self.context.samples_file(name)
            path.parent.mkdir(exist_ok=True)
            with replacing(path) as file:
                for row in sample_rows(trained.segments, trained.data.test):
                    file.write(msgspec.json.encode(row) + b"\n")
        found = list(measure(trained))
        with replacing(kept) as file:
            file.write(msgspec.json.encode(found))
        shutil.rmtree(kept.parent / "checkpoints", ignore_errors=True)
        return found

    def trained(self, job: Job, name: str) -> Trained:
        """``job`` trained in the folder ``name``, resumed from what is there."""
        folder = self.context.scratch / name
        job = replace(job, checkpoint=str(folder / "checkpoints"))

        def say(metrics: dict[str, float]) -> None:
            self.context.say(f"{name}, epoch {metrics['epoch']:.0f}: test accuracy {metrics['test_accuracy']:.3f}")

        def start(job: Job, keep: Callable[[dict[str, float]], None]) -> TrainingOutcome:
            return run_in_process(job, self.data, keep)

        if self.parameters.epsilon is None or not job.stages:
            outcome = resumable(job, len(self.layout), folder, start, say)
        else:
            outcome = resumable_until(job, len(self.layout), folder, start, say, ends=self._settled(job))
            job = replace(job, epochs=len(outcome.epochs))
        return Trained(job, outcome, restored(job), self.data, self.pretraining)

    def _settled(self, job: Job) -> Callable[[TrainingOutcome], bool]:
        target, epsilon = job.stages[0].options.get("target", ()), self.parameters.epsilon or 0.0

        def ends(outcome: TrainingOutcome) -> bool:
            last = outcome.epochs[-1]
            error = last["link0.path0"] - target[0] if target and "link0.path1" in last else 0.0
            return has_converged([epoch["loss"] for epoch in outcome.epochs], epsilon, error)

        return ends

    def whole(self, epochs: int, lr: float | None = None) -> Job:
        """The job of the unsplit network, trained for ``epochs``."""
        job = replace(self.job(StageSpec()), nodes=node_names(1), splits=(), stages=(), epochs=epochs)
        return replace(job, optimizer=replace(job.optimizer, lr=lr or job.optimizer.lr))

    def _pretrained(self) -> tuple[str, list[dict[str, float]]]:
        """The file with the weights of the unsplit network after ``pretrain_epochs``, and these."""
        path = self.context.scratch / "weights.pt"
        job = self.whole(self.parameters.pretrain_epochs, self.parameters.pretrain_lr)
        trained = self.trained(job, "pretrained")
        if not path.exists():
            write_state(path, trained.segments[0].state())
        return str(path.resolve()), trained.outcome.epochs


def boundary_after(chain: Chain, module: str) -> int:
    """The number of layers up to the last one of ``module``; none up to "input". Raises ValueError for another."""
    held = [i for i, name in enumerate(chain.names) if name == module or name.startswith((f"{module}.", f"{module}#"))]
    if not held and module == "input":
        return 0
    if not held:
        raise ValueError(f"no layer belongs to {module!r}; the layers are {', '.join(chain.names)}")
    return held[-1] + 1
