"""Checks of what crosses a cut: values that cannot be sent are errors, the model's raw input is warned of."""

from collections.abc import Iterable, Iterator

import msgspec
import torch

from bench.suite.document import Key
from bench.suite.experiment import Problem
from nodes.model.boundary import Tensors, boundary_bytes, pack
from nodes.model.chain import Chain
from nodes.spec.job import StageSpec
from nodes.stages.builtin import build_stage
from nodes.user_code import contained
from nodes.user_modules import cached_by_modules
from nodes.wire.codec import DTYPE_NAMES, DTYPES

IDENTITY = StageSpec()


def cut_problems(key: Key, layout: Chain, done: int, stage: StageSpec = IDENTITY) -> Iterator[Problem]:
    """Problems of a cut after ``done`` layers with ``stage`` at it, of the parameter ``key``."""
    if wrong := _unsendable(layout, done, stage):
        fits = [index for index in range(1, len(layout)) if not _unsendable(layout, index, stage)]
        yield Problem(key, f"after {done} layers {_told(wrong)}; the splits that work are {_ranges(fits)}")
    if 0 < done < len(layout) and layout.input in layout.boundary(done):
        yield Problem(key, f"warning: after {done} layers {_raw_input(layout, done)}", note=True)


def service_problems(key: Key, layout: Chain) -> Iterator[Problem]:
    """Problems of a model whose nodes choose where it is cut, of the parameter ``key``."""
    inner = range(1, len(layout))
    wrong = {index: found for index in inner if (found := _unsendable(layout, index, IDENTITY))}
    if wrong:
        done, found = next(iter(wrong.items()))
        fits = _ranges(index for index in inner if index not in wrong)
        message = f"after {done} layers {_told(found)}; the splits that work are {fits}, and any may be chosen"
        yield Problem(key, message)
    if raw := [index for index in inner if layout.input in layout.boundary(index)]:
        yield Problem(key, f"warning: after {_ranges(raw)} layers {_raw_input(layout, raw[-1])}", note=True)


def _unsendable(layout: Chain, done: int, stage: StageSpec) -> dict[str, str]:
    """The dtypes, by name, of what ``stage`` would send after ``done`` layers and the wire cannot carry."""
    return _unsendable_by(layout, done, msgspec.json.encode(stage))


@cached_by_modules(maxsize=1024)
def _unsendable_by(layout: Chain, done: int, encoded: bytes) -> dict[str, str]:
    stage = msgspec.json.decode(encoded, type=StageSpec)
    values = layout.shapes(done)
    sent: Tensors = pack(values)[0]
    if stage.name != IDENTITY.name and done < len(layout):
        try:
            with torch.no_grad(), contained():
                built = build_stage(stage, values).to("meta").eval()
                sent = built.encode(built.compress(sent)[0])
        except Exception:  # a stage that needs more than shapes shows what it sends when it runs
            return {}
    dtypes = {name: tensor.dtype for name, tensor in sent.items()}
    return {name: str(dtype).removeprefix("torch.") for name, dtype in dtypes.items() if dtype not in DTYPE_NAMES}


def _told(dtypes: dict[str, str]) -> str:
    values = " and ".join(f"{name} ({dtype})" for name, dtype in dtypes.items())
    return f"the network would have to send {values}, and the wire carries {', '.join(DTYPES)} alone"


def _raw_input(layout: Chain, done: int) -> str:
    """That the input crosses the cut after ``done`` layers, and why."""
    last = next(index for index in range(done, len(layout)) if layout.input not in layout.boundary(index + 1))
    n_bytes = boundary_bytes({layout.input: layout.shapes(0)[layout.input]})
    return (
        f"the model's input {layout.input} itself crosses, {n_bytes} bytes a picture, as layer {last} "
        f"({layout.names[last]}) uses it"
    )


def _ranges(numbers: Iterable[int]) -> str:
    """``1 to 3, 5`` for 1, 2, 3, 5."""
    spans: list[list[int]] = []
    for number in numbers:
        if spans and number == spans[-1][-1] + 1:
            spans[-1] = [spans[-1][0], number]
        else:
            spans.append([number])
    return ", ".join(" to ".join(map(str, span)) for span in spans) or "none"
