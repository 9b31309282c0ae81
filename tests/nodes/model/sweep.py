"""Sweep over the classifiers of torchvision and, where it is installed, timm's smallest of each family.

    python tests/nodes/model/sweep.py FOUND.jsonl       examine what FOUND.jsonl lacks, one line each
    python tests/nodes/model/sweep.py FOUND.jsonl -t    print the table of docs/models.md

Each network takes two pictures of the smallest side that it permits, in up to four parts, with what crosses a cut as on
the wire. Results in evaluation and training, gradients and buffers are compared with the network in plain PyTorch.
Each network has a process of its own, with LIMIT_S of processor time and LIMIT_GB of memory.
"""

import copy
import importlib.util
import itertools
import json
import multiprocessing
import re
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torchvision import models

sys.path.append(str(Path(__file__).parents[1] / "support"))
from crossing import crossed, equal

from nodes.errors import ModelError, one_line
from nodes.model.chain import Chain
from nodes.model.factory import build_model
from nodes.spec.job import ModelSpec

SIDES = (32, 56, 64, 96, 112, 128, 160, 192, 224, 256, 299, 384)
CLASSES = 10
PARTS = 4
LIMIT_S = 1200
LIMIT_GB = 10
LAYOUTS = {  # torch's own backward pass of a network of timm in channels_last may end the process
    "torchvision": {"": torch.contiguous_format, " (channels last)": torch.channels_last},
    "timm": {"": torch.contiguous_format},
}
State = dict[str, torch.Tensor | None]


def networks(done: set[str]) -> Iterator[ModelSpec]:
    """The smallest network of each family of timm, then torchvision's by size, without those that are ``done``."""
    if importlib.util.find_spec("timm"):
        import timm  # noqa: PLC0415  (where it is installed)

        for module in timm.list_modules():
            names = [name for name in timm.list_models(module=module) if not name.startswith("test_")]
            if names and done.isdisjoint(names):
                yield min(map(timm_spec, names), key=size)
    names = [name for name in models.list_models(module=models) if name not in done]
    yield from sorted(map(torchvision_spec, names), key=size)


def torchvision_spec(name: str) -> ModelSpec:
    return ModelSpec(name=name)


def timm_spec(name: str) -> ModelSpec:
    return ModelSpec(name="timm:create_model", options={"model_name": name})


def size(spec: ModelSpec) -> float:
    """Parameters of a network."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build_model(spec, CLASSES, (3, 224, 224)).parameters())
    except ModelError:  # of those that cannot be made without data
        return float("inf")


def examine(spec: ModelSpec) -> dict[str, Any]:
    """One row: ``result`` is works, kept whole, refused or differs, with the reason."""
    row = row_of(spec)
    try:
        side = fitting(spec)
    except ModelError as error:
        return row | {"reason": told(error)}
    found = []
    for layout, memory_format in LAYOUTS[row["library"]].items():
        model = build_model(spec, CLASSES, (3, side, side), seed=1).to(memory_format=memory_format)
        x = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
        plain = copy.deepcopy(model)  # whose forward pass may put other buffers in place of its own
        expected = observed(plain, x, [plain])
        try:
            chain = Chain(model, (3, side, side))
        except ModelError as error:
            return row | {"side": side, "layers": 0, "result": "refused", "reason": told(error)}
        mine = observed(model, x, in_parts(chain))
        found += [f"{name}{layout}" for name in expected if not equal(mine[name], expected[name])]
    row |= {"side": side, "layers": len(chain), "reason": "; ".join(map(told, chain.kept))}
    if found:
        return row | {"result": "differs", "reason": ", ".join(found[:5])}
    return row | {"result": "kept whole" if chain.kept else "works"}


def examine_apart(spec: ModelSpec) -> dict[str, Any]:
    """The row of ``examine``, from a process that may fail, or take too long or too much memory."""
    start = multiprocessing.get_context("fork")  # the parent computes on the meta device alone
    receiver, sender = start.Pipe(duplex=False)
    process = start.Process(target=_examine_limited, args=(spec, sender))
    process.start()
    sender.close()
    try:
        return receiver.recv()  # type: ignore[no-any-return]  # what the other process sent: a row
    except EOFError:
        pass
    finally:
        process.join()
    late = process.exitcode == -signal.SIGXCPU  # the processor time is used up
    return row_of(spec) | {"reason": f"takes more than {LIMIT_S // 60} minutes" if late else "ends its process"}


def _examine_limited(spec: ModelSpec, sender: Any) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_GB << 30, LIMIT_GB << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (LIMIT_S, LIMIT_S + 1))
    try:
        row = examine(spec)
    except Exception as error:
        short = isinstance(error, MemoryError) or "allocate memory" in str(error)
        row = row_of(spec) | {"reason": f"needs more than {LIMIT_GB} GB" if short else told(one_line(error))}
    sender.send(row)


def row_of(spec: ModelSpec) -> dict[str, Any]:
    """The row of a network before it is examined."""
    library = "timm" if spec.options else "torchvision"
    return {"model": name_of(spec), "library": library, "side": 0, "layers": 0, "result": "not examined"}


def name_of(spec: ModelSpec) -> str:
    return str(spec.options.get("model_name", spec.name))


def told(what: Any) -> str:
    """The words of an error or of a kept module, without this machine's paths."""
    return re.sub(r"[^ (]*/site-packages/", "", str(what))[:300]


