"""Memory that training layers takes at a node: parameters, gradients, optimizer states, and a batch's activations."""

from collections.abc import Sequence
from itertools import pairwise

import torch

from nodes.model.chain import Chain
from nodes.spec.job import Job, OptimizerSpec

STATES = {"adam": 2, "adamw": 2}  # numbers that an optimizer keeps for each parameter


def memory_bytes(job: Job, layout: Chain, nodes: Sequence[int], batch_size: int) -> int:
    """Bytes that the parts ``nodes`` of ``job`` take in training, stages not counted.

    Args:
        job: The job, whose ``cuts`` divide its model into parts.
        layout: The model's layers, on the meta device.
        nodes: Numbers of the parts, from 0.
        batch_size: Samples of a batch, whose tensors are kept for the backward pass.
    """
    bounds = list(pairwise((0, *job.cuts, len(layout))))
    values = {layout.input: torch.empty(batch_size, *job.input_shape, dtype=layout.dtype, device="meta")}
    taken = 0
    for number, (start, stop) in enumerate(bounds):
        if start == stop:
            continue
        part, kept = layout.part(start, stop).train(), list[torch.Tensor]()

        def keep(tensor: torch.Tensor, kept: list[torch.Tensor] = kept) -> torch.Tensor:
            kept.append(tensor)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            values = part(values)
        if number in nodes:
            held = {one.untyped_storage()._cdata for one in (*part.parameters(), *part.buffers())}
            storages = {one.untyped_storage()._cdata: one.untyped_storage().nbytes() for one in kept}
            taken += sum(size for storage, size in storages.items() if storage not in held)
            trained = sum(one.nbytes for one in part.parameters() if one.requires_grad)
            taken += sum(one.nbytes for one in (*part.parameters(), *part.buffers()))
            taken += (1 + _states(job.optimizer)) * trained
    return taken


def _states(spec: OptimizerSpec) -> int:
    return STATES.get(spec.name, 1 if spec.momentum else 0)
