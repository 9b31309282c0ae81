"""Parameters that all training experiments share: network, optimizer, data and batches."""

import functools
import logging
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import torch

from bench.suite.experiment import Context, Problem, Setting, attempt
from bench.suite.parameter_types import Count, ModelName, Share, check_stage_name
from nodes.data.batching import subset
from nodes.data.datasets import DatasetSize, dataset_size, load_dataset
from nodes.data.images import Dataset
from nodes.data.loading import token_range
from nodes.errors import DataError, ModelError, one_line
from nodes.files import cached_reading
from nodes.model.boundary import boundary_bytes
from nodes.model.chain import Chain, Values
from nodes.model.factory import CLASSES, build_model, import_path, outline
from nodes.model.fidelity import FLOPS, UnfaithfulError
from nodes.model.pretrained import check_published, fetch_published, published_file, published_weights, url_of
from nodes.model.weights import fit_weights
from nodes.spec.job import (
    DataSpec,
    Granularity,
    InputSpec,
    Job,
    MemoryFormat,
    ModelSpec,
    OptimizerSpec,
    Precision,
    StageSpec,
)
from nodes.stages.builtin import build_stage
from nodes.user_modules import cached_by_modules

logger = logging.getLogger(__name__)

# Parameters without a use where nothing is computed.
TRAINING = ("optimizer", "augment", "label_smoothing", "precision", "memory_format")
BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # flags of CPUs that compute in it
PUBLISHED = "torchvision"  # instead of a file of weights
LEAST_SIDE = 8  # of an input on which an expensive model is compared with its layers
ANY_CLASSES = 10  # for checks before data is read: the number of classes does not change which layers there are


class Learning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A network, its optimizer, its data and batches; ``threads`` None leaves the number to torch.

    The network takes pictures of ``side`` pixels, or ``input``: tokens, or blank samples of any shape.
    """

    model: ModelName = ModelName("resnet18")
    optimizer: OptimizerSpec = OptimizerSpec()
    batch_size: Count = 128
    side: Count = 32
    input: InputSpec | None = None
    train_samples: Count | None = None
    test_samples: Count | None = None
    augment: bool = False
    label_smoothing: Share = 0.0
    precision: Precision = "float32"
    memory_format: MemoryFormat = "contiguous"
    threads: Count | None = None

    @property
    def sample(self) -> InputSpec:
        """One sample of the network's input."""
        return sample_of(self.side, self.input)

    def layout(self, classes: int = ANY_CLASSES) -> Chain:
        """The network's layers without data. Raises ModelError."""
        return layers_of(str(self.model), classes, self.sample)

    def checked_layout(self, setting: Setting, computes: bool = True) -> Generator[Problem, None, Chain | None]:
        """The network's layers; None after a problem of the model, its input or its result.

        Where the network ``computes``, its layers are held against it.
        """
        wrong = list(input_problems(self.input, setting))
        yield from wrong
        if self.augment and self.sample.dtype != "float32":
            yield Problem(("augment",), "crops and mirrors pictures; tokens have neither")
        if self.memory_format == "channels_last" and len(self.sample.shape) != 3:
            yield Problem(("memory_format",), f"channels_last needs pictures (C, H, W); input is {self.sample}")
        if self.precision == "bfloat16" and not computes_bfloat16():
            yield Problem(("precision",), "this CPU only imitates bfloat16, and takes several times longer", note=True)
        if any(not problem.unused for problem in wrong):
            return None
        layout = yield from checked_layout(str(self.model), self.sample, setting)
        trains = getattr(self, "epochs", 1) != 0
        if layout and trains and not any(one.requires_grad for one in layout.model.parameters()):
            yield Problem(("model",), "none of its parameters is trained; set requires_grad of some")
            return None
        if layout is not None and computes:
            yield from compared(str(self.model), self.sample, setting)
        return layout

    def sample_problems(self, setting: Setting, train: tuple[int, str], test: int = 1) -> Iterator[Problem]:
        """Too few pictures, or no number of blank pictures without a data set.

        ``train`` is the least number of training pictures, and the reason; ``test`` the least number for tests.
        """
        size = size_of(setting)
        one = "one" if test == 1 else "one for each client"
        needed = {"train_samples": train, "test_samples": (test, one)}
        for (name, (least, why)), held in zip(needed.items(), size[1:3] if size else (None, None), strict=True):
            given, wanted = getattr(self, name), f"at least {least}, {why}"
            if given is not None and given < least:
                yield Problem((name,), f"got {given}; give {wanted}")
            elif held is not None and held < least:
                yield Problem((name,), f"{setting.dataset} has {held}; needed are {wanted}")
            elif given is None and setting.dataset == "none" and least:
                yield Problem((name,), f"without a data set, give the number of blank pictures: {wanted}")

    def classes(self, context: Context) -> int:
        """The number of classes of the case's data set, or ANY_CLASSES without one. Raises DataError."""
        return ANY_CLASSES if context.dataset == "none" else len(self.stored(context).classes)

    def stored(self, context: Context) -> Dataset:
        """The case's data set, whole. Raises DataError."""
        return stored(context.dataset, _directory(context), self.sample.shape[-1])

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
            "input_type": self.sample.dtype,
            "data": data,
            "optimizer": self.optimizer,
            "label_smoothing": self.label_smoothing,
            "precision": self.precision,
            "memory_format": self.memory_format,
            "batch_size": self.batch_size,
            "seed": context.seed,
            "threads": self.threads,
            "device": context.device,
            "payload_bytes": largest_payload(layout, self.batch_size),
        }
        return Job(**fields | rest)