def fitting(spec: ModelSpec) -> int:
    """The smallest side that the network takes. Raises ModelError."""
    last = ModelError("no side")
    for side in SIDES:
        try:
            model = build_model(spec, CLASSES, (3, side, side))
            for training in (True, False):
                with torch.no_grad():
                    result = model.train(training)(torch.randn(2, 3, side, side))
                    if getattr(result, "shape", None) != (2, CLASSES):
                        raise ModelError("no classifier: its result is not one number a class")
        except Exception as error:  # a network may fail in any way
            last = error if isinstance(error, ModelError) else ModelError(f"{type(error).__name__}: {error}")
        else:
            return side
    raise last


def in_parts(chain: Chain) -> list[nn.Module]:
    """The parts between the cuts that are possible at every quarter of ``chain``."""
    ends = [0]
    for cut in sorted({len(chain) * part // PARTS for part in range(1, PARTS)} - {0}):
        try:
            chain.check_part(0, cut)
        except ModelError:  # parameters on both sides
            continue
        ends.append(cut)
    return [chain.part(start, stop) for start, stop in itertools.pairwise([*ends, len(chain)])]


def observed(model: nn.Module, x: torch.Tensor, parts: list[nn.Module]) -> State:
    """Results, gradients and buffers of one step of ``parts``, which compute with the parameters of ``model``."""
    run = (lambda x, labels=None: crossed(parts, x, labels, None)) if hasattr(parts[0], "inputs") else whole(model)
    found: State = {}
    for part in parts:
        part.eval()
    torch.manual_seed(2)
    with torch.no_grad():
        found["result in evaluation"] = run(x)
    for part in parts:
        part.train()
    torch.manual_seed(2)
    found["result in training"] = run(x, torch.arange(len(x)))
    for name, parameter in model.named_parameters():
        found[f"gradient of {name}"], parameter.grad = parameter.grad, None
    return found | {f"buffer {name}": buffer.clone() for name, buffer in model.named_buffers()}


def whole(model: nn.Module) -> Any:
    def run(x: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        logits = model(x)
        if labels is not None:
            F.cross_entropy(logits, labels).backward()
        return logits.detach()

    return run


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| network | library | side | layers | result | reason |", "|---|---|---|---|---|---|"]
    for row in sorted(rows, key=lambda row: (row["library"] == "timm", row["model"])):
        cells = [str(row[key]) for key in ("model", "library", "side", "layers", "result")]
        first, *others = row["reason"].split("; ")
        cells.append(f"{first}, and {len(others)} more" if others else first)
        lines.append(f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |")
    return "\n".join(lines)


def main(path: Path, *options: str) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    if options:
        print(table(rows))
        return
    torch.set_num_threads(1)
    done = {row["model"] for row in rows}
    for spec in networks(done):
        if name_of(spec) not in done:
            done.add(name_of(spec))
            with path.open("a") as file:
                file.write(json.dumps(examine_apart(spec)) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
