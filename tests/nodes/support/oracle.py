"""A whole network, trained as torch alone would: what every split run must equal bit for bit."""

import copy
import functools
import math
from collections.abc import Iterator

import pytest
import torch
from msgspec.structs import replace
from torch import nn
from torch.nn import functional as F

from nodes.data.batching import batches
from nodes.data.images import Dataset
from nodes.data.loading import load_data
from nodes.model.chain import Chain, Moment, layer_seed
from nodes.model.checkpoint import checkpoint_path
from nodes.model.factory import build_model
from nodes.seeds import derive
from nodes.spec.job import DataSpec, Job, OptimizerSpec, StageSpec
from nodes.stages.builtin import build_stage
from nodes.training.in_process import run_in_process
from nodes.training.report import TrainingOutcome
from nodes.training.segment import STAGE_LAYERS, Segment
from nodes.wire.messages import Activation


def draw_like_parts(whole: nn.Module, chain: Chain, moment: list[Moment]) -> None:
    """Seed the generator before each dropout of ``whole`` as the layer of ``chain`` that it is."""
    modules = dict(whole.named_modules())
    for index, name in enumerate(chain.names):
        if isinstance(modules.get(name), nn.Dropout):
            seed_before(modules[name], index, moment)


def seed_before(module: nn.Module, layer: int, moment: list[Moment]) -> None:
    def hook(module: nn.Module, _: object) -> None:
        if module.training:
            torch.manual_seed(layer_seed(moment[0], layer))

    module.register_forward_pre_hook(hook)


def make_job(model: str, splits: tuple[int, ...], **changes) -> Job:
    """Two epochs of ten steps of ``model`` cut at ``splits``, or as ``changes`` say."""
    settings = {
        "model": model,
        "input_shape": (3, 32, 32),
        "classes": 10,
        "nodes": tuple(f"node{p}" for p in range(len(splits) + 1)),
        "splits": splits,
        "stages": (StageSpec(),) * len(splits),
        "data": DataSpec(train_samples=88, test_samples=20, augment=True),
        "optimizer": OptimizerSpec(lr=0.02, momentum=0.9, weight_decay=5e-4),
        "epochs": 2,
        "batch_size": 8,
        "steps": 10,
        "seed": 7,
        "threads": 1,
    }
    return Job(**settings | changes)


class Unsplit:
    """The job on one network, by a plain loop."""

    def __init__(self, job: Job, data: Dataset) -> None:
        self.job, self.data = job, data
        self.model = build_model(job.model, job.classes, job.input_shape, job.seed)
        self.moment = [Moment(job.seed, 0)]
        chain = Chain(build_model(job.model, job.classes, job.input_shape), job.input_shape, dtype=job.input_type)
        draw_like_parts(self.model, chain, self.moment)
        self.optimizer = optimizer(job, list(self.model.parameters()))

    def loss(self, pictures: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.model(pictures), labels)

    def train(self) -> list[float]:
        losses = []
        steps = len(self.data.train.labels) // self.job.batch_size
        steps = min(steps, self.job.steps or steps)
        for epoch in range(self.job.epochs):
            drawn = batches(
                self.data.train,
                self.job.batch_size,
                seed=self.job.seed,
                epoch=epoch,
                shuffle=True,
                augment=self.job.data.augment,
                drop_last=True,
            )
            self.begin_epoch(epoch)
            self.model.train()
            for step, (pictures, labels) in zip(range(steps), drawn, strict=False):
                self.moment[0] = Moment(self.job.seed, epoch * steps + step)
                losses.append(self.step(pictures, labels))
        return losses

    def begin_epoch(self, epoch: int) -> None:
        spec = self.job.optimizer
        if spec.schedule == "cosine":
            for group in self.optimizer.param_groups:
                group["lr"] = spec.lr * (1 + math.cos(math.pi * epoch / self.job.epochs)) / 2

    def test_batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        return batches(self.data.test, 1, seed=0, epoch=0, shuffle=False, augment=False)

    def step(self, pictures: torch.Tensor, labels: torch.Tensor) -> float:
        total = 0.0
        parts = self.job.microbatches
        self.optimizer.zero_grad()
        for number, (some, answers) in enumerate(zip(pictures.chunk(parts), labels.chunk(parts), strict=True)):
            self.moment[0] = self.moment[0]._replace(microbatch=number)
            loss = self.loss(some, answers) / parts
            loss.backward()
            total += loss.item()
        self.optimizer.step()
        return total


