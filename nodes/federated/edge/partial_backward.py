"""A forward pass over a batch of which only some rows are back-propagated.

The chosen rows keep what the backward pass needs, the others do not, layer by layer, so the backward pass costs what
the chosen rows cost. Batch norm normalises all rows by the statistics of all; in the backward pass these are constants,
as their gradient would reach every row.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from nodes.model.chain import Part, Values
from nodes.model.tracing.tree import leaves, map_tree


class Rows:
    """The value of a node for the ``chosen`` rows of a batch, and for the ``others``, which have no gradient."""

    def __init__(self, chosen: Any, others: Any) -> None:
        self.chosen, self.others = chosen, others

    @property
    def device(self) -> torch.device:
        device: torch.device = self.chosen.device
        return device


def run_partially(part: Part, values: Values, chosen: torch.Tensor, run: Callable[[Values], Values]) -> dict[str, Rows]:
    """Let ``run`` compute ``part`` on ``values``, whose rows number ``chosen``, sorted, are to be back-propagated."""
    rows = len(next(iter(values.values())))
    others = torch.ones(rows, dtype=torch.bool)
    others[chosen] = False
    rest = others.nonzero().squeeze(1)

    def divided(value: torch.Tensor) -> Rows:
        device = value.device
        return Rows(value.index_select(0, chosen.to(device)), value.detach().index_select(0, rest.to(device)))

    def compute(node: fx.Node, args: Any, kwargs: Any) -> Any:
        found: list[Rows] = leaves(Rows, (args, kwargs))
        if not found:
            return part.compute(node, args, kwargs)
        if node.op == "call_module":
            module = part.body.get_submodule(str(node.target))
            if isinstance(module, _BatchNorm) and module.training:
                return _normalised(module, found[0])
        made = part.compute(node, *map_tree(_chosen, (args, kwargs)))
        with torch.no_grad():
            return Rows(made, part.compute(node, *map_tree(_others, (args, kwargs))))

    with part.computing(compute):
        return run({name: divided(value) for name, value in values.items()})


def _normalised(norm: _BatchNorm, rows: Rows) -> Rows:
    """What ``norm`` makes of all rows as one batch."""
    with torch.no_grad():
        joint = torch.cat([rows.chosen, rows.others])
        normalised = norm(joint)  # and counts the batch in its running statistics
        over = [axis for axis in range(joint.dim()) if axis != 1]
        mean, variance = joint.float().mean(over), joint.float().var(over, unbiased=False)
    chosen = F.batch_norm(rows.chosen, mean, variance, norm.weight, norm.bias, training=False, eps=norm.eps)
    return Rows(chosen, normalised[len(rows.chosen) :])


def _chosen(leaf: Any) -> Any:
    return leaf.chosen if isinstance(leaf, Rows) else leaf


def _others(leaf: Any) -> Any:
    return leaf.others if isinstance(leaf, Rows) else leaf
