"""Weights from a file, judged over a whole model: which of its tensors they fill, and which of theirs stay unused.

A file is one of safetensors, or what ``torch.save`` wrote: a state dict, or one inside other dicts, as training scripts
save it. Nothing of a pickle but tensors, numbers, texts and containers is loaded, so no code of it runs.
"""

import json
import math
import os
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from nodes.errors import ModelError, one_line
from nodes.model.boundary import Tensors

# Names under which scripts save a state dict; of several that fit equally well the first in this order counts.
WRAPPERS = (
    *("model", "state_dict", "model_state_dict", "net", "network", "weights", "params", "module"),
    *("ema", "model_ema", "ema_state_dict", "state_dict_ema"),
)
DEPTH = 3  # dicts within each other in which a state dict is looked for
# What wrappers of a model put before its names; taken off where the rest is a name of the model.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.", "network.", "backbone.", "encoder.")
STAGE_HALVES = ("sender.", "receiver.")  # names of a stage's parts begin so
COUNTER = "num_batches_tracked"  # buffer of batch norm that older files lack and few networks need
ABSENT = "absent"
SHOWN = 3  # names in a message

HEADER_BYTES = 100_000_000  # most of a safetensors file's header, as in its specification
DTYPES = {
    **{"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16},
    **{"I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8},
    **{"BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2},
}


class Fit(NamedTuple):
    """How the weights of a file fit a model.

    Attributes:
        tensors: Those that fit, by their names in the model; tensors of a stage's halves under their own names.
        taken: How many of the model's tensors these are.
        total: Tensors of the model.
        taken_numbers: Numbers in the tensors that fit.
        total_numbers: Numbers in the model's tensors.
        missing: Names in the model of all others, each with the reason.
        unused: Names in the file that the model does not have.
        infinite: Names in the model of tensors that hold infinite numbers, if they were loaded.
    """

    path: str
    tensors: Tensors
    taken: int
    total: int
    taken_numbers: int
    total_numbers: int
    missing: dict[str, str]
    unused: list[str]
    infinite: list[str]

    @property
    def complete(self) -> bool:
        """Whether nothing is missing but counters of batch norm."""
        return all(name.endswith(COUNTER) for name in self.missing)

    def __str__(self) -> str:
        counts = f"{self.taken} of {self.total} tensors taken"
        if self.complete:
            text = f"weights {self.path}: {counts}"
        else:
            numbers = f"{self.taken_numbers:,} of {self.total_numbers:,} numbers"
            left = _some([f"{name} ({why})" for name, why in self.missing.items()])
            text = f"weights {self.path} fit in part: {counts}, {numbers}; left as in a new model: {left}"
        text += f"; infinite numbers in {_some(self.infinite)}" if self.infinite else ""
        return f"{text}; unused in the file: {_some(self.unused)}" if self.unused else text


def fit_weights(path: str, model: Mapping[str, torch.Tensor], device: str | torch.device = "cpu") -> Fit:
    """Judge the weights at ``path`` over a whole model.

    Args:
        path: A safetensors file, or one that ``torch.save`` wrote.
        model: The model's state dict; only names and shapes count.
        device: Where the tensors are loaded; "meta" reads shapes alone.

    Raises:
        ModelError: The file cannot be read, holds objects beside tensors, fits no tensor of the model, or has nan in
            one that fits.
    """
    model = {name: tensor for name, tensor in model.items() if isinstance(tensor, torch.Tensor)}  # no extra state
    content = read_file(path, device)
    tables = sorted(_tables(content), key=lambda one: _rank(one[0]))
    fits = [_fit(path, table, _beside(content, where), model) for where, table in tables]
    best = max(fits, key=lambda fit: (fit.taken, len(fit.tensors)), default=None)
    if best is None or not best.tensors:
        held = [name for _, table in tables for name, value in table.items() if isinstance(value, torch.Tensor)]
        raise ModelError(
            f"weights {path}: fits no tensor of the model; the file has {_some(held)}, the model {_some(list(model))}"
        )
    broken = [name for name, tensor in best.tensors.items() if _has(torch.isnan, tensor)]
    if broken:
        raise ModelError(
            f"weights {path}: nan in {_some(broken)}, as of a training that diverged; give a file from before that"
        )
    return best._replace(infinite=[name for name, tensor in best.tensors.items() if _has(torch.isinf, tensor)])


def load_weights(path: str, model: nn.Module, parts: Mapping[str, nn.Module], device: torch.device) -> None:
    """Load what the weights at ``path`` have for the ``parts`` of ``model`` that a node holds.

    The one called "part" has layers of the model. Raises ModelError if the weights fit no part of the model.
    """
    found = fit_weights(path, model.state_dict(), device).tensors
    for name, module in parts.items():
        prefix, inner = ("", "body.") if name == "part" else (f"{name}.", "")
        named = {key: prefix + key.removeprefix(inner) for key in module.state_dict()}
        module.load_state_dict({key: found[full] for key, full in named.items() if full in found}, strict=False)


def _has(kind: Callable[[torch.Tensor], torch.Tensor], tensor: torch.Tensor) -> bool:
    """Whether ``tensor``, if it has data, holds a number of ``kind``."""
    numbers = tensor.is_floating_point() or tensor.is_complex()
    if tensor.is_meta or not numbers:
        return False
    return bool(kind(tensor.float() if tensor.dtype.itemsize == 1 else tensor).any())


def _rank(where: tuple[str, ...]) -> int:
    """The place of a dict among those that fit equally well: the outermost, then as in ``WRAPPERS``."""
    return WRAPPERS.index(where[-1]) if where and where[-1] in WRAPPERS else len(WRAPPERS) if where else -1


def _tables(content: object, where: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], dict[str, Any]]]:
    """Dicts in ``content`` that hold tensors by name, and the names under which they are."""
    if isinstance(content, dict) and len(where) <= DEPTH:
        named = {name: value for name, value in content.items() if isinstance(name, str)}
        if any(isinstance(value, torch.Tensor) for value in named.values()):
            yield where, named
        for name, value in named.items():
            yield from _tables(value, (*where, name))


def _beside(content: Any, where: tuple[str, ...]) -> list[str]:
    """Names in the dicts around the one at ``where``."""
    names: list[str] = []
    for depth, name in enumerate(where):
        names += [".".join((*where[:depth], str(other))) for other in content if other != name]
        content = content[name]
    return names


def _fit(path: str, table: dict[str, Any], beside: list[str], model: Mapping[str, torch.Tensor]) -> Fit:
    origins = _origins(table, model)
    tensors = {name: value for name, value in table.items() if _is_of_stage(name, value)}
    missing = {}
    for name, wanted in model.items():
        if name not in origins:
            missing[name] = ABSENT
        elif (found := table[origins[name]]).shape != wanted.shape:
            missing[name] = f"the file's is {list(found.shape)}, the model's {list(wanted.shape)}"
        elif found.layout != wanted.layout or not _same_kind(found.dtype, wanted.dtype):
            missing[name] = f"the file's is {_form(found)}, the model's {_form(wanted)}"
        else:
            tensors[name] = found
    taken = model.keys() - missing.keys()
    used = {*origins.values(), *tensors}
    return Fit(
        path=path,
        tensors=tensors,
        taken=len(taken),
        total=len(model),
        taken_numbers=sum(model[name].numel() for name in taken),
        total_numbers=sum(tensor.numel() for tensor in model.values()),
        missing=missing,
        unused=beside + [name for name in table if name not in used],
        infinite=[],
    )


def _same_kind(one: torch.dtype, other: torch.dtype) -> bool:
    """Whether numbers of both types mean the same: those of quantised weights are not what they stand for."""
    return (one.is_floating_point, one.is_complex) == (other.is_floating_point, other.is_complex)


def _form(tensor: torch.Tensor) -> str:
    form = "" if tensor.layout == torch.strided else f"{tensor.layout} of "
    return f"{form}{tensor.dtype}".replace("torch.", "")


def _is_of_stage(name: str, value: object) -> bool:
    return isinstance(value, torch.Tensor) and name.startswith(STAGE_HALVES)


def _origins(table: dict[str, Any], model: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """The name in the file for each name of the model; of several that with the fewest prefixes.

    Beside ``PREFIXES``, what all names of the file begin with is one.
    """
    found: dict[str, tuple[int, str]] = {}
    owners = [name.split(".")[:-1] for name, value in table.items() if isinstance(value, torch.Tensor)]
    known = (*PREFIXES, *(f"{part}." for part in os.path.commonprefix(owners)))  # noqa: RUF071 (of parts, not of characters)
    for original, value in table.items():
        if isinstance(value, torch.Tensor):
            for prefixes, name in enumerate(_without_prefixes(original, known)):
                if name in model:
                    found[name] = min(found.get(name, (prefixes, original)), (prefixes, original))
                    break
    return {name: original for name, (_, original) in found.items()}


def _without_prefixes(name: str, known: Iterable[str]) -> Iterator[str]:
    yield name
    while prefix := next((prefix for prefix in known if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
        yield name


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "none") + more


# Files


def read_file(path: str, device: str | torch.device = "cpu") -> Any:
    """What is in a safetensors file or one that ``torch.save`` wrote. Raises ModelError."""
    try:
        if _is_scripted(path):
            raise pickle.UnpicklingError
        with Path(path).open("rb") as file:
            if file.read(9)[8:] == b"{":
                return _read_safetensors(file, torch.device(device))
        return torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        if isinstance(error, pickle.UnpicklingError) and _is_pickle(path):
            raise ModelError(
                f"weights {path}: holds more than tensors{_objects(path)}, which is not loaded, as that would run code "
                "of the file; save the tensors alone: torch.save(network.state_dict(), path)"
            ) from None
        why = f": {one_line(error)}" if isinstance(error, (OSError, ValueError)) else ""  # torch's advice is unsafe
        raise ModelError(
            f"weights {path} cannot be read: neither safetensors nor what torch.save wrote, or damaged{why}"
        ) from None


def _is_pickle(path: str) -> bool:
    with Path(path).open("rb") as file:
        return zipfile.is_zipfile(path) or file.read(1) == pickle.PROTO


def _is_scripted(path: str) -> bool:
    """Whether ``torch.jit.save`` wrote the archive at ``path``."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _objects(path: str) -> str:
    """The classes and functions that the pickle at ``path`` names, as far as that is known."""
    with suppress(Exception):
        return f" ({_some(get_unsafe_globals_in_checkpoint(path))})"
    return ""


def _read_safetensors(file: BinaryIO, device: torch.device) -> Tensors:
    """Tensors by name: 8 bytes with the header's length, the header as JSON, then the tensors' bytes in a row.

    Nothing is allocated before its size is known to be in the file. Raises ValueError.
    """
    file.seek(0)
    header_bytes, rest = int.from_bytes(file.read(8), "little"), os.fstat(file.fileno()).st_size - 8
    if not 2 <= header_bytes <= min(HEADER_BYTES, rest):
        raise ValueError(f"its header is said to have {header_bytes} bytes")
    header = json.loads(file.read(header_bytes))
    header.pop("__metadata__", None)
    entries = sorted(((name, *_entry(name, about)) for name, about in header.items()), key=lambda one: one[3])
    tensors, end = {}, 0
    for name, dtype, shape, begin, stop in entries:
        if begin != end or stop > rest - header_bytes:
            raise ValueError(f"{name} is said to be at bytes {begin} to {stop}, after {end}")
        end = stop
        if device.type == "meta" or begin == stop:
            tensors[name] = torch.empty(shape, dtype=dtype, device=device)
        else:
            tensors[name] = torch.frombuffer(bytearray(file.read(stop - begin)), dtype=dtype).reshape(shape).to(device)
    return tensors


def _entry(name: str, about: Any) -> tuple[torch.dtype, list[int], int, int]:
    """The dtype, the shape and the first and last byte of a tensor. Raises ValueError."""
    try:
        dtype, shape, (begin, stop) = DTYPES[about["dtype"]], about["shape"], about["data_offsets"]
        if any(type(number) is not int or number < 0 for number in (*shape, begin, stop)):
            raise ValueError
        fits = math.prod(shape) * dtype.itemsize == stop - begin
    except (KeyError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(f"{name} is described as {json.dumps(about)[:200]}")
    return dtype, shape, begin, stop