def optimizer(job: Job, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    spec = job.optimizer
    if spec.name == "adam":
        return torch.optim.Adam(parameters, lr=spec.lr, weight_decay=spec.weight_decay)
    return torch.optim.SGD(parameters, lr=spec.lr, momentum=spec.momentum, weight_decay=spec.weight_decay)


class Staged(Unsplit):
    """The base of oracles with a stage in the middle of a chain of two: its modules are trained with the network.

    Only the modules themselves are the stage's, so that they begin with the same weights.
    """

    def __init__(self, job: Job, data: Dataset) -> None:
        super().__init__(job, data)
        chain = Chain(build_model(job.model, job.classes, job.input_shape), job.input_shape, dtype=job.input_type)
        torch.manual_seed(derive(job.seed, STAGE_LAYERS, 0))
        self.stage = build_stage(job.stages[0], chain.shapes(job.splits[0]))
        self.options = job.stages[0].options
        self.first = copy.deepcopy(self.stage.state_dict())
        self.optimizer = optimizer(job, [*self.model.parameters(), *self.stage.parameters()])
        self.reported: float | None = None

    def trained_on(self, task: torch.Tensor, extra: torch.Tensor | None = None) -> torch.Tensor:
        """The loss that is trained on: ``task``, the one that nodes report, and the stage's own."""
        self.reported = task.item()
        return task if extra is None else task + extra

    def step(self, pictures: torch.Tensor, labels: torch.Tensor) -> float:
        total = super().step(pictures, labels)
        return total if self.reported is None else self.reported


class StraightThrough(torch.autograd.Function):
    """An encoding with the gradient of the identity."""

    @staticmethod
    def forward(ctx, given, encoding):
        return encoding(given)

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def staged_job(stage: StageSpec, **changes) -> Job:
    """Two epochs of four steps of ``Plain``, with ``stage`` between its halves."""
    settings = {
        **{"input_shape": (3, 16, 16), "nodes": ("ue", "cloud"), "stages": (stage,), "steps": None, "batch_size": 24},
        **{"data": DataSpec(train_samples=96, test_samples=40), "optimizer": OptimizerSpec(lr=0.1), "seed": 5},
    }
    return replace(make_job("user_models:Plain", (3,), **settings), **changes)


def first_message(job: Job, count: int = 24) -> tuple[Segment, Activation]:
    """A UE's segment, and its message for ``count`` pictures in training."""
    ue = Segment(job, 0)
    pictures = torch.randn(count, *job.input_shape, generator=torch.Generator().manual_seed(1))
    return ue, ue.source(pictures, torch.zeros(count).long(), assignment=0, step=0, train=True)


def unsplit(job: Job) -> tuple[list[float], dict[str, torch.Tensor], float]:
    """Losses, in float32 as they are reported, state and test accuracy of a plain torch loop on the whole network."""
    return _unsplit(replace(job, nodes=("all",), splits=(), stages=(), tail=None, moves=None, control=None))


@functools.lru_cache
def _unsplit(job: Job) -> tuple[list[float], dict[str, torch.Tensor], float]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    oracle = Unsplit(job, load_data(job))
    losses = torch.tensor(oracle.train()).tolist()
    oracle.model.eval()
    with torch.no_grad():
        correct = sum(int((oracle.model(one).argmax(1) == label).sum()) for one, label in oracle.test_batches())
    torch.set_num_threads(before)
    return losses, oracle.model.state_dict(), correct / len(oracle.data.test.labels)


def final_state(job: Job) -> dict[str, torch.Tensor]:
    """The parameters and buffers that the nodes saved after the last epoch, by their names in model and stage."""
    state = {}
    for path in (checkpoint_path(job, index, job.epochs) for index in range(len(job.cuts) + 1)):
        if path.exists():
            saved = torch.load(path, weights_only=True)["modules"]
            state |= {name.removeprefix("body."): tensor for name, tensor in saved.get("part", {}).items()}
            for half in ("sender", "receiver"):
                state |= {f"{half}.{name}": tensor for name, tensor in saved.get(half, {}).items()}
    return state


def assert_equals_joint(job: Job, oracle: Staged, besides: tuple[str, ...] = ()) -> TrainingOutcome:
    """Losses and state are the oracle's, bit for bit, but for the tensors whose names end with one of ``besides``."""
    outcome = run_in_process(job)
    assert outcome.losses == torch.tensor(oracle.train()).tolist()
    state, expected = final_state(job), oracle.model.state_dict() | oracle.stage.state_dict()
    assert state.keys() == expected.keys()
    assert [name for name in state if not name.endswith(besides) and not torch.equal(state[name], expected[name])] == []
    return outcome


def assert_equals_unsplit(job: Job, folder) -> TrainingOutcome:
    losses, expected, accuracy = unsplit(job)
    job = replace(job, checkpoint=str(folder))
    outcome = run_in_process(job)
    assert outcome.losses == losses
    assert outcome.epochs[-1]["test_accuracy"] == pytest.approx(accuracy)
    state = final_state(job)
    assert state.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(state[name], tensor), name
    return outcome
