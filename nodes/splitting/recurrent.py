"""How is a recurrent network split: unrolled into one long chain, or module by module, over and over?

HiveMind, section VI-A. A recurrent module is run ``steps`` times; layer l of step r becomes layer r * L + l of a
chain, at whose boundaries the inputs that are left and the outputs so far travel with the states. ``search`` takes
it as any chain. The standard split cuts the module itself, the same way in every step: its intermediate data cross
each step, and what the last layer made goes back to the first.

That the states return to the source is the paper's picture. Of a stack of GRU cells each keeps its state where it
is computed, and nothing returns unless the outputs are the next inputs: then ``feedback_costs`` are zeros.
"""

from collections.abc import Sequence

from nodes.splitting.search import BestSplit, path_cost, search


def unrolled_bytes(steps: int, input_bytes: int, state_bytes: Sequence[int], output_bytes: int) -> list[int]:
    """What crosses each boundary [steps * L + 1] of the chain, for L - 1 recurrent cells and a read-out a step.

    ``state_bytes`` [L-1] are the cells'; a cell's new state is also the next layer's input, and sent once. The
    old state of a cell whose turn comes is sent, but not that of one which has had its last.
    """
    cells = len(state_bytes)
    sizes = []
    for step in range(steps):
        for layer in range(cells + 1):
            states = sum(
                size
                for cell, size in enumerate(state_bytes)
                if (step > 0 if cell >= layer else step < steps - 1 or cell == layer - 1)
            )
            sizes.append((steps - step - (layer > 0)) * input_bytes + step * output_bytes + states)
    return [*sizes, steps * output_bytes]


def standard_split(
    layer_costs: Sequence[Sequence[float]],
    link_costs: Sequence[Sequence[float]],
    feedback_costs: Sequence[float],
    steps: int,
) -> BestSplit:
    """The split of one module that ``search`` finds, blind to the way back, and what ``steps`` such steps cost.

    Costs are one module's: of layers [P][L], of boundaries [P-1][L+1], and of the states on their way back over
    each link [P-1].
    """
    splits = search(layer_costs, link_costs).splits
    return BestSplit(repeated_cost(layer_costs, link_costs, feedback_costs, steps, splits), splits)


def repeated_cost(
    layer_costs: Sequence[Sequence[float]],
    link_costs: Sequence[Sequence[float]],
    feedback_costs: Sequence[float],
    steps: int,
    splits: Sequence[int],
) -> float:
    """What ``steps`` steps of the module cost that is split at ``splits`` [P-1].

    The states come back over every link beyond which a layer is computed, between any two steps.
    """
    layers = len(layer_costs[0])
    back = sum(cost for cost, split in zip(feedback_costs, splits, strict=True) if split < layers)
    return steps * path_cost(layer_costs, link_costs, splits) + (steps - 1) * back
