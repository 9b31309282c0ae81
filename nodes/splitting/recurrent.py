"""Split of a recurrent network unrolled into one chain (HiveMind, section VI-A).

Layer l of step r becomes layer r * L + l of a chain. At its boundaries the remaining inputs and the outputs so far
travel with the states. The standard split cuts the module instead, the same way in every step: intermediate data
cross in each step. In a stack of GRU cells each keeps its state where it is computed.
"""

from collections.abc import Sequence


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
