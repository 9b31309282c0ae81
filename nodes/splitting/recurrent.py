"""Split of a recurrent network: unrolled into one chain, or one module cut the same way in every step.

HiveMind, section VI-A. A recurrent module is run ``steps`` times; layer l of step r becomes layer r * L + l of a
chain. At its boundaries the remaining inputs and the outputs so far travel with the states; ``search`` takes it as
any chain. The standard split cuts the module, the same way in every step: intermediate data cross in each step, and
the last layer's output returns to the first.

That the states return to the source is the paper's model. In a stack of GRU cells each keeps its state where it is
computed, and nothing returns unless the outputs are the next inputs: then ``feedback_costs`` are zeros.
"""

from collections.abc import Sequence

from nodes.splitting.search import BestSplit, path_cost, search


def unrolled_bytes(steps: int, input_bytes: int, state_bytes: Sequence[int], output_bytes: int) -> list[int]:
    """Bytes that cross each boundary [steps * L + 1] of the chain, for L - 1 recurrent cells and a read-out per step.

    ``state_bytes`` [L-1] are the cells'. A cell's new state is also the next layer's input and is sent once; a state
    is sent only as long as its cell has a step left.
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
    """The split that ``search`` finds for one module, ignoring feedback, and the cost of ``steps`` such steps.

    Costs are one module's: of layers [P][L], of boundaries [P-1][L+1], and of feedback over each
    link [P-1].
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
    """Cost of ``steps`` steps of the module with splits ``splits`` [P-1].

    Between two steps the states return over every link beyond which a layer is computed.
    """
    layers = len(layer_costs[0])
    back = sum(cost for cost, split in zip(feedback_costs, splits, strict=True) if split < layers)
    return steps * path_cost(layer_costs, link_costs, splits) + (steps - 1) * back
