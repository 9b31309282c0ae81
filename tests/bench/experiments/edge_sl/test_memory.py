"""The memory of a client: counted by hand for a network of two linear layers."""

import pytest

from bench.experiments.edge_sl.memory import memory_bytes
from nodes.model.factory import outline
from nodes.spec.job import Job, OptimizerSpec, StageSpec

SIDE, HIDDEN, CLASSES, BATCH = 2, 5, 10, 7  # pictures of 3 x 2 x 2


def job(optimizer: OptimizerSpec, splits=(3,), **more) -> Job:
    """Flatten, linear, ReLU, linear: cut after the ReLU."""
    return Job(
        model="user_models:two_linear",
        input_shape=(3, SIDE, SIDE),
        classes=CLASSES,
        nodes=("client", "edge"),
        splits=splits,
        optimizer=optimizer,
        **{"stages": (StageSpec(),)} | more,
    )


FIRST, LAST = 12 * HIDDEN + HIDDEN, HIDDEN * CLASSES + CLASSES  # parameters


@pytest.mark.parametrize(
    ("optimizer", "copies"),
    [
        (OptimizerSpec(name="adam"), 4),  # parameters, gradients, and two states
        (OptimizerSpec(momentum=0.9), 3),
        (OptimizerSpec(momentum=0.0), 2),
    ],
)
def test_parameters_gradients_states_and_what_the_backward_pass_needs(optimizer, copies):
    """The first layer keeps its input, the ReLU its result, which is the last layer's input."""
    task = job(optimizer)
    layout = outline(task.model, CLASSES, task.input_shape)
    assert memory_bytes(task, layout, [0], BATCH) == 4 * (copies * FIRST + BATCH * (12 + HIDDEN))
    assert memory_bytes(task, layout, [1], BATCH) == 4 * (copies * LAST + BATCH * HIDDEN)


def test_the_whole_network_takes_more_than_its_first_layers_and_a_returning_task_both_ends():
    optimizer = OptimizerSpec(momentum=0.0)
    task = job(optimizer, splits=(2,), tail=3, stages=(StageSpec(),) * 2)
    layout = outline(task.model, CLASSES, task.input_shape)
    ends = 4 * (2 * (FIRST + LAST) + BATCH * (12 + HIDDEN))
    assert memory_bytes(task, layout, [0, 2], BATCH) == ends
    whole = job(optimizer, splits=(4,))
    assert memory_bytes(whole, layout, [0], BATCH) == 4 * (2 * (FIRST + LAST) + BATCH * (12 + HIDDEN))
