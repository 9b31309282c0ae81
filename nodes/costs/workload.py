"""Work of a network's layers on any machine: bytes at the cuts, operations, memory traffic.

Exact, from shapes alone: nothing is computed. The workloads of the networks in the evaluation are packaged, so they
load without torchvision.
"""

from importlib import resources
from itertools import pairwise
from pathlib import Path

import msgspec
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nodes.errors import ModelError
from nodes.model.boundary import boundary_bytes
from nodes.model.chain import Chain, Part, Values

KEPT = resources.files("nodes.costs") / "workloads"


class Workload(msgspec.Struct, frozen=True, kw_only=True):
    """The L layers of a network for one picture in float32."""

    model: str
    input_shape: tuple[int, ...]
    layers: list[str]  # names
    boundary_bytes: list[int]  # [L+1] that a cut before layer i sends; 0 is the input, L the result
    output_bytes: list[int]  # [L] of the values that each layer makes
    parameters: list[int]  # [L] counts; a shared one at its first use
    flops: list[int]  # [L] of the forward pass, two per multiply-add
    moved_bytes: list[int]  # [L] of the forward pass: each value and parameter read or written once


class Inspected(Chain):
    """A chain for inspection only, whose parts may share parameters."""

    compared = False

    def check_part(self, start: int, stop: int) -> None:
        pass


def inspect_chain(chain: Chain, name: str = "") -> Workload:
    """The workload of a chain for one picture, from shapes alone; ``name`` is the model's name in the result.

    Operations are those of convolutions and matrix products, as torch's counter has them; other layers only move bytes.
    """
    parts = [chain.part(index, index + 1) for index in range(len(chain))]
    crossing = [chain.shapes(index) for index in range(len(chain) + 1)]
    made = [boundary_bytes(new_values(after, before)) for before, after in pairwise(crossing)]
    mode = chain.model.training
    chain.model.eval()  # batch norm has no statistics of a single value
    work = [_work(part, values) for part, values in zip(parts, crossing, strict=False)]
    chain.model.train(mode)
    return Workload(
        model=name,
        input_shape=chain.input_shape,
        layers=chain.names,
        boundary_bytes=[boundary_bytes(values) for values in crossing],
        output_bytes=made,
        parameters=[sum(parameter.numel() for parameter in own) for own in first_used(parts)],
        flops=[flops for flops, _ in work],
        moved_bytes=[read + written for (_, read), written in zip(work, made, strict=True)],
    )


def load_workload(name: str) -> Workload:
    """The packaged workload ``name`` (such as resnet18-88), or that in the file ``name``. Raises ModelError."""
    kept = KEPT / f"{name}.json"
    try:
        return msgspec.json.decode((kept if kept.is_file() else Path(name)).read_bytes(), type=Workload)
    except OSError as error:
        raise ModelError(f"no workload {name!r}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise ModelError(f"no workload {name!r}: {error}") from None


def packaged_workloads() -> list[str]:
    """Names of the packaged workloads."""
    return sorted(file.name.removesuffix(".json") for file in KEPT.iterdir() if file.name.endswith(".json"))


def new_values(values: Values, known: Values) -> Values:
    """The members of ``values`` that are not in ``known``."""
    return {name: value for name, value in values.items() if name not in known}


def first_used(parts: list[Part]) -> list[set[nn.Parameter]]:
    """For each layer, the parameters that it is the first to use."""
    firsts, seen = [], set[nn.Parameter]()
    for part in parts:
        own = set(part.parameters()) - seen
        seen |= own
        firsts.append(own)
    return firsts


def _work(part: Part, values: Values) -> tuple[int, int]:
    """Operations of one layer, and the bytes that it reads."""
    inputs = [node for node in part.body.graph.nodes if node.op == "placeholder"]
    used = {node.name for node in inputs if any(user.op != "output" for user in node.users)}
    read = boundary_bytes({name: values[name] for name in part.inputs if name in used})
    own = [*part.body.named_parameters(), *part.body.named_buffers()]
    meta = {f"body.{name}": tensor.detach().to("meta") for name, tensor in own}
    part.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        torch.func.functional_call(part, meta, (values,))
    return int(counter.get_total_flops()), read + sum(tensor.nbytes for _, tensor in own)
