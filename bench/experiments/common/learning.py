"""Parameters that all training experiments share: network, optimizer, data and batches."""

import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from bench.suite.experiment import Context, Problem, attempt
from bench.suite.parameter_types import Count, ModelName, check_stage_name
from nodes.data.batching import subset
from nodes.data.datasets import EMBEDDED, KNOWN, load_dataset
from nodes.data.images import Dataset
from nodes.model.boundary import boundary_bytes
from nodes.model.chain import Chain, Values
from nodes.model.factory import outline
from nodes.model.pretrained import is_published, published_weights
from nodes.model.weights import fit_weights
from nodes.spec.job import DataSpec, Granularity, Job, OptimizerSpec, StageSpec
from nodes.stages.builtin import build_stage
from nodes.user_modules import cached_by_modules

logger = logging.getLogger(__name__)

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


@cached_by_modules(maxsize=16)
def layers_of(model: str, classes: int, side: int, granularity: Granularity = "op") -> Chain:
    """The layers of ``model`` without data, cached for all cases of this process. Raises ModelError."""
    return outline(model, classes, (3, side, side), granularity)


@functools.cache
def stored(name: str, directory: str | None, side: int) -> Dataset:
    """A data set, cached for all cases of this process."""
    return load_dataset(name, None if directory is None else Path(directory), side)


def weights_problems(parameters: Learning, weights: str | None, dataset: str) -> Iterator[Problem]:
    """Problems of ``weights`` that do not exist or fit nothing, and a note of what is taken of them; fetches nothing.

    A tensor whose shape depends on the number of classes is left out where data would have to be read for that number.
    """
    if weights == PUBLISHED:
        if not is_published(str(parameters.model)):
            message = f"torchvision has no weights of {str(parameters.model)!r}; give a file or pretrain_epochs"
            yield Problem(("weights",), message)
    elif weights is not None and not Path(weights).is_file():
        yield Problem(("weights",), f"no file {weights!r}; give a file or {PUBLISHED!r}")
    elif weights is not None and not list(attempt((), parameters.layout)):  # else the model is the problem
        stat, model = Path(weights).stat(), str(parameters.model)
        stamp = stat.st_mtime_ns, stat.st_size
        fit = yield from attempt(("weights",), _fit, weights, stamp, model, parameters.side, dataset)
        if fit:
            yield Problem(("weights",), fit, note=True)


@cached_by_modules(maxsize=64)
def _fit(weights: str, stamp: tuple[int, int], model: str, side: int, dataset: str) -> str:
    """How the file of ``weights``, as of ``stamp``, fits ``model``. Raises ModelError."""
    known = ANY_CLASSES if dataset in (EMBEDDED, "none") else len(KNOWN[dataset].classes) if dataset in KNOWN else 0
    whole = layers_of(model, known or ANY_CLASSES, side).model.state_dict()
    if known:
        return str(fit_weights(weights, whole, "meta"))
    other = layers_of(model, ANY_CLASSES + 1, side).model.state_dict()
    fit = fit_weights(weights, {name: one for name, one in whole.items() if other[name].shape == one.shape}, "meta")
    fit = fit._replace(unused=[name for name in fit.unused if name not in whole])
    return f"{fit}, beside {len(whole) - fit.total} whose shape depends on the data's classes"


def weights_of(weights: str | None, model: str, layout: Chain, say: Callable[[str], None]) -> str | None:
    """The path of the initial weights; "torchvision" stands for the published ones. Raises ModelError."""
    if weights is None:
        return None
    path = published_weights(model, layout.model) if weights == PUBLISHED else Path(weights).resolve()
    fit = str(fit_weights(str(path), layout.model.state_dict(), "meta"))
    say(fit)
    logger.info("%s", fit)
    return str(path)


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
