"""The experiments on models that are no plain chain: what they yield, by hand and by the real objects."""

from typing import Literal

import pytest
from measured import by_case
from msgspec.structs import replace

from bench.experiments.hivemind.learning_agents import GameParameters, LabellerParameters, labeller, two_step_game
from bench.suite.experiment import Context
from nodes.agents.messaging import learn_together
from nodes.model.boundary import Tensors, View
from nodes.wire.codec import encode
from nodes.wire.messages import Parameters


@pytest.fixture
def context(context: Context) -> Context:
    return replace(context, seed=1, dataset="none")


def test_a_labeller_in_parts_does_not_differ_and_its_bytes_shrink(context: Context) -> None:
    parameters = LabellerParameters(steps=12, features=8, hidden=4, cells=2, classes=2, nodes=4, boundaries=40)
    measured = list(labeller(parameters, context))
    values = {m.metric: m.value for m in measured}
    assert values["layers"] == 2 + 12 * 3 + 1
    assert values["largest_difference"] == 0
    sizes = [m.value for m in measured if m.metric == "boundary_bytes"]
    assert (sizes[0], sizes[-1]) == (12 * 8 * 4, 12 * 2 * 4)
    assert len(sizes) == 40
    assert sizes[10] == (12 - 3) * 32 + 2 * 8 + 2 * 16  # third step, first cell done


def test_a_wrong_part_would_be_seen(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(tensors: Tensors, views: dict[str, View], integers: dict[str, int]) -> Tensors:
        return {name: tensor + 1e-3 for name, tensor in tensors.items()}

    monkeypatch.setattr("bench.experiments.hivemind.learning_agents.unpack", wrong)
    measured = list(labeller(LabellerParameters(steps=4, features=3, hidden=3, classes=2, nodes=2), context))
    assert {m.metric: m.value for m in measured}["largest_difference"] > 0


@pytest.mark.parametrize("mixing", ["qmix", "vdn"])
def test_the_game_tells_the_joint_return_and_bytes(context: Context, mixing: Literal["qmix", "vdn"]) -> None:
    measured = list(two_step_game(GameParameters(mixing=mixing, updates=30, merge_every=5), context))
    earned = learn_together(mixing, seed=1, updates=30, merge_every=5).joint_return
    assert next(m.value for m in measured if m.metric == "joint_return") == earned
    told = by_case(measured)
    empty = sum(len(part) for part in encode(Parameters(assignment=0, start=0, stop=3, tensors={})))
    for agent in (0, 1):
        for direction in ("uplink", "downlink"):
            assert told["messages", agent, direction, "parameters"] == 30 / 5
            assert told["sent_bytes", agent, direction, "parameters"] > 6 * (told["parameter_bytes", "agent"] + empty)
    assert (told["parameter_bytes", "mixer"] == 0) == (mixing == "vdn")