@functools.cache
def computes_bfloat16() -> bool:
    """Whether this machine's CPU has instructions for bfloat16; true where that is not known."""
    path = Path("/proc/cpuinfo")
    return not path.exists() or not BFLOAT16.isdisjoint(path.read_text(encoding="utf-8", errors="replace").split())


def _directory(context: Context) -> str | None:
    return str(context.data_dir.resolve()) if context.data_dir else None


def unused_side(name: str) -> Problem:
    """The problem of a side beside an input."""
    return Problem((name,), "only used without input", unused=True)


def sample_of(side: int, given: InputSpec | None) -> InputSpec:
    """One sample of a network's input: ``given``, or a picture of ``side`` pixels."""
    return given or InputSpec(shape=(3, side, side))


@cached_by_modules(maxsize=32)
def layers_of(model: str, classes: int, sample: InputSpec, granularity: Granularity = "op") -> Chain:
    """The layers of ``model`` without data, cached for all cases of this process. Raises ModelError."""
    return outline(model, classes, sample.shape, granularity, sample.dtype)


@cached_reading
def stored(name: str, directory: str | None, side: int) -> Dataset:
    """A data set, cached for all cases of a command."""
    return load_dataset(name, None if directory is None else Path(directory), side)


def size_of(setting: Setting) -> DatasetSize | None:
    """The size of the case's data set, if the setting has one and says where it is."""
    with suppress(DataError):
        return None if setting.dataset == "none" else dataset_size(setting.dataset, setting.data_dir)
    return None


def input_problems(given: InputSpec | None, setting: Setting) -> Iterator[Problem]:
    """Problems of an input that the samples of the data set do not fit, or of one that is missing."""
    if given is not None:
        yield unused_side("side")
    if given is None or setting.dataset == "none":
        if (size := size_of(setting)) and size.length is not None:
            length = size.length or "LENGTH"
            needed = f"give input: {{shape: [{length}], dtype: int64}}"
            yield Problem(("input",), f"{setting.dataset} holds sequences of tokens; {needed}")
        return
    size = size_of(setting)
    if size is None:
        return
    if size.length is None:
        channels, *sides = given.shape
        if given.dtype != "float32" or channels != 3 or len(sides) != 2 or len(set(sides)) > 1:
            expected = "{shape: [3, SIDE, SIDE], dtype: float32}"
            yield Problem(("input",), f"got {given}; {setting.dataset} holds pictures, which need {expected}")
    elif given.dtype != "int64" or given.shape != ((size.length or given.shape[0]),):
        expected = f"{{shape: [{size.length or 'LENGTH'}], dtype: int64}}"
        yield Problem(("input",), f"got {given}; {setting.dataset} holds sequences of tokens, which need {expected}")


def compared(model: str, sample: InputSpec, setting: Setting) -> Iterator[Problem]:
    """The problem of a user's model whose layers compute something else than it does, and what was not compared."""
    ours = (import_path(ModelSpec.read(model).name) or "nodes.").startswith("nodes.")  # held against them by tests
    if not ours:
        yield from _comparison(model, classes_of(setting), sample)


