"""Parameters that all training experiments share: network, optimizer, data and batches."""

import functools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from bench.suite.experiment import Context, Problem
from bench.suite.parameter_types import Count, ModelName, check_stage_name
from nodes.data.batching import subset
from nodes.data.datasets import load_dataset
from nodes.data.images import Dataset
from nodes.model.boundary import boundary_bytes
from nodes.model.chain import Chain, Values
from nodes.model.factory import outline
from nodes.model.pretrained import is_published, published_weights
from nodes.spec.job import DataSpec, Job, OptimizerSpec, StageSpec
from nodes.stages.builtin import build_stage

PUBLISHED = "torchvision"  # instead of a file of weights
ANY_CLASSES = 10  # for checks before data is read: the number of classes does not change which layers there are


class Learning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network, its optimizer, its data and batches; ``threads`` None leaves the number to torch."""

    model: ModelName = ModelName("resnet18")
    optimizer: OptimizerSpec = OptimizerSpec()
    batch_size: Count = 128
    side: Count = 32
    train_samples: Count | None = None
    test_samples: Count | None = None
    augment: bool = False
    threads: Count | None = None

    def layout(self, classes: int = ANY_CLASSES) -> Chain:
        """The network's layers without data. Raises ModelError."""
        return layers_of(str(self.model), classes, self.side)

    def classes(self, context: Context) -> int:
        """The number of classes of the case's data set, or ANY_CLASSES without one. Raises DataError."""
        return ANY_CLASSES if context.dataset == "none" else len(self.stored(context).classes)

    def stored(self, context: Context) -> Dataset:
        """The case's data set, whole. Raises DataError."""
        return stored(context.dataset, _directory(context), self.side)

    def selected(self, context: Context) -> Dataset:
        """The case's data set, cut to the requested samples. Raises DataError."""
        data = self.stored(context)
        train, test = (
            subset(pictures, count, context.seed)
            for pictures, count in ((data.train, self.train_samples), (data.test, self.test_samples))
        )
        return replace(data, train=train, test=test)

    def job(self, context: Context, layout: Chain, **rest: Any) -> Job:
        """The job of these parameters; ``rest`` adds or replaces its fields. Raises ValueError."""
        data = DataSpec(
            name=context.dataset,
            directory=_directory(context),
            train_samples=self.train_samples,
            test_samples=self.test_samples,
            augment=self.augment,
        )
        fields: dict[str, Any] = {
            "model": str(self.model),
            "input_shape": layout.input_shape,
            "data": data,
            "optimizer": self.optimizer,
            "batch_size": self.batch_size,
            "seed": context.seed,
            "threads": self.threads,
            "device": context.device,
            "payload_bytes": largest_payload(layout, self.batch_size),
        }
        return Job(**fields | rest)


def _directory(context: Context) -> str | None:
    return str(context.data_dir.resolve()) if context.data_dir else None


@functools.lru_cache(maxsize=16)
def layers_of(model: str, classes: int, side: int) -> Chain:
    """The layers of ``model`` without data, cached for all cases of this process. Raises ModelError."""
    return outline(model, classes, (3, side, side))


@functools.cache
def stored(name: str, directory: str | None, side: int) -> Dataset:
    """A data set, cached for all cases of this process."""
    return load_dataset(name, None if directory is None else Path(directory), side)


def weights_problems(weights: str | None, model: str) -> Iterator[Problem]:
    """Problems of ``weights`` that do not exist; fetches nothing."""
    if weights == PUBLISHED:
        if not is_published(model):
            yield Problem(("weights",), f"torchvision has no weights of {model!r}; give a file or pretrain_epochs")
    elif weights is not None and not Path(weights).is_file():
        yield Problem(("weights",), f"no file {weights!r}; give a file or {PUBLISHED!r}")


def weights_of(weights: str | None, model: str, layout: Chain) -> str | None:
    """The path of the initial weights; "torchvision" stands for the published ones. Raises ModelError."""
    if weights == PUBLISHED:
        return str(published_weights(model, layout.model))
    return None if weights is None else str(Path(weights).resolve())


def largest_payload(layout: Chain, batch_size: int, whole: bool = False) -> int:
    """The most bytes of a payload: 4 boundaries, 1 MiB for labels; if ``whole``, a network with Adam's state."""
    widest = max(boundary_bytes(layout.shapes(index)) for index in range(len(layout) + 1))
    state_bytes = 3 * sum(tensor.nbytes for tensor in layout.model.state_dict().values()) if whole else 0
    return 4 * widest * batch_size + (1 << 20) + state_bytes


def check_stage(spec: StageSpec, crossing: Values | None) -> None:
    """Raise ValueError if the stage does not exist or cannot be built for the boundary, if one crosses its link."""
    check_stage_name(spec.name)
    if crossing is not None:
        build_stage(spec, crossing)


def node_names(count: int) -> tuple[str, ...]:
    """``ue``, the MEC servers in order, ``cloud``; ``ue`` alone for one node."""
    if count <= 2:
        return ("ue", "cloud")[:count]
    servers = [f"mec{number}" for number in range(1, count - 1)] if count > 3 else ["mec"]
    return ("ue", *servers, "cloud")
