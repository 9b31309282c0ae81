"""Sweep over all classifiers of torchvision and, where installed, timm's smallest of each family.

    python tests/nodes/model/sweep.py FOUND.jsonl       examine what FOUND.jsonl lacks, one line each
    python tests/nodes/model/sweep.py FOUND.jsonl -t    print the table of docs/models.md

Each network is compared with plain PyTorch: results, gradients and buffers of one step in training, and results in
evaluation, cut in the middle, at the smallest side that it takes.
"""

import copy
import importlib.util
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchvision import models

from nodes.errors import ModelError
from nodes.model.chain import Chain
from nodes.model.factory import build_model
from nodes.spec.job import ModelSpec

SIDES = (32, 64, 96, 128, 160, 224, 256, 299)
CLASSES = 10


def networks() -> Iterator[ModelSpec]:
    yield from (ModelSpec(name=name) for name in models.list_models(module=models))
    if importlib.util.find_spec("timm"):
        import timm  # noqa: PLC0415

        for module in timm.list_modules():
            named = timm.list_models(module=module)
            if named:
                smallest = min(named, key=size)
                yield ModelSpec(name="timm:create_model", options={"model_name": smallest})


def size(name: str) -> float:
    import timm  # noqa: PLC0415

    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in timm.create_model(name).parameters())
    except Exception:  # of those that cannot be made without data
        return float("inf")


def examine(spec: ModelSpec) -> dict[str, Any]:
    """One row: ``result`` is works, kept whole, refused or differs, with the reason."""
    library = "timm" if spec.options else "torchvision"
    found: dict[str, Any] = {"model": spec.options.get("model_name", spec.name), "library": library}
    try:
        side, model = fitting(spec)
    except ModelError as error:
        return found | {"result": "not built", "why": str(error)[:200]}
    plain = copy.deepcopy(model)
    try:
        chain = Chain(model, (3, side, side))
    except ModelError as error:
        return found | {"side": side, "result": "refused", "why": str(error)[:300]}
    found |= {"side": side, "layers": len(chain), "why": "; ".join(map(str, chain.kept[:2]))[:200]}
    if different := [what for training in (True, False) for what in differences(plain, chain, training)]:
        return found | {"result": "differs", "why": ", ".join(different)[:200]}
    return found | {"result": "kept whole in part" if chain.kept else "works"}


def fitting(spec: ModelSpec) -> tuple[int, nn.Module]:
    """The smallest side that the network takes, and the network. Raises ModelError."""
    last = ModelError("no side")
    for side in SIDES:
        try:
            model = build_model(spec, CLASSES, (3, side, side))
            for training in (True, False):
                with torch.no_grad():
                    copy.deepcopy(model).train(training)(torch.randn(2, 3, side, side))
        except Exception as error:  # a network may fail in any way
            last = error if isinstance(error, ModelError) else ModelError(f"{type(error).__name__}: {error}")
        else:
            return side, model
    raise last


def differences(plain: nn.Module, chain: Chain, training: bool) -> Iterator[str]:
    whole = copy.deepcopy(plain).train(training)
    x = torch.randn(2, *chain.input_shape, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(2)
    expected = whole(x)
    parts, values = [], {chain.input: x}
    torch.manual_seed(2)
    for start, stop in ((0, len(chain) // 2), (len(chain) // 2, len(chain))):
        try:
            parts.append(chain.part(start, stop).train(training))
        except ModelError:  # parameters on both sides
            parts = [chain.part(0, len(chain)).train(training)]
            break
    for part in parts:
        values = part(values)
    result = values[chain.output]
    if not torch.equal(result, expected):
        yield f"results by {(result - expected).abs().max():.1g}"
    if training:
        expected.square().sum().backward()
        result.square().sum().backward()
        mine = dict(chain.model.named_parameters())
        for name, parameter in whole.named_parameters():
            grads = [torch.zeros(()) if one.grad is None else one.grad for one in (parameter, mine[name])]
            if not torch.equal(*grads):
                yield f"gradient of {name}"
        state = chain.model.state_dict()
        yield from (f"buffer {name}" for name, buffer in whole.named_buffers() if not torch.equal(buffer, state[name]))
        chain.model.load_state_dict(plain.state_dict())


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| network | library | side | layers | result | reason |", "|---|---|---|---|---|---|"]
    for row in rows:
        cells = [str(row.get(key, "")) for key in ("model", "library", "side", "layers", "result", "why")]
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def main(path: Path, *options: str) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if options:
        print(table(rows))
        return
    torch.set_num_threads(1)
    done = {row["model"] for row in rows}
    for spec in networks():
        if spec.options.get("model_name", spec.name) not in done:
            with path.open("a") as file:
                file.write(json.dumps(examine(spec)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
