"""Which network does an experiment train, on what? What the parameters of all that train have in common."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bench.suite.experiment import Context, Problem
from bench.suite.parameter_types import Count, ModelName
from nodes.data.datasets import load_dataset
from nodes.data.images import Dataset
from nodes.model.boundary import boundary_bytes
from nodes.model.chain import Chain
from nodes.model.factory import outline
from nodes.model.pretrained import is_published, published_weights
from nodes.spec.job import DataSpec, Job, OptimizerSpec

PUBLISHED = "torchvision"  # instead of a file of weights
ANY_CLASSES = 10  # for checks: how many classes there are changes no layer, and to count them data must be read


class Learning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network, its optimizer, the pictures and the batches; ``threads`` None: torch's own choice."""

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
        """How many classes the case's data set has, or what stands for one. Raises DataError."""
        return ANY_CLASSES if context.dataset == "none" else len(self.stored(context).classes)

    def stored(self, context: Context) -> Dataset:
        """The case's data set, whole. Raises DataError."""
        return stored(context.dataset, _directory(context), self.side)

    def job(self, context: Context, layout: Chain, **rest: Any) -> Job:
        """A job of what stands here; ``rest`` are the fields that do not or are to differ. Raises ValueError."""
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
    """The layers of ``model`` without data, for all cases of this process. Raises ModelError."""
    return outline(model, classes, (3, side, side))


@functools.cache
def stored(name: str, directory: str | None, side: int) -> Dataset:
    """A data set, read once for all cases of this process."""
    return load_dataset(name, None if directory is None else Path(directory), side)


def weights_problems(weights: str | None, model: str) -> Iterator[Problem]:
    """Problems of ``weights`` that do not exist; fetches nothing."""
    if weights == PUBLISHED:
        if not is_published(model):
            yield Problem(("weights",), f"torchvision has no weights of {model!r}; give a file, or pre-train")
    elif weights is not None and not Path(weights).is_file():
        yield Problem(("weights",), f"no file {weights!r}, nor is it {PUBLISHED!r}")


def weights_of(weights: str | None, model: str, layout: Chain) -> str | None:
    """The file that training begins with: of ``weights``, or torchvision's for "torchvision". Raises ModelError."""
    if weights == PUBLISHED:
        return str(published_weights(model, layout.model))
    return None if weights is None else str(Path(weights).resolve())


def largest_payload(layout: Chain, batch_size: int) -> int:
    """The most bytes that a frame of this job may carry: 4 times its largest boundary, and room for labels."""
    widest = max(boundary_bytes(layout.shapes(index)) for index in range(len(layout) + 1))
    return 4 * widest * batch_size + (1 << 20)