@cached_by_modules()
def _comparison(model: str, classes: int, sample: InputSpec) -> tuple[Problem, ...]:
    """``compared``, in which the model's forward runs once a process; an expensive one on smaller inputs, if at all."""
    try:
        flops = layers_of(model, classes, sample).flops
        if flops <= FLOPS:
            Chain(build_model(model, classes, sample.shape), sample.shape, dtype=sample.dtype)
            return ()
    except ModelError as error:
        return (Problem(("model",), str(error)),)
    cost = f"one of {sample} takes {flops / 1e9:.1f} billion operations, more than {FLOPS / 1e9:g}"
    for smaller in smaller_inputs(sample, flops):
        with suppress(ModelError):  # a model may need its own inputs
            if not layers_of(model, classes, smaller).cheap:
                continue
            try:
                Chain(build_model(model, classes, smaller.shape), smaller.shape, dtype=smaller.dtype)
            except UnfaithfulError as error:
                return (Problem(("model",), f"on inputs {smaller}: {error}"),)
            return (Problem(("model",), f"compared with its layers on inputs {smaller} alone: {cost}", note=True),)
    way = "a Chain of it does so by compare()"
    return (Problem(("model",), f"not compared with its layers, on smaller inputs neither: {cost}; {way}", note=True),)


def smaller_inputs(sample: InputSpec, flops: int) -> Iterator[InputSpec]:
    """Inputs of a half of the sides, a quarter and so on, from the first that should be cheap enough to compare."""
    kept, sides = (sample.shape[:1], sample.shape[1:]) if len(sample.shape) > 1 else ((), sample.shape)
    part = 2
    while min(sides) // part >= LEAST_SIDE:
        if flops / part ** len(sides) <= FLOPS:
            yield msgspec.structs.replace(sample, shape=(*kept, *(side // part for side in sides)))
        part *= 2


def classes_of(setting: Setting) -> int:
    """The number of classes of the case's data set, if that is known."""
    size = size_of(setting)
    return size.classes if size else ANY_CLASSES


def checked_layout(model: str, sample: InputSpec, setting: Setting) -> Generator[Problem, None, Chain | None]:
    """The layers of ``model``; None after a problem of the model, or of a result that is not one number a class."""
    size, classes = size_of(setting), classes_of(setting)
    layout = yield from attempt(("model",), layers_of, model, classes, sample)
    for kept in layout.kept if layout else ():
        yield Problem(("model",), f"one layer, as it cannot be traced: {kept}", note=True)
    if layout is not None:
        yield from _token_problems(layout, setting)
    if layout is None or (setting.mode == "virtual" and setting.dataset == "none"):
        return layout
    shape = tuple(layout.shapes(len(layout))[layout.output].shape)
    if shape[1:] == (classes,):
        return layout
    got, data = f"(N, {', '.join(map(str, shape[1:]))})", setting.dataset if size else "blank pictures"
    message = f"its result has shape {got}; expected (N, {classes}), one number for each class of {data}"
    yield Problem(("model",), f"{message}; let its constructor take {', '.join(CLASSES[:-1])} or {CLASSES[-1]}")
    return None


def _token_problems(layout: Chain, setting: Setting) -> Iterator[Problem]:
    """The problem of tokens that the network's embedding does not hold."""
    size, vocabulary = size_of(setting), layout.vocabulary
    if size is None or size.length is None or vocabulary is None:
        return
    with suppress(DataError):  # told of the data set
        least, largest = token_range(setting.dataset, setting.data_dir)
        name, held = vocabulary
        if least < 0 or largest >= held:
            tokens = f"{setting.dataset} has tokens from {least} to {largest}"
            yield Problem(("model",), f"{tokens}; the embedding {name} takes 0 to {held - 1}")


def check_pass(layout: Chain, pictures: int) -> None:
    """Raise ValueError if the network cannot be trained on so few ``pictures`` at once, as batch norm on one value."""
    if pictures > 1:
        return
    device = next(layout.model.parameters()).device
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            layout.model.train()(torch.zeros(pictures, *layout.input_shape, dtype=layout.dtype, device=device))
    except ValueError as error:
        raise ValueError(f"it cannot be trained on one picture at a time; give more ({one_line(error)})") from None


def weights_problems(parameters: Learning, weights: str | None, setting: Setting) -> Iterator[Problem]:
    """Problems of ``weights`` that do not exist or fit nothing, and a note of what is taken of them; fetches nothing.

    A tensor whose shape depends on the number of classes is left out where that number is unknown.
    """
    model = str(parameters.model)
    path = None if weights is None else Path(weights)
    if weights == PUBLISHED:
        path = yield from attempt(("weights",), published_file, model)
        if path and not path.is_file():
            told = f"not there: {path}; a run first downloads it from {url_of(model)}, or put it there"
            yield Problem(("weights",), told, note=True)
            path = None
    elif path is not None and not path.is_file():
        yield Problem(("weights",), f"no file {weights!r}; give a file or {PUBLISHED!r}")
        path = None
    if path and not list(attempt((), parameters.layout)):  # else the model is the problem
        size = size_of(setting)
        classes = ANY_CLASSES if setting.dataset == "none" else size.classes if size else 0
        stat = path.stat()
        stamp = str(path), stat.st_mtime_ns, stat.st_size, stat.st_ino
        fit = yield from attempt(("weights",), _fit, stamp, model, parameters.sample, classes, weights == PUBLISHED)
        if fit:
            yield Problem(("weights",), fit, note=True)


@cached_by_modules(maxsize=64)
def _fit(stamp: tuple[str, int, int, int], model: str, sample: InputSpec, classes: int, published: bool) -> str:
    """How the file of ``stamp`` (its path, time, bytes and inode) fits ``model``; 0 classes: unknown. ModelError."""
    path = stamp[0]
    whole = layers_of(model, classes or ANY_CLASSES, sample).model.state_dict()
    if published:
        check_published(model, Path(path), whole)
    if classes:
        return str(fit_weights(path, whole))
    other = layers_of(model, ANY_CLASSES + 1, sample).model.state_dict()
    fit = fit_weights(path, {name: one for name, one in whole.items() if other[name].shape == one.shape})
    fit = fit._replace(unused=[name for name in fit.unused if name not in whole])
    return f"{fit}, beside {len(whole) - fit.total} whose shape depends on the data's classes"


def weights_of(weights: str | None, model: str, layout: Chain, say: Callable[[str], None]) -> str | None:
    """The path of the initial weights; "torchvision" stands for the published ones. Raises ModelError."""
    if weights is None:
        return None
    path = published_weights(model, layout.model) if weights == PUBLISHED else Path(weights).resolve()
    fit = str(fit_weights(str(path), layout.model.state_dict()))
    say(fit)
    logger.info("%s", fit)
    return str(path)


def fetch_weights(parameters: Any) -> Iterator[Problem]:
    """Download the published weights that ``parameters`` name, if they are not there; the problem of a failure."""
    if getattr(parameters, "weights", None) == PUBLISHED:
        yield from attempt(("weights",), fetch_published, str(parameters.model))


def largest_payload(layout: Chain, batch_size: int, whole: bool = False) -> int:
    """The most bytes of a payload: 4 boundaries, 1 MiB for labels; if ``whole``, a network with Adam's state."""
    widest = max(boundary_bytes(layout.shapes(index)) for index in range(len(layout) + 1))
    state_bytes = 3 * sum(tensor.nbytes for tensor in layout.model.state_dict().values()) if whole else 0
    return 4 * widest * batch_size + (1 << 20) + state_bytes


def check_stage(spec: StageSpec, crossing: Values | None, ends: bool = True) -> None:
    """Raise ValueError if the stage does not exist or cannot be built for the boundary, if one crosses its link.

    ``ends``: whether its receiver has a chain's last layer, as a stage that weighs losses needs.
    """
    check_stage_name(spec.name)
    if crossing is not None and build_stage(spec, crossing).weighs_losses and not ends:
        words = "weighs the losses of its samples, which only a chain's node with the last layer can receive"
        raise ValueError(f"stage {spec.name} {words}")


def node_names(count: int) -> tuple[str, ...]:
    """``ue``, the MEC servers in order, ``cloud``; ``ue`` alone for one node."""
    if count <= 2:
        return ("ue", "cloud")[:count]
    servers = [f"mec{number}" for number in range(1, count - 1)] if count > 3 else ["mec"]
    return ("ue", *servers, "cloud")
